"""The task's own metrics in the form in which they travel, with names that server and report accept."""

from __future__ import annotations

from collections.abc import Mapping

from hypergpu_fl.errors import TaskError
from strategies import wire
from strategies.prose import amount


def named_metrics(metrics: Mapping[str, float], returned_by: str = "train()") -> dict[str, float]:
    """The task's own metrics as they travel.

    Raises
    ------
    TaskError
        If there are too many, or one has a name that cannot travel.
    """
    named = {str(name): float(value) for name, value in metrics.items()}
    travelling = {f"{wire.TASK_METRIC}{name}": value for name, value in named.items()}
    if odd := sorted(named.keys() - wire.custom_metrics(travelling).keys()):
        raise TaskError(
            f"{returned_by} returned {amount(len(named), 'metric')}, of which {odd[0][:100]!r} cannot travel",
            f"return at most {wire.MOST_METRICS}, named by up to 64 letters, digits and ./_- from a letter on",
        )
    return travelling
