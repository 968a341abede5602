"""What the user's own code raises is told with its place and a remedy that fits, before the first round."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faulty_tasks import CPU, Classes, Wrapped, tried
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.files import write_whole
from hypergpu_fl.task import fresh_model, load_task
from hypergpu_fl.task.trial import try_task
from hypergpu_fl.task.user_code import user_code


def frozen() -> nn.Module:
    return nn.Linear(4, 3).requires_grad_(False)


def holding(**buffers: Tensor) -> Callable[[], nn.Module]:
    """A classifier with further buffers."""

    def make() -> nn.Module:
        model = nn.Linear(4, 3)
        for name, buffer in buffers.items():
            model.register_buffer(name, buffer)
        return model

    return make


def on_no_device() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 3)


def quantised() -> nn.Module:
    model = nn.Linear(4, 3)
    with warnings.catch_warnings(action="ignore"):  # torch will remove it, but models that have it still come
        code = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    model.code = nn.Parameter(code, requires_grad=False)
    return model


def gives_up() -> nn.Module:
    sys.exit("no licence for this model")


def detached(self: Any, model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1]).detach()


def number(self: Any, model: nn.Module, batch: Any) -> float:
    return 1.0


def pairs(self: Any, model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


KINDS: dict[str, tuple[Callable[[], object], Callable[..., Any] | None, str, str]] = {
    "a lazy layer": (lambda: nn.Sequential(nn.LazyLinear(3)), None, "is lazy", "call the model once on a batch"),
    "a dict": (lambda: Wrapped(lambda x: {"logits": x}), None, "TypeError", "take the tensor out of what the model"),
    "a tuple": (lambda: Wrapped(lambda x: (x, x)), None, "TypeError", "take the tensor out of what the model returns"),
    "too few logits": (lambda: Wrapped(lambda x: x, 2), None, "out of bounds", "let the labels lie in 0..N-1"),
    "complex weights": (lambda: nn.Linear(4, 3, dtype=torch.complex64), None, "is complex", "two real tensors"),
    "nothing trainable": (frozen, None, "no trainable parameter", "leave requires_grad set"),
    "a wrong width": (lambda: nn.Linear(5, 3), None, "cannot be multiplied", "compare the shapes"),
    "no gradient": (lambda: nn.Linear(4, 3), detached, "does not require grad", "without no_grad(), detach()"),
    "a loss that is no tensor": (lambda: nn.Linear(4, 3), number, "loss() returned float", "return the mean loss"),
    "a loss of two dimensions": (lambda: nn.Linear(4, 3), pairs, "of shape (6, 3)", "one loss a sample"),
    "infinite weights": (lambda: Wrapped(lambda x: x * float("inf")), None, "is nan", "look for NaN or infinity"),
    "a missing library": (lambda: __import__("no_such_library").Net(), None, "no_such_library", "pip install no_such"),
    "a sparse buffer": (holding(graph=torch.eye(3).to_sparse()), None, "is no plain tensor", "hold it dense"),
    "a quantised weight": (quantised, None, "'code' of the model is no plain tensor (torch.qint8)", "hold it dense"),
    "a complex buffer": (holding(turns=torch.ones(2) * 1j), None, "is complex", "persistent=False"),
    "a mask of -inf": (holding(mask=torch.full((2,), -math.inf)), None, "not finite before the first step", "mask of"),
    "no device": (on_no_device, None, "is on the meta device", "make the model on the CPU"),
    "a model that ends the process": (gives_up, None, "SystemExit: no licence", "raise an error"),
    "doubles": (lambda: nn.Linear(4, 3).double(), None, "same dtype", "let inputs be float32"),
    "no module": (lambda: 5, None, "model() made a int", "return a torch.nn.Module"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_has_its_cause_and_remedy(kind: str) -> None:
    make, loss, cause, remedy = KINDS[kind]
    error = tried(make, loss)
    assert cause in error.cause and remedy in error.remedy
    assert "\n" not in error.cause + error.remedy


def test_what_does_not_travel_may_hold_anything() -> None:
    def make() -> nn.Module:
        model = nn.Linear(4, 3)
        model.register_buffer("turns", torch.ones(2) * 1j, persistent=False)
        model.register_buffer("mask", torch.full((2,), -math.inf), persistent=False)
        return model

    task = type("Tried", (Classes,), {"make": staticmethod(make)})(Training())
    assert try_task(task, fresh_model(task, 0), 0, device=CPU, batch_size=6).trained.steps == 1


@pytest.mark.parametrize(
    ("figures", "cause", "remedy"),
    [
        ({"confusion": torch.zeros(3, 3)}, "'confusion' is a tensor of shape (3, 3)", "one number, or one an example"),
        ({"name": "mine"}, "metrics() returned 'mine' as 'name'", "let every figure be a number"),
        (None, "metrics() returned nothing", "return figures by name"),
    ],
)
def test_figures_that_are_none_are_told(figures: Any, cause: str, remedy: str) -> None:
    error = tried(lambda: nn.Linear(4, 3), metrics=lambda self, model, batch: figures)
    assert cause in error.cause and remedy in error.remedy


def test_the_place_is_the_users_own_innermost_line() -> None:
    error = tried(lambda: Wrapped(lambda x: x, 2))
    lines, first = inspect.getsourcelines(Classes.loss)
    assert (
        f"{Path(inspect.getfile(Classes)).name}:{first + len(lines) - 1}: IndexError: Target 2 is out of bounds."
        in error.cause
    )


def test_a_loss_that_is_a_dict_is_told_how_to_return_it() -> None:
    task = type("Tried", (Classes,), {"loss": lambda self, model, batch: {"loss": model(batch[0]).sum()}})(Training())
    with pytest.raises(TaskError, match="infer dtype of dict") as caught:
        task.evaluate(nn.Linear(4, 3), device=CPU)
    assert caught.value.remedy.startswith("return a tensor from loss()")


def test_a_batch_norm_that_meets_one_example_says_so() -> None:
    task = type("Tried", (Classes,), {"make": staticmethod(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))})(
        Training()
    )
    with pytest.raises(TaskError) as caught:
        try_task(task, fresh_model(task, 0), 0, device=CPU, batch_size=1)
    assert "raise training.batch_size" in caught.value.remedy


@pytest.mark.parametrize(
    ("factory", "cause", "remedy"),
    [
        ("dictionary", "the model returns a dict for", "let forward() return the logits alone"),
        ("pair", "the model returns a tuple for", "let forward() return the logits alone"),
        ("narrow", "out of bounds", "let the labels lie in 0..N-1"),
        ("lazy", "is lazy", "call the model once"),
    ],
)
def test_a_model_of_ones_own_on_images_is_told_likewise(factory: str, cause: str, remedy: str, tmp_path: Path) -> None:
    task = load_task(Training(model_architecture=f"{__name__}:{factory}", num_nodes=2), cache=tmp_path)
    with pytest.raises(TaskError) as caught:
        try_task(task, fresh_model(task, 0), 0, device=CPU, batch_size=64)
    assert cause in caught.value.cause and remedy in caught.value.remedy


def test_a_model_with_too_few_logits_is_refused_by_evaluation_too(tmp_path: Path) -> None:
    task = load_task(Training(model_architecture=f"{__name__}:narrow", num_nodes=2), cache=tmp_path)
    with pytest.raises(TaskError, match="gives 2 logits, but the data have 10 classes"):
        task.validate(fresh_model(task, 0), device=CPU)


def dictionary(shape: Any, classes: int) -> nn.Module:
    return Wrapped(lambda x: {"logits": x}, classes)


def pair(shape: Any, classes: int) -> nn.Module:
    return Wrapped(lambda x: (x, x), classes)


def narrow(shape: Any, classes: int) -> nn.Module:
    return Wrapped(lambda x: x, 2)


def lazy(shape: Any, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def test_errors_of_ours_pass_unchanged() -> None:
    error = TaskError("cause", "remedy")
    with pytest.raises(TaskError) as caught, user_code("testing"):
        raise error
    assert caught.value is error


def test_an_option_that_the_configuration_lacks_is_told_with_what_it_has() -> None:
    def make() -> nn.Module:
        return nn.Linear(4, int(Training(options={"widht": 3}).options["width"]))

    error = tried(make)
    assert "KeyError: 'width'" in error.cause
    assert error.remedy == "name 'width' in [training.options] of the configuration; it has 'widht'"
    assert Training().options.get("width", 3) == 3
    assert Training(options={"a": 1}).model_dump()["options"] == {"a": 1}


def test_the_place_of_an_error_is_in_ones_own_file_wherever_libraries_lie(tmp_path: Path) -> None:
    """As in an environment that shares the system's libraries: they are not below its own folder."""
    (tmp_path / "dist-packages").mkdir()
    library = tmp_path / "dist-packages" / "arrays.py"
    library.write_text("def stack(items):\n    raise ValueError('unlike shapes')\n")
    names: dict[str, Any] = {}
    exec(compile(library.read_text(), str(library), "exec"), names)
    with pytest.raises(TaskError) as refused, user_code("reading the data"):
        names["stack"]([])
    assert "test_user_code.py:" in refused.value.cause


def indices(self: Any, partition: int | None) -> Any:
    return torch.arange(36) % 4, torch.arange(36) % 3


@pytest.mark.parametrize(
    ("make", "changes", "remedy"),
    [
        (lambda: nn.Linear(4, 3), {"optimizer": lambda self, ps, context: torch.optim.AdamW(ps)}, "return the step of"),
        (lambda: nn.Linear(4, 3), {"optimizer": lambda self, ps, context: torch.optim.LBFGS(ps).step}, "no closure"),
        (lambda: nn.Embedding(4, 3, sparse=True), {"data": indices}, "nn.Embedding(..., sparse=False)"),
    ],
    ids=["the optimiser instead of its step", "an optimiser that asks for the loss", "sparse gradients"],
)
def test_what_makes_no_step_is_told_with_what_does(
    make: Callable[[], nn.Module], changes: dict[str, Any], remedy: str
) -> None:
    assert remedy in tried(make, **changes).remedy


@pytest.mark.parametrize("fails", [False, True])
def test_a_recursion_limit_that_is_left_too_low_is_refused_and_raised_again(fails: bool) -> None:
    before = sys.getrecursionlimit()
    with pytest.raises(TaskError, match="recursion limit to 400, .*while reading") as caught, user_code("reading"):
        sys.setrecursionlimit(400)
        if fails:
            raise RecursionError("maximum recursion depth exceeded")
    assert sys.getrecursionlimit() == max(before, 1000) and "1000" in caught.value.remedy


def test_a_mistyped_file_of_the_users_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "labels.csv").touch()
    with pytest.raises(TaskError) as caught, user_code("reading the held-out data"):
        (tmp_path / "fotos" / "labels.csv").read_text()
    assert caught.value.remedy == f"did you mean {str(tmp_path / 'photos' / 'labels.csv')!r}?"


@pytest.mark.parametrize("fails", [False, True])
def test_a_cleared_environment_keeps_what_a_node_goes_by(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HYPERGPU_TRAINING__DATA_ROOT", "HYPERGPU_NODE_KEY", "FLWR_HOME")
    for name in (*names, "OF_THE_USER"):
        monkeypatch.setenv(name, "/data")
    with contextlib.suppress(TaskError), user_code("training"):
        for name in list(os.environ):
            monkeypatch.delenv(name)
        monkeypatch.setenv("FLWR_HOME", "/other")
        if fails:
            raise ValueError
    assert [os.environ.get(name) for name in (*names, "OF_THE_USER")] == ["/data", "/data", "/other", None]


@pytest.mark.parametrize("fails", [False, True])
def test_a_umask_that_the_task_sets_is_not_that_of_the_files_of_the_run(fails: bool, tmp_path: Path) -> None:
    write_whole(tmp_path / "before.json", "{}")
    with contextlib.suppress(TaskError), user_code("training"), user_code("reading"):
        os.umask(0o777)
        if fails:
            raise ValueError
    write_whole(tmp_path / "after.json", "{}")
    assert len({(tmp_path / name).stat().st_mode for name in ("before.json", "after.json")}) == 1


def test_a_recursion_limit_that_is_raised_stays() -> None:
    before = sys.getrecursionlimit()
    try:
        with user_code("importing"):
            sys.setrecursionlimit(before + 1000)
        assert sys.getrecursionlimit() == before + 1000
    finally:
        sys.setrecursionlimit(before)
