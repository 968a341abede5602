"""Rows as tables for people and as JSON for programs."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.render import Format, cell, render

VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_json_gives_the_rows_back(capsys: pytest.CaptureFixture[str], rows: list[dict[str, object]]) -> None:
    capsys.readouterr()
    render(rows, Format.JSON)
    assert json.loads(capsys.readouterr().out) == rows


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    render([])
    assert capsys.readouterr().out == "nothing to show yet\n"


def test_a_table_shows_every_value_once_in_the_order_of_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    render([{"node": "n0", "rtt_s": 0.0123456}, {"node": "n1", "late": True}], title="nodes")
    title, header, _, *body = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title.strip() == "nodes"
    assert header.split() == ["node", "rtt_s", "late"]
    assert [line.split() for line in body] == [["n0", "0.01235", "-"], ["n1", "-", "yes"]]


def test_markup_and_credentials_in_values_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    render({"a": "[bold]x[/bold]", "b": "https://u:secret9@h/"})
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert "secret9" not in out


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (False, "no"), (0.5, "0.5"), (10**20, f"1{0:020}"), ([], "none"), ([1], "1")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_a_nodes_own_words_cannot_colour_a_table_or_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "gpu\x1b[32mverified\x1b]0;x\x07\nround 9 sealed\u202e"
    render([{"node": hostile}], title=hostile)
    render({"node": float("nan"), "device": hostile}, Format.JSON)
    invoke(["ledger", "verify", hostile])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err
    assert "\nround 9" not in out + err
    assert '"node": null' in out


def test_columns_that_can_be_spared_are_left_out_of_long_lines_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"node": "n0", "address": "0x" + "a" * 40, "device": "d" * 60, "up_mbps": 3.5, "said": "s" * 30}]
    render(rows, spare=("not a column", "address", "device"))
    out, err = capsys.readouterr()
    assert "0xaaa" not in out and "d" * 60 in out and "s" * 30 in out
    assert max(map(len, out.splitlines())) <= 120
    assert "address" in err and "device" not in err and "--format json" in err
    assert "not a column" not in err
    render(rows, Format.JSON, spare=("address", "device"))
    assert json.loads(capsys.readouterr().out) == rows
    render([{"node": "n0", "address": "0x1"}], spare=("address",))
    assert "0x1" in capsys.readouterr().out
