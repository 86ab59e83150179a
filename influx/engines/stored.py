"""Projected training gradients on disk: computed once per problem, then read by every estimator that asks for the same.

They lie in ``projected/<key>`` of the problem's folder; the key says which parameters, which function of the outputs,
which projection and which instances. Shards of some instances are written whole, with checksums, so that a stopped
computation goes on and a damaged shard is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress
from influx.engines.gradients import GradientsAt
from influx.engines.outputs import Output, OutputGradients
from influx.engines.projections import Change, Kind, Maker, Projection, block_of, maker, projected
from influx.learners.torch.fitted import TorchFitted
from influx.problem import Checkpoint, Split
from influx.store import Folder, content_hash

if TYPE_CHECKING:
    from influx.run import Run

FORMAT = 2  # raise when a projection comes to mean another matrix
ALIKE = 1e-3  # relative difference of an instance's projection, stored and computed, that rounding may make
SHARD_BYTES = 64 << 20  # projections of one shard


@dataclass(frozen=True)
class Part:
    """Projections of some instances ``(b, D)``, their slopes and the squared norms of what was projected ``(b,)``.

    Slopes are those of ``OutputGradients``, or the numbers of a ``Change``.
    """

    rows: slice
    projections: Tensor
    slopes: Tensor
    squares: Tensor


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Gradients of ``output`` at one checkpoint, changed by ``change`` and projected; the training split's are stored.

    ``told`` identifies the change and the projection at ``step``.
    """

    fitted: TorchFitted
    train: Split
    step: int
    open: Callable[[], GradientsAt]
    make: Maker
    told: dict[str, Any]
    output: Output = "margin"
    change: Change | None = None

    def stored(self) -> Iterator[Part]:
        """Of the training split, shard by shard: read, or computed and written. Shards begin where blocks do."""
        count, size = len(self.train), self._shard
        self._trusted  # noqa: B018
        with progress.task("projected gradients", count) as done:
            for start in range(0, count, size):
                rows = slice(start, min(start + size, count))
                yield self._part(rows)
                done(rows.stop - rows.start)
                interrupts.check()

    def computed(self, split: Split) -> Part:
        """Of any instances, all at once."""
        projections, sides = self._compute(split)
        return Part(slice(0, len(split)), projections, *sides.unbind(1))

    def blocks(self, split: Split, keep: bool) -> Iterator[Part]:
        """A block at a time: with ``keep`` the training split is read or stored, to the same bits."""
        if not (keep and split is self.train):
            for start in range(0, len(split), self.block):
                part = self.computed(split.take(slice(start, start + self.block)))
                yield replace(part, rows=slice(start, start + len(part.slopes)))
            return
        for part in self.stored():
            for start in range(0, len(part.slopes), self.block):
                piece, first = slice(start, start + self.block), part.rows.start + start
                found = part.projections[piece], part.slopes[piece], part.squares[piece]
                yield Part(slice(first, first + len(found[1])), *found)

    @cached_property
    def projection(self) -> Projection:
        """Whose ``dim`` numbers are stored."""
        return self.make(self._at)

    @property
    def parameters(self) -> int:
        """Numbers that a gradient has before it is projected."""
        return self._at.size

    @cached_property
    def block(self) -> int:
        """Instances that are computed together."""
        return block_of(self._at, self.train, self.projection, self.change)

    @cached_property
    def _at(self) -> GradientsAt:
        return self.open()

    @cached_property
    def _folder(self) -> Folder:
        attached = self.fitted.recipe.attached
        drawn = None if attached is None else [attached.name, attached.evaluation]
        numbers = [str(self.fitted.recipe.dtype), self.fitted.device.type]
        told = [FORMAT, self.told, self.step, self.output, numbers, drawn, self.train.fingerprint()]
        return Folder(self.fitted.folder.path / "projected" / content_hash(told, 24))

    @cached_property
    def _shard(self) -> int:
        blocks = SHARD_BYTES // (8 * self.projection.dim * self.block)
        return max(blocks, 1) * self.block

    @cached_property
    def _trusted(self) -> bool:
        """Whether a stored instance is what is computed now; otherwise random numbers changed: start anew."""
        folder = self._folder
        longest = self._longest()
        if longest is None:
            return True
        row, found = longest
        expected = self._compute(self.train.take(slice(row, row + 1)))[0][0].cpu().numpy()
        if found.shape == expected.shape and np.linalg.norm(found - expected) <= ALIKE * np.linalg.norm(expected):
            return True
        with folder.locked(what="projected gradients"):
            folder.forget(*folder.checksums())
        return False

    def _longest(self) -> tuple[int, NDArray[Any]] | None:
        """The row and projection of the longest gradient in the first shard that has one: zeros tell nothing of P."""
        folder = self._folder
        for name in sorted(name for name in folder.checksums() if name.startswith("rows_")):
            start, stop = map(int, name.removesuffix(".npy").split("_")[1:])
            sides = _names(slice(start, stop))[1]
            if not (folder.has(name) and folder.has(sides)):
                continue
            squares = _load(folder / sides)[:, 1]
            if squares.max() > 0:
                place = int(squares.argmax())
                return start + place, _load(folder / name)[place]
        return None

    def _part(self, rows: slice) -> Part:
        folder, names = self._folder, _names(rows)
        if not all(folder.has(name) for name in names):
            with folder.locked(what="projected gradients"):
                if not all(folder.has(name) for name in names):  # another process may have made them meanwhile
                    folder.sweep_temporaries()
                    for name, values in zip(names, self._compute(self.train.take(rows)), strict=True):
                        save_array(folder, name, values.cpu().numpy())
        try:
            found, sides = (torch.from_numpy(_load(folder / name)).to(self.fitted.device) for name in names)
        except FileNotFoundError:  # another process, which computes other numbers, has removed it meanwhile
            with folder.locked(what="projected gradients"):
                folder.forget(*names)
            return self._part(rows)
        return Part(rows, found, *sides.unbind(1))

    def _compute(self, split: Split) -> tuple[Tensor, Tensor]:
        own = OutputGradients(self.fitted.task, self.output)
        projections, beside, lengths = [], [], []

        def of(outputs: Tensor, y: Tensor) -> Tensor:
            found = own(outputs, y)
            if self.change is None:
                beside.append(own.slopes)
            return found

        for _, found, squares in projected(self._at, split, self.projection, of, self.change):
            projections.append(found)
            lengths.append(squares.double())
            if self.change is not None:
                beside.append(self.change.numbers.double())
            interrupts.check()
        return torch.cat(projections), torch.stack([torch.cat(beside), torch.cat(lengths)], 1)


def at_checkpoint(
    run: Run, checkpoint: Checkpoint, kind: Kind, dim: int, output: Output = "margin", shared: bool = False
) -> Projections:
    """Of a run, by the random numbers that every estimator draws for this checkpoint, or for all if ``shared``."""
    gradients = run.gradients
    seed = projection_seed(run, None if shared else checkpoint.step)
    return Projections(
        fitted=gradients.fitted,
        train=run.train,
        step=checkpoint.step,
        open=lambda: gradients.at(checkpoint),
        make=maker(kind, dim, seed),
        told={"kind": kind, "dim": 0 if kind == "none" else dim, "seed": seed},
        output=output,
    )


def stored_bytes(count: int, dim: int, number_bytes: int) -> float:
    """On disk for so many instances of ``dim`` numbers, with two beside them in double precision."""
    return float(count) * (dim * number_bytes + 16)


def projection_seed(run: Run, step: int | None) -> int:
    """Of the projection at a step, or of the one for all steps."""
    return int(run.drawn("projection" if step is None else f"projection/{step}").integers(1 << 63))


def _names(rows: slice) -> list[str]:
    """Files of a shard: projections, slopes with squared norms."""
    return [f"{name}_{rows.start:09d}_{rows.stop:09d}.npy" for name in ("rows", "sides")]


def save_array(folder: Folder, name: str, values: NDArray[Any]) -> None:
    """Write one array, readable with numpy alone."""

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.save(f, values, allow_pickle=False)

    folder.write(name, write)


def _load(path: Path) -> NDArray[Any]:
    """Private pages of a memory map: read when touched, dropped when memory is short."""
    found: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return found
