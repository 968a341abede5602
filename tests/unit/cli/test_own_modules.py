"""Which modules of the user's own travel to the nodes, and which are refused before anything is started."""

from __future__ import annotations

import io
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from hypergpu_fl.cli.bundle import app_files, app_with_task, own_modules
from hypergpu_fl.cli.submission import app_folder
from hypergpu_fl.config import Training
from hypergpu_fl.errors import TaskError

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_task_travels_with_the_modules_beside_it_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "project"
    here.mkdir()
    (here / "my_task.py").write_text("import json, numpy\nfrom layers import Block\n\nclass Mine: ...\n")
    (here / "layers.py").write_text("import pieces.deep.more\n\nclass Block: ...\n")
    (here / "pieces" / "deep").mkdir(parents=True)
    for name in ("pieces/__init__.py", "pieces/deep/__init__.py", "pieces/deep/more.py", "pieces/tokens.json"):
        (here / name).write_text("")
    for name in ("pieces/test_more.py", "pieces/images.npz", "pieces/.hidden.py", "unused.py", "numpy.csv"):
        (here / name).write_text("")
    monkeypatch.chdir(here)
    with app_with_task(app_folder(), Training(task="my_task:Mine")) as app:
        found = inside(app)
        assert {name for name in found if name.split("/")[0] not in ("hypergpu_fl", "strategies")} == {
            *("my_task.py", "layers.py", "pieces/__init__.py", "pieces/deep/__init__.py", "pieces/deep/more.py"),
            *("pieces/tokens.json", "pyproject.toml", "README.md", "LICENSE"),
        }
        assert "hypergpu_fl/node/client_app.py" in found
        bundle = build_fab_from_disk(app)
        project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"]["clientapp"] == "hypergpu_fl.node.client_entry:app"
    assert b"pieces/deep/more.py" in bundle
    assert not app.exists()


def test_a_run_without_a_module_of_ones_own_submits_what_flower_bundles_of_the_app_itself() -> None:
    bundle = build_fab_from_disk(app_folder())
    for training in (Training(), Training(task="hypergpu_fl.bench.scenarios:correlated_task")):
        with app_with_task(app_folder(), training) as app:
            assert build_fab_from_disk(app) == bundle


def test_what_lies_in_a_clone_but_is_no_part_of_the_app_is_not_searched(tmp_path: Path) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "engine.py").touch()
    assert app_files(tmp_path) == {"strategies/engine.py": tmp_path / "strategies" / "engine.py"}
    for folder in ("my-venv/lib", ".git", "strategies/__pycache__", "contracts/node_modules/solc"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "more.py").touch()
    (tmp_path / "my-venv" / "pyvenv.cfg").touch()
    (tmp_path / "strategies" / "linked.py").symlink_to(tmp_path / "strategies" / "engine.py")
    assert list(app_files(tmp_path)) == ["strategies/engine.py"]


def test_a_model_of_ones_own_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text("def small(shape, classes): ...\n")
    monkeypatch.chdir(tmp_path)
    with app_with_task(app_folder(), Training(model_architecture="nets:small")) as app:
        assert (app / "nets.py").is_file()


def test_a_name_may_have_letters_of_any_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "özet.py").write_text("class Öğren: ...\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with app_with_task(app_folder(), Training(task="özet:Öğren")) as app:
        assert "özet.py,".encode() in zipfile.ZipFile(io.BytesIO(build_fab_from_disk(app))).read(".info/CONTENT")


def test_an_installed_package_does_not_travel(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "stray.py").write_text("")  # no package, and hidden by the installed one as in Python
    assert own_modules(["numpy:array"], [tmp_path]) == {}


@pytest.mark.parametrize(
    ("reference", "text", "cause", "remedy"),
    [
        ("absent:Mine", "", "there is no absent.py", "run in the folder that holds it"),
        ("mien:Task", "class Task: ...\n", "there is no mien.py", "did you mean mine:Task?"),
        ("mine:Taks", "class Task: ...\n", "mine.py defines no 'Taks'", "did you mean mine:Task"),
        ("mine:Task", "class Task\n", "mine.py:1", "correct that line"),
        ("mine:Task", f"class Task: ...\nx = {'+'.join('1' * 20_000)}", "recursion depth", "shorten its longest"),
        ("mine.inner:Task", "class Task: ...\n", "there is no", "correct the module's name"),
        ("mine.py:Task", "class Task: ...\n", "there is no", "did you mean mine:Task?"),
        ("mien.py:Task", "class Task: ...\n", "there is no mien.py", "did you mean mine:Task?"),
        ("package.inner.py:Task", "", "there is no", "did you mean package.inner:Task?"),
        ("package.inenr:Task", "", "there is no", "did you mean package.inner:Task?"),
        ("strategies_:Task", "", "there is no strategies_.py", "run in the folder"),
    ],
)
def test_what_cannot_be_imported_is_refused_before_anything_starts(
    tmp_path: Path, reference: str, text: str, cause: str, remedy: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text("class Task: ...\n")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # Python's own; libraries that other tests import may have raised it
    try:
        with pytest.raises(TaskError) as caught:
            own_modules([reference], [tmp_path])
    finally:
        sys.setrecursionlimit(limit)
    assert cause in caught.value.cause and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("written", "taken", "whose"),
    [
        ({"queue.py": "class Task: ..."}, "queue", "Python"),
        ({"mine.py": "from queue import Task", "queue.py": "class Task: ..."}, "queue", "Python"),
        (
            {"mine.py": "from near import Task", "near.py": "import types\nclass Task: ...", "types.py": ""},
            "types",
            "Python",
        ),
        ({"mine.py": "from strategies import Task", "strategies.py": "class Task: ..."}, "strategies", "HyperGPU"),
        (
            {"mine.py": "from strategies import Task", "strategies/__init__.py": "class Task: ..."},
            "strategies",
            "HyperGPU",
        ),
        ({"flwr.py": "class Task: ..."}, "flwr", "flwr"),
        ({"torch/__init__.py": "class Task: ..."}, "torch", "torch"),
        ({"mine.py": "from numpy import Task", "numpy.py": "class Task: ..."}, "numpy", "numpy"),
        ({"PIL.py": "class Task: ..."}, "PIL", "pillow"),
        ({"sklearn.py": "class Task: ..."}, "sklearn", "scikit-learn"),
        ({"ens.py": "class Task: ..."}, "ens", "web3"),
    ],
)
def test_a_name_that_python_this_program_or_its_libraries_need_is_refused(
    tmp_path: Path, written: dict[str, str], taken: str, whose: str
) -> None:
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=rf"{taken}(?:\.py)? is called as a module of {whose}'s own") as caught:
        own_modules([f"{'mine' if 'mine.py' in written else taken}:Task"], [tmp_path])
    assert caught.value.remedy == "rename it"


@pytest.mark.parametrize("name", ["pytest", "docs", "peft", "example"])
def test_a_name_that_only_others_than_this_program_need_is_free(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("class Task: ...\n")
    assert set(own_modules([f"{name}:Task"], [tmp_path])) == {name}


def test_a_task_in_a_clone_imports_what_lies_beside_it_of_this_program(tmp_path: Path) -> None:
    for name in ("hypergpu_fl", "strategies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mine.py").write_text("import hypergpu_fl, strategies\n\nclass Task: ...\n")
    assert set(own_modules(["mine:Task"], [tmp_path])) == {"mine"}


def test_a_package_full_of_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("class Task: ...\n")
    (tmp_path / "mine" / "table.json").write_text("0" * (5 << 20))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="more than 4 MB"), app_with_task(app_folder(), Training(task="mine:Task")):
        pass


@pytest.mark.parametrize("name", ["build", "lib"])
def test_a_name_that_flower_leaves_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("class Task: ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="cannot be called"), app_with_task(app_folder(), Training(task=f"{name}:Task")):
        pass
