"""A log that says more than this release knows, or less than it needs, is refused: that may have decided something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from played_rounds import played

from strategies.errors import BadLine
from strategies.round.lines import read_line
from strategies.round.replay import replay

Place = tuple[str | int, ...]


def objects(value: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every JSON object in ``value`` but those of commands, which are compared whole."""
    if isinstance(value, dict):
        yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key != "commands":
            yield from objects(inner, (*place, key))


def test_what_this_release_does_not_know_is_refused_by_name_wherever_it_stands() -> None:
    everywhere = {place: line for line in played(rounds=1, codec="auto").lines for place in objects(json.loads(line))}
    kinds = {tuple(each for each in place if isinstance(each, str)) for place in everywhere}
    assert {(), ("rules", "settings"), ("rules", "levels"), ("event", "reading", "probe")} <= kinds
    for place, line in everywhere.items():
        entry = json.loads(line)
        inner = entry
        for key in place:
            inner = inner[key]
        inner["newer"] = 1
        with pytest.raises(BadLine, match=r"this release knows no (?:'newer' in a line|[\w .]+\.newer)"):
            read_line(json.dumps(entry).encode(), "")


def test_a_rule_that_an_older_release_did_not_have_is_todays_default() -> None:
    first, *rest = played(rounds=1).lines
    entry = json.loads(first)
    del entry["rules"]["settings"]["aggregation"]
    assert replay([json.dumps(entry).encode() + b"\n", *rest]).difference is None


def test_an_event_without_its_commands_is_refused() -> None:
    line = next(line for line in played(rounds=1).lines if b'"commands":[]' in line)
    with pytest.raises(BadLine, match="it lacks 'commands'"):
        read_line(line.replace(b',"commands":[]', b""), "")


@pytest.mark.parametrize("number", ["true", '"1"', '"\u0661"', "1.0", "1.9", "null"])
def test_a_line_whose_number_is_no_whole_number_is_refused(number: str) -> None:
    line = played(rounds=1).lines[1]
    with pytest.raises(BadLine, match="its n is no whole number"):
        read_line(line.replace(b'"n":1', f'"n":{number}'.encode(), 1), "")


def test_a_model_whose_place_is_not_told_is_refused() -> None:
    lines = played(rounds=1).lines
    where = next(i for i, line in enumerate(lines) if b'"kind":"published"' in line)
    lines[where] = lines[where].replace(b',"sketch":[]', b"")
    with pytest.raises(BadLine, match=f"line {where}: published.sketch: Field required"):
        replay(lines)
