"""Refusals by hand. Whole hostile replies are tried on a live round in test_engine.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strategies.errors import Reason, Refused
from strategies.model.aggregation import DenseUpdate
from strategies.model.validation import check_base, check_buffers, check_update
from strategies.round.histories import NormHistory

ME = 99


def history(*norms: float) -> NormHistory:
    """Norms of as many nodes."""
    norms_seen = NormHistory()
    for row, norm in enumerate(norms):
        norms_seen.add(row, norm, 1)
    return norms_seen


def test_norms_are_judged_by_the_robust_z_score_of_their_logarithms_a_step() -> None:
    seen = history(*[1.0] * 20)  # sigma is floored at 0.25: six of them are a factor of exp(1.5) = 4.48
    seen.length(ME, 4.4, 1, model_norm=0.0)
    seen.length(ME, 4.4 * 3, 9, model_norm=0.0)
    with pytest.raises(Refused, match=r"z-score 6.[01] .*lower the learning rate") as refusal:
        seen.length(ME, 4.55, 1, model_norm=0.0)
    assert refusal.value.reason is Reason.NORM_OUTLIER
    seen.length(ME, 1e-9, 1, model_norm=0.0)  # a small update does no harm


def test_a_minority_of_liars_does_not_move_the_bounds() -> None:
    seen = history(*[1.0, 1.1, 0.9] * 8, *[1e6] * 10)
    with pytest.raises(Refused):
        seen.length(ME, 1e6, 1, model_norm=0.0)


def test_a_liar_does_not_move_its_own_bounds_however_often_it_tries() -> None:
    seen = history(1.0, 1.1, 0.9, 1.2)
    for norm in (50.0, 500.0, 5000.0) * 20:
        seen.add(ME, norm, 1)
        with pytest.raises(Refused):
            seen.length(ME, norm, 1, model_norm=1.0)
    seen.length(0, 1.3, 1, model_norm=1.0)


def test_the_first_entries_set_no_scale_for_good() -> None:
    seen = history(99.0, 1.0, 1.1, 0.9)
    with pytest.raises(Refused):
        seen.length(0, 99.0, 1, model_norm=1.0)
    seen.length(1, 1.2, 1, model_norm=1.0)
    for row in (1, 2, 3):  # the model was thrown far: all have further to go back, which is odd as long as few show it
        seen.add(row, 12.0, 1)
        seen.add(row, 12.0, 1)
    seen.length(1, 12.0, 1, model_norm=1.0)
    restored = NormHistory()
    restored.restore(json.loads(json.dumps(seen.state())))
    assert restored.state() == seen.state()


def test_before_norms_are_known_an_update_is_held_against_the_model() -> None:
    NormHistory().length(ME, 100.0, 1, model_norm=10.0)
    with pytest.raises(Refused, match="at most 100 is taken"):
        NormHistory().length(ME, 101.0, 1, model_norm=10.0)


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


def test_an_update_says_the_base_that_it_was_sent_or_is_refused() -> None:
    update = DenseUpdate(np.zeros(3, np.float32))
    check_base(update, 7)
    update.base = 7
    check_base(update, 7)
    with pytest.raises(Refused, match="against version 7, version 8 was sent"):
        check_base(update, 8)
