"""Refusals by hand. Whole hostile replies are tried on a live round in test_engine.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strategies.aggregation import DenseUpdate
from strategies.errors import Reason, Refused
from strategies.round.histories import LossWatch, NormHistory, Replays
from strategies.validation import check_buffers, check_update


def history(*norms: float) -> NormHistory:
    norms_seen = NormHistory()
    for norm in norms:
        norms_seen.add(norm, 1)
    return norms_seen


def test_norms_are_judged_by_the_robust_z_score_of_their_logarithms_a_step() -> None:
    seen = history(*[1.0] * 20)  # sigma is floored at 0.25: six of them are a factor of exp(1.5) = 4.48
    seen.check(4.4, 1, model_norm=0.0)
    seen.check(4.4 * 3, 9, model_norm=0.0)
    with pytest.raises(Refused, match=r"z-score 6.0|z-score 6.1") as refusal:
        seen.check(4.55, 1, model_norm=0.0)
    assert refusal.value.reason is Reason.NORM_OUTLIER
    seen.check(1e-9, 1, model_norm=0.0)  # a small update does no harm


def test_a_minority_of_liars_does_not_move_the_bounds() -> None:
    seen = history(*[1.0, 1.1, 0.9] * 8, *[1e6] * 10)
    with pytest.raises(Refused):
        seen.check(1e6, 1, model_norm=0.0)


def test_before_norms_are_known_an_update_is_held_against_the_model() -> None:
    NormHistory().check(1000.0, 1, model_norm=10.0)
    with pytest.raises(Refused, match="at most 1e\\+03"):
        NormHistory().check(1001.0, 1, model_norm=10.0)


def test_buffers_must_be_the_models() -> None:
    expected = {"n": np.array(3), "mask": np.zeros(2, np.bool_)}
    check_buffers({"n": np.array(5)}, expected)
    for found in ({"m": np.array(1)}, {"n": np.array([1])}, {"n": np.array(1.0)}):
        with pytest.raises(Refused) as refusal:
            check_buffers(found, expected)
        assert refusal.value.reason is Reason.WRONG_MODEL


def test_an_update_of_another_size_is_refused() -> None:
    with pytest.raises(Refused, match="3 values, the model has 4"):
        check_update(DenseUpdate(np.zeros(3, np.float32)), size=4, buffers={})
    assert check_update(DenseUpdate(np.full(4, 2, np.float32)), size=4, buffers={}) == 4.0


def test_a_replay_is_told_from_an_update_of_nothing() -> None:
    replays = Replays()
    replays.add(1, "abc", 4)
    replays.check(2, "abc", 1.0)
    replays.check(1, "abc", 0.0)
    restored = Replays()
    restored.restore(json.loads(json.dumps(replays.state())))
    with pytest.raises(Refused, match="as in round 4"):
        restored.check(1, "abc", 1.0)


def good(watch: LossWatch, *losses: float) -> bool:
    """Whether none of these losses, one after the other, explodes; each is remembered then."""
    for loss in losses:
        if watch.exploded(loss):
            return False
        watch.add(loss)
    return True


def test_a_loss_explodes_by_its_z_score_or_by_not_being_a_number() -> None:
    watch = LossWatch()
    assert watch.exploded(float("nan")) and watch.exploded(float("inf")) and watch.exploded(None)
    assert good(watch, 2.3, 2.0, 1.8, 1.6, 1.5, 1.4)
    assert good(watch, 5.0)  # within a factor of 4.5 of the median
    assert watch.exploded(1e3) and watch.exploded(1e3)  # asking changes nothing
    assert good(watch, 1.3)


def test_a_watch_needs_some_losses_before_it_judges() -> None:
    assert good(LossWatch(), 1.0, 1e6, 1.0, 1e6, 1.0)
