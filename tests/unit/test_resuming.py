"""What a resumed run may change, and which settings held for which rounds."""

from __future__ import annotations

import pytest

from hypergpu_fl.config import Config, Training
from hypergpu_fl.config.layers import _FIELDS
from hypergpu_fl.config.resuming import (
    CHANGEABLE,
    numbered,
    refused_changes,
    settings_at_the_end,
    settings_of,
    stretches_with,
)


def settings(**training: object) -> dict[str, bool | int | float | str]:
    return settings_of(Config(training=Training.model_validate(training)))


def test_all_that_may_change_is_a_setting() -> None:
    assert set(CHANGEABLE) <= set(_FIELDS)


@pytest.mark.parametrize("path", sorted(set(settings()) - set(CHANGEABLE)))
def test_whatever_is_not_listed_is_refused_with_both_values(path: str) -> None:
    (fault,) = refused_changes({**settings(), path: "old"}, {**settings(), path: "new"}, {path: "--set"})
    assert fault.cause == f"{path} was 'old' and is now 'new' (in --set), but a resumed run cannot change it"
    assert "training.rounds" in fault.remedy


def test_an_option_of_the_task_that_may_not_change_is_named_by_itself() -> None:
    before, after = (
        settings(options={"width": 16, "depth": 2}),
        settings(options={"width": 8, "depth": 2, "bias": True}),
    )
    said = [fault.cause for fault in refused_changes(before, after, {"training.options.width": "--set"})]
    assert said == [
        "training.options.bias was not set and is now true, but a resumed run cannot change it",
        "training.options.width was 16 and is now 8 (in --set), but a resumed run cannot change it",
    ]


def test_what_is_listed_may_change() -> None:
    assert not refused_changes(dict.fromkeys(CHANGEABLE, 1), dict.fromkeys(CHANGEABLE, 2))


def test_each_stretch_keeps_its_settings() -> None:
    first = stretches_with([], settings(rounds=5), 1)
    assert first == [{"from_round": 1, "settings": settings(rounds=5)}]
    assert stretches_with(first, settings(rounds=5), 4) == first
    second = stretches_with(first, settings(rounds=9), 6)
    assert numbered(second, 9) == [
        {"from_round": 1, "to_round": 5, "settings": settings(rounds=5)},
        {"from_round": 6, "to_round": 9, "settings": {"training.rounds": 9}},
    ]
    assert settings_at_the_end(second) == settings(rounds=9)


def test_a_stretch_whose_rounds_were_lost_is_forgotten() -> None:
    lost = stretches_with(stretches_with([], settings(rounds=5), 1), settings(rounds=9), 6)
    third = stretches_with(lost, settings(rounds=12), 6)
    assert [stretch["from_round"] for stretch in third] == [1, 6]
    assert third[1]["settings"] == {"training.rounds": 12}
    assert numbered(third, 5) == [{"from_round": 1, "to_round": 5, "settings": settings(rounds=5)}]


def test_another_file_of_the_task_begins_a_stretch_too() -> None:
    first = stretches_with([], settings(rounds=5), 1, "aa")
    assert stretches_with(first, settings(rounds=5), 3, "aa") == first
    second = stretches_with(first, settings(rounds=5), 3, "bb")
    assert second[1] == {"from_round": 3, "settings": {}, "task_file": "bb"}
    assert stretches_with(second, settings(rounds=5), 4, "bb") == second
    assert [stretch.get("task_file") for stretch in stretches_with(second, settings(rounds=9), 4, "bb")] == [
        "aa",
        "bb",
        None,
    ]
    assert numbered(second, 6)[1] == {"from_round": 3, "to_round": 6, "settings": {}, "task_file": "bb"}
