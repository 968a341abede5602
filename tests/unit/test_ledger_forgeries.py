"""Forgeries by people who hold no key, or only their own; and which pins find a complete rewrite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rounds import a_round

from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import ChainError, LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import Bundle, read_bundle, round_record
from hypergpu_fl.ledger.rewards import RewardDistribution
from hypergpu_fl.ledger.sealing import RoundSeal, seal_round
from hypergpu_fl.settlement import Settlement, load_books, verify
from hypergpu_fl.settlement.run_key import KEY_FILE

ROUNDS = 2


def a_run(folder: Path, *, enabled: bool = True, nodes: int = 3) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    off_or_on = Blockchain(enabled=enabled)
    settlement = Settlement.open(folder, off_or_on, Secrets(), salt=b"\5" * 32, rounds=ROUNDS, simulated_keys=True)
    for round in range(1, ROUNDS + 1):
        settlement.seal(a_round(settlement.session, round, nodes=nodes))
    assert settlement.drain(60)
    settlement.export_bundle()
    settlement.close()
    return read_bundle(folder / "ledger.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    a_run(folder)
    return folder


@pytest.fixture(scope="module")
def chainless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chainless") / "run"
    a_run(folder, enabled=False)
    return folder


def test_near_copies_of_one_round_name_each_other_and_the_books_verify_from_the_first_round_on(tmp_path: Path) -> None:
    settlement = Settlement.open(
        tmp_path, Blockchain(enabled=False), Secrets(), salt=b"\5" * 32, rounds=ROUNDS, simulated_keys=True
    )
    for round, nodes in ((1, 2), (2, 4)):
        seal = a_round(settlement.session, round, nodes=nodes)
        *others, one, other = seal.contributions
        twins = [replace(one, duplicate_of=other.node), replace(other, duplicate_of=one.node)]
        settlement.seal(replace(seal, contributions=[*others, *twins]))
    settlement.export_bundle()
    settlement.close()
    bundle = read_bundle(tmp_path / "ledger.json")
    verify(bundle)
    first, later = bundle.rounds
    forged = first.contributions[0].model_copy(update={"duplicate_of": later.contributions[3].node})
    rounds = [first.model_copy(update={"contributions": [forged, *first.contributions[1:]]}), later]
    with pytest.raises(VerificationError, match="sent nothing by then"):
        verify(bundle.model_copy(update={"rounds": rounds}))


def rewritten(bundle: Bundle, **changes: Any) -> Bundle:
    """Every round of a session made up anew with nodes' keys that anyone can derive, and no commit."""
    head, rewards, rounds = bundle.session.id, RewardDistribution(bundle.session.id, {}), []
    for round in range(1, ROUNDS + 1):
        sealed = seal_round(
            a_round(bundle.session.id, round, nodes=2), before=head, rewards=rewards, pay=bundle.session.pay
        )
        head, rewards = sealed.head, sealed.rewards
        rounds.append(round_record(sealed, None))
    return bundle.model_copy(update={"rounds": rounds, **changes})


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert invoke(["ledger", "verify", *words]) == 1
    written = capsys.readouterr()
    assert not written.out
    return written.err


def written(file: Path, bundle: Bundle) -> str:
    file.write_text(bundle.model_dump_json())
    return str(file)


def test_rounds_rewritten_without_a_key_do_not_pass_for_the_coordinators(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = read_bundle(run / "ledger.json"), tmp_path / "forged.json"
    assert "than the coordinator signed" in refusal(capsys, written(file, rewritten(bundle)))
    forged = written(file, rewritten(bundle, seal=None))
    assert "rounds 1, 2 are not committed" in refusal(capsys, forged)
    assert "rounds 1, 2 are not committed" in refusal(capsys, forged, "--open")


def test_without_a_chain_unsigned_books_pass_for_nothing(
    chainless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = read_bundle(chainless / "ledger.json"), tmp_path / "forged.json"
    assert "than the coordinator signed" in refusal(capsys, written(file, rewritten(bundle)))
    forged = written(file, rewritten(bundle, seal=None))
    assert "rounds 1, 2 are not committed" in refusal(capsys, forged, "--open")


def test_a_complete_rewrite_with_a_key_of_its_own_passes_unpinned_says_so_and_fails_pinned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine, forged = read_bundle(run / "ledger.json"), a_run(tmp_path / "forged", nodes=2)
    file = written(tmp_path / "forged.json", forged)
    assert invoke(["ledger", "verify", file]) == 0
    assert "not pinned: a complete rewrite would pass" in capsys.readouterr().out
    assert "it is of session" in refusal(capsys, file, "--session", "0x" + genuine.session.id.hex())
    assert "it is of coordinator" in refusal(capsys, file, "--coordinator", genuine.session.coordinator)
    pins = ("--session", "0x" + genuine.session.id.hex(), "--coordinator", genuine.session.coordinator.lower())
    assert invoke(["ledger", "verify", str(run / "ledger.json"), *pins]) == 0
    assert "not pinned" not in capsys.readouterr().out


def test_the_coordinators_key_is_made_for_the_run_kept_to_its_owner_and_in_no_other_file(run: Path) -> None:
    key = (run / KEY_FILE).read_text().strip()
    assert (run / KEY_FILE).stat().st_mode & 0o777 == 0o600
    others = [file for file in run.rglob("*") if file.is_file() and file.name != KEY_FILE]
    assert len(others) > 2
    for file in others:
        content = file.read_bytes()
        assert key.encode() not in content.lower() and bytes.fromhex(key) not in content


def test_two_runs_have_two_coordinators(run: Path, chainless: Path, tmp_path: Path) -> None:
    coordinators = {read_bundle(folder / "ledger.json").session.coordinator for folder in (run, chainless)}
    assert len({*coordinators, a_run(tmp_path / "third", enabled=False).session.coordinator}) == 3


@pytest.mark.parametrize("loss", ["removed", "replaced"])
def test_a_run_whose_key_is_lost_or_replaced_does_not_go_on(tmp_path: Path, loss: str) -> None:
    a_run(tmp_path / "run", enabled=False)
    (tmp_path / "run" / KEY_FILE).unlink()
    if loss == "replaced":
        (tmp_path / "run" / KEY_FILE).write_text("11" * 32)
    with pytest.raises(ChainError, match=KEY_FILE):
        a_run(tmp_path / "run", enabled=False)


@pytest.mark.parametrize("kind", ["run", "chainless"])
def test_last_rounds_cut_off_are_missed_and_the_first_of_them_is_named(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(request.getfixturevalue(kind) / "ledger.json")
    cut = written(tmp_path / "cut.json", bundle.model_copy(update={"rounds": bundle.rounds[:1]}))
    assert "round 2: the coordinator signed 2 rounds, the file holds 1" in refusal(capsys, cut)
    cut = written(tmp_path / "cut.json", bundle.model_copy(update={"rounds": bundle.rounds[:1], "seal": None}))
    assert "are open" in refusal(capsys, cut) or "not committed" in refusal(capsys, cut)


def test_a_run_under_way_exports_open_books_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settlement = Settlement.open(
        tmp_path, Blockchain(enabled=False), Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True
    )
    settlement.seal(a_round(settlement.session, 1))
    file = str(tmp_path / "ledger.json")
    assert invoke(["ledger", "export", f"{tmp_path}/", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ended"] is False
    assert "the books are open after round 1" in refusal(capsys, file)
    assert invoke(["ledger", "verify", file, "--open"]) == 0
    assert "still open" in capsys.readouterr().out
    settlement.close()


def test_a_run_that_goes_on_after_its_end_is_open_until_it_ends_again(tmp_path: Path) -> None:
    a_run(tmp_path, enabled=False)
    assert verify(load_books(tmp_path)).ended
    settlement = Settlement.open(
        tmp_path, Blockchain(enabled=False), Secrets(), salt=b"\5" * 32, rounds=3, simulated_keys=True
    )
    settlement.seal(a_round(settlement.session, 3))
    assert not verify(load_books(tmp_path)).signed
    settlement.export_bundle()
    settlement.close()
    assert verify(read_bundle(tmp_path / "ledger.json")).ended


@pytest.mark.parametrize("enabled", [True, False])
def test_a_second_server_on_the_same_folder_is_turned_away(tmp_path: Path, enabled: bool) -> None:
    on_or_off = Blockchain(enabled=enabled)
    first = Settlement.open(tmp_path, on_or_off, Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True)
    with pytest.raises(LedgerError, match="open in another process"):
        Settlement.open(tmp_path, on_or_off, Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True)
    first.close()
    Settlement.open(tmp_path, on_or_off, Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True).close()


def test_a_contribution_that_starts_from_a_model_of_no_earlier_round_is_named(tmp_path: Path) -> None:
    settlement = Settlement.open(
        tmp_path, Blockchain(enabled=False), Secrets(), salt=b"\5" * 32, rounds=2, simulated_keys=True
    )
    first = a_round(settlement.session, 1)
    settlement.seal(RoundSeal(1, first.base_model, b"\7" * 32, first.contributions))
    settlement.seal(a_round(settlement.session, 2))  # starts from another model than round 1 sealed
    settlement.close()
    with pytest.raises(VerificationError, match="^round 2: .* starts from a model that no round before 2 sealed"):
        verify(load_books(tmp_path))


@pytest.mark.parametrize(
    "text", ['{"format": 1, "format": 2}', "[" * 100_000, '{"a": ' * 100_000, "1" * 10_000, "\xff", ""]
)
def test_what_is_no_ledger_is_refused_in_two_lines(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    assert len(refusal(capsys, str(tmp_path / "x.json")).strip().splitlines()) == 2
