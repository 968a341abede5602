"""A project that `hypergpu init` writes is whole, and writes over nothing."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import hypergpu_fl
from hypergpu_fl.cli import invoke, submission
from hypergpu_fl.cli.init import FILES
from hypergpu_fl.cli.submission import app_folder
from hypergpu_fl.config import load
from hypergpu_fl.task.check import check_task

Command = Callable[..., tuple[int, str, str]]


def test_a_project_has_its_files_and_says_what_to_do_next_in_lines_to_copy(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = hypergpu("init", "my project")
    assert (code, err) == (0, "")
    assert {file.name for file in (tmp_path / "my project").iterdir()} == set(FILES)
    lines = [shlex.split(line, comments=True) for line in out.splitlines() if line.startswith("  ")]
    assert lines[0] == ["cd", "my project"]
    assert [line[1] for line in lines[1:]] == ["task", "run", "export"]
    for line in lines[1:]:
        assert invoke([*line[1:], "--help"]) == 0


def test_the_line_to_copy_enters_a_folder_whose_name_looks_like_an_option(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, out, _ = hypergpu("init", "--", "-x y")
    assert "  cd ./'-x y'\n" in out


@pytest.mark.parametrize("there", ["file", "full folder"])
def test_what_is_there_already_is_left_alone(hypergpu: Command, tmp_path: Path, there: str) -> None:
    place = tmp_path / "mine"
    if there == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "task.py").write_text("mine")
    code, _, err = hypergpu("init", str(place))
    assert code == 2 and "not an empty folder" in err and "remedy: " in err
    files = [place] if there == "file" else list(place.iterdir())
    assert [file.read_text() for file in files] == ["mine"]


@pytest.mark.parametrize("name", ["x\ny", "non\udcffutf"], ids=ascii)
def test_a_project_is_not_begun_where_it_could_not_run(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, out, err = hypergpu("init", str(tmp_path / name))
    assert (code, out) == (2, "") and repr(name)[1:-1] in err and "remedy: rename that folder" in err
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    assert hypergpu("init", "inside")[0] == 2
    assert not any((tmp_path / name).iterdir())


def test_an_empty_folder_is_taken(hypergpu: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert hypergpu("init", str(tmp_path / "empty"))[0] == 0
    assert (tmp_path / "empty" / "task.py").is_file()


def test_the_projects_task_is_short_and_does_what_a_run_asks(
    tmp_path: Path, hypergpu: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypergpu("init", str(tmp_path / "p"))
    code = (tmp_path / "p" / "task.py").read_text().partition('"""\n\n')[2].splitlines()
    assert len([line for line in code if line.strip() and not line.strip().startswith("#")]) <= 30
    monkeypatch.syspath_prepend(str(tmp_path / "p"))
    monkeypatch.delitem(__import__("sys").modules, "task", raising=False)
    checked = check_task(load(tmp_path / "p" / "config.toml").config.training)
    assert checked.held_out.named.keys() == {"accuracy", "loss"}


def test_an_installed_package_makes_the_app_of_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = app_folder()
    import tomllib

    kept = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = tmp_path / "site-packages"
    for package in kept["packages"]:
        shutil.copytree(root / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "hypergpu_fl" / "app").mkdir()
    for source, target in kept["force-include"].items():
        shutil.copyfile(root / source, site / target)
    monkeypatch.setattr(hypergpu_fl, "__file__", str(site / "hypergpu_fl" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    made = submission.app_folder()
    assert made not in (root, site) and submission.app_folder() == made

    def content(folder: Path) -> dict[str, bytes]:
        parts = [folder / name for name in ("pyproject.toml", "README.md", "LICENSE")]
        parts += [file for package in kept["packages"] for file in (folder / package).rglob("*.*")]
        files = [file for file in parts if file.is_file() and "__pycache__" not in file.parts]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    assert content(made) == content(root)


def test_a_project_in_the_folder_where_one_is_needs_no_cd(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, out, _ = hypergpu("init", ".")
    assert "are in this folder. Next:" in out and "cd " not in out
