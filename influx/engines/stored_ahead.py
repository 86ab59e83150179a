"""Projected training gradients, computed by a run's workers before they are read: pieces of shards, in any order.

Workers give pieces back; the process that asked puts them together and writes whole shards, those it would have written
by itself to the bit. A piece begins where a block of instances does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from influx import progress
from influx.engines.executor import Arrays, Task
from influx.engines.executors.exchange import check_same
from influx.engines.gradients import GradientsAt
from influx.engines.stored import Projections, save_shard, shard_names
from influx.engines.workers import described, shared_out
from influx.problem import Split
from influx.store import Folder, content_hash

if TYPE_CHECKING:
    from influx.run import Run

KIND = "projections"
ROWS = 1024  # of a piece, at least
Make = Callable[[], Projections]  # made when they are needed: some hold a trained model, or as much as an optimizer
Unit = tuple[str, int, int, int]  # folder's name, first row, last row, instances in a block


def store_ahead(run: Run, estimator: Any, wanted: Sequence[Make]) -> None:
    """Let workers compute what is not stored yet, if there are any; others leave it to whoever reads.

    ``estimator``, a dataclass, asks ``run`` for the same in every process. A worker does its pieces here and leaves by
    an exception.
    """
    if not shared_out(run):
        return
    told, makers = run.bank.executor.served, _Makers(run.test, wanted)
    if told is None:
        _ask(run, estimator, makers)
    elif told["kind"] == KIND:
        units = [(str(key), int(start), int(stop), int(block)) for key, start, stop, block in told["units"]]
        check_same(sorted({key for key, *_ in units}), sorted({key for key, *_ in units} & set(makers.by_key)))
        list(run.bank.executor.do(_task(run, estimator, makers, units), lambda number: None))


@dataclass
class _Makers:
    """Projections by the names of their folders, of which one is open at a time, and so is one trained model."""

    test: Split
    wanted: Sequence[Make]
    by_key: dict[str, Make] = field(default_factory=dict)  # in the order wanted: model by model
    _models: dict[str, Path] = field(default_factory=dict)  # folders of the trained models, by the same names
    _firsts: dict[Path, Make] = field(default_factory=dict)  # of a trained model, the checkpoint looked at first
    _first: tuple[Path, GradientsAt] | None = None
    _open: tuple[str, Projections] | None = None

    def __post_init__(self) -> None:
        for make in self.wanted:
            key, model = _places(make)
            self.by_key[key], self._models[key] = make, model
            self._firsts.setdefault(model, make)

    def open(self, key: str) -> Projections:
        """Ready to compute. The way to gradients is chosen at a model's first checkpoint, by test instances."""
        if self._open is None or self._open[0] != key:
            self._open = None  # before the next is made
            first = self._settled(self._models[key])
            made = self.by_key[key]()
            at = made.open()
            at.settle_as(first)
            self._open = key, replace(made, open=lambda: at)
        return self._open[1]

    def _settled(self, model: Path) -> GradientsAt:
        if self._first is None or self._first[0] != model:
            self._first = None
            self._first = model, self._firsts[model]().open()
            self._first[1].block_size(self.test)
        return self._first[1]


def _places(make: Make) -> tuple[str, Path]:
    """The name of the folder of projections, and the folder of the model; a function, so that nothing stays."""
    made = make()
    return made.folder.path.name, made.fitted.folder.path


@dataclass(frozen=True)
class _Missing:
    """Shards that are to be written to a folder, and their pieces."""

    folder: Folder
    shards: list[slice]
    block: int

    def units(self) -> Iterator[tuple[slice, list[Unit]]]:
        """Shards with their pieces, of those that are not there."""
        listed = self.folder.checksums()
        size = max(ROWS // self.block, 1) * self.block
        for shard in self.shards:
            if all(name in listed and (self.folder / name).is_file() for name in shard_names(shard)):
                continue  # one that is damaged is made again by who reads it
            starts = range(shard.start, shard.stop, size)
            yield shard, [(self.folder.path.name, s, min(s + size, shard.stop), self.block) for s in starts]


def _ask(run: Run, estimator: Any, makers: _Makers) -> None:
    """Have the missing shards made, and write each as soon as its pieces are there."""
    stores = [_looked_at(makers, key) for key in makers.by_key]
    with ExitStack() as held:
        for store in sorted(stores, key=lambda store: store.folder.path.name):  # everybody takes locks in this order
            held.enter_context(store.folder.locked(what="projected gradients"))
            store.folder.sweep_temporaries()
        shards = [(store.folder, shard, units) for store in stores for shard, units in store.units()]
        units = [unit for _, _, pieces in shards for unit in pieces]
        if not units:
            return
        task = _task(run, estimator, makers, units)
        with progress.task("projected gradients", sum(stop - start for _, start, stop, _ in units)) as done:
            places = [place for place, (_, _, pieces) in enumerate(shards) for _ in pieces]
            parts: dict[int, list[Arrays]] = {}
            for number, arrays in run.bank.executor.do(task, lambda number: done(units[number][2] - units[number][1])):
                folder, shard, pieces = shards[places[number]]
                parts.setdefault(places[number], []).append(arrays)
                if len(parts[places[number]]) == len(pieces):  # they come in order
                    whole = parts.pop(places[number])
                    save_shard(folder, shard, *(np.concatenate([p[name] for p in whole]) for name in ("rows", "sides")))


def _looked_at(makers: _Makers, key: str) -> _Missing:
    opened = makers.open(key)
    opened.trusted  # noqa: B018
    return _Missing(opened.folder, opened.shards, opened.block)


def _task(run: Run, estimator: Any, makers: _Makers, units: Sequence[Unit]) -> Task:
    told = described(run, estimator, KIND)

    def do(number: int) -> Arrays:
        key, start, stop, block = units[number]
        opened = makers.open(key)
        check_same([str(block)], [str(opened.block)])
        found: Sequence[Tensor] = opened.arrays(run.train.take(slice(start, stop)))
        return {name: values.cpu().numpy() for name, values in zip(("rows", "sides"), found, strict=True)}

    return Task(
        names=[content_hash([told["problem"], told["threads"], unit], 24) for unit in units],
        do=do,
        at_once=1,
        threads=told["threads"],
        told=told | {"units": [list(unit) for unit in units]},
        arrays=dict,
    )
