"""What `hypergpu export` says of an export that lay in the folder before."""

from __future__ import annotations

import pytest

from hypergpu_fl.cli.export import replaces

NOW = {"run": "demo", "round": 5, "trained_only": False, "file": "model.safetensors"}


@pytest.mark.parametrize(
    ("earlier", "said"),
    [
        (NOW, ""),
        (NOW | {"round": 3}, "replaces the export of round 3 of run demo"),
        (NOW | {"run": "other"}, "replaces the export of round 5 of run other"),
        (
            NOW | {"round": 3, "file": "model.pt"},
            "model.json replaces that of round 3 of run demo, whose model.pt still lies beside it",
        ),
    ],
)
def test_an_export_of_another_model_is_not_replaced_without_a_word(earlier: dict[str, object], said: str) -> None:
    assert replaces(earlier, NOW) == said
