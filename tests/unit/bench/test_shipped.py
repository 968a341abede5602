"""What a benchmark's rows say of the settings that it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypergpu_fl.bench.attacks import SIGN_FLIP
from hypergpu_fl.bench.hostile import FLIPPED_UNDER
from hypergpu_fl.bench.hostile import _config as hostile_config
from hypergpu_fl.bench.shipped import changed, changed_rounds
from hypergpu_fl.codec.payload import COMPRESSIONS
from hypergpu_fl.config import Config
from hypergpu_fl.server.server_app import round_settings
from strategies import lineup
from strategies.selection import POLICIES


def test_what_ships_has_changed_nothing_whoever_selects() -> None:
    assert changed(Config()) == ""
    for policy in POLICIES:
        settings = round_settings(Config(), session=bytes(32))
        rules = lineup.rules(policy, settings, model_values=1, levels=COMPRESSIONS)
        assert changed_rounds(rules.settings, policy) == ""
        assert changed_rounds(replace(rules.settings, examples="claimed"), policy) == "examples=claimed"


def test_each_changed_setting_is_told_but_for_the_seed_and_where_the_run_lies() -> None:
    config = Config.model_validate(
        {"training": {"alpha": 0.2, "seed": 7}, "network": {"codec": "int8"}, "system": {"run_name": "bench"}}
    )
    assert changed(config) == "training.alpha=0.2, network.codec=int8"


@pytest.mark.parametrize(("rule", "codec"), FLIPPED_UNDER.items())
def test_a_row_of_the_hostile_benchmark_says_which_rule_and_codec_it_ran_with(rule: str, codec: str) -> None:
    said = [f"training.aggregation={rule}"] * (rule != "mean") + [f"network.codec={codec}"] * (codec != "auto")
    assert changed(hostile_config(SIGN_FLIP, rule, codec, 0, {})) == ", ".join(said)
