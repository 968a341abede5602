"""Every path and command that the documents for newcomers name is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hypergpu_fl.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md")


def code_in(document: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", (ROOT / document).read_text())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(document: str) -> None:
    named = [
        code for code in code_in(document) if re.fullmatch(r"(strategies|hypergpu_fl|tests|contracts)/[\w./]*", code)
    ]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_a_document_names_is_there(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {code.split()[1] for code in code_in(document) if code.startswith("make ")} <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_hypergpu_command_that_a_document_names_is_there(document: str) -> None:
    named = {code.split()[1] for code in code_in(document) if re.match(r"hypergpu [a-z]", code)}
    assert named and named <= COMMANDS.keys()


def test_the_areas_of_the_tests_are_those_of_the_document() -> None:
    said = re.search(r"The areas are the folders of `tests/unit/`: ([\w, ]+)\.", (ROOT / "CONTRIBUTING.md").read_text())
    folders = {path.name for path in (ROOT / "tests" / "unit").iterdir() if any(path.glob("test_*.py"))}
    assert said is not None and set(said[1].split(", ")) == folders


@pytest.mark.parametrize(("table", "contract"), [(0, 0), (1, 2)])
def test_the_floors_are_those_that_the_linter_checks(table: int, contract: int) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        layers = tomllib.load(file)["tool"]["importlinter"]["contracts"][contract]["layers"]
    tables = re.findall(r"(?:^\| \d+ \|.*\n)+", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    rows = tables[table].splitlines()
    assert len(rows) == len(layers)
    for row, layer in zip(rows, layers, strict=True):
        named = re.findall(r"`(\w+(?:/\w+)?)(?:/|\.py)`", row)
        assert {name.replace("/", ".") for name in named} == set(re.findall(r"[\w.]+", layer)), (row, layer)
