"""A user's data as batches on a device, whatever form it comes in.

N = examples of the share, B = examples of a batch. A batch is what the data are: a tensor, a tuple or a dict of them,
or what `collate` makes of items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from operator import methodcaller
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.batch_form import mapped

GATHER_BYTES = 8 << 20  # of examples gathered at once
ITEMS_BYTES = 16 << 20
STEPS_AT_ONCE = 16  # of items that are fetched one by one; losses are awaited once per group of this many
FORMS = (
    "return a tensor or array, a tuple or dict of them with the examples first, or anything with len() and [index], "
    "such as a torch Dataset or a list"
)


class UnlikeItem(TaskError):
    """An item has other keys than the first of its batch; ``number`` is its place in the batch, from 0."""

    def __init__(self, number: int, keys: Set[Any], item: str = "") -> None:
        self.number, self.keys = number, keys
        super().__init__(
            f"{item or f'item {number} of a batch'} has other keys than the first item of its batch: just one of them "
            f"has {', '.join(sorted(map(repr, keys)))}",
            "give every item the same keys, or write collate(items), which joins them as they are",
        )


class ExampleOrder(Protocol):
    """Where the next examples come from; see `hypergpu_fl.task.loop.SampleOrder`."""

    def take(self, count: int) -> Any:
        """Return the indices of the next ``count`` examples."""
        ...


class Rows(Protocol):
    """A share on a device."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        ...

    def groups(self, order: ExampleOrder, steps: int, batch: int) -> Iterator[Iterator[Batch]]:
        """``steps`` batches in the order given, some at a time."""
        ...

    def batches(self, batch: int) -> Iterator[Batch]:
        """All examples as they lie; the last batch may be smaller."""
        ...


class Batch:
    """B examples that can be had whole or in pieces.

    Parameters
    ----------
    size : int
        B.
    between : callable
        Makes the batch, in the user's own form, of the examples from one number up to another.
    """

    __slots__ = ("_between", "size")

    def __init__(self, size: int, between: Callable[[int, int], Any]) -> None:
        self.size, self._between = size, between

    @classmethod
    def of_columns(cls, columns: Any, size: int) -> Self:
        """A batch of tensors with the examples first."""
        return cls(size, lambda start, end: columns if end - start == size else _cut(columns, start, end))

    def pieces(self, most: int = 0) -> list[tuple[Any, int]]:
        """The batch in pieces of at most ``most`` examples, each with its number of examples; 0: whole."""
        step = most or self.size
        ends = [min(start + step, self.size) for start in range(0, self.size, step)]
        return [(self._between(start, end), end - start) for start, end in zip([0, *ends], ends, strict=False)]


def _cut(columns: Any, start: int, end: int) -> Any:
    return mapped(columns, lambda tensor: tensor[start:end])


def length(data: Any) -> int:
    """N, of anything that `rows_of` takes.

    Raises
    ------
    TaskError
        If it is of another form.
    """
    columns = _columns(data)
    if columns is not None:
        return _rows(columns)
    _refuse_tables(data)
    if isinstance(data, DataLoader):
        raise TaskError(
            "data() returned a DataLoader, which makes batches itself",
            "return its dataset; training.batch_size and collate(items) make the batches",
        )
    if isinstance(data, IterableDataset) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TaskError(f"data() returned a {type(data).__name__}, which has no length or no order", FORMS)
    return len(data)


def joined(items: list[Any]) -> Any:
    """Items as a batch, as torch's ``DataLoader`` makes it.

    Raises
    ------
    TaskError
        If an item holds values that are masked: torch would take what lies under the mask for numbers. If one is
        quantised: torch would read all by the first one's scale. If one has other keys than the first one, whose keys
        alone torch would join.
    """
    _refuse_unlike(items)
    for part in _parts(items):
        _refuse_masked(part, "an item of data() holds", "write collate(items), which keeps the masks")
        if isinstance(part, Tensor) and part.is_quantized:
            raise TaskError(
                f"an item of data() holds a quantised tensor ({part.dtype}), and items may differ in scale",
                "return numbers, as .dequantize() does, or write collate(items), which joins them",
            )
    return default_collate(items)


def _refuse_unlike(parts: Sequence[Any]) -> None:
    """Refuse dicts, however deep in the items, that have other keys than the first item's."""
    first = parts[0]
    kind = Mapping if isinstance(first, Mapping) else (tuple, list)
    if not all(isinstance(part, kind) for part in parts):
        return  # nothing that has parts, or what torch refuses by itself
    if isinstance(first, Mapping):
        for number, part in enumerate(parts):
            if keys := part.keys() ^ first.keys():
                raise UnlikeItem(number, keys)
    elif any(len(part) != len(first) for part in parts):
        return  # likewise
    for place, inner in first.items() if isinstance(first, Mapping) else enumerate(first):
        if isinstance(inner, (Mapping, tuple, list)):
            _refuse_unlike([part[place] for part in parts])


def rows_of(data: Any, device: torch.device, collate: Callable[[list[Any]], Any] = joined) -> Rows:
    """The share as `Rows`: columns of tensors lie on the device as a whole, items are fetched as they are needed.

    Raises
    ------
    TaskError
        If the data are empty, or of a form that cannot be read.
    """
    if not length(data):
        raise TaskError("data() returned nothing", "give every node, and the held-out data, at least one example")
    columns = _columns(data)
    return Items(data, device, collate) if columns is None else Columns(columns, device)


def subset(data: Any, indices: Sequence[int]) -> Any:
    """Those examples of the data."""
    columns = _columns(data)
    if columns is not None:
        chosen = torch.as_tensor(indices)
        return mapped(columns, lambda tensor: tensor.index_select(0, chosen))
    return _Part(data, indices)


class _Part(Subset[Any]):
    """Some of a user's items, which are told by their number among all."""


def _columns(data: Any) -> Any:
    """The data as tensors with the examples first, or None where they are items."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, (Tensor, np.ndarray)):
        return _tensor(data)
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple) else []
    for part in parts:
        _refuse_odd(part)
    if not parts or not all(isinstance(part, (Tensor, np.ndarray)) and part.ndim for part in parts):
        return None
    if len({len(part) for part in parts}) > 1:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise TaskError(f"data() returned columns of unequal length: {sizes}", "give every example one row in each")
    if isinstance(data, Mapping):
        return {name: _tensor(part) for name, part in data.items()}
    return tuple(_tensor(part) for part in parts)


def _refuse_tables(data: Any) -> None:
    """Refuse data whose length and index do not go by examples."""
    parts = list(data.values()) if isinstance(data, Mapping) else list(data) if isinstance(data, tuple) else []
    for part in (data, *parts):
        if hasattr(part, "to_numpy"):
            raise TaskError(
                f"data() returned a {type(part).__name__}, which is a table",
                "return numbers: .to_numpy('float32') of its columns",
            )
    if len(parts) > 1 and all(isinstance(part, list) for part in parts) and len(set(map(len, parts))) == 1:
        raise TaskError(
            f"data() returned a {type(data).__name__} of {len(parts)} lists: are they columns, or examples?",
            "of columns make arrays or tensors, of examples a list, such as list(zip(inputs, targets))",
        )
    arrays = [isinstance(part, Tensor | np.ndarray) for part in parts]
    by_name = isinstance(data, Mapping) and set(data) != set(range(len(data)))
    if parts and (by_name or any(arrays) and not all(arrays)):
        found = ", ".join(type(part).__name__ for part in parts[:9])
        raise TaskError(
            f"data() returned a {type(data).__name__} of {found}, which is neither columns nor examples",
            "make every part an array or tensor with the examples first, none in another, or return a list of examples",
        )


def _rows(columns: Any) -> int:
    if isinstance(columns, Tensor):
        return len(columns)
    return len(next(iter(columns.values() if isinstance(columns, Mapping) else columns)))


def _bytes_of(columns: Any) -> int:
    if isinstance(columns, Tensor):
        return columns.nbytes
    return sum(part.nbytes for part in (columns.values() if isinstance(columns, Mapping) else columns))


def _tensor(part: Tensor | np.ndarray[Any, Any]) -> Tensor:
    _refuse_odd(part)
    if isinstance(part, Tensor):
        return part.detach()
    return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("=")))


def _refuse_odd(part: Any) -> None:
    """Refuse arrays and tensors whose rows cannot be taken, or not with all that they say."""
    _refuse_masked(part, "data() returned", "leave out the examples that lack them")
    if isinstance(part, Tensor) and (part.is_nested or part.is_quantized or part.layout is not torch.strided):
        kind = "nested" if part.is_nested else str(part.dtype if part.is_quantized else part.layout)
        raise TaskError(
            f"data() returned a tensor of which no rows can be taken ({kind})",
            "make it dense, or return its examples as a list and join them in collate(items)",
        )


def _refuse_masked(part: Any, whose: str, instead: str) -> None:
    if isinstance(part, np.ma.MaskedArray) and (masked := np.count_nonzero(np.ma.getmaskarray(part))):
        raise TaskError(
            f"{whose} an array of which {masked} of {part.size} values are masked",
            f"put numbers in their place, as .filled() does, or {instead}",
        )


def _parts(nested: Any) -> Iterator[Any]:
    """Whatever lies in dicts, tuples and lists, however deep."""
    if isinstance(nested, (Mapping, tuple, list)):
        for inner in nested.values() if isinstance(nested, Mapping) else nested:
            yield from _parts(inner)
    else:
        yield nested


class Columns:
    """Tensors with the examples first, on the device; the examples of several steps are gathered at once."""

    def __init__(self, columns: Any, device: torch.device) -> None:
        self._columns = mapped(columns, lambda tensor: tensor.to(device))
        self._device = device
        self._size = _rows(columns)
        self._example_bytes = max(1, _bytes_of(columns) // max(1, self._size))

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """See `Rows.nbytes`."""
        return self._size * self._example_bytes

    def groups(self, order: ExampleOrder, steps: int, batch: int) -> Iterator[Iterator[Batch]]:
        """See `Rows.groups`."""
        while steps:
            now = min(steps, max(1, GATHER_BYTES // (batch * self._example_bytes)))
            chosen = torch.from_numpy(order.take(now * batch)).to(self._device)
            gathered = mapped(self._columns, methodcaller("index_select", 0, chosen))
            starts = range(0, now * batch, batch)
            yield (Batch.of_columns(_cut(gathered, start, start + batch), batch) for start in starts)
            steps -= now

    def batches(self, batch: int) -> Iterator[Batch]:
        """See `Rows.batches`."""
        for start in range(0, self._size, batch):
            end = min(start + batch, self._size)
            yield Batch.of_columns(_cut(self._columns, start, end), end - start)


class Items:
    """Anything with a length and an index; examples are collated to batches as torch's DataLoader does."""

    def __init__(self, items: Any, device: torch.device, collate: Callable[[list[Any]], Any]) -> None:
        self._items, self._device, self._collate = items, device, collate

    def __len__(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """See `Rows.nbytes`: what items hold cannot be seen, so this is an allowance."""
        return ITEMS_BYTES

    def groups(self, order: ExampleOrder, steps: int, batch: int) -> Iterator[Iterator[Batch]]:
        """See `Rows.groups`."""
        while steps:
            now = min(steps, STEPS_AT_ONCE)
            yield (self._batch(order.take(batch).tolist()) for _ in range(now))
            steps -= now

    def batches(self, batch: int) -> Iterator[Batch]:
        """See `Rows.batches`."""
        for start in range(0, len(self), batch):
            yield self._batch(list(range(start, min(start + batch, len(self)))))

    def _batch(self, indices: list[int]) -> Batch:
        many = getattr(self._items, "__getitems__", None)
        items = cast(list[Any], many(indices) if many is not None else [self._items[index] for index in indices])

        # A piece is collated from its items: what came out for the whole batch may be of a form that cannot be cut.
        def between(start: int, end: int) -> Any:
            try:
                joint = self._collate(items[start:end])
            except UnlikeItem as error:
                number = indices[start + error.number]
                number = self._items.indices[number] if isinstance(self._items, _Part) else number
                raise UnlikeItem(error.number, error.keys, f"data()[{number}]") from None
            return mapped(joint, lambda tensor: tensor.to(self._device))

        return Batch(len(items), between)
