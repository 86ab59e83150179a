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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import interrupts, progress, reads
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
Store = Literal["model", "float16"]
SHARD_BYTES = 64 << 20  # projections of one shard


@dataclass(frozen=True)
class Part:
    """Projections of some instances ``(b, D)``, their slopes and squared norms ``(b,)``, see ``Projections.norms``.

    Slopes are those of ``OutputGradients``, or the numbers of a ``Change``.
    """

    rows: slice
    projections: Tensor
    slopes: Tensor
    squares: Tensor


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Gradients of ``output`` at one checkpoint, changed by ``change`` and projected; the training split's are stored.

    ``told`` identifies the change and the projection at ``step``. ``norms`` asks for exact norms of what is projected
    beside the projections; otherwise they are those of the projections. ``store`` float16 rounds what is stored: a row
    is divided by its largest number, which is kept beside it.
    """

    fitted: TorchFitted
    train: Split
    step: int
    open: Callable[[], GradientsAt]
    make: Maker
    told: dict[str, Any]
    output: Output = "margin"
    change: Change | None = None
    norms: bool = True
    store: Store = "model"

    def stored(self) -> Iterator[Part]:
        """Of the training split, shard by shard: read, or computed and written. Shards begin where blocks do."""
        return self._stored(slice(0, len(self.train)))

    def _stored(self, part: slice) -> Iterator[Part]:
        """Shards that hold ``part`` of the training split."""
        self.trusted  # noqa: B018
        wanted = [rows for rows in self.shards if rows.start < part.stop and part.start < rows.stop]
        with progress.task("projected gradients", sum(rows.stop - rows.start for rows in wanted)) as done:
            for rows in wanted:
                yield self._part(rows)
                done(rows.stop - rows.start)
                interrupts.check()

    def computed(self, split: Split) -> Part:
        """Of any instances, all at once."""
        return Part(slice(0, len(split)), *self._compute(split))

    def blocks(self, split: Split, part: slice | None) -> Iterator[Part]:
        """A block at a time. ``part`` says which rows of the training split these are, a block's first among them.

        They are then read or stored, to the same bits; None computes them.
        """
        if part is None:
            for start in range(0, len(split), self.block):
                made = self.computed(split.take(slice(start, start + self.block)))
                yield replace(made, rows=slice(start, start + len(made.slopes)))
            return
        for shard in self._stored(part):
            first, last = shard.rows.start, min(shard.rows.stop, part.stop)
            for start in range(max(first, part.start), last, self.block):
                stop = min(start + self.block, last)
                piece, rows = slice(start - first, stop - first), slice(start - part.start, stop - part.start)
                yield Part(rows, shard.projections[piece], shard.slopes[piece], shard.squares[piece])

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
    def folder(self) -> Folder:
        """Where the training split's are; its name is a hash of all that they depend on."""
        attached = self.fitted.recipe.attached
        drawn = None if attached is None else [attached.name, attached.evaluation]
        numbers = [str(self.fitted.recipe.dtype), self.fitted.device.type]
        told = [FORMAT, self.told, self.step, self.output, numbers, drawn, self.train.fingerprint()]
        told += [] if self.store == "model" else [self.store]
        return Folder(self.fitted.folder.path / "projected" / content_hash(told, 24))

    @cached_property
    def shards(self) -> list[slice]:
        """Rows of the training split that are written together."""
        blocks, count = SHARD_BYTES // (8 * self.projection.dim * self.block), len(self.train)
        size = max(blocks, 1) * self.block
        return [slice(start, min(start + size, count)) for start in range(0, count, size)]

    @cached_property
    def trusted(self) -> bool:
        """Whether a stored instance is what is computed now; otherwise random numbers changed: start anew."""
        folder = self.folder
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
        folder = self.folder
        for name in sorted(name for name in folder.checksums() if name.startswith("rows_")):
            start, stop = map(int, name.removesuffix(".npy").split("_")[1:])
            sides = shard_names(slice(start, stop))[1]
            if not (folder.has(name) and folder.has(sides)):
                continue
            beside = _load(folder / sides)
            place = int(beside[:, 1].argmax())
            if beside[place, 1] > 0:
                return start + place, _load(folder / name)[place] * (1 if self.store == "model" else beside[place, 2])
        return None

    def _part(self, rows: slice) -> Part:
        folder, names = self.folder, shard_names(rows)
        if not all(folder.has(name) for name in names):
            with folder.locked(what="projected gradients"):
                if not all(folder.has(name) for name in names):  # another process may have made them meanwhile
                    folder.sweep_temporaries()
                    save_shard(folder, rows, *(found.cpu().numpy() for found in self.arrays(self.train.take(rows))))
        try:
            found, sides = (torch.from_numpy(_load(folder / name)).to(self.fitted.device) for name in names)
        except FileNotFoundError:  # another process, which computes other numbers, has removed it meanwhile
            with folder.locked(what="projected gradients"):
                folder.forget(*names)
            return self._part(rows)
        if self.store != "model":
            found = found.to(self._wide) * sides[:, 2:].to(self._wide)
        return Part(rows, found, sides[:, 0], sides[:, 1])

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.fitted.recipe.dtype, torch.float32)

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """As they are stored: projections ``(n, D)``, and slopes, squared norms and factors of rows ``(n, 2 or 3)``."""
        found, slopes, squares = self._compute(split)
        if self.store == "model":
            return found, torch.stack([slopes, squares], 1)
        largest = found.abs().amax(1).double()
        kept = (found.double() / torch.where(largest > 0, largest, 1)[:, None]).half()
        return kept, torch.stack([slopes, squares, largest], 1)

    def _compute(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Projections, slopes and squared norms, all at once."""
        own = OutputGradients(self.fitted.task, self.output)
        projections, beside, lengths = [], [], []

        def of(outputs: Tensor, y: Tensor) -> Tensor:
            found = own(outputs, y)
            if self.change is None:
                beside.append(own.slopes)
            return found

        for _, found, squares in projected(self._at, split, self.projection, of, self.change, self.norms):
            projections.append(found)
            lengths.append(squares.double())
            if self.change is not None:
                beside.append(self.change.numbers.double())
            interrupts.check()
        return torch.cat(projections), torch.cat(beside), torch.cat(lengths)


def at_checkpoint(
    run: Run,
    checkpoint: Checkpoint,
    kind: Kind,
    dim: int,
    output: Output = "margin",
    shared: bool = False,
    store: Store = "model",
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
        store=store,
    )


def stored_bytes(count: int, dim: int, number_bytes: int, store: Store = "model") -> float:
    """On disk for so many instances of ``dim`` numbers, with two or three beside them in double precision."""
    return float(count) * (dim * number_bytes + 16 if store == "model" else dim * 2 + 24)


def projection_seed(run: Run, step: int | None) -> int:
    """Of the projection at a step, or of the one for all steps."""
    return int(run.drawn("projection" if step is None else f"projection/{step}").integers(1 << 63))


def shard_names(rows: slice) -> list[str]:
    """Files of a shard: projections, slopes with squared norms."""
    return [f"{name}_{rows.start:09d}_{rows.stop:09d}.npy" for name in ("rows", "sides")]


def save_shard(folder: Folder, rows: slice, projections: NDArray[Any], sides: NDArray[Any]) -> None:
    """Write a shard's files. Call only while holding the lock."""
    for name, values in zip(shard_names(rows), (projections, sides), strict=True):
        save_array(folder, name, values)


def save_array(folder: Folder, name: str, values: NDArray[Any]) -> None:
    """Write one array, readable with numpy alone."""

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.save(f, values, allow_pickle=False)

    folder.write(name, write)
    reads.wrote(folder / name)


def _load(path: Path) -> NDArray[Any]:
    """Private pages of a memory map: read when touched, dropped when memory is short."""
    found: NDArray[Any] = np.load(reads.note(path, stored=True), mmap_mode="c", allow_pickle=False)
    return found
