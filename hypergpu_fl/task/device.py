"""Which device a node computes on."""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from loguru import logger

from hypergpu_fl.errors import TaskError, first_line

# How torch's errors begin on a machine that has no GPU.
_NO_GPU: Final = ("Found no NVIDIA driver", "No CUDA GPUs are available", "Torch not compiled with CUDA enabled")


def resolve_device(name: str) -> torch.device:
    """Device for ``"auto"`` (CUDA, else MPS, else CPU) or for a device asked for by name.

    If ``"auto"`` passes over a GPU whose driver does not work, a warning says so, once in a process: a node asks for
    its device at every message.

    Raises
    ------
    TaskError
        If the device asked for is not there: a run that was to use a GPU does not fall back to the CPU.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(kind for kind in there if there[kind]) if name == "auto" else name
    why = "" if there["cuda"] or name == "cpu" else unusable_gpu()
    if not there.get(chosen):
        found = f"torch {torch.__version__} finds none" + (f": {why}" if chosen == "cuda" and why else "")
        raise TaskError(f"system.device = {name!r}, but {found}", "use 'auto' or 'cpu'")
    if name == "auto" and why:
        _warn_of(why)
    # With its index, so that it equals the device of the tensors that lie on it.
    return torch.device(chosen, torch.cuda.current_device()) if chosen == "cuda" else torch.device(chosen)


def describe(device: torch.device) -> str:
    """Name of the device for people, such as ``NVIDIA H100 80GB HBM3``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _warn_of(why: str) -> None:
    logger.warning("the GPU is not used: {}", why)


@cache
def unusable_gpu() -> str:
    """Torch's reason why it cannot use an NVIDIA GPU that has a driver; empty if it can, or if there is no GPU."""
    try:
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:
        return "" if str(error).startswith(_NO_GPU) else first_line(error)
    return ""
