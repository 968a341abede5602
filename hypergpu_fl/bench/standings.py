"""Rows of a race as they come in, kept on disk so that an interrupted race continues where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from hypergpu_fl.bench.race import Course, Point
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import write_whole

Row = dict[str, Any]
Key = tuple[str, str, int]


class Standings:
    """Rows and courses of one ``out``: ``OUT`` is the list of rows, ``OUT.curves.json`` the courses behind them.

    Parameters
    ----------
    out : Path
        JSON file of the rows.
    options : Mapping
        The options that results depend on.
    """

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        self._out = out
        self._options = dict(options)
        self._rows: dict[Key, Row] = {}
        self._courses: dict[Key, Course] = {}

    @classmethod
    def open(cls, out: Path, options: Mapping[str, Any]) -> Standings:
        """The standings that ``out`` holds, or empty ones.

        Raises
        ------
        UsageError
            If they were made with other options, or cannot be read.
        """
        standings = cls(out, options)
        if not standings._curves.exists():
            if out.exists():
                raise UsageError(f"{out} exists, but not {standings._curves.name} beside it", "name another file")
            return standings
        try:
            kept = json.loads(standings._curves.read_text())
            made_with = kept["options"]
            for entry in kept["courses"]:
                key = (entry["policy"], entry["scenario"], entry["seed"])
                points = [Point(*point) for point in entry["points"]]
                standings._courses[key] = Course(points, entry["max_abs_drift"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{standings._curves} cannot be read: {error}", "delete it to start again") from error
        if made_with != standings._options:
            changed = sorted(k for k in made_with.keys() | options.keys() if made_with.get(k) != options.get(k))
            raise UsageError(
                f"{out} was made with another {', '.join(changed)}", "name another file, or delete it to start again"
            )
        return standings

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which they were entered."""
        return list(self._rows.values())

    def course(self, policy: str, scenario: str, seed: int) -> Course | None:
        """The course of an earlier run."""
        return self._courses.get((policy, scenario, seed))

    def enter(self, row: Row, course: Course) -> None:
        """Add a row, and write everything to disk."""
        key = (row["policy"], row["scenario"], row["seed"])
        self._rows[key], self._courses[key] = row, course
        courses = [
            {
                "policy": policy,
                "scenario": scenario,
                "seed": seed,
                "max_abs_drift": course.max_abs_drift,
                "points": [list(asdict(point).values()) for point in course.points],
            }
            for (policy, scenario, seed), course in self._courses.items()
        ]
        self._out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._curves, json.dumps({"options": self._options, "courses": courses}))
        write_whole(self._out, json.dumps(self.rows, indent=1) + "\n")

    def publish(self) -> None:
        """Write the Markdown table, and one picture for each scenario, beside the rows."""
        from hypergpu_fl.bench.plot import plot_courses

        write_whole(self._out.with_suffix(".md"), table(self.rows))
        for scenario in {row["scenario"]: None for row in self.rows}:
            courses = {
                (policy, seed): self._courses[policy, of, seed] for policy, of, seed in self._rows if of == scenario
            }
            targets = [row["target"] for row in self.rows if row["scenario"] == scenario]
            links = self.rows[0]["links"]
            file = self._out.with_name(f"{self._out.stem}-{scenario}.png")
            plot_courses(courses, file, title=f"{links} links, labels {scenario}", target=median(targets))

    @property
    def _curves(self) -> Path:
        return self._out.with_suffix(".curves.json")


def table(rows: Iterable[Row]) -> str:
    """Markdown table: one line for each scenario and policy, with medians over seeds, fastest first.

    A time is given only if more than half of the seeds reached the target; the range over seeds is beside it.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["scenario"], row["policy"]), []).append(row)
    lines = [
        "| scenario | policy | time to target | range | reached | final accuracy | slow fifth's classes "
        "| GB up | GB down | rounds | max drift |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def seconds(group: list[Row]) -> list[float]:
        return sorted(float("inf") if r["time_to_target_s"] is None else r["time_to_target_s"] for r in group)

    for (scenario, policy), group in sorted(groups.items(), key=lambda item: (item[0][0], median(seconds(item[1])))):
        times = seconds(group)
        reached = sum(time < float("inf") for time in times)

        def mid(key: str, group: list[Row] = group) -> float:
            return float(median(row[key] for row in group))

        lines.append(
            f"| {scenario} | {policy} | {_seconds(median(times))} | {_seconds(times[0])} to {_seconds(times[-1])} "
            f"| {reached} of {len(group)} | {mid('final_accuracy'):.4f} | {mid('slow_accuracy'):.4f} "
            f"| {mid('bytes_up') / 1e9:.2f} | {mid('bytes_down') / 1e9:.2f} | {mid('rounds'):.0f} "
            f"| {mid('max_abs_drift'):.4f} |"
        )
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return "never" if value == float("inf") else f"{value:,.0f} s"
