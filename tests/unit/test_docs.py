"""What the documents say can be typed, and leads where it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import parse

from hypergpu_fl import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "deploy" / "README.md",
    ROOT / "hypergpu_fl" / "cli" / "template" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(?:bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `hypergpu` command in code blocks and between backticks, but for those that only name one."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands_in(line.removeprefix("$ "))
    for line in re.findall(r"`(hypergpu [^`]+)`", ANY_FENCE.sub("", text)):
        if not is_name(line):
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


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    block = "```bash\nA=1 hypergpu run \\\n  --name x && hypergpu nodes x > y  # why\n```\n"
    text = f"{block}Say `hypergpu claim` or `hypergpu attach z`."
    assert list(commands(text)) == [["run", "--name", "x"], ["nodes", "x"], ["attach", "z"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_document_is_taken(document: Path) -> None:
    found = list(commands(document.read_text()))
    assert found
    for words in found:
        if "--help" not in words:
            parse(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_table_of_examples_tells_their_lines() -> None:
    text = (ROOT / "docs" / "your-own-task.md").read_text()
    rows = re.findall(r"\(\.\./examples/(\w+)\).*\| (\d+), (\d+) \|", text)
    assert {name for name, *_ in rows} == {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}
    for name, task, config in rows:
        files = [path for path in (ROOT / "examples" / name).glob("*.py") if path.stem != "make_base"]
        assert [len(path.read_text().splitlines()) for path in files] == [int(task)], name
        assert len((ROOT / "examples" / name / "config.toml").read_text().splitlines()) == int(config), name
