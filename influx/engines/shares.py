"""Comparisons of gradients at checkpoints, in this process or shared out: a share is a checkpoint and some rows.

A share begins where a block of the whole begins, so that it has the whole's bits, and has about as many rows as there
are columns, so that the columns' gradients, which every share needs, cost no more than its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.executor import Arrays, Executor, Task
from influx.engines.gradients import Gradients, GradientsAt, Select
from influx.engines.kernels import Block, Kernel, Stored
from influx.engines.stored_ahead import store_ahead
from influx.engines.workers import described, shared_out
from influx.problem import Checkpoint
from influx.store import content_hash

if TYPE_CHECKING:
    from influx.run import Run

ROWS = 1024  # of a share, at least
BYTES = 256 << 20  # of a share's values, at most
Weighted = tuple[Checkpoint, float, Block]
Share = tuple[int, slice]  # number of a checkpoint, and rows


def rows_wanted(columns: int) -> int:
    """Rows of a share, before they are rounded to blocks."""
    return min(max(ROWS, columns), BYTES // (4 * columns))


@dataclass
class Compared:
    """Training against test instances at weighted checkpoints."""

    gradients: Gradients
    weighted: list[tuple[Checkpoint, float]]
    kernel: Kernel
    select: Select
    dtype: torch.dtype | None
    _open: tuple[int, GradientsAt] | None = None  # the checkpoint whose gradients were asked for last
    _moves: bool | None = None  # whether one module can go from checkpoint to checkpoint

    def blocks(self, run: Run, estimator: Any) -> Iterator[Weighted]:
        """Blocks with their checkpoints and weights, checkpoint by checkpoint.

        ``estimator``, a dataclass, makes the same request of ``run`` in every process. A worker does its shares
        here and leaves by an exception.
        """
        executor = run.bank.executor
        if not shared_out(run):
            return self._here()
        if self._reads is not None:
            store_ahead(run, estimator, [partial(self._reads.at_step, checkpoint) for checkpoint, _ in self.weighted])
        shares = self._shares()
        return self._shared(executor, self._task(run, estimator, shares), shares)

    def _here(self) -> Iterator[Weighted]:
        train, test = self.gradients.train, self.gradients.test
        with progress.task("influence", len(self.weighted) * len(train)) as done:
            for number, (checkpoint, weight) in enumerate(self.weighted):
                for block in self.kernel(self._at(number), checkpoint, train, test):
                    yield checkpoint, weight, block
                    if block.columns.start == 0:
                        done(block.rows.stop - block.rows.start)
                    interrupts.check()

    @property
    def _reads(self) -> Stored | None:
        """The kernel, where it reads what is stored of training instances: columns are then the most of its work."""
        return self.kernel if isinstance(self.kernel, Stored) and self.kernel.keep else None

    def _at(self, number: int) -> GradientsAt:
        if self._open is None or self._open[0] != number:
            checkpoint = self.weighted[number][0]
            if self._open is not None and self._moves:
                self._open = number, self.gradients.onward(self._open[1], checkpoint)
                return self._open[1]
            if number and self._open is None:
                self._settle()
            fresh = self.gradients.at(checkpoint, self.select, self.dtype)
            if self._open is not None and self._moves is None:
                self._moves = self.gradients.moves(self.gradients.onward(self._open[1], checkpoint), fresh)
            self._open = number, fresh
        return self._open[1]

    def _settle(self) -> GradientsAt:
        """The way to compute gradients is chosen at the first checkpoint, by test instances, in every process."""
        first = self.gradients.at(self.weighted[0][0], self.select, self.dtype)
        first.held_size(self.gradients.test)
        return first

    def _shares(self) -> list[Share]:
        """Numbers of checkpoints, and rows."""
        n, m = len(self.gradients.train), len(self.gradients.test)
        step = self.kernel.step(self._settle(), self.gradients.train)
        size = max((BYTES // (4 * m) if self._reads else rows_wanted(m)) // step, 1) * step
        starts = range(0, n, size)
        return [(c, slice(s, min(s + size, n))) for c in range(len(self.weighted)) for s in starts]

    def _task(self, run: Run, estimator: Any, shares: list[Share]) -> Task:
        told = described(run, estimator, "similarity")
        common = content_hash(told, 64)
        names = [content_hash([common, self.weighted[c][0].step, rows.start, rows.stop], 24) for c, rows in shares]
        return Task(
            names=names,
            do=lambda number: self._share(*shares[number]),
            at_once=1,
            threads=told["threads"],
            told=told,
            arrays=dict,
            keep=True,
        )

    def _share(self, number: int, rows: slice) -> Arrays:
        checkpoint, found = self.weighted[number][0], Arrays()
        train, right, count = self.gradients.train, self.gradients.test, 0
        left = train if rows == slice(0, len(train)) else train.take(rows)
        kernel = replace(self._reads, part=rows) if self._reads is not None else self.kernel
        for block in kernel(self._at(number), checkpoint, left, right):
            found |= _told(block, rows.start, str(count))
            count += 1
            interrupts.check()
        return found | {"blocks": np.array(count)}

    def _shared(self, executor: Executor, task: Task, shares: list[Share]) -> Iterator[Weighted]:
        """Asks at once, not when the first block is taken."""
        shown: list[progress.Advance] = []
        results = executor.do(task, lambda number: shown[0](shares[number][1].stop - shares[number][1].start))
        return self._read(results, shares, shown)

    def _read(
        self, results: Iterator[tuple[int, Arrays]], shares: list[Share], shown: list[progress.Advance]
    ) -> Iterator[Weighted]:
        with progress.task("influence", len(self.weighted) * len(self.gradients.train)) as done:
            shown.append(done)
            for number, arrays in results:
                checkpoint, weight = self.weighted[shares[number][0]]
                for i in range(int(arrays["blocks"])):
                    yield checkpoint, weight, _block(arrays, str(i))


def _told(block: Block, start: int, i: str) -> Arrays:
    """A block as arrays, its rows counted in the whole training split."""
    rows, columns = block.rows, block.columns
    place = [rows.start + start, rows.stop + start, columns.start, columns.stop, block.vanished]
    found = {f"place{i}": np.array(place), f"values{i}": _plain(block.values), f"own{i}": _plain(block.own)}
    return found if block.variance is None else found | {f"variance{i}": _plain(block.variance)}


def _block(arrays: Arrays, i: str) -> Block:
    """What ``_told`` told."""
    top, bottom, left, right, vanished = arrays[f"place{i}"].tolist()
    variance = arrays.get(f"variance{i}")
    return Block(
        slice(top, bottom),
        slice(left, right),
        torch.from_numpy(arrays[f"values{i}"]),
        torch.from_numpy(arrays[f"own{i}"]),
        vanished,
        None if variance is None else torch.from_numpy(variance),
    )


def _plain(values: Tensor) -> NDArray[Any]:
    """As NumPy knows it; what is made of it is made in double precision."""
    found: NDArray[Any] = (values.float() if values.itemsize < 4 else values).cpu().numpy()
    return found
