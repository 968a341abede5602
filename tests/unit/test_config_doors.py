"""The doors of the configuration: every value meets the rule of the place that uses it, in words of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from hypergpu_fl.cli.options import root_of
from hypergpu_fl.config import (
    Blockchain,
    Config,
    Network,
    System,
    Training,
    environment,
    from_run_config,
    load,
    read_secrets,
    runs_root,
    to_run_config,
)
from hypergpu_fl.config.models import CODEC_LEVELS, DATASETS, DENSE_LEVELS, EMBEDDED_GWEI, MODELS, PLANNED
from hypergpu_fl.errors import ConfigError, UsageError
from hypergpu_fl.network.traces import configured_links

LOWER = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
CHECKSUMMED = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # the first example of EIP-55
OTHER = "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"  # the second

REFUSED = [
    # the issue's
    ("blockchain.contract", CHECKSUMMED.replace("aA", "AA"), "written in the capitals of its checksum"),
    ("blockchain.contract", f"{LOWER},{OTHER}", "empty or one address, not several"),
    ("blockchain.rpc_url", "ws://127.0.0.1:8546", "http[(]s[)]:// addresses"),
    ("training.seed", 2**64, "below 9223372036854775808"),
    ("blockchain.budget_wei", 10**80, "at most 79228162514264337593543950335"),
    ("network.codec", "gzip", "one of auto, raw, fp32"),
    ("network.downlink_codec", "top31", "one of auto"),
    ("training.rounds", "9" * 5000, "a whole number"),
    # of the same kind
    ("blockchain.budget_wei", 2**95, "more than the contract's"),  # times 20 rounds
    ("blockchain.allow_list", f"{OTHER},{CHECKSUMMED.replace('aA', 'AA')}", "written in the capitals of its checksum"),
    ("blockchain.rpc_url", "http://host:99999", "http[(]s[)]:// addresses"),
    ("blockchain.rpc_url", "http://:8545", "http[(]s[)]:// addresses"),
    ("blockchain.rpc_url", "http://a..b", "http[(]s[)]:// addresses"),
    ("blockchain.rpc_url", "https://.a/v2", "http[(]s[)]:// addresses"),
    ("blockchain.rpc_url", f"http://{64 * 'a'}.example", "http[(]s[)]:// addresses"),
    ("blockchain.rpc_url", "http://10.0.0.300:8545", "http[(]s[)]:// addresses"),
    ("blockchain.max_fee_gwei", 1e-12, "at least 1e-09"),  # would be a cap of 0 wei
    ("blockchain.chain_id", 2**63, "at most 9223372036854775771"),
    ("system.log_file", "../../etc/passwd", "the name of a file, without folders"),
    ("system.log_file", "events.jsonl", "a name that ends with .log"),
    ("system.log_file", "run.db", "a name that ends with .log"),
    ("system.log_file", "SuperLink.log", "none of flower.log"),
    ("training.data_root", "a\nb", "text of one line"),
    ("training.data_root", "\udcff", "text of one line"),
    ("network.uplink_mbps", 1e-300, "at least 0.001"),
    ("training.num_nodes", 10**9, "at most 100000"),
]


@pytest.mark.parametrize(("path", "value", "requirement"), REFUSED)
def test_what_no_run_could_use_is_refused_at_the_door(path: str, value: Any, requirement: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} is .*{requirement}") as caught:
        load(overrides={path: value})
    assert len(caught.value.faults) == 1 and caught.value.remedy
    assert "pydantic" not in caught.value.cause and len(caught.value.cause) < 400


@pytest.mark.parametrize(
    ("path", "value", "usual"),
    [
        ("blockchain.contract", LOWER, CHECKSUMMED),
        ("blockchain.contract", f" 0x{LOWER[2:].upper()} ", CHECKSUMMED),
        ("blockchain.allow_list", f"{LOWER}, {OTHER},{CHECKSUMMED},", f"{CHECKSUMMED},{OTHER}"),
        ("blockchain.rpc_url", "http://a:1 , https://b/c,", "http://a:1,https://b/c"),
        ("blockchain.rpc_url", *2 * ("http://a_b.example.:1/x,http://10.0.0.3,http://[::1]:8",)),
        ("training.seed", 2**63 - 1, 2**63 - 1),
    ],
)
def test_a_value_that_can_be_understood_is_brought_into_its_usual_form(path: str, value: Any, usual: Any) -> None:
    section, field = path.split(".")
    config = load(overrides={path: value}).config
    assert getattr(getattr(config, section), field) == usual
    assert from_run_config(to_run_config(config)) == config


def test_each_list_of_names_is_that_of_the_code_behind_it() -> None:
    """A name that is new in the code is added in `hypergpu_fl/config/models.py`, too: it may import no floor above."""
    from hypergpu_fl.codec.levels import LEVELS
    from hypergpu_fl.network.wan import PROFILES
    from hypergpu_fl.pricing import Scoring
    from hypergpu_fl.task.models import MODELS as FACTORIES
    from hypergpu_fl.task.partition import PARTITIONERS
    from hypergpu_fl.task.sources import SOURCES
    from strategies.model.robust import AGGREGATORS
    from strategies.selection import POLICIES

    def choices(section: type[Training | Network | Blockchain], field: str) -> set[str]:
        return set(get_args(section.model_fields[field].annotation))

    where = "hypergpu_fl/config/models.py does not say what the code says: "
    assert tuple(LEVELS) == CODEC_LEVELS, where + "CODEC_LEVELS"
    assert set(SOURCES) == set(DATASETS), where + "DATASETS"
    assert set(FACTORIES) == set(MODELS), where + "MODELS"
    assert choices(Network, "policy") == set(POLICIES), where + "network.policy"
    assert choices(Network, "profile") == {*PROFILES, "custom"}, where + "network.profile"
    assert choices(Training, "partitioner") == set(PARTITIONERS), where + "training.partitioner"
    assert choices(Training, "aggregation") == set(AGGREGATORS), where + "training.aggregation"
    assert choices(Blockchain, "scoring") == {"auto", *get_args(Scoring)}, where + "blockchain.scoring"


def test_the_levels_that_are_called_dense_are_those_that_send_every_value() -> None:
    """A rule by medians is refused with all others, whatever a level is called."""
    from hypergpu_fl.codec import LEVELS, decode, encode
    from strategies.model.layout import Layout

    layout = Layout.of({"weight": np.zeros(8192, dtype=np.float32)})
    values = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32)
    sent = {name: decode(encode(name, values, layout, {}, base=0), layout).kept()[1] for name in LEVELS}
    assert {name for name, kept_P in sent.items() if np.count_nonzero(kept_P) > 0.75 * layout.size} == {*DENSE_LEVELS}


def test_the_policies_that_a_range_of_steps_is_taken_for_are_those_with_the_planner() -> None:
    from strategies.lineup import rules
    from strategies.planning import PLANNERS, plan
    from strategies.selection import POLICIES
    from strategies.settings import Settings

    settings = Settings(cohort=1, codec="raw")
    made_of = [rules(name, settings, model_values=1, levels=()) for name in POLICIES]
    assert {each.selection for each in made_of if PLANNERS[each.planner] is plan} == {*PLANNED}


@pytest.mark.parametrize("path", ["training.data_root", "system.runs_dir", "blockchain.keystore", "network.rtt_file"])
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 5000])
def test_a_path_that_no_file_can_have_is_refused_at_the_door(path: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{path} is .*, which is no path: File name too long") as caught:
        load(overrides={path: name})
    assert len(caught.value.cause) < 400 and caught.value.remedy == f"correct {path}"


def test_a_cap_below_what_the_embedded_evm_asks_is_refused_since_no_round_would_be_sealed() -> None:
    from hypergpu_fl.chain import embedded

    assert (embedded._FEES.base + embedded._FEES.tip) / 10**9 == EMBEDDED_GWEI
    with pytest.raises(ConfigError, match=r"blockchain\.max_fee_gwei is 0\.5, but the embedded EVM asks 2"):
        load(overrides={"blockchain.max_fee_gwei": 0.5})
    rpc = {"blockchain.kind": "rpc", "blockchain.rpc_url": "http://127.0.0.1:1", "blockchain.chain_id": 1}
    for settings in (rpc, {"blockchain.enabled": False}):
        assert load(overrides={"blockchain.max_fee_gwei": 0.5, **settings}).config.blockchain.max_fee_gwei == 0.5


BOM = "\ufeff"
TOML = "[training]\nrounds = 3\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", BOM + TOML),
        ("a.toml", TOML.replace("\n", "\r\n") + "\r\n\r\n"),
        ("a.toml", TOML + "\n   \n\n"),
        ("a.json", BOM + '{"training": {"rounds": 3}}'),
        ("a.json", '\r\n{"training":\r\n {"rounds": 3}}\r\n\r\n'),
        ("a.json", '{"training.rounds": 3}'),
    ],
)
def test_a_file_is_read_as_any_editor_writes_it(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert load(tmp_path / name).config.training.rounds == 3


@pytest.mark.parametrize(
    "text",
    [BOM + "HYPERGPU_TRAINING__ROUNDS=3\n", "\r\nHYPERGPU_TRAINING__ROUNDS='3'\r\n\r\nHYPERGPU_TRAINING__SEED=\r\n"],
)
def test_so_is_a_dotenv_file(text: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(text.encode())
    assert load(environ=environment({}, tmp_path / ".env")).config.training.rounds == 3


@pytest.mark.parametrize("name", ["a.toml", "a.json", ".env"])
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("x = 1\n".encode("utf-16"), "not UTF-8 text"),
        ("x = 1\n".encode("utf-16-le"), "not UTF-8 text .it holds zeros"),
        ("x = 'caf\u00e9'\n".encode("latin-1"), r"not UTF-8 text .byte \d+"),
        (b" " * ((1 << 20) + 1), "larger than 1 MiB"),
        ("\u00e9".encode() * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_what_is_no_text_or_too_long_is_refused_alike_in_every_file(
    name: str, content: bytes, cause: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=cause):
        environment({}, file) if name == ".env" else load(file)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("HYPERGPU_TRAINING__ROUNDS=3\n".encode("utf-16"), "not UTF-8 text"),
        ("HYPERGPU_TRAINING__ROUNDS=3\n".encode("utf-16-le"), "not UTF-8 text"),
        ("HYPERGPU_TRAINING__DATA_ROOT=/caf\u00e9\n".encode("latin-1"), "not UTF-8 text"),
        (b"A=1\nHYPERGPU_NODE_KEY='secretsecret\n", "line 2 of .* cannot be read"),
        (b"HYPERGPU_TRAINING__ROUNDS 3\n", "line 1 of .* cannot be read"),
        (b"HYPERGPU_TRAINING__ROUNDS\n", "line 1 of .* cannot be read"),
        (b"A=1\n" * 300_000, "larger than 1 MiB"),
        (b"hypergpu_training__rounds=3\n", "hypergpu_training__rounds is no variable"),
    ],
)
def test_a_dotenv_file_that_sets_nothing_though_it_means_to_is_refused(
    content: bytes, cause: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match=cause) as caught:
        load(environ=environment({}, tmp_path / ".env"))
    assert caught.value.remedy and "secretsecret" not in caught.value.cause


def test_lines_of_other_programs_in_a_dotenv_file_are_their_own_business(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "if x; then\nA='1\n# HYPERGPU_NODE_KEY is set elsewhere\nHYPERGPU_TRAINING__ROUNDS=3\n"
    )
    assert load(environ=environment({}, tmp_path / ".env")).config.training.rounds == 3


TRACE = "client,compute_ms_per_sample,bandwidth_kbps\n1,10,1000\n2,20,2000\n"


@pytest.mark.parametrize(
    "text", [BOM + TRACE, TRACE.replace("\n", "\r\n") + "\r\n\r\n", TRACE.replace(",", " , ") + ",,\n"]
)
def test_so_is_a_trace(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    config = load(overrides={"network.links_file": str(tmp_path / "t.csv")}).config
    links = configured_links(config.network, 2, seed=0)
    assert links is not None and sorted(link.uplink_bps for link in links) == [1e6, 2e6]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (TRACE + "3,10,0\n", "line 4: a device of 0 kbps"),
        (TRACE + "3,10," + "9" * 5000 + "\n", "line 4"),
        (TRACE + "3,10,\0\n", "line 4|cannot read"),
        (TRACE + '"' + "x" * 200_000 + '",10,1\n', "cannot read"),
    ],
)
def test_a_trace_that_would_never_end_or_cannot_be_read_is_refused(text: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=cause):
        configured_links(Network(links_file=str(tmp_path / "t.csv")), 2, seed=0)


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("a.json", '{"training": {"rounds": 3}, "training.rounds": 4}', "gives training.rounds twice"),
        ("a.toml", '"training.rounds" = 4\n[training]\nrounds = 3\n', "gives training.rounds twice"),
        ("a.json", '{"training": {"rounds": ' + "9" * 5000 + "}}", "more than 4,300 digits"),
        ("a.toml", "[training]\nrounds = " + "9" * 5000, "more than 4,300 digits"),
        ("a.toml", "[training]\nrounds = 0x" + "f" * 5000, "more than 4,300 digits"),
        ("a.json", '{"training": {"learning_rate": 1' + "0" * 400 + "}}", "a number of usual size"),
    ],
)
def test_a_file_that_says_two_things_or_too_much_is_refused(name: str, text: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=cause) as caught:
        load(tmp_path / name)
    assert caught.value.remedy and len(caught.value.cause) < 400


@pytest.mark.parametrize(
    ("variable", "cause", "remedy"),
    [
        ("HYPERGPU_TRAINING_ROUNDS", "is no variable", "did you mean HYPERGPU_TRAINING__ROUNDS?"),
        ("HYPERGPU_NODEKEY", "is no variable", "did you mean HYPERGPU_NODE_KEY?"),
        ("HYPERGPU_RUN", "is no variable", "did you mean HYPERGPU_RUNS?"),
        ("HYPERGPU_LOG_LEVEL", "is no variable", "did you mean HYPERGPU_SYSTEM__LOG_LEVEL?"),
        ("HYPERGPU_FAVOURITE", "is no variable", "remove it, or name it otherwise"),
        ("hypergpu_training__rounds", "is no variable", "did you mean HYPERGPU_TRAINING__ROUNDS?"),
        ("HyperGPU_Node_Key", "is no variable", "did you mean HYPERGPU_NODE_KEY?"),
        ("HYPERGPU_TRAINING__ROUND", "training.round is not a setting", "did you mean training.rounds?"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_everywhere(variable: str, cause: str, remedy: str) -> None:
    for read in (lambda environ: load(environ=environ), lambda environ: from_run_config({}, environ)):
        with pytest.raises(ConfigError, match=cause) as caught:
            read({variable: "5"})
        assert (caught.value.remedy, variable in caught.value.cause) == (remedy, True)


@pytest.mark.parametrize(
    "environ",
    [
        {"HYPERGPU_TRAINING__ROUNDS": ""},
        {"HYPERGPU_TRAINING__ROUNDS": "  "},
        {"HYPERGPU_NODE_KEY": "", "HYPERGPU_RUNS": "/r", "HYPERGPU_FAVOURITE": ""},
        {"HYPERGPU_SERVICE_HOST": "10.0.0.1", "HYPERGPU_SUPERLINK_PORT_8000_TCP_ADDR": "10.0.0.1"},
        {"HYPERGPU_SUPERLINK_SERVICE_PORT_HTTPS": "8000", "HYPERGPU_PORT": "tcp://10.0.0.1:8000"},
    ],
)
def test_empty_variables_and_those_of_an_orchestrator_say_nothing(environ: dict[str, str]) -> None:
    assert load(environ=environ).config == Config() == from_run_config(to_run_config(Config()), environ)


def test_two_variables_for_one_setting_are_refused() -> None:
    with pytest.raises(ConfigError, match="HYPERGPU_TRAINING__ROUNDS and HYPERGPU_TRAINING__rounds both set"):
        load(environ={"HYPERGPU_TRAINING__ROUNDS": "3", "HYPERGPU_TRAINING__rounds": "4"})


def test_an_empty_variable_does_not_hide_the_one_of_the_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HYPERGPU_TRAINING__ROUNDS=3\n")
    environ = environment({"HYPERGPU_TRAINING__ROUNDS": ""}, tmp_path / ".env")
    assert load(environ=environ).config.training.rounds == 3


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_blank_variables_are_none_for_whoever_asks(blank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HYPERGPU_RUNS": blank, "HYPERGPU_NODE_KEY": blank}
    assert runs_root(System(), environ) == tmp_path / "runs"
    assert environment(environ, None) == {} and read_secrets(environ, None).node_key is None


def test_the_runs_of_the_dotenv_file_are_those_of_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYPERGPU_RUNS", raising=False)
    (tmp_path / ".env").write_text(f"HYPERGPU_RUNS={tmp_path / 'theirs'}\n")
    assert root_of(None) == tmp_path / "theirs"


ROOT = Path(__file__).parents[2]
NAMING = ("README.md", ".env.example", "docs", "deploy", "configs", "hypergpu_fl")
VARIABLE = re.compile(r"HYPERGPU_[A-Za-z0-9_]*[A-Za-z0-9]\b(?!_)")


def named_variables() -> dict[str, str]:
    """Every variable that documents, deployments or code name, with a file that does."""
    files = [file for place in NAMING for file in [ROOT / place, *(ROOT / place).rglob("*")] if file.is_file()]
    texts = {file: file.read_bytes().decode(errors="ignore") for file in files if file.suffix not in (".pyc", ".png")}
    return {name: str(file) for file, text in texts.items() for name in VARIABLE.findall(text)}


def test_every_variable_that_documents_deployments_or_code_name_is_read() -> None:
    names = named_variables()
    assert {"HYPERGPU_DASHBOARD_TOKEN", "HYPERGPU_RUNS", "HYPERGPU_TRAINING__DATA_ROOT"} <= names.keys()
    for name, file in names.items():
        try:
            load(environ={name: "x"})
        except ConfigError as error:
            assert "is no variable" not in error.cause and "is not a setting" not in error.cause, (name, file)


def test_the_schema_can_still_be_printed() -> None:
    assert json.dumps(Config.model_json_schema())


@pytest.mark.parametrize("enabled", [True, False])
def test_a_budget_that_the_contract_cannot_hold_is_refused_with_and_without_a_chain(enabled: bool) -> None:
    with pytest.raises(ConfigError, match="more than the contract's 2\\*\\*96 - 1 wei in 3 rounds"):
        load(overrides={"blockchain.enabled": enabled, "blockchain.budget_wei": 2**95, "training.rounds": 3})
