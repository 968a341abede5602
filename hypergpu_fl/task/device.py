"""Which device a node computes on."""

from __future__ import annotations

import torch

from hypergpu_fl.errors import TaskError


def resolve_device(name: str) -> torch.device:
    """Device for ``"auto"`` (CUDA, else MPS, else CPU) or for a device asked for by name.

    Raises
    ------
    TaskError
        If the device asked for is not there: a run that was to use a GPU does not fall back to the CPU.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(kind for kind in there if there[kind]) if name == "auto" else name
    if not there.get(chosen):
        raise TaskError(f"system.device = {name!r}, but torch {torch.__version__} finds none", "use 'auto' or 'cpu'")
    # With its index, so that it equals the device of the tensors that lie on it.
    return torch.device(chosen, torch.cuda.current_device()) if chosen == "cuda" else torch.device(chosen)


def describe(device: torch.device) -> str:
    """Name of the device for people, such as ``NVIDIA H100 80GB HBM3``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
