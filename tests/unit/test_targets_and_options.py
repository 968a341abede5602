"""What a run stops at, and the table that is the task's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.config import Config, from_run_config, load, to_run_config
from hypergpu_fl.config.target import Target
from hypergpu_fl.errors import ConfigError

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True).filter(lambda name: "key" not in name)
OPTIONS = st.dictionaries(
    NAMES, st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=5
)


@pytest.mark.parametrize(
    ("text", "figure", "reached"),
    [
        ("loss <= 1.88", {"loss": 1.88}, True),
        ("loss<=1.88", {"loss": 1.881}, False),
        (" accuracy  >=  0.9 ", {"accuracy": 0.95}, True),
        ("loss < 1", {"loss": 1.0}, False),
        ("r2 > -1e-3", {"r2": 0.0}, True),
        ("val/perplexity <= 20", {"val/perplexity": 19.0}, True),
        ("loss <= 1", {"loss": float("nan")}, False),
        ("accuracy >= 0.5", {"loss": 1.0}, False),
    ],
)
def test_a_target_is_a_bound_on_one_figure(text: str, figure: dict[str, float], reached: bool) -> None:
    target = load(overrides={"training.target": text}).config.training.goal
    assert target is not None and target.is_reached(figure) == reached
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["loss", "loss = 1", "loss <= ", "<= 1", "loss <= nan", "loss <= 1e999", "1 <= loss"])
def test_a_target_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={"training.target": text})
    assert "must be empty, or a metric" in caught.value.cause


def test_the_old_field_is_the_same_target_and_both_at_once_are_refused() -> None:
    assert load(overrides={"training.target_accuracy": 0.9}).config.training.goal == Target("accuracy", ">=", 0.9)
    assert load().config.training.goal is None
    with pytest.raises(ConfigError, match="training.target is 'loss <= 1' beside target_accuracy 0.9; keep one"):
        load(overrides={"training.target_accuracy": 0.9, "training.target": "loss <= 1"})


@given(OPTIONS)
def test_options_reach_every_node_as_they_were_written(options: dict[str, Any]) -> None:
    config = Config.model_validate({"training": {"options": options}}, strict=True)
    table = to_run_config(config)
    assert isinstance(table["training.options"], str)
    found = from_run_config(table)
    assert found == config and dict(found.training.options) == options
    assert {name: type(value) for name, value in found.training.options.items()} == {
        name: type(value) for name, value in options.items()
    }


def test_each_layer_may_replace_one_option(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[training.options]\nhidden = 64\nname = 'adapter'\ndeep = true\nmax_tokens = 9\n")
    environ = {"HYPERGPU_TRAINING__OPTIONS__DEEP": "false"}
    options = load(file, {"training.options.hidden": "32", "training.options.rate": "1e-3"}, environ).config.training
    assert dict(options.options) == {"hidden": 32, "name": "adapter", "deep": False, "max_tokens": 9, "rate": 0.001}
    table = to_run_config(load(file).config) | {"training.options.name": "other"}
    assert from_run_config(table).training.options["name"] == "other"


def test_options_given_as_their_text_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.json"  # as a run's own config.json holds them
    file.write_text(json.dumps({"training": {"options": '{"hidden": 64}'}}))
    assert dict(load(file, {"training.options.more": "x"}).config.training.options) == {"hidden": 64, "more": "x"}


@pytest.mark.parametrize(
    "options",
    [{"a": [1]}, {"a": {"b": {"c": 1}}}, {"a": None}, {"a": float("nan")}, "no json", "[1]", 5, {"a": "x" * 70_000}],
)
def test_options_that_are_no_table_of_scalars_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={"training.options": options})
    assert "training.options" in caught.value.cause and caught.value.remedy


def test_an_option_that_looks_like_a_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="looks like a secret"):
        load(overrides={"training.options.hf_token": "abc"})
