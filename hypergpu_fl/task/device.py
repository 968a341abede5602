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
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if (name.startswith("cuda") and not cuda) or (name == "mps" and not mps):
        raise TaskError(f"system.device = {name!r}, but torch {torch.__version__} finds none", "use 'auto' or 'cpu'")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """Name of the device for people, such as ``NVIDIA H100 80GB HBM3``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
