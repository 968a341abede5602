"""Edge values of every setting: those of its type, and those of its bounds with the first value beyond each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from hypergpu_fl.config.flat import fields
from hypergpu_fl.config.models import CODEC_LEVELS, DATASETS, MODELS

OF_TYPE: Final[dict[Any, tuple[Any, ...]]] = {
    bool: (True, False, 1, "maybe", None),
    int: (-1, 0, 1, 2, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, True, 1.5, "seven", None),
    float: (-1.0, -0.0, 5e-324, 1e-300, 1e-3, 0.5, 1, 1e300, math.inf, math.nan, 10**400, "much", None),
    str: ("", " ", "x", "x" * 10_000, "\0", "a\nb", "\ud800", "\u00fc \U0001f98a", "../x", 5, None),
}
CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "training.model_architecture": (*MODELS, "MLP", "torch.nn:Nothing"),
    "training.dataset": DATASETS,
    "training.local_steps": ("auto", "1", 7, "1-1", "3-9", "9-3", "0", "999999999", "-5", "1-"),
    "training.options": ({}, {"width": 3, "name": "\u00fc", "x": 0.5, "y": True}, {"a": {"b": 1}}, {"a": math.nan}),
    "training.target": ("loss <= 1e9", "accuracy >= 0", "accuracy > 2", "nothing >= 1", "loss <= nan", "loss"),
    "network.codec": ("auto", *CODEC_LEVELS, "gzip"),
    "network.downlink_codec": ("auto", *CODEC_LEVELS, "gzip"),
    "blockchain.rpc_url": ("http://127.0.0.1:1", "https://[::1]:8545/x,http://a.example", "ws://a.example", "http://"),
    "blockchain.contract": ("0x" + "ab" * 20, "0x" + "ab" * 19, "0x" + "0" * 40),
    "blockchain.budget_wei": (2**95 - 1, 2**127 - 1),
    "blockchain.allow_list": ("0x" + "ab" * 20, f"0x{'ab' * 20},0x{'cd' * 20}", "0x1"),
    "system.log_file": (
        "x.log",
        "\u00fc \U0001f98a.log",
        "a/b",
        "..",
        "x" * 196 + ".log",
        "x" * 197 + ".log",
        "run.db",
    ),
    "system.run_name": ("a", "a" * 64, "a" * 65, "latest", ".a", "a b"),
}


def of_field(path: str, field: FieldInfo) -> Iterator[Any]:
    """All edge values of one setting; some come twice."""
    kind = field.annotation
    yield from CHOICES.get(path, ())
    if get_origin(kind) is Literal:
        names = get_args(kind)
        yield from (*names, names[0].upper(), f"{names[0]} ", *OF_TYPE[str])
        return
    yield from OF_TYPE.get(kind, (5, "x", None))
    for bound in field.metadata:
        for name, outwards in (("ge", -1), ("gt", -1), ("le", 1), ("lt", 1)):
            if (limit := getattr(bound, name, None)) is None:
                continue
            if kind is int:
                yield from (limit - outwards, limit, limit + outwards)
            elif kind is float:
                inwards, beyond = (
                    math.nextafter(limit, -math.inf * outwards),
                    math.nextafter(limit, math.inf * outwards),
                )
                yield from (inwards, float(limit), beyond)


def edge_values() -> dict[str, list[Any]]:
    """Dotted name of every setting -> its edge values, each once."""
    found = {}
    for path, field in fields():
        distinct = {(type(value).__name__, repr(value)): value for value in of_field(path, field)}
        found[path] = list(distinct.values())
    return found
