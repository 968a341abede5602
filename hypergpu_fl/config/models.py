"""The configuration tree: one frozen model a section, values checked once, at the door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hypergpu_fl.config import task_options, values
from hypergpu_fl.config.target import Target
from strategies.prose import amount
from strategies.spelling import did_you_mean

MODELS: Final = ("mlp", "simple_cnn", "resnet18")
DATASETS: Final = ("digits", "mnist", "fashion_mnist", "cifar10", "folder")
DENSE_LEVELS: Final = ("raw", "fp32", "fp16", "bf16", "int8", "int4")  # these send every value of an update
CODEC_LEVELS: Final = (*DENSE_LEVELS, "top8", "top16", "top32", "top64", "top128")

LARGEST: Final = 10.0**6  # of a factor: beyond it float32 weights overflow
MOST_NODES: Final = 100_000
MOST_ROUNDS: Final = 10**6
MOST_WEI: Final = 2**96 - 1  # what the contract holds of a session's pool, a uint96
EMBEDDED_GWEI: Final = 2.0  # what the EVM inside the process asks for a gas
MOST_CHAIN_ID: Final = 2**63 - 37  # EIP-2294

PLANNED: Final = ("network_aware",)  # the policies whose planner chooses local steps: all that are no peers

_PLUGIN: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_RUN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STEPS: Final = re.compile(r"[1-9][0-9]{0,8}(-[1-9][0-9]{0,8})?")


def _known_model(name: str) -> str:
    if name not in MODELS and not _PLUGIN.fullmatch(name):
        raise ValueError(f"must be one of {', '.join(MODELS)}, or 'pkg.module:name'{did_you_mean(name, MODELS)}")
    return name


def _plugin(name: str) -> str:
    if name and not _PLUGIN.fullmatch(name):
        raise ValueError("must be 'pkg.module:name', or empty for the built-in task")
    return name


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _steps(text: str) -> str:
    first, _, last = text.partition("-")
    if text != "auto" and (not _STEPS.fullmatch(text) or (last and int(first) > int(last))):
        raise ValueError("must be 'auto', a number of steps, or a range as '5-60' within which the planner decides")
    return text


def _target(text: str) -> str:
    return str(Target.parse(text)) if text.strip() else ""


def run_name(name: str) -> str:
    """Return ``name`` if it may be a run's folder.

    Raises
    ------
    ValueError
        If it is not 1-64 letters, digits, dots, dashes and underscores, or is ``latest``.
    """
    if not _RUN_NAME.fullmatch(name) or name == "latest":
        raise ValueError(
            "must be up to 64 letters, digits, '.', '-' or '_', starting with a letter or digit, and not 'latest'"
        )
    return name


Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**6)]
Mbps = Annotated[float, Field(ge=0.001, le=LARGEST)]
Milliseconds = Annotated[float, Field(ge=0, le=3.6e6)]
CodecLevel = Annotated[str, AfterValidator(values.one_of(("auto", *CODEC_LEVELS)))]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused, values not coerced silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _text_of_one_line(cls, value: object) -> object:
        return values.one_line(value) if isinstance(value, str) else value


class Training(Section):
    """What is trained, on what, and how a node trains."""

    task: Annotated[str, AfterValidator(_plugin)] = Field(
        "", description="'pkg.module:name' of a user's own Task; empty: the built-in one"
    )
    options: Annotated[
        Mapping[str, bool | int | float | str],
        BeforeValidator(task_options.checked),
        AfterValidator(task_options.TaskOptions),
    ] = Field({}, validate_default=True, description="a table of scalars for the task, which reads them itself")
    model_architecture: Annotated[str, AfterValidator(_known_model)] = Field(
        "mlp", description="mlp, simple_cnn, resnet18, or 'pkg.module:name'"
    )
    normalization: Literal["group", "batch"] = Field("group", description="normalisation of resnet18")
    dataset: Annotated[str, AfterValidator(values.one_of(DATASETS))] = Field(
        "digits",
        description="digits, mnist, fashion_mnist, cifar10, or folder: train/, val/ and test/, or classes alone",
    )
    data_root: str = Field("", description="where the data set lies, or is downloaded to")
    partitioner: Literal["iid", "dirichlet", "pathological", "shard"] = "dirichlet"
    alpha: Annotated[float, Field(ge=0.001, le=LARGEST)] = Field(
        0.3, description="concentration of the Dirichlet partitioner"
    )
    classes_per_node: Count = Field(2, description="classes a node holds (pathological, shard)")
    num_nodes: Annotated[int, Field(ge=1, le=MOST_NODES)] = 10
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 20
    epochs: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0, description="passes over its own data that a node makes a round; 0: local_steps says"
    )
    local_steps: Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_steps)] = Field(
        "auto",
        description="steps a node makes a round: a number; a range as 5-60, within which the planner decides; "
        "auto: the planner's own range, 5-20, or one pass under a policy without a planner",
    )
    examples: Literal["bounded", "claimed"] = Field(
        "bounded",
        description="how many examples a node counts for, in weight and in pay: as many as it claimed when it joined, "
        "so that none counts for more than 4/3 of an even share; claimed: whatever it claims, for sites that you know",
    )
    batch_size: Count = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: Positive = 1.0
    aggregation: Literal["mean", "trimmed_mean", "median", "krum", "norm_clipping"] = Field(
        "mean", description="how updates become one; see docs/robust-aggregation.md for what each withstands"
    )
    server_momentum: Fraction = 0.9
    target: Annotated[str, AfterValidator(_target)] = Field(
        "", description="stop when reached: 'loss <= 1.88', 'accuracy >= 0.9'; empty: run all rounds"
    )
    target_accuracy: Fraction = Field(0.0, description="the same for the accuracy alone; 0: run all rounds")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def goal(self) -> Target | None:
        """What the run stops at, from `target` or `target_accuracy`; None: nothing."""
        if self.target_accuracy:
            return Target("accuracy", ">=", self.target_accuracy)
        return Target.parse(self.target) if self.target else None

    def is_done(self, rounds: int, figures: Mapping[str, float]) -> bool:
        """Whether a run that completed after ``rounds``, with these figures in the last, did all that is asked here."""
        return rounds >= self.rounds or (self.goal is not None and self.goal.is_reached(figures))

    @property
    def title(self) -> str:
        """What is trained, for people: ``mlp on digits``, or the task's own name."""
        return self.task or f"{self.model_architecture} on {self.dataset}"

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.target and self.target_accuracy:
            raise ValueError(f"target: is {self.target!r} beside target_accuracy {self.target_accuracy:g}; keep one")
        return self

    @model_validator(mode="after")
    def _folder_needs_root(self) -> Self:
        if self.dataset == "folder" and not self.data_root:
            raise ValueError("data_root: is empty, but dataset 'folder' reads the images below it")
        return self

    @model_validator(mode="after")
    def _work_is_asked_for_once(self) -> Self:
        if self.epochs and self.local_steps != "auto":
            raise ValueError(
                f"epochs: is {self.epochs} and local_steps {self.local_steps!r}, but a node's work can be asked for "
                "in one way only"
            )
        return self

    @property
    def fixed_steps(self) -> int:
        """Steps that every node is asked to make; 0: not asked for."""
        return int(self.local_steps) if self.local_steps.isdecimal() else 0

    @property
    def steps_within(self) -> tuple[int, int] | None:
        """Fewest and most steps that the planner may choose; None: its own bounds."""
        fewest, dash, most = self.local_steps.partition("-")
        return (int(fewest), int(most)) if dash else None


class Network(Section):
    """Simulated links, and how rounds are planned over simulated or real ones."""

    enable_simulation: bool = True
    profile: Literal["lan", "broadband", "intercontinental", "mobile", "flaky", "silo", "custom"] = Field(
        "broadband", description="simulated links; custom: the five values below"
    )
    links_file: str = Field("", description="CSV of devices: client,compute_ms_per_sample,bandwidth_kbps")
    rtt_file: str = Field("", description="CSV of round-trip times: src,dst,rtt_avg_ms,rtt_stddev_ms")
    base_latency_ms: Milliseconds = 50.0
    jitter_ms: Milliseconds = 5.0
    packet_loss_rate: Fraction = 0.0
    uplink_mbps: Mbps = 20.0
    downlink_mbps: Mbps = 50.0
    sample_ms: Milliseconds = Field(
        0.0, description="milliseconds a sample takes at the median simulated node; 0: by the model's FLOPs"
    )
    policy: Literal[
        "network_aware",
        "random",
        "overcommit",
        "latency",
        "oort",
        "pyramid",
        "fedcs",
        "tifl",
        "power_of_choice",
    ] = "network_aware"
    mode: Literal["sync", "async"] = Field("async", description="synchronous rounds, or buffered asynchronous")
    cohort: Annotated[int, Field(ge=0, le=MOST_NODES)] = Field(
        0, description="nodes at work; 0: half of the known nodes"
    )
    quota: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="share of the cohort that ends a round")
    deadline_s: NonNegative = Field(0.0, description="longest round; 0: adapts by itself")
    codec: CodecLevel = Field("auto", description="a codec level for every node, or 'auto': the planner chooses")
    downlink_codec: CodecLevel = Field("auto", description="likewise, for the model sent to nodes")


class Blockchain(Section):
    """Where each round is sealed."""

    enabled: bool = True
    kind: Literal["embedded", "rpc"] = Field("embedded", description="an EVM inside the process, or a real chain")
    chain_id: Annotated[int, Field(ge=0, le=MOST_CHAIN_ID)] = Field(
        0, description="expected chain id; 0: the embedded EVM's"
    )
    rpc_url: Annotated[str, AfterValidator(values.urls)] = Field("", description="RPC addresses, comma-separated")
    contract: Annotated[str, AfterValidator(values.address)] = Field(
        "", description="address of the ledger contract; empty: deploy one"
    )
    scoring: Literal["auto", "aumann_shapley", "improvement", "weight", "leave_one_out", "shapley"] = Field(
        "auto",
        description="how what a contribution brought is measured; see docs/the-books.md. 'auto': aumann_shapley, but "
        "without a chain nothing is measured",
    )
    max_examples: Annotated[int, Field(ge=1, le=10**12)] = Field(
        10**6, description="examples beyond this give a node no more weight and no more pay"
    )
    budget_wei: Annotated[int, Field(ge=0, le=MOST_WEI)] = Field(
        10**15, description="reward shared by a round's contributors"
    )
    base_pay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the reward that goes by accepted work, whatever the work brought"
    )
    keep_updates_mb: NonNegative = Field(
        1000.0, description="updates kept for `hypergpu ledger audit`, the oldest rounds go first; 0: none"
    )
    max_fee_gwei: Annotated[float, Field(ge=1e-9, le=1e9)] = Field(
        500.0, description="no transaction is ever sent with a higher fee a gas"
    )
    allow_list: Annotated[str, AfterValidator(values.addresses)] = Field(
        "", description="addresses that may contribute, comma-separated; empty: everyone"
    )
    keystore: str = Field("", description="coordinator's keystore file")

    @model_validator(mode="after")
    def _rpc_needs_an_address(self) -> Self:
        if self.enabled and self.kind == "rpc":
            if not self.rpc_url:
                raise ValueError("rpc_url: is empty, but kind 'rpc' needs the address of a node")
            if not self.chain_id:
                raise ValueError("chain_id: is 0, but kind 'rpc' needs the id of the chain that is meant")
        return self

    @model_validator(mode="after")
    def _embedded_transactions_can_be_paid(self) -> Self:
        if self.enabled and self.kind == "embedded" and self.max_fee_gwei < EMBEDDED_GWEI:
            raise ValueError(
                f"max_fee_gwei: is {self.max_fee_gwei:g}, but the embedded EVM asks {EMBEDDED_GWEI:g}, so no round "
                "would ever be sealed"
            )
        return self


class System(Section):
    """Where things lie on this machine, and how it reports."""

    runs_dir: str = Field("", description="root of the runs; empty: HYPERGPU_RUNS, else ./runs")
    run_name: Annotated[str, AfterValidator(lambda name: name and run_name(name))] = Field(
        "", description="name of the run; empty: made from dataset, model and a number"
    )
    resume: bool = Field(False, description="go on with the named run from its last checkpoint")
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_file: Annotated[str, AfterValidator(values.log_name)] = Field(
        "run.log", description="inside the run's folder, ends with .log; empty: console only"
    )
    log_rotation_mb: Annotated[float, Field(ge=0.001, le=LARGEST)] = 10.0
    log_retention: Count = Field(5, description="rotated log files kept")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Config(Section):
    """The whole tree."""

    training: Training = Training()
    network: Network = Network()
    blockchain: Blockchain = Blockchain()
    system: System = System()

    @model_validator(mode="after")
    def _budget_fits_the_contract(self) -> Self:
        if self.blockchain.budget_wei * self.training.rounds > MOST_WEI:
            rounds = amount(self.training.rounds, "round")
            raise ValueError(f"blockchain.budget_wei: is more than the contract's 2**96 - 1 wei in {rounds}")
        return self

    @model_validator(mode="after")
    def _medians_need_dense_levels(self) -> Self:
        rule, codec = self.training.aggregation, self.network.codec
        if rule in ("median", "trimmed_mean") and codec not in DENSE_LEVELS:
            raise ValueError(
                f"training.aggregation: is {rule!r}, but network.codec {codec!r} sends few of an update's values, and "
                "the median of what most nodes leave out is nothing; set network.codec to int8, or another dense level"
            )
        return self

    @model_validator(mode="after")
    def _a_range_needs_a_planner(self) -> Self:
        if self.training.steps_within and self.network.policy not in PLANNED:
            raise ValueError(
                f"training.local_steps: is {self.training.local_steps!r}, but policy {self.network.policy!r} has no "
                "planner to decide within a range"
            )
        return self
