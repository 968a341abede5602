"""What the documents name is there, and what they say can be typed."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import parse

from hypergpu_fl import cli
from hypergpu_fl.config.flat import fields

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE, CONTRIBUTING, README = (ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"))
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [
    README,
    ARCHITECTURE,
    CONTRIBUTING,
    ROOT / "deploy" / "README.md",
    ROOT / "hypergpu_fl" / "cli" / "template" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(?:bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"(strategies|hypergpu_fl|tests|contracts|configs)/[\w./-]*")
SETTING = re.compile(r"(?<![\w.])(?:training|network|blockchain|system)\.[a-z_]+")
VARIABLE = re.compile(r"\bHYPERGPU_([A-Z]+__[A-Z_]+)")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `hypergpu` command in code blocks and between backticks, but for those that only name one."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands_in(line.removeprefix("$ "))
    for line in CODE.findall(ANY_FENCE.sub("", text)):
        if line.startswith("hypergpu ") and not is_name(line):
            yield from _commands_in(line)


def _commands_in(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|>;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in ("&&", "|", ";", ">"):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "hypergpu":
                yield words[1:]
            words = []
        else:
            words.append(word)


def is_name(line: str) -> bool:
    """Whether a line is a command's path and nothing else, as in "`hypergpu claim` pays"."""
    command: click.Command | None = cli.hypergpu
    for word in line.split()[1:]:
        if (
            not isinstance(command, click.Group)
            or (command := command.get_command(click.Context(command), word)) is None
        ):
            return False
    return True


def named_settings(text: str) -> set[str]:
    """Settings by their dotted names, those included that a variable of the environment names."""
    return {*SETTING.findall(text), *(name.lower().replace("__", ".") for name in VARIABLE.findall(text))}


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    block = "```bash\nA=1 hypergpu run \\\n  --name x && hypergpu nodes x > y  # why\n```\n"
    text = f"{block}Say `hypergpu claim` or `hypergpu attach z`."
    assert list(commands(text)) == [["run", "--name", "x"], ["nodes", "x"], ["attach", "z"]]


@every_document
def test_every_command_of_a_document_is_taken(document: Path) -> None:
    found = list(commands(document.read_text()))
    assert found or document == CONTRIBUTING  # which only names commands
    for words in found:
        if "--help" not in words:
            parse(words)


@every_document
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@every_document
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    named = [code for code in CODE.findall(document.read_text()) if PATH.fullmatch(code)]
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert named or document not in (README, ARCHITECTURE, CONTRIBUTING)


@pytest.mark.parametrize("document", [*DOCUMENTS, CHANGELOG], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_is_one(document: Path) -> None:
    assert named_settings(document.read_text()) <= dict(fields()).keys()


def test_no_two_entries_of_the_change_log_begin_alike_and_no_line_is_there_twice() -> None:
    text = CHANGELOG.read_text()
    entries = re.findall(r"^- (.*(?:\n  .*)*)", text, re.MULTILINE)
    begun = [" ".join(entry.split()[:5]) for entry in entries]
    lines = [line for line in re.findall(r"^[- ] (.+)", text, re.MULTILINE) if len(line) > 60]
    said = Counter(begun + lines)
    assert len(entries) > 50 and [words for words, times in said.items() if times > 1] == []


def test_settings_are_found_by_name_and_in_variables() -> None:
    text = "`training.rounds`, `--set network.mode=sync`, `HYPERGPU_TRAINING__DATA_ROOT=/data`, not `a.training.b`"
    assert named_settings(text) == {"training.rounds", "network.mode", "training.data_root"}


@every_document
def test_every_make_target_that_a_document_names_is_there(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {code.split()[1] for code in CODE.findall(document.read_text()) if code.startswith("make ")} <= targets


def test_the_areas_of_the_tests_are_those_of_the_document() -> None:
    said = re.search(r"The areas are the folders of `tests/unit/`: ([\w, ]+)\.", CONTRIBUTING.read_text())
    folders = {path.name for path in (ROOT / "tests" / "unit").iterdir() if any(path.glob("test_*.py"))}
    assert said is not None and set(said[1].split(", ")) == folders


@pytest.mark.parametrize(("table", "contract"), [(0, 0), (1, 2)])
def test_the_floors_are_those_that_the_linter_checks(table: int, contract: int) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        layers = tomllib.load(file)["tool"]["importlinter"]["contracts"][contract]["layers"]
    tables = re.findall(r"(?:^\| \d+ \|.*\n)+", ARCHITECTURE.read_text(), re.MULTILINE)
    rows = tables[table].splitlines()
    assert len(rows) == len(layers)
    for row, layer in zip(rows, layers, strict=True):
        named = re.findall(r"`(\w+(?:/\w+)?)(?:/|\.py)`", row)
        assert {name.replace("/", ".") for name in named} == set(re.findall(r"[\w.]+", layer)), (row, layer)


def test_the_table_of_examples_tells_their_lines() -> None:
    text = (ROOT / "docs" / "your-own-task.md").read_text()
    rows = re.findall(r"\(\.\./examples/(\w+)\).*\| (\d+), (\d+) \|", text)
    assert {name for name, *_ in rows} == {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    for name, task, config in rows:
        files = [path for path in (ROOT / "examples" / name).glob("*.py") if path.stem != "make_base"]
        assert [len(path.read_text().splitlines()) for path in files] == [int(task)], name
        assert len((ROOT / "examples" / name / "config.toml").read_text().splitlines()) == int(config), name
