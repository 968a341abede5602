"""What was rolled back stays rolled back: no update against it counts, however much later it comes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import Refused
from strategies.round.versions import KEPT_VERSIONS, Versions


def stepped(versions: Versions, *, explodes: bool) -> int:
    """Step once, and go back where that step exploded; the version that the step made."""
    versions.good, made = versions.version, versions.version + 1
    versions.published(made, "", 1.0, ())
    if explodes:
        versions.disown(versions.good)
        versions.published(made + 1, "", 1.0, ())
    return made


def test_a_second_roll_back_does_not_forget_the_first() -> None:
    versions = Versions()
    stepped(versions, explodes=False)
    first, second = (stepped(versions, explodes=True) for _ in range(2))
    stepped(versions, explodes=False)
    for base in (first, second):
        with pytest.raises(Refused, match=f"base {base} was rolled back"):
            versions.staleness(base)


@given(st.lists(st.booleans(), max_size=300))
def test_an_update_counts_from_every_version_but_those_that_exploded_or_are_too_old(rounds: list[bool]) -> None:
    versions, exploded = Versions(), set()
    for explodes in rounds:
        made = stepped(versions, explodes=explodes)
        if explodes:
            exploded.add(made)
    versions = Versions.restored(json.loads(json.dumps(versions.state())))
    for base in range(versions.version + 1):
        if base in exploded or base < versions.version - KEPT_VERSIONS:
            with pytest.raises(Refused):
                versions.staleness(base)
        else:
            assert versions.staleness(base) == versions.version - base
    assert len(versions.disowned) <= KEPT_VERSIONS


def test_one_goes_back_by_one_step_first_then_to_the_best_version() -> None:
    versions = Versions(version=9, good=8, best=5)
    assert versions.way_back(spoiled=False) == 8
    versions.disown(8)
    assert versions.way_back(spoiled=False) == 5  # it exploded again from there
    versions.back = False
    assert versions.way_back(spoiled=False) == 8 and versions.way_back(spoiled=True) == 5


def test_one_goes_back_to_the_only_version_there_is() -> None:
    assert Versions(good=3).way_back(spoiled=True) == 3 and Versions(best=3).way_back(spoiled=False) == 3
    assert Versions().way_back(spoiled=True) is None
