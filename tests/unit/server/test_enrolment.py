"""Nodes that would train something else are kept out, with both sides named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.server.enrolment import SHOWN, SameTask, differences
from strategies.errors import Reason, Refused
from strategies.wire import Hello

NAMED = st.dictionaries(st.text(max_size=8), st.text(max_size=300), max_size=5)


@given(NAMED, NAMED)
def test_nothing_differs_exactly_when_both_are_equal(ours: dict[str, str], theirs: dict[str, str]) -> None:
    assert (differences(ours, theirs) == "") == (ours == theirs)


def test_both_sides_are_named() -> None:
    text = differences({"classes": "cat, dog", "model": "a"}, {"classes": "bee, cat", "tokenizer": "byte"})
    assert text == (
        "classes: 'bee, cat' there, 'cat, dog' at the server; model: nothing there, 'a' at the server; "
        "tokenizer: 'byte' there, nothing at the server"
    )


def test_of_long_values_the_first_difference_is_shown() -> None:
    ours, theirs = ["x" * 500 + end + "y" * 500 for end in ("cat", "dog")]
    text = differences({"classes": ours}, {"classes": theirs})
    assert "cat" in text and "dog" in text and len(text) < 3 * SHOWN


def test_a_node_without_an_identity_is_refused() -> None:
    same = SameTask({"classes": "cat, dog"}, shares=4)
    same.vet(Hello(0, 1, identity={"classes": "cat, dog"}))
    with pytest.raises(Refused) as caught:
        same.vet(Hello(0, 1))
    assert caught.value.reason is Reason.OTHER_TASK


def test_a_node_whose_share_the_run_has_not_is_refused_with_what_to_do() -> None:
    same = SameTask({}, shares=4)
    same.vet(Hello(3, 1))
    with pytest.raises(Refused, match="no share 4: training.num_nodes = 4.*provision --close-gaps"):
        same.vet(Hello(4, 1))
