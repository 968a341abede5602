"""Whatever number is altered in a log, it is found."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_rounds import played

from strategies.errors import BadLine
from strategies.round.lines import read_line
from strategies.round.replay import replay
from strategies.round.story import Story


def numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the numbers of a JSON document stand."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in numbers(inner, (*path, key))]
    if isinstance(value, list):
        return [found for index, inner in enumerate(value) for found in numbers(inner, (*path, index))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


WHOLE = {mode: played(rounds=3, mode=mode).lines for mode in ("sync", "async")}


@pytest.mark.parametrize("mode", WHOLE)
def test_a_number_in_another_form_is_refused(mode: str) -> None:
    """Otherwise a log whose lines are hashed anew could differ from what was written, and still agree."""
    for text in WHOLE[mode]:
        entry = json.loads(text)
        told = {name: entry[name] for name in ("event", "rules") if name in entry}
        for *path, last in numbers(told):
            for form in (str, bool):
                inner = altered = json.loads(text)
                for step_ in path:
                    inner = inner[step_]
                inner[last] = form(inner[last])
                with pytest.raises(BadLine):
                    read_line(json.dumps(altered).encode(), "")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), mode=st.sampled_from(sorted(WHOLE)))
def test_whatever_number_stands_in_a_log_a_replay_ends_with_a_finding(data: st.DataObject, mode: str) -> None:
    lines = list(WHOLE[mode])
    where = data.draw(st.one_of(st.just(0), st.integers(0, len(lines) - 1)))
    entry = json.loads(lines[where])
    *path, last = data.draw(st.sampled_from(numbers(entry)))
    inner = entry
    for step_ in path:
        inner = inner[step_]
    inner[last] = data.draw(
        st.sampled_from([0, -1, 1, 7, 10**9, -(10**30), 0.0, -1.5, 1e-300, 1e308, math.nan, math.inf])
    )
    lines[where] = json.dumps(entry).encode() + b"\n"
    try:
        found = replay(lines, story=Story("node-0"))
    except BadLine:
        return
    assert found.difference is not None or found.broken == where
