"""Run with `pytest`: checks within seconds, without Flower, that the task does what a run needs."""

from pathlib import Path

from hypergpu_fl.config import load
from hypergpu_fl.task.check import check_task

CONFIG = load(Path(__file__).with_name("config.toml")).config


def test_the_task_trains_evaluates_and_travels():
    trial = check_task(CONFIG.training)
    assert "accuracy" in trial.held_out.named


def test_no_node_trains_on_what_is_held_out():
    from task import Diagnosis

    task = Diagnosis(CONFIG.training)
    held_out = {tuple(row) for row in task.data(None)[0].tolist()}
    for node in range(CONFIG.training.num_nodes):
        assert not held_out & {tuple(row) for row in task.data(node)[0].tolist()}
