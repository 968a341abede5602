"""What a node runs on, for the registry: GPU by NVIDIA's management library, CPU and memory by psutil."""

from __future__ import annotations

import platform

Description = dict[str, str | int | float]


def describe_hardware() -> Description:
    """CPU, memory and GPUs of this machine; GPU entries only where NVIDIA's driver answers.

    Keys: ``cpu``, ``cpus``, ``memory-bytes``, ``system``; ``gpu`` (name of the first), ``gpus``, ``gpu-memory-bytes``,
    ``driver``. torch is not used, since importing it would cost every message a second.
    """
    import psutil

    found: Description = {
        "cpu": platform.processor() or platform.machine(),
        "cpus": psutil.cpu_count(logical=True) or 1,
        "memory-bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }
    return found | _gpus()


def _gpus() -> Description:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        count = pynvml.nvmlDeviceGetCount()
        if not count:
            return {}
        first = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "gpu": str(pynvml.nvmlDeviceGetName(first)),
            "gpus": int(count),
            "gpu-memory-bytes": int(pynvml.nvmlDeviceGetMemoryInfo(first).total),
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()
