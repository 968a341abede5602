"""The digest of a task's code covers what the task imports of its own project, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hypergpu_fl.task.image import ImageTask
from hypergpu_fl.task.source import CODE, modules_from, source_digest, source_digests, with_code

FILES = {
    "shapes/__init__.py": "",
    "shapes/task.py": "import json\nfrom . import nets\nfrom .parts.heads import Head\nimport hypergpu_fl.task\n",
    "shapes/nets.py": "def build():\n    import beside\n",
    "shapes/parts/__init__.py": "",
    "shapes/parts/heads.py": "import missing_library\n",
    "shapes/unused.py": "",
    "beside.py": "from shapes import nets\n",
    "hypergpu_fl/__init__.py": "",
    "hypergpu_fl/task.py": "",
}


def test_modules_of_the_project_that_a_task_imports_are_found_however_they_are_imported(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = set(sys.modules)
    found = modules_from("shapes.task", tmp_path / "shapes" / "task.py")
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "shapes": "shapes/__init__.py",
        "shapes.task": "shapes/task.py",
        "shapes.nets": "shapes/nets.py",
        "shapes.parts": "shapes/parts/__init__.py",
        "shapes.parts.heads": "shapes/parts/heads.py",
        "beside": "beside.py",
    }
    assert set(sys.modules) == before, "nothing is imported to find that"


def test_of_an_installed_task_its_own_package_counts_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nothing is installed into the environment of the tests
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "site-packages"))
    for name, text in FILES.items():
        (tmp_path / "site-packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site-packages" / name).write_text(text)
    found = modules_from("shapes.task", tmp_path / "site-packages" / "shapes" / "task.py")
    assert found.keys() == {"shapes", "shapes.task", "shapes.nets", "shapes.parts", "shapes.parts.heads"}


def test_what_is_compiled_differs_by_machine_and_is_not_compared_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_kernel_5d2.so").write_bytes(b"machine code")
    (tmp_path / "own_model_5d2.py").write_text("def make(shape, classes):\n    import own_kernel_5d2\n")
    built_in = object.__new__(ImageTask)
    assert source_digests(built_in, "own_model_5d2:make").keys() == {"own_model_5d2", "own_kernel_5d2"}
    told = with_code({"data set": "digits"}, built_in, "own_model_5d2:make")
    assert told.keys() == {"data set", CODE} and "own_kernel_5d2" not in told[CODE]
    assert with_code({"data set": "digits"}, built_in, "mlp") == {"data set": "digits"}


def test_odd_projects_have_a_digest_too(tmp_path: Path) -> None:
    files = {
        "task.py": "import open_folder.net\nimport images\nimport broken\nimport step0\nfrom .. import beyond\n",
        "open_folder/net.py": "",  # without __init__.py
        "images/cat.txt": "",  # a folder of data, and perhaps a library's name
        "broken.py": "import unseen\nx = (",
        "unseen.py": "",
        **{f"step{number}.py": f"import step{number + 1}" for number in range(400)},
        "step400.py": "x = " + "+".join("1" * 20_000),  # deeper than Python's stack
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = modules_from("task", tmp_path / "task.py")
    steps = {f"step{number}" for number in range(401)}
    assert found.keys() == {"task", "open_folder.net", "broken"} | steps


def test_a_model_of_ones_own_in_the_built_in_task_counts_with_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_parts_5d1.py").write_text("")
    (tmp_path / "own_model_5d1.py").write_text("import own_parts_5d1\ndef make(shape, classes): ...\n")
    built_in = object.__new__(ImageTask)
    assert not source_digest(built_in, "mlp")
    before = source_digest(built_in, "own_model_5d1:make")
    (tmp_path / "own_parts_5d1.py").write_text("width = 2\n")
    assert before and source_digest(built_in, "own_model_5d1:make") not in ("", before)
