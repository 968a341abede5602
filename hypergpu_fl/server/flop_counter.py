"""Counts floating-point operations by torch's own formulas, without torch's compiler."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def _lstm_layer(input_TBI: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: Any, **__: Any) -> int:
    """Forward, in one direction: each weight is multiplied and added once a sample and time step."""
    time_steps, samples, _inputs = input_TBI.shape
    return 2 * time_steps * samples * (weight_ih.numel() + weight_hh.numel())


# oneDNN computes an LSTM in one operation, which torch does not count
_FORMULAS: Final[dict[Any, Callable[..., int]]] = flop_registry | {
    torch.ops.aten.mkldnn_rnn_layer: _lstm_layer,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *tensors, **_: 2 * _lstm_layer(*tensors),
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch's __init_subclass__
    """Adds to ``flops`` what the operations within it take, forward and backward.

    ``torch.utils.flop_counter.FlopCounterMode`` counts the same, but loads the compiler in order not to be compiled:
    1.5 s of processor in every process that counts.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:  # what the base class sets, it also sets on entering
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return "torch._dynamo" in sys.modules  # to keep the compiler out is to load it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = getattr(func, "_overloadpacket", func)
        formula = _FORMULAS.get(operation)
        if formula is None:
            if operation is func:
                return NotImplemented  # an operator over functions, whose inside is not seen here
            with self:
                if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return out
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out
