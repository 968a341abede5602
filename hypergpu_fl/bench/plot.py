"""A plot of accuracy over virtual time, with one line for each contender and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hypergpu_fl.bench.race import Course


def plot_courses(courses: Mapping[tuple[str, int], Course], file: Path, *, title: str, target: float) -> None:
    """Draw ``courses`` by policy and seed into a PNG; time is logarithmic, since contenders differ by factors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    policies = list(dict.fromkeys(policy for policy, _ in courses))
    for (policy, seed), course in courses.items():
        place = policies.index(policy)
        points = [point for point in course.points if point.seconds > 0]
        axes.plot(
            [point.seconds for point in points],
            [point.accuracy for point in points],
            color=f"C{place % 10}",
            linestyle="-" if place < 10 else ":",
            linewidth=2 if place == 0 else 1,
            label=policy if seed == min(s for p, s in courses if p == policy) else None,
        )
    axes.axhline(target, color="black", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", xlabel="virtual seconds", ylabel="test accuracy", title=title)
    axes.set_ylim(bottom=max(0.0, target - 0.25), top=min(1.0, target + 0.05))
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(file, dpi=130)
