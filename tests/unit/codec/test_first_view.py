from __future__ import annotations

import numpy as np
import pytest

from hypergpu_fl.codec import apply, first_view
from hypergpu_fl.codec.errors import ViewMissing
from hypergpu_fl.codec.payload import CodecPayload
from strategies.model.layout import Layout

SHAPES = {"a": np.zeros((300, 40), np.float32), "b": np.zeros(7, np.float32)}
LAYOUT = Layout.of(SHAPES)


def model(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(LAYOUT.size).astype(np.float32)


def trained(payload: CodecPayload) -> np.ndarray:
    last = model(0)
    payload.publish(0, last, {})
    for version in (1, 2, 3):
        last = last + model(version) * np.float32(0.01)
        payload.publish(version, last, {})
    return last


def test_a_node_that_built_the_same_first_model_is_only_sent_what_changed() -> None:
    payload = CodecPayload(LAYOUT)
    last = trained(payload)
    sent = payload.model_for("node-0", -1, "top128")
    assert len(sent) < LAYOUT.size  # a quarter of the model as float32
    with pytest.raises(ViewMissing):
        apply(sent, LAYOUT, None)
    held, _ = first_view(model(0), {}, LAYOUT)
    received = apply(sent, LAYOUT, held)
    assert received.version == 3 and received.view is not None
    assert np.linalg.norm(received.model_P - last) < 0.05 * np.linalg.norm(last)


def test_a_node_with_another_first_model_says_so_and_is_then_sent_a_whole_view() -> None:
    payload = CodecPayload(LAYOUT)
    trained(payload)
    other, _ = first_view(model(9), {}, LAYOUT)
    with pytest.raises(ViewMissing):
        apply(payload.model_for("node-0", -1, "top128"), LAYOUT, other)
    again = payload.model_for("node-0", -1, "top128")
    assert apply(again, LAYOUT, other).version == apply(again, LAYOUT, None).version == 3


def test_after_a_restart_nothing_is_taken_for_granted() -> None:
    payload = CodecPayload(LAYOUT)
    payload.publish(57, model(0), {})
    assert apply(payload.model_for("node-0", -1, "top128"), LAYOUT, None).version == 57


def test_a_raw_message_is_as_large_as_the_model() -> None:
    payload = CodecPayload(LAYOUT)
    payload.publish(0, np.zeros(LAYOUT.size, dtype=np.float32), {})
    blob = payload.model_for("node-0", -1, "raw")
    assert 4 * LAYOUT.size <= len(blob) < 4 * LAYOUT.size + 200
    assert np.array_equal(apply(blob, LAYOUT, None).model_P, np.zeros(LAYOUT.size, dtype=np.float32))
