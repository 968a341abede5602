"""A stranger recomputes a run from its folder: nothing differs, and whatever a coordinator made up is found."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hypergpu_fl.audit.recompute import Found, audit, drawn
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.errors import HyperGPUError, LedgerError, RunFailed, VerificationError
from hypergpu_fl.ledger.bundle import Bundle
from hypergpu_fl.node.client_app import app
from hypergpu_fl.pricing.kept_updates import FIRST, MANIFEST, model_after, round_folder
from hypergpu_fl.server.server_app import run
from hypergpu_fl.settlement import load_bundle, verify
from hypergpu_fl.task import load_task
from hypergpu_fl.task.image import ImageTask
from strategies.event_log import FILE
from strategies.model.aggregation import StreamingMean

NODES, ROUNDS = 5, 6
HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
TERABYTES = b"\x93NUMPY\x01\x00v\x00" + HEADER.ljust(118)  # promised, by a file of 128 bytes


def configured(folder: Path, *, rounds: int = ROUNDS, scoring: str = "aumann_shapley", **training: Any) -> Config:
    return Config.model_validate(
        {
            "training": {"num_nodes": NODES, "rounds": rounds, "learning_rate": 0.3} | training,
            "network": {"cohort": NODES, "sample_ms": 4},
            "blockchain": {"enabled": False, "scoring": scoring},
            "system": {"runs_dir": str(folder.parent), "run_name": folder.name, "device": "cpu"},
        }
    )


def train(folder: Path, config: Config) -> None:
    folder.mkdir(exist_ok=True)
    run(config, InProcessGrid(app, NODES, to_run_config(config), state_dir=folder / "nodes"), folder)


def audited(folder: Path, config: Config, bundle: Bundle | None = None, **options: Any) -> Found:
    task = load_task(config.training, config.system)
    assert isinstance(task, ImageTask)
    return audit(bundle or load_bundle(folder), folder, config, task, device=torch.device("cpu"), **options)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "honest"
    train(folder, configured(folder))
    return folder


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(honest, tmp_path / "honest"))


def test_of_a_run_without_prices_nothing_is_left_unaudited(tmp_path: Path) -> None:
    config = configured(tmp_path / "run", rounds=2, scoring="auto")
    train(tmp_path / "run", config)
    found = audited(tmp_path / "run", config)
    assert (found.rounds, found.unaudited, found.priced_contributions) == (2, (), 0) and found.contributions


def test_a_run_with_late_updates_is_recomputed_without_a_difference(honest: Path) -> None:
    found = audited(honest, configured(honest))
    late = [e for record in load_bundle(honest).rounds for e in record.contributions if e.round < record.round]
    assert late and (found.rounds, found.unaudited) == (ROUNDS, ())
    assert found.priced_contributions == found.contributions > NODES * ROUNDS / 2


@pytest.mark.parametrize(
    "training",
    [{"server_optimizer": "fedadam", "server_learning_rate": 0.01}, {"aggregation": "krum"}, {"learning_rate": 60.0}],
    ids=["fedadam", "krum", "roll-back"],
)
def test_so_are_other_optimisers_and_rules_and_a_run_that_exploded(tmp_path: Path, training: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    config = configured(folder, rounds=4, **training)
    exploded = "learning_rate" in training
    with pytest.raises(RunFailed, match="no round's model was kept") if exploded else contextlib.nullcontext():
        train(folder, config)
    if exploded:
        assert '"roll back"' in (folder / FILE).read_text()
    assert audited(folder, config).rounds == 4


def test_so_is_a_run_that_was_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for rounds in (3, ROUNDS):
        config = configured(folder, rounds=rounds)
        train(folder, config)
    assert audited(folder, config).priced_contributions > 0


def test_the_command_says_what_it_recomputed_and_what_a_draw_proves(
    honest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--runs", str(honest.parent)]
    assert invoke(["ledger", "audit", "honest", "--rounds", "3", "--seed", "5", *where]) == 0
    said = capsys.readouterr().out
    assert f"of {ROUNDS} rounds" in said and "--seed 5" in said and "50% if" in said
    assert invoke(["ledger", "audit", "honest", *where, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == 0
    assert invoke(["ledger", "audit", "honest", "--rounds", "few", *where]) == 2


def test_over_the_limit_the_oldest_rounds_go_and_the_rest_is_recomputed_from_a_kept_model(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = configured(folder, server_optimizer="fedadam", server_learning_rate=0.01)
    books = config.blockchain.model_copy(update={"keep_updates_mb": 0.1})
    config = config.model_copy(update={"blockchain": books})
    train(folder, config)
    kept = sum(file.stat().st_size for file in (folder / "blobs").glob("0*/*"))
    found = audited(folder, config)
    assert 0 < kept <= 0.15e6 and 0 < found.rounds < ROUNDS
    assert found.priced_rounds == () and "were removed" in found.unaudited[0]
    for file in (folder / "blobs").glob("after-*.npz"):
        with np.load(file) as content:  # the latest version is the best one, too
            vectors = [content[name].tobytes() for name in content.files]
        assert len(set(vectors)) == len(vectors)


def test_without_kept_updates_there_is_no_audit(copied: Path) -> None:
    shutil.rmtree(copied / "blobs")
    with pytest.raises(LedgerError, match="keeps no updates"):
        audited(copied, configured(copied))


def test_a_draw_shows_a_change_as_often_as_it_says() -> None:
    found = Found(40, 400, drawn(40, 10, 0), 100, ())
    changed = {3, 17}
    hits = [bool(changed & set(drawn(40, 10, seed))) for seed in range(2000)]
    assert np.mean(hits) == pytest.approx(found.sampled_share(2 / 40), abs=0.03)


def entry_changed(bundle: Bundle, round: int, index: int, **fields: Any) -> Bundle:
    rounds = list(bundle.rounds)
    entries = list(rounds[round - 1].contributions)
    entries[index] = entries[index].model_copy(update=fields)
    rounds[round - 1] = rounds[round - 1].model_copy(update={"contributions": entries})
    return bundle.model_copy(update={"rounds": rounds})


def a_score_changed(bundle: Bundle) -> Bundle:
    values = bundle.rounds[3].pricing
    assert values is not None
    more = 20 + round(2.5e-3 * sum(abs(each.value) for each in values.contributions))
    return entry_changed(bundle, 4, 1, score=bundle.rounds[3].contributions[1].score + more)


def a_weight_changed(bundle: Bundle) -> Bundle:
    return entry_changed(bundle, 2, 0, weight=bundle.rounds[1].contributions[0].weight + 1000)


def an_update_left_out(bundle: Bundle) -> Bundle:
    rounds = list(bundle.rounds)
    rounds[2] = rounds[2].model_copy(update={"contributions": rounds[2].contributions[:-1]})
    return bundle.model_copy(update={"rounds": rounds})


def a_refused_one_counted(bundle: Bundle) -> Bundle:
    rounds = list(bundle.rounds)
    rounds[2] = rounds[2].model_copy(update={"contributions": [*rounds[2].contributions, rounds[2].contributions[0]]})
    return bundle.model_copy(update={"rounds": rounds})


def rounds_swapped(bundle: Bundle) -> Bundle:
    rounds = list(bundle.rounds)
    rounds[1], rounds[2] = rounds[2], rounds[1]
    return bundle.model_copy(update={"rounds": rounds})


def another_model_sealed(bundle: Bundle) -> Bundle:
    rounds = list(bundle.rounds)
    rounds[4] = rounds[4].model_copy(update={"model": bytes(32)})
    return bundle.model_copy(update={"rounds": rounds})


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (a_score_changed, "round 4: .* is sealed with score"),
        (a_weight_changed, "round 2: .* is sealed with weight"),
        (an_update_left_out, "round 3: the log added an update that the books leave out"),
        (a_refused_one_counted, "round 3: the books hold"),
        (rounds_swapped, "round [23]"),
        (another_model_sealed, "round 5: its updates lead to model"),
    ],
)
def test_books_that_do_not_follow_are_found(honest: Path, lie: Callable[[Bundle], Bundle], told: str) -> None:
    with pytest.raises(VerificationError, match=told):
        audited(honest, configured(honest), lie(load_bundle(honest)))


def another_first_model(folder: Path) -> None:
    first = np.load(folder / "blobs" / FIRST)
    np.save(folder / "blobs" / FIRST, first * np.float32(1.0001))


def updates_exchanged(folder: Path) -> None:
    one, other, *_ = sorted(round_folder(folder / "blobs", 3).iterdir())
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def an_event_removed(folder: Path) -> None:
    lines = (folder / FILE).read_bytes().splitlines(keepends=True)
    (folder / FILE).write_bytes(b"".join(lines[:30] + lines[31:]))


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        (another_first_model, "began from model"),
        (updates_exchanged, "round 3: the update of .* does not hold what its name says"),
        (an_event_removed, "has a hash that does not fit"),
    ],
)
def test_files_that_were_changed_are_found(copied: Path, lie: Callable[[Path], None], told: str) -> None:
    lie(copied)
    with pytest.raises(HyperGPUError, match=told):
        audited(copied, configured(copied))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MANIFEST, b"{"),
        (MANIFEST, b"[]"),
        (MANIFEST, b'{"after_round": "soon"}'),
        (MANIFEST, b'{"after_round": -1}'),
        (MANIFEST, b'{"after_round": 999}'),
        (MANIFEST, b'{"after_round": 2}'),  # names a model that is not there
        (FIRST, b""),
        (FIRST, b"no array"),
        (FIRST, TERABYTES),
    ],
)
def test_kept_files_that_no_run_writes_are_named(copied: Path, name: str, content: bytes) -> None:
    (copied / "blobs" / name).write_bytes(content)
    with pytest.raises(VerificationError, match="cannot be read") as caught:
        audited(copied, configured(copied))
    assert str(copied / "blobs") in caught.value.cause and "bring back" in caught.value.remedy


VOTE = '{"version": 2, "optimizer_steps": 0, "votes": [[0, 0]]}'  # of one node


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state": "{}"},
        {"state": "[]", "model": [1.0]},
        {"state": "no JSON"},
        {"state": '{"version": 2, "good": 1}'},
        {"state": VOTE, "model": [1.0], "average": [1.0], "votes": np.zeros((0, 1))},
        {"state": "{}", "same": "no JSON"},
        {"state": "{}", "same": "[1]"},
        {"state": "{}", "same": '{"model": "model"}'},
        {"state": "{}", "same": '{"model": []}'},
    ],
)
def test_a_kept_model_that_is_none_is_refused(copied: Path, content: dict[str, Any]) -> None:
    (copied / "blobs" / MANIFEST).write_text('{"after_round": 2}')
    np.savez(model_after(copied / "blobs", 2), **{name: np.array(value) for name, value in content.items()})
    with pytest.raises(VerificationError, match="cannot be read|is none"):
        audited(copied, configured(copied))


@pytest.mark.parametrize("report", ["{", "[]", "{}", '{"stretches": []}', '{"stretches": [{"settings": null}]}'])
def test_a_report_that_tells_no_settings_is_refused(
    copied: Path, report: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "report.json").write_text(report)
    assert invoke(["ledger", "audit", "honest", "--runs", str(copied.parent)]) == 1
    assert "which settings the run began with" in capsys.readouterr().err


def test_a_mean_that_the_coordinator_scaled_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mean = tmp_path / "run", StreamingMean.mean
    config = configured(folder, rounds=3)
    with monkeypatch.context() as patch:
        patch.setattr(StreamingMean, "mean", lambda self: mean(self) * np.float32(1.01))
        train(folder, config)
    verify(load_bundle(folder))  # signed and consistent
    with pytest.raises(VerificationError, match="round 1: its updates lead to model"):
        audited(folder, config)


def test_values_that_come_from_other_validation_data_are_found(honest: Path) -> None:
    config = configured(honest)
    task = load_task(config.training, config.system)
    assert isinstance(task, ImageTask)
    task.images = replace(task.images, validation=task.images.test)
    with pytest.raises(VerificationError, match=r"round 1: loss \d+ is sealed"):
        audit(load_bundle(honest), honest, config, task, device=torch.device("cpu"))
