"""How many of a thing: one is said in the singular, wherever a message counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies.prose import amount

ROOT = Path(__file__).parents[3]
COUNTED = re.compile(r" (rounds|nodes|steps|replies|contributions)\b")
LOGGED = {"strategies/round/histories.py"}  # its texts are commands in the logs of runs, which replay compares


@pytest.mark.parametrize(
    ("count", "thing", "said"),
    [(0, "node", "0 nodes"), (1, "node", "1 node"), (2, "signed commit", "2 signed commits"), (1, "reply", "1 reply"),
     (4000, "reply", "4,000 replies")],
)  # fmt: skip
def test_a_count_of_one_is_in_the_singular(count: int, thing: str, said: str) -> None:
    assert amount(count, thing) == said


@pytest.mark.parametrize("package", ["hypergpu_fl", "strategies"])
def test_no_message_puts_a_number_before_a_fixed_plural(package: str) -> None:
    sources = {file.relative_to(ROOT).as_posix(): file for file in (ROOT / package).rglob("*.py")}
    found = {name: [*_fixed_plurals(ast.parse(file.read_text()))] for name, file in sources.items()}
    assert {name: lines for name, lines in found.items() if lines and name not in LOGGED} == {}


def test_no_script_of_the_page_does_either() -> None:
    static = ROOT / "hypergpu_fl" / "dashboard" / "static"
    scripts = [*static.glob("*.js"), *(static / "views").glob("*.js")]
    assert len(scripts) > 5
    assert not [file.name for file in scripts if re.search(rf"}}{COUNTED.pattern}", file.read_text())]


def _fixed_plurals(tree: ast.AST) -> Iterator[int]:
    """Lines that say a plural after a value, in an f-string or in a message of the log."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                after = text.value if isinstance(text, ast.Constant) else ""
                if isinstance(value, ast.FormattedValue) and COUNTED.match(str(after)):
                    yield node.lineno
        elif isinstance(node, ast.Constant) and any(map(COUNTED.match, str(node.value).split("{}")[1:])):
            yield node.lineno
