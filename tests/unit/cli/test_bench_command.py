"""`hypergpu bench`: rows to the terminal and to a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]
QUICK = ("bench", "train", "--models", "mlp", "--device", "cpu", "--steps", "1", "--repeats", "1")


def test_rows_are_shown_and_written_alike(hypergpu: Command, tmp_path: Path) -> None:
    code, out, err = hypergpu(*QUICK, "--json", "rows.json", "--format", "json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert set(row) == {"model", "device", "samples_per_s", "peer_samples_per_s"}
    assert json.loads((tmp_path / "rows.json").read_text()) == [row]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--models", "gpt"], "there is no model 'gpt' to measure"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json: No such file or directory"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_what_cannot_be_measured_is_told(hypergpu: Command, words: list[str], cause: str) -> None:
    code, _, err = hypergpu(*QUICK, *words)
    assert code == 2
    assert cause in err and err.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--levels", "int8,int2"], "there is no level 'int2' to measure"),
        (["--device", "tpu"], "there is no device 'tpu' to measure"),
        (["--sources", "resnet99"], "there is no source 'resnet99' to measure"),
        (["--accuracy", "--levels", "int2"], "there is no level 'int2' to measure"),
        (["--accuracy", "--dataset", "imagenet"], "there is no data set 'imagenet' to measure"),
    ],
)
def test_a_codec_that_cannot_be_measured_is_told_at_once(hypergpu: Command, words: list[str], cause: str) -> None:
    code, out, err = hypergpu("bench", "codec", *words)
    assert (code, out) == (2, "")
    assert cause in err and err.count("\n") == 2
