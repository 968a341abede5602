"""What would spoil a run later is found by trying the task, each with its own words."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import EvalResult, TorchTask, TrainContext, fresh_model, full_identity, load_task
from hypergpu_fl.task.check import OtherShares, check_task, try_first, try_others
from hypergpu_fl.task.trial import examples_of


class Line(TorchTask):
    def model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def data(self, partition: int | None) -> Any:
        inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(-1 if partition is None else partition))
        return inputs, inputs.sum(1, keepdim=True)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"mae": (model(batch[0]) - batch[1]).abs().mean()}


def refused(task: type[TorchTask], **settings: Any) -> TaskError:
    training = Training(**settings)
    with pytest.raises(TaskError) as caught:
        check_task(training, task(training))
    return caught.value


def test_a_sound_task_passes_and_keeps_its_first_weights() -> None:
    training = Training(num_nodes=2)
    checked = check_task(training, Line(training))
    before, after = checked.trial.before, checked.trial.after
    assert all(np.array_equal(array, checked.task.arrays(checked.model)[name]) for name, array in before.items())
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert checked.trial.trained.steps == 2 and checked.examples == 40
    assert checked.held_out.count == 36 and checked.validation.count == 4
    assert checked.held_out.named.keys() == {"loss", "mae"}


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1], ids=["inputs", "targets"])
def test_held_out_data_with_a_value_that_is_no_number_are_refused_before_every_run(odd: float, place: int) -> None:
    class Broken(Line):
        def data(self, partition: int | None) -> Any:
            found = super().data(partition)
            if partition is None:
                found[place][17, 0] = odd
            return found

    training = Training(num_nodes=2)
    for tried in (lambda task: try_first(training, task, device="cpu"), lambda task: check_task(training, task)):
        with pytest.raises(TaskError, match="loss of the fresh model on the (held-out|validation) data is") as caught:
            tried(Broken(training))
        assert "look for NaN or infinity in the data, and for log, sqrt or division" in caught.value.remedy


def test_a_target_that_is_not_measured_is_refused_with_what_is() -> None:
    found = refused(Line, target="f1 >= 0.9")
    assert "the task measures loss, mae" in found.cause
    with pytest.raises(TaskError, match="the task measures loss, mae"):
        training = Training(target="f1 >= 0.9")
        try_first(training, Line(training), device="cpu")


def test_a_learning_rate_that_warms_up_from_zero_is_no_fault() -> None:
    class Warm(Line):
        def optimizer(self, parameters: list[nn.Parameter], context: TrainContext) -> Any:
            return torch.optim.SGD(parameters, lr=0.1 * min(1.0, context.progress / 0.1)).step

    training = Training()
    assert check_task(training, Warm(training)).trial.trained.steps == 2


class Still(Line):
    def optimizer(self, parameters: list[nn.Parameter], context: TrainContext) -> Any:
        return lambda: None


class Forgetful(Line):
    def load(self, model: nn.Module, arrays: Mapping[str, Any]) -> None:
        super().load(model, {name: array if "bias" not in name else 0 * array for name, array in arrays.items()})


class Drawn(Line):
    own = random.Random(1)

    def model(self) -> nn.Module:
        net = nn.Linear(3, 1)
        nn.init.constant_(net.bias, self.own.random())
        return net


class Tabled(Line):
    own = random.Random(1)

    def model(self) -> nn.Module:
        net = nn.Linear(3, 1)
        net.register_buffer("table", torch.tensor([self.own.random()]), persistent=False)
        return net


class Frozen(Line):
    own = random.Random(1)

    def model(self) -> nn.Module:
        net = nn.Linear(3, 1)
        net.bias.requires_grad_(False).fill_(self.own.random())
        return net


class Noisy(Line):
    own = random.Random(1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * self.own.random()


class Odd(Line):
    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        return {"mean|error": torch.tensor(1.0)}


class Holey(Line):
    def data(self, partition: int | None) -> Any:
        inputs, targets = super().data(partition)
        return inputs, targets / 0 if partition is None else targets


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        (Still, "2 steps change no weight"),
        (Forgetful, "load() does not restore what arrays() gave: 'bias' differs"),
        (Drawn, "model() makes other weights the second time: 'bias' differs"),
        (Tabled, "model() makes other constant buffers the second time"),
        (Frozen, "model() makes other frozen weights the second time"),
        (Noisy, "the same steps with the same seed end in other weights"),
        (Odd, "'mean|error' cannot travel"),
        (Holey, "the loss of the fresh model on the held-out data is inf"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_would_spoil_a_run_is_named_with_a_remedy(task: type[TorchTask], cause: str) -> None:
    found = refused(task)
    assert cause in found.cause and found.remedy


def test_as_many_shares_are_tried_as_there_is_time_for() -> None:
    training = Training(task="tests:Line", num_nodes=8)
    checked = check_task(training, Line(training))
    clock = iter(range(0, 100, 4))
    assert try_others(training, checked, now_s=lambda: next(clock)) == OtherShares(tried=2, small=(), left=5)
    assert try_others(training, checked, now_s=lambda: 0.0) == OtherShares(tried=7, small=(), left=0)


@pytest.mark.parametrize("unit", [3, "", None, b"tokens"])
def test_a_unit_that_is_no_name_is_refused(unit: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "unit", unit)
    with pytest.raises(TaskError, match="counts in .*, which is no name"):
        load_task(Training(task=f"{__name__}:Line"))


@pytest.mark.parametrize(
    ("method", "returned", "cause", "remedy"),
    [
        ("metrics", None, "metrics() returned nothing", "return figures by name"),
        ("metrics", torch.ones(()), "metrics() returned an object of type Tensor", "return figures by name"),
        ("metrics", {"f1": "good"}, "metrics() returned 'good' as 'f1'", "let every figure be a number"),
        ("summary", None, "summary() returned nothing", "return figures by name"),
        ("summary", {"f1": "good"}, "summary() returned 'good' as 'f1'", "let every figure be a number"),
        ("identity", "mine", "identity() returned an object of type str", "return texts by name"),
        ("metrics", {"f1": 1j}, "metrics() returned 1j as 'f1'", "let every figure be a number"),
        ("metrics", {"loss": 1.0}, "metrics() returned a 'loss'", "give it another name"),
        ("count", 0, "count() found nothing in 2 steps", "the units of a batch"),
        ("count", -3, "count() returned -3", "how many units"),
        ("count", 2.5, "count() returned 2.5", "how many units"),
        ("count", None, "count() returned nothing", "how many units"),
        ("count", torch.ones(2), "count() returned tensor([1., 1.])", "how many units"),
        ("validation", torch.empty(0, 3), "validation() returned no example", "return at least one"),
    ],
)
def test_what_a_method_returns_amiss_is_named_with_the_method(
    method: str, returned: object, cause: str, remedy: str
) -> None:
    found = refused(type("Amiss", (Line,), {method: lambda *_: returned}))
    assert cause in found.cause and remedy in found.remedy


@pytest.mark.parametrize(
    "kind", [torch.tensor, np.int64, np.float32, float], ids=["tensor", "int64", "float32", "float"]
)
def test_a_count_may_be_any_kind_of_number(kind: Any) -> None:
    counted = type("Counted", (Line,), {"unit": "tokens", "count": lambda self, batch: kind(7 * len(batch[0]))})
    training = Training()
    found = check_task(training, counted(training))
    plain = check_task(training, Line(training))
    assert (type(found.held_out.count), type(found.held_out.loss)) == (int, float)
    assert found.held_out.count == 7 * plain.held_out.count
    assert found.trial.trained.count == 7 * plain.trial.trained.count
    assert found.held_out.loss == pytest.approx(plain.held_out.loss)


def test_a_figure_is_the_mean_over_the_batches_that_have_it() -> None:
    class Sometimes(Line):
        evaluation_batch = 1

        def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
            return {"one": 1.0, "two": 2.0} if batch[0][0, 0] > 0 else {"one": 1.0}

    training = Training()
    assert check_task(training, Sometimes(training)).held_out.metrics == {"one": 1.0, "two": 2.0}


def test_a_full_device_is_no_fault_of_the_line_where_it_shows() -> None:
    class Full(Line):
        def optimizer(self, parameters: list[nn.Parameter], context: TrainContext) -> Any:
            def step() -> None:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

            return step

    found = refused(Full)
    assert "CUDA out of memory" in found.cause and "a device with more memory" in found.remedy


def test_no_line_is_to_be_corrected_where_none_is_known() -> None:
    found = refused(type("Amiss", (Line,), {"clip_norm": "long"}))
    assert "could not convert string to float: 'long'" in found.cause and "that line" not in found.remedy


@pytest.mark.parametrize("task", [Drawn, Tabled, Frozen])
def test_a_model_that_is_another_each_time_is_refused_at_every_start(task: type[TorchTask]) -> None:
    training = Training(num_nodes=2)
    with pytest.raises(TaskError, match="model[(][)] makes other .* the second time") as caught:
        try_first(training, task(training), device="cpu")
    assert "seeded" in caught.value.remedy


@pytest.mark.parametrize("method", ["train", "validate", "evaluate"])
def test_a_method_that_returns_no_result_is_named_before_every_run(method: str) -> None:
    training = Training(num_nodes=2)
    task = type("Odd", (Line,), {method: lambda self, *args, **named: {"loss": 1.0}})(training)
    with pytest.raises(TaskError, match=rf"^{method}\(\) returned an object of type dict\nremedy: return a hyp"):
        try_first(training, task, device="cpu")


def test_arrays_that_do_not_come_back_as_they_went_are_refused_before_every_run() -> None:
    class Forgetful(Line):
        def load(self, model: nn.Module, arrays: Mapping[str, Any]) -> None:
            """Loads nothing."""

    training = Training(num_nodes=2)
    with pytest.raises(TaskError, match=r"load\(\) does not restore what arrays\(\) gave: 'weight' differs"):
        try_first(training, Forgetful(training), device="cpu")


def test_names_of_figures_that_cannot_travel_are_refused_wherever_they_are_measured() -> None:
    class Naming(Line):
        def evaluate(self, *args: Any, **named: Any) -> EvalResult:
            return EvalResult(1, 0.5, {"two\nlines": 1.0})

    training = Training(num_nodes=2)
    with pytest.raises(TaskError, match=r"evaluate\(\) returned 1 metric, of which 'two\\nlines' cannot travel"):
        try_first(training, Naming(training), device="cpu")


def test_the_size_of_a_share_is_pythons_own_number_whatever_the_task_counts_in() -> None:
    counted = {np.int64(40): 40, torch.tensor(40): 40}
    for given, size in counted.items():
        task = type("Counted", (Line,), {"examples": lambda self, share, given=given: given})(Training())
        assert type(examples_of(task, 0)) is int and examples_of(task, 0) == size
    with pytest.raises(TaskError, match="asking for the size of share 0"):
        examples_of(type("Uncounted", (Line,), {"examples": lambda self, share: None})(Training()), 0)


@pytest.mark.parametrize(("measured_by", "refused"), [("evaluate", False), ("validate", True)])
def test_the_target_is_looked_for_where_every_rounds_model_is_measured(measured_by: str, refused: bool) -> None:
    def measured(self: Any, *args: Any, **named: Any) -> EvalResult:
        return EvalResult(1, 0.5, {"f1": 0.25})

    training = Training(num_nodes=2, target="f1 >= 0.9")
    task = type("Scored", (Line,), {measured_by: measured})(training)
    if refused:
        with pytest.raises(TaskError, match="but the task measures loss, mae"):
            try_first(training, task, device="cpu")
    else:
        assert try_first(training, task, device="cpu")["f1"] == 0.25


@pytest.mark.parametrize("identity", [{"words": "y" * 2_000_000}, {f"word {number}": "" for number in range(100)}])
def test_an_identity_that_no_hello_can_hold_is_refused_before_every_run(identity: dict[str, str]) -> None:
    training = Training(num_nodes=2)
    task = type("Wordy", (Line,), {"identity": lambda self: identity})(training)
    with pytest.raises(TaskError, match=r"identity\(\) is too long for a hello: .*\nremedy: return a version"):
        try_first(training, task, device="cpu")


@pytest.mark.parametrize("tried", [check_task, lambda training, task: try_first(training, task, device="cpu")])
def test_each_of_the_two_models_that_a_trial_draws_is_identified_once(tried: Any) -> None:
    asked = []

    class Counted(Line):
        def identity(self) -> Mapping[str, str]:
            asked.append(self)
            return super().identity()

    training = Training(num_nodes=2)
    tried(training, Counted(training))
    assert len(asked) == 2


def test_an_identity_of_names_that_are_no_utf8_is_one_that_a_message_can_carry() -> None:
    named = {os.fsdecode(b"caf\xe9"): os.fsdecode(b"na\xefve")}
    task = type("Latin", (Line,), {"identity": lambda self: named})(Training())
    found = full_identity(task, fresh_model(task, 0))
    assert found["caf?"] == "na?ve"
    assert all(f"{name}{value}".encode() for name, value in found.items())
