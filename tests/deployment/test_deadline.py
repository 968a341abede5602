"""A slow upload neither holds up its round nor is lost, and tells the rate of its link."""

from __future__ import annotations

import json

import pytest

from strategies import wire
from tests.deployment.conftest import MakeStack
from tests.deployment.relay import Shape
from tests.deployment.stack import REPOSITORY

pytestmark = [pytest.mark.deployment, pytest.mark.timed]

APP = REPOSITORY / "tests" / "deployment" / "upload_app"


def test_a_round_ends_on_time_while_60_megabytes_are_under_way_and_they_join_a_later_one(make_stack: MakeStack) -> None:
    stack = make_stack([Shape(20e6, 50e6, 0.04), Shape(50e6, 50e6, 0.02)])
    stack.start_superlink()
    stack.register()
    for index in range(2):
        stack.start_node(index, plain=index == 1)
    out = stack.folder / "rounds.json"
    submission = stack.submit_app(APP, {"deadline_s": 25.0, "megabytes": 60, "out": str(out)})
    status, details = stack.wait(submission, limit_s=420)
    assert status == "finished:completed", f"{status}: {details}\n{submission.log()[-3000:]}"

    first, second = json.loads(out.read_text())
    assert len(first["replies"]) == 1
    assert first["seconds"] <= first["deadline_s"] + 1.0
    (late,) = second["replies"]
    assert late[wire.BYTES_UP] >= 60_000_000
    assert 8 * late[wire.BYTES_UP] / late[wire.UPLOAD_S] == pytest.approx(20e6, rel=0.2)
