"""A node that is not what it seems, with real processes: the run completes, in time, and its server stays small."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from hypergpu_fl.bench.hostile import GROWTH_MIB, OVERTIME_S, rounds_of
from hypergpu_fl.config import Config
from strategies.event_log import FILE
from strategies.roster import ENROL_WITHIN_S
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import Stack, below

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

HONEST, ROUNDS, LIMIT_S = 2, 4, 900.0
NOTES = "hostile.notes"
MACHINE = Path(__file__).with_name("hostile_machine")
Configure = Callable[..., Config]


def started(make_stack: MakeStack, part: str = "") -> Stack:
    """A SuperLink with honest nodes, and a hostile one that plays this part."""
    stack = make_stack([Shape(50e6, 50e6, 0.01)] * (HONEST + bool(part)))
    stack.start_superlink()
    stack.register()
    for index in range(HONEST):
        stack.start_node(index)
    if part:
        path = f"{MACHINE}:{stack.environ.get('PYTHONPATH', '')}"
        environ = {"PYTHONPATH": path, "HOSTILE": part, "HOSTILE_NOTES": str(stack.folder / NOTES)}
        stack.start_node(HONEST, environ=environ)
    return stack


def completed(stack: Stack, config: Config, name: str) -> Path:
    """Folder of a run that completed, all its rounds in time."""
    submission = stack.submit(config)
    status, details = stack.wait(submission, LIMIT_S)
    assert status == "finished:completed", f"{status}: {details}\n{submission.log()[-3000:]}"
    assert len(stack.nodes) == HONEST or (stack.folder / NOTES).exists(), "the hostile node did nothing hostile"
    closed = list(rounds_of(stack.runs / name / FILE))
    assert len(closed) == ROUNDS
    assert all(each["ended_s"] - each["started_s"] <= each["deadline_s"] + OVERTIME_S for each in closed)
    return stack.runs / name


@contextmanager
def peak_of_server(stack: Stack) -> Iterator[Callable[[], float]]:
    """Tells, after the block, how many MiB the ServerApp's process had at its peak."""
    ended, peak = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(0.05):
            assert stack.superlink is not None
            for process in below(stack.superlink):
                with suppress(psutil.Error):
                    if any(word.endswith("flwr-serverapp") for word in process.cmdline()[:4]):
                        peak[0] = max(peak[0], process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: peak[0]
    finally:
        ended.set()
        thread.join()


def refusals(folder: Path) -> str:
    """What the run's log says of those who were refused."""
    lines = (folder / "run.log").read_text().splitlines()
    return "\n".join(line for line in lines if "refused node" in line or "cannot take part" in line)


def test_numbers_that_no_link_has_end_no_run(make_stack: MakeStack, configure: Configure) -> None:
    stack = started(make_stack, "numbers")
    folder = completed(stack, configure(stack, "numbers", training__rounds=ROUNDS, network__quota=0.6), "numbers")
    assert "math domain error" not in (folder / "run.log").read_text()


def test_an_array_that_names_one_piece_again_and_again_costs_the_server_no_memory(
    make_stack: MakeStack, configure: Configure
) -> None:
    stack = started(make_stack, "inflated")
    with peak_of_server(stack) as peak:
        honest = configure(stack, "honest", training__rounds=ROUNDS, training__num_nodes=HONEST, network__quota=0.6)
        completed(stack, honest, "honest")
    with peak_of_server(stack) as swollen:
        folder = completed(stack, configure(stack, "swollen", training__rounds=ROUNDS, network__quota=0.6), "swollen")
    assert "cannot take part" in refusals(folder) and refusals(folder).count("put together") >= 2
    assert 0 < swollen() <= peak() + GROWTH_MIB, f"{swollen():.0f} MiB, {peak():.0f} MiB without it"


@pytest.mark.parametrize("kind", ["query", "train"])
def test_answers_that_are_announced_and_never_uploaded_hold_up_nobody(
    kind: str, make_stack: MakeStack, configure: Configure
) -> None:
    stack = started(make_stack, f"hold-{kind}")
    folder = completed(stack, configure(stack, kind, training__rounds=ROUNDS, network__quota=0.6), kind)
    began_s = next(rounds_of(folder / FILE))["started_s"]
    assert began_s <= ENROL_WITHIN_S + OVERTIME_S
