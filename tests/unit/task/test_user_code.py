"""What the user's own code raises is told with its place and a remedy that fits, before the first round."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError
from hypergpu_fl.task import TorchTask, fresh_model, load_task
from hypergpu_fl.task.names import import_object
from hypergpu_fl.task.trial import try_task
from hypergpu_fl.task.user_code import user_code

CPU = torch.device("cpu")


class Wrapped(nn.Module):
    """A classifier whose output is changed."""

    def __init__(self, change: Callable[[Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(4, classes), change

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.layer(inputs.flatten(1)[:, :4]))


class Classes(TorchTask):
    make: Callable[[], nn.Module]

    def model(self) -> nn.Module:
        return self.make()

    def data(self, partition: int | None) -> Any:
        return torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1])


def frozen() -> nn.Module:
    return nn.Linear(4, 3).requires_grad_(False)


def tried(make: Callable[[], nn.Module], loss: Callable[..., Any] | None = None, **changes: Any) -> TaskError:
    parts = {"make": staticmethod(make), **({"loss": loss} if loss else {}), **changes}
    task = type("Tried", (Classes,), parts)(Training())
    with pytest.raises(TaskError) as caught:
        try_task(task, fresh_model(task, 0), 0, device=CPU, batch_size=6)
    return caught.value


def detached(self: Any, model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1]).detach()


def number(self: Any, model: nn.Module, batch: Any) -> float:
    return 1.0


def pairs(self: Any, model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any] | None, str, str]] = {
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
    "no module": (lambda: 5, None, "model() made a int", "return a torch.nn.Module"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_has_its_cause_and_remedy(kind: str) -> None:
    make, loss, cause, remedy = KINDS[kind]
    error = tried(make, loss)
    assert cause in error.cause and remedy in error.remedy
    assert "\n" not in error.cause + error.remedy


def test_the_place_is_the_users_own_innermost_line() -> None:
    error = tried(lambda: Wrapped(lambda x: x, 2))
    lines, first = inspect.getsourcelines(Classes.loss)
    assert f"{Path(__file__).name}:{first + len(lines) - 1}: IndexError: Target 2 is out of bounds." in error.cause


def test_a_loss_that_is_a_dict_is_told_how_to_return_it() -> None:
    task = type("Tried", (Classes,), {"loss": lambda self, model, batch: {"loss": model(batch[0]).sum()}})(Training())
    with pytest.raises(TaskError, match="infer dtype of dict") as caught:
        task.evaluate(nn.Linear(4, 3), device=CPU)
    assert caught.value.remedy.startswith("return a tensor from loss()")


def test_a_place_in_the_copy_that_flower_unpacks_is_told_as_the_author_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".flower" / "apps" / "hypergpu.hypergpu.0.1.0.e3f6ba9a"
    copy.mkdir(parents=True)
    (copy / "unpacked_task.py").write_text("\n1 / 0\n")
    monkeypatch.syspath_prepend(copy)
    with pytest.raises(TaskError, match=r"^unpacked_task\.py:2: ZeroDivisionError"):
        import_object("unpacked_task:Mine", "training.task")


@pytest.mark.parametrize(
    ("methods", "lacking"),
    [
        ((), "model(), data(), loss()"),
        (("model", "data"), "loss()"),
        (("data", "loss"), "model()"),
        (("model", "data", "train"), "loss()"),
        (("model", "train", "evaluate", "validate", "examples"), ""),
    ],
)
def test_a_task_that_lacks_one_of_the_three_methods_is_refused_before_anything_is_started(
    methods: tuple[str, ...], lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = "".join(f"    def {name}(self, *args, **named): ...\n" for name in methods)
    source = f"from hypergpu_fl.task import TorchTask\n\nclass Unfinished(TorchTask):\n    pass\n{written}"
    module = f"{tmp_path.name}_task"  # another one each time: modules are imported once
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    reference = f"{module}:Unfinished"
    if not lacking:
        import_object(reference, "training.task")
        return
    with pytest.raises(TaskError) as caught:
        import_object(reference, "training.task")
    assert caught.value.cause == f"training.task = {reference!r} lacks {lacking}"
    assert caught.value.remedy.startswith("write ")


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


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("import no_such_library\n", "mine.py:1: the module `no_such_library` is not installed here", "pip install"),
        ("x = 1\ndef Task(:\n", "mine.py:2: SyntaxError", "correct that line"),
        ("y = 1\nz = y / 0\n", "mine.py:2: ZeroDivisionError: division by zero", "correct that line"),
        ("class Taks: ...\n", "has no 'Task'", "name a callable"),
    ],
)
def test_a_module_that_cannot_be_imported_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cause: str, remedy: str
) -> None:
    name = f"mine_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TaskError) as caught:
        import_object(f"{name}:Task", "training.task")
    assert cause.replace("mine", name) in caught.value.cause and remedy in caught.value.remedy


def test_errors_of_ours_pass_unchanged() -> None:
    error = TaskError("cause", "remedy")
    with pytest.raises(TaskError) as caught, user_code("testing"):
        raise error
    assert caught.value is error
