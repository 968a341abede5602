"""What counts, what is refused and what it earns: real training by the real ClientApp, inside this process."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from loguru import logger
from sqlalchemy import create_engine, text

from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.errors import CheckpointError, LedgerError
from hypergpu_fl.ledger.bundle import Bundle
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.ledger.proof import ContributionProof, verify_proof
from hypergpu_fl.ledger.sealing import RoundSeal, SealedRound
from hypergpu_fl.node.client_app import app
from hypergpu_fl.pricing.pricer import Scoring, versioned
from hypergpu_fl.server import checkpoint
from hypergpu_fl.server.server_app import run
from hypergpu_fl.settlement import Settlement, load_books, verify
from strategies import wire
from strategies.round.replay import replay

NODES = 4
Tamper = Callable[[list[Message]], None]


class TamperingGrid(InProcessGrid):
    """What a hostile network or node makes of the replies."""

    def __init__(self, *arguments: Any, tamper: Tamper, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tamper = tamper

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self._tamper([reply for reply in replies if reply.has_content() and wire.UPDATE in reply.content])
        return replies


def configured(folder: Path, rounds: int = 3, seed: int = 0, **blockchain: Any) -> Config:
    return Config.model_validate(
        {
            "training": {
                "num_nodes": NODES,
                "rounds": rounds,
                "seed": seed,
                "batch_size": 16,
                "learning_rate": 0.05,
                "momentum": 0.9,
            },
            "network": {"cohort": NODES, "quota": 1.0, "mode": "sync"},
            "blockchain": blockchain,
            "system": {"runs_dir": str(folder.parent), "run_name": folder.name},
        }
    )


def train(folder: Path, tamper: Tamper = lambda replies: None, seed: int = 0, **blockchain: Any) -> dict[str, Any]:
    folder.mkdir()
    config = configured(folder, seed=seed, **blockchain)
    run(config, TamperingGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes", tamper=tamper), folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def refusals(folder: Path) -> list[tuple[str, str]]:
    with create_engine(f"sqlite:///{folder / 'run.db'}").connect() as connection:
        return [(node, reason) for node, reason in connection.execute(text("SELECT node, reason FROM refusals"))]


@pytest.mark.parametrize("scoring", ["aumann_shapley", "improvement", "weight", "leave_one_out", "shapley"])
def test_a_round_shares_its_budget_whatever_the_scoring(tmp_path: Path, scoring: Scoring) -> None:
    report = train(tmp_path / "run", scoring=scoring, enabled=False)
    bundle = Bundle.model_validate_json((tmp_path / "run" / "ledger.json").read_text())
    assert report["accuracy"] > 0.3  # chance is 0.1
    for record in bundle.rounds:
        assert sum(c.weight for c in record.contributions) == pytest.approx(10**9, abs=NODES)
        assert record.pricing is not None and record.pricing.scoring == versioned(scoring)
    verify(bundle)
    assert any(c.score for record in bundle.rounds for c in record.contributions)
    assert bundle.rounds[-1].owed >= 0.95 * 3 * 10**15


def test_without_a_chain_no_update_is_priced_and_the_books_verify(tmp_path: Path) -> None:
    train(tmp_path / "run", enabled=False)
    bundle = Bundle.model_validate_json((tmp_path / "run" / "ledger.json").read_text())
    verify(bundle)
    assert any(record.contributions for record in bundle.rounds)
    assert {record.pricing for record in bundle.rounds} == {None} and bundle.rounds[-1].owed == 0
    assert {c.score for record in bundle.rounds for c in record.contributions} == {0}


def flip_signature(replies: list[Message]) -> None:
    for reply in replies[:1]:
        record = reply.content.config_records[wire.CONTRIBUTION]
        signature = bytearray(record[wire.SIGNATURE])
        signature[5] ^= 1
        record[wire.SIGNATURE] = bytes(signature)


def claim_more_examples(replies: list[Message]) -> None:
    for reply in replies[:1]:
        reply.content.metric_records[wire.METRICS][wire.EXAMPLES] = 10**6


def swap_updates(replies: list[Message]) -> None:
    if len(replies) > 1:
        first, second = (reply.content for reply in replies[:2])
        first[wire.UPDATE], second[wire.UPDATE] = second[wire.UPDATE], first[wire.UPDATE]


def leave_unsigned(replies: list[Message]) -> None:
    for reply in replies[:1]:
        del reply.content[wire.CONTRIBUTION]


@pytest.mark.parametrize("tamper", [flip_signature, claim_more_examples, swap_updates, leave_unsigned])
def test_a_reply_that_its_node_did_not_sign_is_refused_and_the_round_goes_on(tmp_path: Path, tamper: Tamper) -> None:
    report = train(tmp_path / "run", tamper, enabled=False)
    reasons = [reason for _, reason in refusals(tmp_path / "run")]
    assert reasons and set(reasons) == {"bad signature"}
    assert sum(entry["rejected"] for entry in report["history"]) == len(reasons)
    assert len(report["history"]) == 3 and sum(entry["arrived"] for entry in report["history"]) > 0


@pytest.mark.parametrize("name", ["run.db", "events.jsonl"])
def test_a_run_whose_books_are_removed_meanwhile_does_not_end_as_success(tmp_path: Path, name: str) -> None:
    def remove(replies: list[Message]) -> None:
        (tmp_path / "run" / name).unlink(missing_ok=True)

    with pytest.raises(CheckpointError, match=f"{name} was removed from .* while the run went on"):
        train(tmp_path / "run", remove, enabled=False)
    assert not (tmp_path / "run" / "report.json").exists()


def test_only_addresses_on_the_allow_list_contribute(tmp_path: Path) -> None:
    allowed = [derive_simulated_key(0, partition).address for partition in (0, 2)]
    report = train(tmp_path / "run", enabled=False, allow_list=",".join(allowed))
    bundle = Bundle.model_validate_json((tmp_path / "run" / "ledger.json").read_text())
    assert {c.node for record in bundle.rounds for c in record.contributions} == set(allowed)
    assert {reason for _, reason in refusals(tmp_path / "run")} == {"not allowed"}
    assert sum(entry["rejected"] for entry in report["history"]) > 0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("booked", [False, True])
def test_a_server_that_dies_between_checkpoint_and_books_or_right_after_seals_every_round_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booked: bool
) -> None:
    seal = Settlement.seal

    def dying(settlement: Settlement, round_seal: RoundSeal) -> SealedRound:
        if round_seal.round < 2:
            return seal(settlement, round_seal)
        if booked:
            seal(settlement, round_seal)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Settlement, "seal", dying)
        train(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").exists()
    config = configured(tmp_path / "run")
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=tmp_path / "again"), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [entry["round"] for entry in report["history"]] == [1, 2, 3]
    assert (report["chain"]["commits"], report["chain"]["finalized"]) == (3, 3)
    bundle = Bundle.model_validate_json((tmp_path / "run" / "ledger.json").read_text())
    verify(bundle)
    assert [record.round for record in bundle.rounds] == [1, 2, 3] and all(r.contributions for r in bundle.rounds)


def test_a_run_does_not_go_on_from_another_runs_checkpoint(tmp_path: Path) -> None:
    for seed, name in enumerate(("mine", "theirs")):
        train(tmp_path / name, seed=seed, enabled=False)
    mine, theirs = (checkpoint.load(tmp_path / name / "checkpoints") for name in ("mine", "theirs"))
    # else the other seed or the other log is named first
    forged = {**theirs.state, **{key: mine.state[key] for key in ("settings", "log")}}
    checkpoint.save(tmp_path / "mine" / "checkpoints", replace(theirs, state=forged))
    config = configured(tmp_path / "mine", rounds=4, enabled=False)
    grid = InProcessGrid(app, NODES, to_run_config(config), state_dir=tmp_path / "mine" / "nodes")
    with pytest.raises(LedgerError, match="the checkpoint's model is 0x"):
        run(config, grid, tmp_path / "mine")
    assert len(load_books(tmp_path / "mine").rounds) == 3


def torn(folder: Path, group: str) -> Path:
    """File of a group of the newest checkpoint, which a disk has cut short."""
    files = json.loads((folder / "checkpoints" / "00000003.json").read_text())["files"]
    file = folder / "checkpoints" / f"{files[group]}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return file


@pytest.mark.parametrize(("group", "enabled"), [("model", True), ("model", False), ("average", False)])
def test_a_run_whose_newest_model_is_torn_goes_on_from_the_one_before_and_says_so(
    tmp_path: Path, group: str, enabled: bool
) -> None:
    folder = tmp_path / "run"
    train(folder, enabled=enabled)
    file = torn(folder, group)
    config = configured(folder, rounds=5, enabled=enabled)
    said: list[str] = []
    sink = logger.add(said.append, format="{message}", level="WARNING")
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder)
    logger.remove(sink)
    assert any(file.name in line and "round 3 is rolled back to the model before it" in line for line in said)
    report = json.loads((folder / "report.json").read_text())
    assert [entry["round"] for entry in report["history"]] == [1, 2, 3, 4, 5]
    assert report["history"][4]["accuracy"] > report["history"][1]["accuracy"] - 0.05
    bundle = load_books(folder)
    verify(bundle)
    third, fourth = bundle.rounds[2:4]
    assert fourth.contributions[0].base_model == third.contributions[0].base_model != third.model
    with (folder / "events.jsonl").open("rb") as lines:
        told = replay(lines)
    assert (told.rounds, told.broken, told.difference) == (5, None, None)


def test_a_run_whose_newest_model_and_the_one_before_are_torn_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, enabled=False)
    file = torn(folder, "model")
    torn(folder, "good")
    config = configured(folder, rounds=5, enabled=False)
    grid = InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes")
    with pytest.raises(CheckpointError, match=file.name) as caught:
        run(config, grid, folder)
    assert "start the run anew" in caught.value.remedy
    assert len(load_books(folder).rounds) == 3


@pytest.mark.parametrize("shared", [False, True], ids=["a folder a node", "the simulated nodes' one folder"])
def test_nodes_keep_receipts_of_all_that_was_sealed_and_final(tmp_path: Path, shared: bool) -> None:
    train(tmp_path / "run")  # at its end all rounds are final
    sealed = {
        (entry.node, entry.round) for record in load_books(tmp_path / "run").rounds for entry in record.contributions
    }
    config = configured(tmp_path / "run", rounds=6)
    grid = InProcessGrid(app, NODES, to_run_config(config), state_dir=tmp_path / "run" / "nodes")
    if shared:
        for context in grid._contexts.values():
            del context.node_config["state-dir"]
    run(config, grid, tmp_path / "run")
    kept = (tmp_path / "run").glob(".nodes/receipts/*/*/*" if shared else "nodes/*/receipts/*/*/*")
    receipts = [ContributionProof.model_validate_json(file.read_text()) for file in kept]
    for receipt in receipts:
        verify_proof(receipt)
    assert len(sealed) == 3 * NODES and sealed <= {(receipt.value[3], receipt.value[1]) for receipt in receipts}


def test_a_run_ends_with_the_round_that_reaches_the_target_accuracy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = configured(folder, rounds=9, enabled=False)
    config = config.model_copy(update={"training": config.training.model_copy(update={"target_accuracy": 0.5})})
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder)
    *before, last = [entry["accuracy"] for entry in json.loads((folder / "report.json").read_text())["history"]]
    assert last >= 0.5 and all(accuracy < 0.5 for accuracy in before) and len(before) < 8
