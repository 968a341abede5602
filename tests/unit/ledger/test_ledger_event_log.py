"""Every round seals how far the event log went: whatever is changed in the log before that is found by `verify`."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from rounds import a_round

from hypergpu_fl.cli import invoke
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.errors import VerificationError
from hypergpu_fl.ledger.bundle import read_bundle
from hypergpu_fl.ledger.event_log import heads_of, verify_log
from hypergpu_fl.settlement import Settlement
from strategies.event_log import FILE, EventLog
from strategies.round.commands import Readmit
from strategies.round.events import Left
from strategies.round.rules import Rules
from strategies.settings import Settings

ROUNDS = 3
SETTINGS = Settings(cohort=2, session=b"\5" * 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended, with a log of three events a round and one more after the end."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    log = EventLog(folder / FILE, Rules(SETTINGS, 10, (), "random", "fixed", "examples"))
    settlement = Settlement.open(
        folder, Blockchain(enabled=False), Secrets(), salt=b"\5" * 32, rounds=ROUNDS, simulated_keys=True
    )
    for round in range(1, ROUNDS + 1):
        for row in range(3):
            log.append(Left(round, (row,)), [Readmit(row)])
        settlement.seal(a_round(settlement.session, round, log_head=bytes.fromhex(log.sync().head)))
    log.append(Left(4.0, (0,)), [])
    log.close()
    settlement.export_bundle()
    settlement.close()
    return folder


def with_log(run: Path, folder: Path, lines: list[bytes]) -> str:
    """Folder of the run with another log."""
    folder.mkdir()
    (folder / "ledger.json").write_bytes((run / "ledger.json").read_bytes())
    (folder / FILE).write_bytes(b"".join(lines))
    return f"{folder}/"


def lines_of(run: Path) -> list[bytes]:
    return (run / FILE).read_bytes().splitlines(keepends=True)


def refusal(place: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert invoke(["ledger", "verify", place]) == 1
    written = capsys.readouterr()
    assert not written.out and len(written.err.strip().splitlines()) == 2
    return written.err


def test_the_log_of_a_run_is_the_one_that_its_rounds_sealed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["ledger", "verify", f"{run}/", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds in the log"] == ROUNDS


def test_a_line_changed_by_hand_is_named_with_its_round(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 1 + 3 * ROUNDS):  # line 0 holds the rules
        lines = lines_of(run)
        lines[number] = lines[number].replace(b'"row":', b'"row":1')
        said = refusal(with_log(run, tmp_path / str(number), lines), capsys)
        assert f"round {(number + 2) // 3}: line {number} of the event log" in said


def test_a_log_written_anew_with_fitting_hashes_is_not_the_sealed_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, head = lines_of(run), ""
    for number, line in enumerate(lines):
        body = line[: line.rindex(b',"hash":"')]
        body = body.replace(b'"row":1', b'"row":2') if number == 5 else body
        head = sha256(head.encode() + body).hexdigest()
        lines[number] = b'%b,"hash":"%b"}\n' % (body, head.encode())
    assert "round 2: the hash that it seals is no line's" in refusal(with_log(run, tmp_path / "new", lines), capsys)


@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_a_log_that_ends_too_early_is_missed(
    kept: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(with_log(run, tmp_path / "cut", lines_of(run)[:kept]), capsys)
    assert f"round {max(0, kept - 1) // 3 + 1}: the hash that it seals is no line's" in said


def test_what_follows_the_last_sealed_round_may_change(run: Path, tmp_path: Path) -> None:
    lines = [*lines_of(run)[:-1], b'{"n":10,"even']
    assert invoke(["ledger", "verify", with_log(run, tmp_path / "tail", lines)]) == 0


def test_rounds_that_seal_one_head_twice_are_found(run: Path) -> None:
    first, second, _ = read_bundle(run / "ledger.json").rounds
    with pytest.raises(VerificationError, match=r"^round 2: the hash that it seals is no line"):
        verify_log(heads_of([first, second.model_copy(update={"log_head": first.log_head})]), lines_of(run))


def test_a_run_without_a_log_says_that_nothing_was_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = with_log(run, tmp_path / "none", [])
    (tmp_path / "none" / FILE).unlink()
    assert invoke(["ledger", "verify", place]) == 0
    assert "events.jsonl not compared: it is not there" in capsys.readouterr().out
