"""An unknown name is answered with the one that was probably meant."""

from __future__ import annotations

import pytest

from strategies.errors import UnknownPolicy
from strategies.model.robust import aggregator
from strategies.selection import policy
from strategies.spelling import did_you_mean, nearest


def test_case_endings_and_small_slips_are_forgiven() -> None:
    known = ["median", "trimmed_mean", "norm_clipping"]
    assert [nearest(word, known) for word in ("MEDIAN", "medain", "trimmed", "x")] == [
        "median",
        "median",
        "trimmed_mean",
        None,
    ]
    assert did_you_mean("x", known) == ""


def test_policies_and_rules_name_the_near_one_and_all_there_are() -> None:
    with pytest.raises(UnknownPolicy, match="no selection policy 'ort'; did you mean 'oort'.; there are network_aware"):
        policy("ort")
    with pytest.raises(UnknownPolicy, match="no aggregation rule 'krumm'; did you mean 'krum'.; there are mean"):
        aggregator("krumm", 3)
