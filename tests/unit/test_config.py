"""Configuration: layers, refusals, and the flat table that Flower carries."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.config import (
    PLACES,
    PREFIX,
    Config,
    Training,
    environment,
    flatten,
    from_run_config,
    load,
    to_run_config,
    unflatten,
    without_settings,
)
from hypergpu_fl.config.layers import _FIELDS, MACHINE
from hypergpu_fl.errors import ConfigError

ROOT = Path(__file__).parents[2]


def causes(error: ConfigError) -> list[str]:
    return [fault.cause for fault in error.faults]


def test_the_defaults_in_pyproject_are_those_of_the_models() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert table == unflatten(to_run_config(Config()))
    assert flatten(table).keys() == flatten(Config().model_dump()).keys()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.*")), ids=lambda p: p.name)
def test_every_example_is_valid(path: Path) -> None:
    assert load(path).origins


def test_the_familiar_example_means_what_it_says() -> None:
    config = load(ROOT / "configs" / "example.json").config
    assert config.training == Training(
        model_architecture="simple_cnn", dataset="mnist", learning_rate=0.001, batch_size=64, epochs=10, num_nodes=5
    )
    assert config.network.packet_loss_rate == 0.01
    assert not config.blockchain.enabled


def test_the_last_layer_wins_and_is_named_as_the_origin(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[training]\nrounds = 3\nepochs = 3\nnum_nodes = 3\n")
    environ = {"HYPERGPU_TRAINING__NUM_NODES": "5", "HYPERGPU_TRAINING__EPOCHS": "5"}
    loaded = load(file, {"training.epochs": "4"}, environ)
    training = loaded.config.training
    assert (training.rounds, training.epochs, training.num_nodes, training.batch_size) == (3, 4, 5, 32)
    assert loaded.origins == {
        "training.rounds": "a.toml",
        "training.epochs": "--set",
        "training.num_nodes": "HYPERGPU_TRAINING__NUM_NODES",
    }
    (later := tmp_path / "b.json").write_text('{"training": {"rounds": 7}}')
    assert load([file, later]).config.training.rounds == 7
    assert load(str(file)) == load(file)  # as the README of a new project writes it


def test_inside_the_apps_a_machine_decides_only_what_is_its_own() -> None:
    submitted = to_run_config(load(overrides={"training.rounds": 3, "system.device": "cuda"}).config)
    environ = {"HYPERGPU_TRAINING__ROUNDS": "9", "HYPERGPU_SYSTEM__DEVICE": "cpu"}
    config = from_run_config(submitted, environ)
    assert (config.training.rounds, config.system.device) == (3, "cpu")
    assert set(MACHINE) <= set(_FIELDS)


def test_a_simulation_on_this_machine_is_told_everything_by_its_configuration() -> None:
    url = "https://user:hunter2@rpc.example"
    environ = {"HYPERGPU_SYSTEM__DEVICE": "cuda", "HYPERGPU_RUNS": "/r", "HYPERGPU_BLOCKCHAIN__RPC_URL": url}
    config = load(overrides={"system.device": "cpu"}, environ=environ).config
    inside = without_settings(environ, config)
    assert inside == {"HYPERGPU_RUNS": "/r", "HYPERGPU_BLOCKCHAIN__RPC_URL": url}
    assert from_run_config(to_run_config(config), inside) == config


def test_the_process_environment_wins_over_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("# comment\nHYPERGPU_TRAINING__ROUNDS=7\nHYPERGPU_TRAINING__SEED=1\nPATH=/evil\n")
    environ = environment({"HYPERGPU_TRAINING__SEED": "2", "PATH": "/bin"}, dotenv)
    assert environ == {"HYPERGPU_TRAINING__ROUNDS": "7", "HYPERGPU_TRAINING__SEED": "2", "PATH": "/bin"}
    training = load(environ=environ).config.training
    assert (training.rounds, training.seed) == (7, 2)


def test_relative_paths_become_absolute_since_the_app_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(overrides={"training.data_root": "data", "system.runs_dir": "~/runs"}).config
    assert config.training.data_root == str(tmp_path / "data")
    assert config.system.runs_dir == str(Path.home() / "runs")


NUMBERS = {
    "training.learning_rate": st.floats(min_value=0, exclude_min=True, max_value=10**6),
    "training.num_nodes": st.integers(min_value=1, max_value=100_000),
    "training.seed": st.integers(min_value=0, max_value=2**63 - 1),
    "training.target_accuracy": st.floats(min_value=0, max_value=1, exclude_max=True),
    "blockchain.budget_wei": st.integers(min_value=0, max_value=2**91),
    "network.quota": st.floats(min_value=0, max_value=1, exclude_min=True),
    "network.enable_simulation": st.booleans(),
    "system.run_name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True).filter(
        lambda n: n != "latest"
    ),
}
SETTINGS = st.fixed_dictionaries({}, optional=NUMBERS)


@given(SETTINGS)
def test_run_config_carries_every_configuration_there_and_back(settings: dict[str, Any]) -> None:
    config = load(overrides=settings).config
    table = to_run_config(config)
    assert all(isinstance(value, bool | int | float | str) for value in table.values())
    assert all(-(2**63) <= value < 2**63 for value in table.values() if isinstance(value, int))
    assert from_run_config(table) == config


def test_no_place_on_one_machine_travels_to_another(tmp_path: Path) -> None:
    own = tuple(path for path in PLACES if path in MACHINE)  # links are simulated on one machine alone
    for path in own:
        (tmp_path / path).touch()
    places = {path: str(tmp_path / path) for path in own} | {"system.log_file": "own.log"}
    config = load(overrides={**places, "network.enable_simulation": "false"}).config
    sent_values = [str(value) for value in to_run_config(config).values()]
    assert not any(str(tmp_path) in value or value == "own.log" for value in sent_values)
    here = {f"{PREFIX}{path.upper().replace('.', '__')}": value for path, value in places.items()}
    sent = {**flatten(config.model_dump()), **dict.fromkeys(PLACES, "/of/the/operator")}
    assert from_run_config(sent, here) == config  # each machine's own, whatever is sent
    assert from_run_config(sent, {}).system.runs_dir == ""


@given(SETTINGS)
def test_text_and_typed_values_mean_the_same(settings: dict[str, Any]) -> None:
    text = {path: str(value).lower() if isinstance(value, bool) else str(value) for path, value in settings.items()}
    variables = {f"HYPERGPU_{path.upper().replace('.', '__')}": value for path, value in text.items()}
    typed = load(overrides=settings).config
    assert load(overrides=text).config == typed
    assert load(environ=variables).config == typed


@given(SETTINGS)
def test_a_configuration_survives_json(settings: dict[str, Any]) -> None:
    tree = unflatten(settings)
    assert flatten(tree) == settings
    assert Config.model_validate(json.loads(json.dumps(tree)), strict=True) == load(overrides=settings).config


VALUES = st.recursive(st.none() | st.booleans() | st.text(), st.lists)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(sorted(_FIELDS)), VALUES, max_size=4))
def test_hostile_trees_are_refused_with_a_typed_error_or_accepted(tree: dict[str, Any]) -> None:
    try:
        assert load(overrides=flatten(tree)).config
    except ConfigError as error:
        assert all(fault.cause and fault.remedy and "\n" not in fault.cause for fault in error.faults)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            overrides={
                "training.learning_rate": -0.1,
                "training.num_nodes": 0,
                "training.dataset": "mnits",
                "network.packet_loss_rate": "lots",
                "netwrk.profile": "lan",
                "training.lr": 0.1,
                "system.log_level": "LOUD",
                "system.colour": True,
            }
        )
    faults = {fault.cause: fault.remedy for fault in caught.value.faults}
    assert faults == {
        "training.dataset is 'mnits' (in --set), but must be one of digits, mnist, fashion_mnist, cifar10, folder": (
            "did you mean 'mnist'?"
        ),
        "training.num_nodes is 0 (in --set), but must be at least 1": (
            "give training.num_nodes a value that is at least 1"
        ),
        "training.learning_rate is -0.1 (in --set), but must be above 0": (
            "give training.learning_rate a value that is above 0"
        ),
        "network.packet_loss_rate is 'lots' (in --set), but must be a number": (
            "give network.packet_loss_rate a value that is a number"
        ),
        "netwrk is not a setting (in --set)": "did you mean network?",
        "training.lr is not a setting (in --set)": "did you mean training.learning_rate?",
        "system.colour is not a setting (in --set)": "remove it; `hypergpu config show` lists every setting",
        "system.log_level is 'LOUD' (in --set), but must be one of 'TRACE', 'DEBUG', 'INFO', 'WARNING', 'ERROR'": (
            "give system.log_level one of these"
        ),
    }


def test_the_beginning_of_a_setting_is_met_with_the_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={"training.model": "mlp"})
    assert [fault.remedy for fault in caught.value.faults][0] == "did you mean training.model_architecture?"


@pytest.mark.parametrize("path", sorted(_FIELDS))
def test_a_misspelt_setting_is_met_with_the_right_one(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={path[:-1]: 1})
    assert caught.value.faults[0].remedy.startswith("did you mean ")


def test_a_field_in_the_wrong_section_is_found() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={"network.rpc_url": ""})
    assert caught.value.remedy == "did you mean blockchain.rpc_url?"


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"training.dataset": "folder"}, "training.data_root is empty, but dataset 'folder' reads the images below it"),
        (
            {"blockchain.kind": "rpc"},
            "blockchain.rpc_url is empty, but kind 'rpc' needs the address of a node",
        ),
        (
            {"blockchain.kind": "rpc", "blockchain.rpc_url": "http://127.0.0.1:8545"},
            "blockchain.chain_id is 0, but kind 'rpc' needs the id of the chain that is meant",
        ),
        ({"network.links_file": "/no/such.csv"}, "network.links_file is '/no/such.csv', but there is no such file"),
        (
            {"training.epochs": 2, "training.local_steps": "8"},
            "training.epochs is 2 and local_steps '8', but a node's work can be asked for in one way only",
        ),
        (
            {"training.local_steps": "5-60", "network.policy": "oort"},
            "training.local_steps is '5-60', but policy 'oort' has no planner to decide within a range",
        ),
        (
            {"training.data_root": "a\0b"},
            "training.data_root is 'a\\x00b' (in --set), but must be text of one line, without control characters "
            "and in UTF-8",
        ),
    ],
)
def test_settings_that_need_another_say_which(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=settings)
    assert causes(caught.value) == [cause]


@pytest.mark.parametrize(
    ("field", "value", "requirement"),
    [
        ("training.model_architecture", "resnet19", "be one of mlp, simple_cnn, resnet18, or 'pkg.module:name'"),
        ("training.task", "no colon", "be 'pkg.module:name', or empty for the built-in task"),
        ("blockchain.rpc_url", "ftp://host", "be empty, or http(s):// addresses, comma-separated"),
        ("blockchain.contract", "0x12", "be empty, or addresses of 0x and 40 hexadecimal digits, comma-separated"),
        ("training.learning_rate", float("nan"), "be a finite number"),
        ("training.learning_rate", float("inf"), "be a finite number"),
        ("training.batch_size", True, "be a whole number"),
        ("training.batch_size", 1.5, "be a whole number"),
        *(
            (
                "training.local_steps",
                text,
                "be 'auto', a number of steps, or a range as '5-60' within which the planner decides",
            )
            for text in ("0", "60-5", "5-", "-5", "5 to 60", "all", "1" * 10, "")
        ),
        ("training.local_steps", True, "be text"),
        ("training.local_steps", 2.5, "be text"),
        ("blockchain.enabled", "maybe", "be true or false"),
        ("system.run_name", 5, "be text"),
    ],
)
def test_a_wrong_value_is_told_with_what_it_must_be(field: str, value: Any, requirement: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides={field: value})
    spelled = "true" if value is True else repr(value)  # as a file spells it
    assert causes(caught.value) == [f"{field} is {spelled} (in --set), but must {requirement}"]


@pytest.mark.parametrize(
    ("given", "fixed", "within"),
    [("auto", 0, None), ("12", 12, None), (12, 12, None), ("5-60", 0, (5, 60)), ("7-7", 0, (7, 7))],
)
def test_local_steps_are_a_number_or_a_range_or_the_planners(given: object, fixed: int, within: object) -> None:
    config = load(overrides={"training.local_steps": given}).config
    assert (config.training.fixed_steps, config.training.steps_within) == (fixed, within)
    assert from_run_config(to_run_config(config)) == config


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "latest", "x" * 65, "a b", "-rf"])
def test_a_run_name_cannot_leave_the_runs_folder(name: str) -> None:
    if name:
        with pytest.raises(ConfigError):
            load(overrides={"system.run_name": name})
    else:
        assert load(overrides={"system.run_name": name})  # empty: a name is chosen


@pytest.mark.parametrize("name", ["system.private_key", "blockchain.coordinator_key", "keystore_password", "mnemonic"])
def test_a_secret_in_a_file_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(unflatten({name: "hunter2-hunter2"})))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert causes(caught.value) == [f"{name} looks like a secret (in a.json), which every node could read"]
    assert "HYPERGPU_COORDINATOR_KEY" in caught.value.remedy
    assert "hunter2" not in str(caught.value) + caught.value.remedy


def test_an_rpc_address_with_credentials_comes_from_the_environment_only() -> None:
    url = "https://user:hunter2@rpc.example/v2/0123456789abcdef0123456789abcdef"
    settings = {"blockchain.kind": "rpc", "blockchain.chain_id": "143"}
    with pytest.raises(ConfigError) as caught:
        load(overrides=settings | {"blockchain.rpc_url": url})
    assert "HYPERGPU_BLOCKCHAIN__RPC_URL" in caught.value.remedy
    assert "hunter2" not in str(caught.value)
    environ = {"HYPERGPU_BLOCKCHAIN__RPC_URL": url}
    config = load(overrides=settings, environ=environ).config
    assert config.blockchain.rpc_url == url
    table = to_run_config(config)
    assert table["blockchain.rpc_url"] == ""
    assert from_run_config(table, environ) == config


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("a.json", '{"training": {,}}', "is not valid JSON at line 1 column 15"),
        ("a.json", '{"training":\n  {"rounds" 3}}', "is not valid JSON at line 2 column 13"),
        ("a.json", "[]", "holds [], not a table"),
        ("a.json", '{"system": {}, "system": {}}', "gives 'system' twice"),
        ("a.json", "[" * 100_000, "is nested too deeply"),
        ("a.toml", "a = " + "[" * 100_000, "is nested too deeply"),
        ("a.toml", "[training]\nrounds = \n", "is not valid TOML at line 2 column 10: Invalid value"),
        ("a.toml", "[training]\nrounds = [1,", "is not valid TOML at line 2 column 13"),
        ("a.toml", "a = 1\na = 2\n", "is not valid TOML at line 2 column 6: Cannot overwrite a value"),
        ("a.yaml", "", "is neither .json nor .toml"),
        ("a.json", " " * (1 << 21), "is larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, name: str, text: str, cause: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert cause in caught.value.cause
    assert caught.value.remedy


def test_brackets_inside_quotes_are_no_nesting(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"training": {"data_root": '[{"' * 50}}))
    assert load(file).config.training.data_root.endswith('[{"' * 50)


def test_a_mistyped_file_is_answered_with_the_one_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match="there is no file") as refused:
        load(tmp_path / "konfig.toml")
    assert refused.value.remedy == f"did you mean {str(tmp_path / 'config.toml')!r}?"


def test_a_missing_a_binary_and_a_folder_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "folder.json").mkdir()
    for name, cause in (("no.json", "there is no file"), ("binary.json", "not UTF-8"), ("folder.json", "cannot read")):
        with pytest.raises(ConfigError, match=cause):
            load(tmp_path / name)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
@pytest.mark.parametrize("codec", ["auto", "top32"])
def test_rules_by_the_median_of_each_value_need_a_dense_codec_level(rule: str, codec: str) -> None:
    tree = {"training": {"aggregation": rule}, "network": {"codec": codec}}
    with pytest.raises(ValueError, match="training.aggregation: is .* set network.codec to int8"):
        Config.model_validate(tree)
    assert Config.model_validate({**tree, "network": {"codec": "int8"}}).training.aggregation == rule
    Config.model_validate({**tree, "training": {"aggregation": "krum"}})
