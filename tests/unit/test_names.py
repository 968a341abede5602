"""A name of our own means one thing."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(file.relative_to(ROOT)): file.read_text()
    for part in ("hypergpu_fl", "strategies")
    for file in sorted((ROOT / part).rglob("*.py"))
}


def test_no_two_classes_have_one_name() -> None:
    found = defaultdict(list)
    for file, text in SOURCES.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(file)
    assert len(found) > 100 and {name: files for name, files in found.items() if len(files) > 1} == {}


def test_a_rounds_number_is_called_round_but_where_the_built_in_is_needed() -> None:
    odd = [
        file for file, text in SOURCES.items() if re.search(r"\bround_\b", text) and not re.search(r"\bround\(", text)
    ]
    assert len(SOURCES) > 100 and odd == []
