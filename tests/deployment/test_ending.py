"""A deployed run that is done is reported as done, whatever the SuperLink was busy with at that moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil
import pytest

from hypergpu_fl.config import Config
from tests.deployment.conftest import MakeStack
from tests.deployment.test_faults import concluded, started

pytestmark = [pytest.mark.deployment, pytest.mark.slow]

Configure = Callable[..., Config]
BUSY_S = 9.0  # longer than Flower gives a ServerApp to say how it ended


def test_a_run_is_reported_completed_by_a_superlink_that_was_busy_when_it_ended(
    make_stack: MakeStack, configure: Configure
) -> None:
    stack = started(make_stack, 2)
    submission = stack.submit(configure(stack, "ended", training__rounds=2))
    report = stack.runs / "ended" / "report.json"
    stack.wait_for(report.exists, "the report", 240.0)
    assert stack.superlink is not None
    superlink = psutil.Process(stack.superlink.pid)
    superlink.send_signal(signal.SIGSTOP)
    try:
        time.sleep(BUSY_S)
    finally:
        superlink.send_signal(signal.SIGCONT)
    concluded(stack, "ended", submission, 2)
