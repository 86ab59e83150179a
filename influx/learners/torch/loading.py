"""Instances block by block. On an accelerator the next block is on its way while it computes with the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from influx.problem import Split

SHARE = 0.5  # of a card's memory that inputs of the training set may take
Pair = tuple[Tensor, Tensor]
Load = Callable[[slice], Pair]


class Beside(Protocol):
    """How a thread loads for another."""

    def load(self, load: Load, part: slice) -> Any:
        """In the thread that loads."""
        ...

    def take(self, loaded: Any) -> Pair:
        """In the other one: what ``load`` returned, ready for use."""
        ...


@dataclass(frozen=True)
class Copies:
    """Copies to a CUDA device on a stream of their own, for which the other thread's stream waits."""

    device: torch.device
    stream: torch.cuda.Stream = field(init=False)

    def __post_init__(self) -> None:
        """Open the stream."""
        object.__setattr__(self, "stream", torch.cuda.Stream(self.device))

    def load(self, load: Load, part: slice) -> tuple[Pair, torch.cuda.Event]:
        """Start the copies, and mark their end."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            return load(part), self.stream.record_event()

    def take(self, loaded: tuple[Pair, torch.cuda.Event]) -> Pair:
        """What is computed from now on waits for the copies; their memory is not used again before that."""
        pair, copied = loaded
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        for tensor in pair:
            tensor.record_stream(current)
        return pair


@dataclass(frozen=True)
class AsIs:
    """Nothing to wait for: on processors."""

    def load(self, load: Load, part: slice) -> Pair:
        """In the thread that loads."""
        return load(part)

    def take(self, loaded: Pair) -> Pair:
        """In the other one."""
        return loaded


def lies_apart(split: Split, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a split's inputs stay in the host's memory, since they would take most of the device's."""
    if device.type != "cuda":
        return False
    element = dtype.itemsize if split.x.dtype.kind == "f" else split.x.itemsize
    whole: int = torch.cuda.get_device_properties(device).total_memory
    return split.x.size * element > SHARE * whole


def fed(parts: Iterable[slice], load: Load, apart: bool, device: torch.device) -> Iterator[Pair]:
    """``load`` of every part in turn; of data that lie ``apart`` from the device the next part is on its way."""
    ahead = list(parts) if apart else []
    if not ahead:
        yield from map(load, parts)
        return
    beside: Beside = Copies(device) if device.type == "cuda" else AsIs()
    for _, pair in overlapped(ahead, load(ahead[0]), load, beside):
        yield pair


def loaded(split: Split, size: int, tensors: Callable[[Split], Pair]) -> Iterator[tuple[slice, Pair]]:
    """Rows and their inputs and targets in blocks of ``size``, as ``tensors`` makes them of a split.

    On processors one after the other: they would compute no faster while they copy.
    """
    parts = [slice(start, min(start + size, len(split))) for start in range(0, len(split), size)]

    def load(part: slice) -> Pair:
        return tensors(split.take(part))

    if not parts:
        return
    first = load(parts[0])
    if first[0].is_cuda:
        yield from overlapped(parts, first, load, Copies(first[0].device))
        return
    yield parts[0], first
    del first
    for part in parts[1:]:
        yield part, load(part)


def overlapped(parts: list[slice], first: Pair, load: Load, beside: Beside) -> Iterator[tuple[slice, Pair]]:
    """The same; a thread loads one part ahead of the one that is given. ``first`` is that of the first part."""
    ready = first
    with ThreadPoolExecutor(1, thread_name_prefix="influx-loading") as thread:
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            coming = None if following is None else thread.submit(beside.load, load, following)
            yield part, ready
            if coming is not None:
                ready = beside.take(coming.result())
