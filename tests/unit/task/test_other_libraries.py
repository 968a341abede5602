"""Models of other libraries: what they compute is compared between server and node, what a machine chooses is not."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

from hypergpu_fl.server.enrolment import differences
from hypergpu_fl.task.layers import comparable, layers_text

pytestmark = pytest.mark.filterwarnings("default")  # transformers' and peft's own


def gpt(**settings: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **settings}))


def llama(**settings: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **{**sizes, **settings}))


def lora(alpha: float) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(), LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"]))


def swin(**settings: Any) -> nn.Module:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    return nn.Sequential(ShiftedWindowAttention(8, window_size=[2, 2], shift_size=[0, 0], num_heads=2, **settings))


class Around(nn.Module):
    """A model of one's own around one of a library."""

    def __init__(self, base: nn.Module, steps: int) -> None:
        super().__init__()
        self.base, self.heads = base, steps


def found(server: nn.Module, node: nn.Module) -> str:
    return differences(*comparable(layers_text(server), layers_text(node)))


def around(steps: int, **settings: Any) -> nn.Module:
    return Around(gpt(**settings), steps)


Settings = dict[str, Any]


@pytest.mark.parametrize(
    ("make", "server", "node", "named"),
    [
        (gpt, {}, {"n_head": 4}, "layer GPT2Config.n_head: '4' there, '2' at the server"),
        (gpt, {}, {"activation_function": "relu"}, "layer GPT2Config.activation_function: \"'relu'\" there"),
        (gpt, {}, {"scale_attn_weights": False}, "layer GPT2Config.scale_attn_weights: 'False' there"),
        (llama, {}, {"attention_dropout": 0.1}, "layer LlamaConfig.attention_dropout: '0.1' there, '0' at the server"),
        (llama, {}, {"rms_norm_eps": 1e-5}, "layer LlamaConfig.rms_norm_eps: '1e-05' there"),
        (lora, {"alpha": 4}, {"alpha": 8}, "layer LoraConfig.lora_alpha: '8' there, '4' at the server"),
        (around, {"steps": 1}, {"steps": 1, "n_head": 4}, "layer GPT2Config.n_head: '4' there"),
        (swin, {}, {"attention_dropout": 0.1}, "layer ShiftedWindowAttention.attention_dropout: '0.1' there"),
    ],
)
def test_what_a_model_of_another_library_computes_is_compared(
    make: Callable[..., nn.Module], server: Settings, node: Settings, named: str
) -> None:
    assert named in found(make(**server), make(**node))
    assert found(make(**server), make(**server)) == ""


@pytest.mark.parametrize(
    ("make", "server", "node"),
    [
        (gpt, {}, {"name_or_path": "/mnt/models/gpt2"}),
        (gpt, {}, {"dtype": "float16", "use_cache": False}),
        (gpt, {"attn_implementation": "eager"}, {"attn_implementation": "sdpa"}),
        (llama, {"experts_kernel": "eager"}, {"experts_kernel": "grouped_mm"}),
        (lora, {"alpha": 4}, {"alpha": 4.0}),
        (around, {"steps": 1}, {"steps": 2}),
    ],
)
def test_what_a_machine_chooses_is_its_own(make: Callable[..., nn.Module], server: Settings, node: Settings) -> None:
    assert found(make(**server), make(**node).eval()) == ""


def test_a_configuration_that_cannot_tell_what_it_holds_is_left_alone() -> None:
    model = gpt()
    model.config.lock = threading.Lock()
    with pytest.raises(TypeError):
        model.config.to_dict()
    assert "GPT2Config" not in layers_text(model) and found(gpt(), model) == ""


class Activation(enum.StrEnum):
    """As libraries write the choices of a setting."""

    RELU = "relu"


def test_a_setting_is_the_same_in_whatever_kind_a_library_keeps_it() -> None:
    plain = {"activation_function": "relu", "layer_norm_epsilon": 0.25}
    kept = {"activation_function": Activation.RELU, "layer_norm_epsilon": np.float64(0.25)}
    assert found(gpt(**plain), gpt(**kept)) == ""
    for said in ("GPT2Config.activation_function 'relu'", "GPT2Config.layer_norm_epsilon 0.25"):
        assert f"{said}; " in layers_text(gpt(**kept))


def test_a_setting_of_another_release_and_a_layer_of_another_name_are_not_compared() -> None:
    text = layers_text(gpt())
    assert differences(*comparable(text, text.replace("GPT2Config.n_head 2", "GPT2Config.heads 4"))) == ""
    assert "GPT2Attention" not in text and "GPT2Config.n_head 2;" in text
