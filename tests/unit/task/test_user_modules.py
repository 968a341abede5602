"""A module of the user's that cannot be imported, or lacks what a task needs, is told with its place and a remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.names import import_object


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


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("import no_such_library\n", "mine.py:1: the module `no_such_library` is not installed here", "pip install"),
        ("x = 1\ndef Task(:\n", "mine.py:2: SyntaxError", "correct that line"),
        ("y = 1\nz = y / 0\n", "mine.py:2: ZeroDivisionError: division by zero", "correct that line"),
        ("class Taks: ...\n", "has no 'Task'", "name a callable of that module: Taks"),
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


@pytest.mark.parametrize("name", ["json", "itertools"])
def test_a_file_named_like_a_module_of_pythons_is_to_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / f"{name}.py").write_text("class Task: ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as caught:
        import_object(f"{name}:Task", "training.task")
    assert caught.value.remedy == f"name {name}.py otherwise: Python has a module of that name, which is found first"


def test_a_file_that_a_library_imports_in_place_of_its_own_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a ``cuda.py`` beside the task is, which torch looks for."""
    library = tmp_path / "venv" / "site-packages"
    library.mkdir(parents=True)
    (library / "big_library.py").write_text("import accelerators\n")
    here = tmp_path / "project"
    here.mkdir()
    (here / "accelerators.py").write_text("import big_library\nbig_library.ready()\n")
    (here / "my_shadowed_task.py").write_text("import my_helper\n")
    (here / "my_helper.py").write_text("import big_library\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), str(library), *sys.path])
    with pytest.raises(TaskError, match=r"^accelerators.py:2: AttributeError") as refused:
        import_object("my_shadowed_task:Mine", "training.task")
    assert refused.value.remedy.startswith("rename accelerators.py: a library imports a module of this name")
