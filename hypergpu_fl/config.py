"""The configuration tree: one frozen model a section, values checked once, at the door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused, values not coerced silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Training(Section):
    """What is trained, on what, and how a node trains."""

    task: str = Field("", description="'pkg.module:name' of a user's own Task; empty: the built-in one")
    model_architecture: str = Field("mlp", description="mlp, simple_cnn, resnet18, or 'pkg.module:name'")
    normalization: Literal["group", "batch"] = Field("group", description="normalisation of resnet18")
    dataset: str = Field("digits", description="digits, mnist, fashion_mnist, cifar10, or folder")
    data_root: str = Field("", description="where the data set lies, or is downloaded to")
    partitioner: Literal["iid", "dirichlet", "pathological", "shard"] = "dirichlet"
    alpha: Positive = Field(0.3, description="concentration of the Dirichlet partitioner")
    classes_per_node: Count = Field(2, description="classes a node holds (pathological, shard)")
    num_nodes: Count = 10
    rounds: Count = 20
    epochs: Count = Field(1, description="local epochs a round: the baseline amount of local work")
    batch_size: Count = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: Positive = 1.0
    server_momentum: Fraction = 0.9
    target_accuracy: Fraction = Field(0.0, description="stop when reached; 0: run all rounds")
    seed: Annotated[int, Field(ge=0)] = 0


class Network(Section):
    """Simulated links, and how rounds are planned over simulated or real ones."""

    enable_simulation: bool = True
    profile: Literal["lan", "broadband", "intercontinental", "mobile", "flaky", "silo", "custom"] = Field(
        "broadband", description="simulated links; custom: the five values below"
    )
    links_file: str = Field("", description="CSV of devices: client,compute_ms_per_sample,bandwidth_kbps")
    rtt_file: str = Field("", description="CSV of round-trip times: src,dst,rtt_avg_ms,rtt_stddev_ms")
    base_latency_ms: NonNegative = 50.0
    jitter_ms: NonNegative = 5.0
    packet_loss_rate: Fraction = 0.0
    uplink_mbps: Positive = 20.0
    downlink_mbps: Positive = 50.0
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
    cohort: Annotated[int, Field(ge=0)] = Field(0, description="nodes at work; 0: half of the known nodes")
    quota: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="share of the cohort that ends a round")
    deadline_s: NonNegative = Field(0.0, description="longest round; 0: adapts by itself")
    codec: str = Field("auto", description="a codec level for every node, or 'auto': the planner chooses")
    downlink_codec: str = Field("auto", description="likewise, for the model sent to nodes")


class Blockchain(Section):
    """Where each round is sealed."""

    enabled: bool = True
    kind: Literal["embedded", "rpc"] = Field("embedded", description="an EVM inside the process, or a real chain")
    chain_id: Annotated[int, Field(ge=0)] = Field(0, description="expected chain id; 0: the embedded EVM's")
    rpc_url: str = Field("", description="RPC addresses, comma-separated")
    contract: str = Field("", description="address of the ledger contract; empty: deploy one")
    budget_wei: Annotated[int, Field(ge=0)] = Field(10**15, description="reward shared by a round's contributors")
    max_fee_gwei: Positive = Field(500.0, description="no transaction is ever sent with a higher fee a gas")
    allow_list: str = Field("", description="addresses that may contribute, comma-separated; empty: everyone")
    keystore: str = Field("", description="coordinator's keystore file")


class System(Section):
    """Where things lie on this machine, and how it reports."""

    runs_dir: str = Field("", description="root of the runs; empty: HYPERGPU_RUNS, else ./runs")
    run_name: str = Field("", description="name of the run; empty: made from dataset, model and a number")
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_file: str = Field("run.log", description="inside the run's folder; empty: console only")
    log_rotation_mb: Positive = 10.0
    log_retention: Count = Field(5, description="rotated log files kept")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Secrets(Section):
    """From the environment or a keystore only; never in run-config, which every node can read."""

    coordinator_key: SecretStr | None = None
    keystore_password: SecretStr | None = None


class Config(Section):
    """The whole tree."""

    training: Training = Training()
    network: Network = Network()
    blockchain: Blockchain = Blockchain()
    system: System = System()


def runs_root(system: System, environ: dict[str, str]) -> Path:
    """Folder that holds all runs: the config's, else ``HYPERGPU_RUNS``, else ``./runs``."""
    return Path(system.runs_dir or environ.get("HYPERGPU_RUNS") or "runs").expanduser().resolve()
