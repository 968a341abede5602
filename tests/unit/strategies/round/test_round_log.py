"""The log of a run tells the whole story: what was altered in it is found, and it goes on only from where it was."""

from __future__ import annotations

import json
import os
import traceback
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from full_disk import full_disk
from played_rounds import played, reading, rules_of

from hypergpu_fl.config.models import CODEC_LEVELS, MOST_NODES, MOST_ROUNDS
from strategies.errors import BadLine, NotWritten, OutOfOrder
from strategies.event_log import EventLog, Mark
from strategies.failure import root_cause
from strategies.round.commands import SendOrder
from strategies.round.events import (
    Answered,
    Diverged,
    Ended,
    Failed,
    Joined,
    Left,
    Published,
    Returned,
    RoundDue,
    Sent,
)
from strategies.round.lines import LONGEST_LINE, as_json, event_line, read_line, rules_line
from strategies.round.replay import first_gap, replay
from strategies.round.step import step
from strategies.selection import POLICIES


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_folding_the_log_of_a_run_gives_every_command_and_the_state_again(policy: str, mode: str) -> None:
    run = played(policy, mode=mode)
    again = replay(run.lines)
    assert again.difference is None and again.broken is None and again.rounds == 6
    assert again.state is not None and again.state.json() == run.state.json()
    assert again.commands == len(run.commands)


def test_rules_that_change_between_two_rounds_are_named_and_the_same_again_are_not() -> None:
    run = played(rounds=3, quota=0.8)
    before = run.state.rules
    after = replace(before, settings=replace(before.settings, quota=0.5, session=bytes(31) + b"\1"))
    for rules in (before, after):
        line, head = rules_line(len(run.lines), rules, json.loads(run.lines[-1])["hash"])
        run.lines.append(line)
    found = replay(run.lines)
    assert found.difference is None and found.state is not None and found.state.rules == after
    assert [(change.from_round, change.rule) for change in found.changes] == [(4, "quota"), (4, "session")]
    assert str(found.changes[0]) == "quota 0.8 -> 0.5"
    assert (found.changes[1].before, found.changes[1].after) == ("00" * 32, "00" * 31 + "01")
    assert replay(run.lines[:-1]).changes == []


def test_a_replay_stops_where_it_is_told_to() -> None:
    run = played()
    upto = replay(run.lines, upto=2)
    assert upto.rounds == 2 and upto.state is not None and upto.state.round == 2
    assert 0 < upto.events < replay(run.lines).events


def altered(lines: list[bytes], kind: str, old: str, new: str) -> tuple[list[bytes], int]:
    """The lines with one number of the third event of a kind changed by hand, and which line that is."""
    where = [i for i, line in enumerate(lines) if f'"kind":"{kind}"}},"commands"'.encode() in line][2]
    changed = lines[where].replace(old.encode(), new.encode(), 1)
    assert changed != lines[where]
    return [*lines[:where], changed, *lines[where + 1 :]], where


def test_a_number_altered_by_hand_is_found_by_the_first_command_that_follows_from_it() -> None:
    lines, where = altered(played().lines, "answered", '"norm":1.0', '"norm":1e9')
    found = replay(lines)
    assert found.broken == where and found.difference is not None and found.difference.line >= where
    assert "is recorded as" in str(found.difference)


def test_an_altered_number_from_which_nothing_follows_is_found_by_its_hash() -> None:
    lines, where = altered(played().lines, "evaluated", '"loss":0.33', '"loss":0.34')
    found = replay(lines)
    assert found.difference is None and found.broken == where


def test_an_altered_command_is_named_with_both_values() -> None:
    lines = played().lines
    where = next(i for i, line in enumerate(lines) if b'"kind":"add"' in line)
    lines[where] = lines[where].replace(b'"staleness":0', b'"staleness":1')
    difference = replay(lines).difference
    assert difference is not None and (difference.line, difference.recorded, difference.folded) == (where, 1, 0)
    assert difference.place == "commands[0].staleness"


def test_reals_may_differ_by_what_processors_differ_and_the_recorded_one_is_carried_on() -> None:
    assert first_gap([{"weight": 0.1}], [{"weight": 0.1 + 1e-12}]) is None
    assert first_gap([{"weight": 0.1}], [{"weight": 0.1 + 1e-6}]) is not None
    assert first_gap([1, "a"], [1, "b"]) == ("commands[1]", "a", "b")
    assert first_gap([1], [1.0]) is not None and first_gap([True], [1]) is not None
    for text in ("Infinity", "-Infinity", "NaN", "1e999"):  # a number on paper, and near to none
        assert first_gap(json.loads(f"[{text}]"), [0.1]) is not None
    run = played(rounds=1)
    where = next(i for i, line in enumerate(run.lines) if b'"kind":"add"' in line)
    weight = json.loads(run.lines[where])["commands"][0]["weight"]
    run.lines[where] = run.lines[where].replace(repr(weight).encode(), repr(weight + 1e-13).encode())
    found = replay(run.lines)
    assert found.difference is None and found.state is not None
    assert found.state.accounts.paid.tolist() != run.state.accounts.paid.tolist()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"n":0}',
        b'{"n":1,"event":{"kind":"joined"},"commands":[],"hash":"x"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_line_of_a_log_is_refused(text: bytes) -> None:
    with pytest.raises(BadLine):
        replay([text + b"\n"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "line 0: it is not JSON"),
        (b"[]", "line 0: it is not a JSON object"),
        (b'{"n":0}', "line 0: it lacks 'hash'"),
        (b'{"n":1e999,"event":{},"hash":""}', "line 0: its n is no whole number"),
        (b'{"n":0,"event":{"kind":"a\\nb"},"hash":""}', r"line 0: there is no event 'a\\nb'$"),
    ],
)
def test_what_is_no_line_is_told_in_words_that_are_not_pythons(text: bytes, said: str) -> None:
    with pytest.raises(BadLine, match=said):
        replay([text + b"\n"])


def test_missing_and_swapped_lines_are_told_as_such() -> None:
    lines = played(rounds=2).lines
    with pytest.raises(BadLine, match="line 5 is numbered 6: lines are missing, or stand in another order"):
        replay([*lines[:5], *lines[6:]])


def test_a_line_beyond_the_longest_is_refused_and_not_taken_for_the_logs_end() -> None:
    lines = played(rounds=2).lines
    with pytest.raises(BadLine, match=r"line 3 is longer than 1,000 bytes"):
        replay([*lines[:3], b"x" * 1000, b"y\n", *lines[3:]])


def test_the_most_orders_that_a_run_can_give_at_once_are_a_line_that_can_be_read() -> None:
    rules = rules_of("network_aware", cohort=MOST_NODES)
    name, long = max(CODEC_LEVELS, key=len), 10**9 - 1
    orders = [
        SendOrder(
            order=MOST_ROUNDS * rules.most_at_work, row=MOST_NODES, round=MOST_ROUNDS, base=MOST_ROUNDS,
            local_steps=long, batch_size=long, codec=name, downlink=name, held=MOST_ROUNDS, ack=MOST_ROUNDS,
            ttl_s=43200.0 / 3,
        )
    ] * (rules.most_at_work // 10)  # fmt: skip
    text, _ = event_line(MOST_ROUNDS * MOST_NODES, RoundDue(1e9 / 3, MOST_ROUNDS), orders, "")
    assert 10 * len(text) < LONGEST_LINE
    line = read_line(text.rstrip(b"\n"), "")
    assert line.whole and len(line.commands) == len(orders)


@pytest.mark.parametrize("filling", [b"{},", b"[],", b'{"a":1},'])
def test_a_long_line_that_would_take_many_times_its_size_in_memory_is_refused(filling: bytes) -> None:
    text = b'{"n":0,"event":{},"commands":[' + filling * (LONGEST_LINE // len(filling) - 20) + b'{}],"hash":""}'
    tracemalloc.start()
    try:
        with pytest.raises(BadLine, match="next to nothing"):
            read_line(text, "")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_command_that_only_one_side_has_is_named_alone() -> None:
    lines = played().lines
    where = next(i for i, line in enumerate(lines) if line.count(b'"kind":"send"') > 1)
    entry = json.loads(lines[where])
    last = entry["commands"].pop()
    less = [*lines[:where], json.dumps(entry).encode() + b"\n", *lines[where + 1 :]]
    found = replay(less).difference
    assert found is not None and found.place == f"commands[{len(entry['commands'])}]"
    assert str(found).endswith(f"is recorded as nothing, the rules give {last!r}") and len(str(found)) < 1000
    entry["commands"] += [last, last]
    found = replay([*lines[:where], json.dumps(entry).encode() + b"\n"]).difference
    assert found is not None and str(found).endswith("the rules give nothing") and found.recorded == last


def test_an_event_that_cannot_happen_says_why() -> None:
    lines = played().lines
    due = next(i for i, line in enumerate(lines) if b'"kind":"round due"' in line)
    again = lines[due].replace(b'"n":%d,' % due, b'"n":%d,' % (due + 1))
    found = replay([*lines[: due + 1], again]).difference
    assert found is not None
    assert (
        str(found) == f"line {due + 1} (round 1): 'round due' cannot happen here: round 1 is due, but another is open"
    )


def test_an_order_that_is_sent_but_not_open_is_named_and_changes_nothing() -> None:
    lines = played().lines
    sent = next(i for i, line in enumerate(lines) if b'"kind":"sent"' in line)
    entry = json.loads(lines[sent])
    entry["event"]["orders"][-1] = 777
    found = replay([*lines[:sent], json.dumps(entry).encode() + b"\n"])
    reason = "'sent' cannot happen here: order 777 is sent, but not open"
    assert str(found.difference) == f"line {sent} (round 1): {reason}"
    assert found.state is not None and found.state.open is not None and found.state.open.bytes_down == 0


def test_what_stops_the_machine_itself_is_named_by_its_kind() -> None:
    first, *rest = played(rounds=1, codec="auto").lines
    entry = json.loads(first)
    entry["rules"]["levels"][-1]["expected_ratio"] = 0.0
    found = replay([json.dumps(entry).encode() + b"\n", *rest]).difference
    assert found is not None and "cannot happen here: ZeroDivisionError: " in str(found)


@pytest.mark.parametrize("name", ["selection", "books"])
def test_rules_of_another_release_are_refused_by_what_they_name(name: str) -> None:
    first, *rest = played(rounds=1).lines
    entry = json.loads(first)
    entry["rules"][name] = "nobody's"
    with pytest.raises(BadLine, match="line 0: these rules are not of this release: .*nobody's"):
        replay([json.dumps(entry).encode() + b"\n", *rest])


def test_rules_do_not_change_in_the_middle_of_a_round() -> None:
    lines = played(rounds=2).lines
    due = next(i for i, line in enumerate(lines) if b'"kind":"round due"' in line)
    rules = lines[0].replace(b'"n":0,', b'"n":%d,' % (due + 1))
    with pytest.raises(BadLine, match=f"line {due + 1}: the rules change while round 1 is open"):
        replay([*lines[: due + 1], rules])


@pytest.mark.parametrize("text", [b"Infinity", b"-1e999", b"NaN"])
def test_a_real_that_no_clock_and_no_measurement_shows_is_refused(text: bytes) -> None:
    lines = played(rounds=1).lines
    where = next(i for i, line in enumerate(lines) if b'"kind":"evaluated"' in line)
    lines[where] = lines[where].replace(b'"loss":1.0', b'"loss":' + text)
    with pytest.raises(BadLine, match=f"line {where}: evaluated.loss: Input should be a finite number"):
        replay(lines)


def test_whatever_text_stands_in_a_line_the_finding_is_short() -> None:
    lines = played(rounds=1).lines
    long_kind = lines[3].replace(b'"kind":"', b'"kind":"' + b"y" * 100_000)
    with pytest.raises(BadLine) as refused:
        replay([*lines[:3], long_kind])
    assert len(str(refused.value)) < 300
    where = next(i for i, line in enumerate(lines) if b'"kind":"answered"' in line)
    fault = b'"fault":{"reason":"malformed","detail":"\\ud800"},"kind":"answered"'  # half a pair, which no log can hold
    with pytest.raises(BadLine, match=f"line {where}: Invalid JSON") as refused:
        replay([*lines[:where], lines[where].replace(b'"kind":"answered"', fault)])
    assert len(str(refused.value)) < 300


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    lines = played(rounds=2).lines
    assert replay([*lines, lines[-1][:20]]).left_over == 20


def test_an_event_out_of_its_order_is_refused_and_changes_nothing() -> None:
    run = played(rounds=2)
    before = run.state.json()
    early = (Ended(1.0), Answered(1.0, 0, reading(0)), Failed(1.0, 0, "x"), Diverged(1.0), Sent(1.0, (), ()))
    impossible = (RoundDue(9.0, 2), Left(1.0, (-1,)), Left(1.0, (0, 99)), Returned(1.0, (99,)))
    for event in (*early, *impossible):
        with pytest.raises(OutOfOrder):
            step(run.state, event)
    assert run.state.json() == before


def test_a_log_goes_on_after_a_mark_and_what_came_after_it_is_cut_off(tmp_path: Path) -> None:
    path, run = tmp_path / "events.jsonl", played(rounds=1)
    log = EventLog(path, run.state.rules)
    log.append(Published(0.0, "00" * 32, 1.0, ()), [])
    mark = log.sync()
    log.append(Joined(0.0, "node-lost", 1), [])
    log.sync()
    log.close()
    again = EventLog(path, run.state.rules, after=mark)
    again.append(Joined(0.0, "node-0", 1), [])
    again.sync()
    again.close()
    found = replay(path.read_bytes().splitlines(keepends=True))
    assert found.broken is None and found.lines == 4
    assert found.state is not None and found.state.fleet.names == ["node-0"]
    path.write_bytes(path.read_bytes()[: mark.bytes - 5])
    with pytest.raises(BadLine, match="does not hold the 2 lines"):
        EventLog(path, run.state.rules, after=mark)


def test_a_logs_name_is_on_the_disk_as_well_as_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync
    # the real one runs as well; only a crash of the machine would show that it did
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), sync(descriptor)))
    log = EventLog(tmp_path / "events.jsonl", played(rounds=1).state.rules)
    log.sync()
    log.close()
    assert {tmp_path.stat().st_ino, (tmp_path / "events.jsonl").stat().st_ino} <= set(synced)


def test_a_full_disk_is_told_with_a_remedy_and_the_run_goes_on_from_its_mark_once_there_is_room(tmp_path: Path) -> None:
    path, run = tmp_path / "events.jsonl", played(rounds=4)
    log = EventLog(path, run.state.rules)
    log.append(Published(0.0, "00" * 32, 1.0, ()), [])
    mark = log.sync()
    with (
        full_disk(largest_bytes=mark.bytes + 150),
        pytest.raises(NotWritten, match="File too large.*events.jsonl") as no,
    ):
        for index in range(10):
            log.append(Joined(0.0, f"node-{index}", 1), [])
    assert root_cause("".join(traceback.format_exception(no.value)))[1].startswith("make room there")
    log.close()
    assert path.stat().st_size == mark.bytes + 150  # half a line, which closing did not make a whole one
    again = EventLog(path, run.state.rules, after=mark)
    again.append(Joined(0.0, "node-0", 1), [])
    again.close()
    found = replay(path.read_bytes().splitlines(keepends=True))
    assert found.broken is None and found.difference is None and found.state.fleet.names == ["node-0"]


@pytest.mark.parametrize("largest_bytes", [0, 100])
def test_a_disk_that_is_full_at_the_start_is_told_with_the_same_remedy(tmp_path: Path, largest_bytes: int) -> None:
    rules = rules_of()
    with full_disk(largest_bytes=largest_bytes), pytest.raises(NotWritten):
        EventLog(tmp_path / "events.jsonl", rules)
    with pytest.raises(NotWritten, match="No such file or directory"):
        EventLog(tmp_path / "gone" / "events.jsonl", rules)
    EventLog(tmp_path / "events.jsonl", rules).close()


def test_a_log_of_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    path, run = tmp_path / "events.jsonl", played(rounds=1)
    log = EventLog(path, run.state.rules)
    log.append(Published(0.0, "00" * 32, 1.0, ()), [])
    mark = log.sync()
    log.close()
    with pytest.raises(BadLine):
        EventLog(path, run.state.rules, after=Mark(mark.lines, mark.bytes, "0" * 64))


def test_every_line_says_no_more_than_what_happened() -> None:
    run = played(mode="async")
    assert as_json(run.commands) and all(b"\n" not in line[:-1] for line in run.lines)
    assert sum(map(len, run.lines)) / len(run.lines) < 1200
