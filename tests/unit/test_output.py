"""What a stranger's text may do to a terminal, a log or a JSON reader: nothing."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl import logs
from hypergpu_fl.errors import first_line
from hypergpu_fl.output import of_those_asked, printable, printable_lines, to_json

FORGED = "2026-01-01 00:00:00.000 | INFO     | hypergpu_fl.server:1 | round 1 verified"
HARMLESS = {"Lu", "Ll", "Lo", "Lm", "Lt", "Nd", "Nl", "No", "Mn", "Mc", "Me", "Zs", "So", "Sm", "Sk", "Sc"}


@given(st.text())
def test_no_character_that_is_left_commands_a_terminal_or_reorders_text(text: str) -> None:
    kept = {unicodedata.category(character) for character in printable(text)}
    assert all(category in HARMLESS or category.startswith("P") for category in kept)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("site-a (München, 東京 🌍)", "site-a (München, 東京 🌍)"),
        ("a\x1b[2J\x1b]0;owned\x07", r"a\x1b[2J\x1b]0;owned\x07"),
        ("a\r\nb\x85c\u2028d", r"a\r\nb\x85c\u2028d"),
        ("gpu\u202ecod.exe\u2066", r"gpu\u202ecod.exe\u2066"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_is_not_printable_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


@given(st.text(), st.sampled_from(["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"]))
def test_no_line_of_a_message_is_taken_for_another_record(text: str, end: str) -> None:
    first, *rest = printable_lines(f"{text}{end}{FORGED}").splitlines()
    assert all(logs.parse(line) is None for line in rest)
    assert FORGED not in rest


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


def without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@given(JSON_LIKE)
def test_json_never_fails_and_reads_back_with_null_for_what_is_no_number(content: Any) -> None:
    assert json.loads(to_json(content), parse_constant=pytest.fail) == without_nan(content)


@pytest.mark.parametrize(("error", "line"), [(TimeoutError(), "TimeoutError"), (ValueError("\n a\nb"), "a")])
def test_an_error_without_words_is_told_by_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_round_in_which_nobody_was_asked_divides_by_nothing() -> None:
    assert (of_those_asked(8, 9), of_those_asked(0, 3), of_those_asked(1, 0)) == ("8/9", "0/3", "1")
