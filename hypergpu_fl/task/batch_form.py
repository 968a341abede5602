"""What a batch is made of: tensors, tuples, dicts and lists of them, nested in any way.

B = examples of a batch. A part of a batch holds its examples in one of two forms: a tensor of shape (B, ...), or a list
of B entries, such as images of different sizes, their boxes in dicts, or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from hypergpu_fl.errors import TaskError

_NESTED = (Tensor, Mapping, tuple, list)


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``batch`` with all its tensors changed, however it is nested; everything else stays."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: mapped(part, change) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)) and not any(isinstance(part, _NESTED) for part in batch):
        return batch  # such as texts, or a torch.Size
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(part, change) for part in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(mapped(part, change) for part in batch)
    return batch


def examples_in(batch: Any, items: int | None = None) -> int:
    """B, of a batch that was made of ``items`` items, if that is known.

    ``items`` is believed if any part of the batch has that length, or none has a length. Else the parts must agree on
    another one, as after a ``collate`` that leaves broken items out.

    Raises
    ------
    TaskError
        If the batch's form leaves open how many examples it holds.
    """
    lengths = set(_all_lengths(batch))
    if items is not None and (items in lengths or not lengths):
        return items
    found = _common(batch) if isinstance(batch, (tuple, list)) else _possible(batch)
    if found is None:
        return 1
    if len(found) == 1:
        return next(iter(found))
    of = "" if items is None else f" of {items} items"
    raise TaskError(
        f"a batch{of} has parts of length {', '.join(map(str, sorted(lengths)))}: how many examples are that?",
        "write count(batch), which returns how many examples a batch holds",
    )


def _all_lengths(part: Any) -> Iterator[int]:
    if isinstance(part, (tuple, list)):
        yield len(part)
    if isinstance(part, Tensor) and part.ndim:
        yield part.size(0)  # a nested tensor may have no len()
    if isinstance(part, (tuple, list, Mapping)):
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _all_lengths(inner)


def _possible(part: Any) -> set[int] | None:
    """Each B that a part may be read as having; empty if it contradicts itself, None if it has nothing to say."""
    if isinstance(part, Tensor):
        return {part.size(0)} if part.ndim else None
    if isinstance(part, Mapping):
        return _common(part.values())
    if not isinstance(part, (tuple, list)) or not part:
        return None
    columns = _common(part)
    if len({type(entry) for entry in part}) > 1:
        return columns
    return (columns or set()) | {len(part)}  # columns, or entries


def _common(parts: Iterable[Any]) -> set[int] | None:
    common: set[int] | None = None
    for possible in map(_possible, parts):
        if possible is not None:
            common = possible if common is None else common & possible
    return common
