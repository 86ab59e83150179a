"""The bank of retrained models: what every model made of every instance, kept on disk and shared by all.

A training is identified by its instance weights, initialisation, batch order and loss normalisation. Asking
for a design trains what is missing, block by block, and reads the rest; an interrupted bank goes on where it
stopped, and estimators, metrics and ground truth share rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from influx import interrupts, progress, reads
from influx.engines.executor import Arrays, Executor, Local, Task
from influx.errors import ConfigError
from influx.problem import Design, LossNorm, Outcomes, Problem
from influx.store import Folder, content_hash, set_aside

FIELDS = ("loss", "margin", "prediction")
SPLITS = ("train", "test")


@dataclass
class Bank:
    """Retrained models of one problem. ``requested`` and ``trained`` count different models since it was opened."""

    problem: Problem
    folder: Folder
    executor: Executor = field(default_factory=Local)
    trained: int = 0
    _where: dict[str, tuple[str, int]] = field(default_factory=dict)
    _indexed: set[str] = field(default_factory=set)
    _requested: set[str] = field(default_factory=set)

    @property
    def requested(self) -> int:
        """Different models asked for, trained now or read."""
        return len(self._requested)

    def of(self, problem: Problem) -> Bank:
        """The bank of this problem on other data, in the folder of this problem; trained in this process.

        Models are trained one at a time: few are asked for on the same data, each under a seed of its own, and blocks
        would be filled up with copies.
        """
        if problem.id == self.problem.id:
            return self
        learner: Any = problem.learner
        if hasattr(getattr(learner, "training", None), "block"):
            problem = replace(problem, learner=replace(learner, training=replace(learner.training, block=1)))
        return Bank(problem, Folder(self.folder.path.parent / "altered" / problem.id / self.folder.path.name))

    def outcomes(self, design: Design, label: str = "retraining") -> tuple[Outcomes, Outcomes]:
        """Outcomes on train ``(K, n_train)`` and test ``(K, n_test)`` of every training in ``design``.

        Raises:
            ConfigError: the design's shape does not fit the problem.
            NumericalError: a training diverged.
        """
        parts = list(self.parts(design, label))
        order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
        joined = [
            {name: np.concatenate([getattr(part[i], name) for part in parts])[order] for name in FIELDS} for i in (1, 2)
        ]
        return Outcomes(**joined[0]), Outcomes(**joined[1])

    def parts(
        self, design: Design, label: str = "retraining"
    ) -> Iterator[tuple[NDArray[np.int64], Outcomes, Outcomes]]:
        """Rows of ``design`` with their outcomes on train and test, block by block: memory stays bounded in K.

        Raises:
            ConfigError: the design's shape does not fit the problem.
            NumericalError: a training diverged.
        """
        if design.weights.shape[1] != len(self.problem.train):
            raise ConfigError(
                f"a design needs one weight per training instance ({len(self.problem.train)}), "
                f"got {design.weights.shape[1]}; build it from this problem"
            )
        keys = keys_of(self.problem, design)
        with self.folder.locked(what="retraining bank"):
            self.folder.sweep_temporaries()
            self._requested.update(keys)
            wanted = np.arange(len(design))
            while len(wanted):  # a block that turns out to be unreadable is set aside and its rows are trained again
                missing = self.missing(design, keys)
                if len(missing):
                    self._train(design, keys, missing, label)
                unread = []
                for file, rows in self._places(keys, wanted):
                    block = self._read(file, [self._where[keys[r]][1] for r in rows])
                    if block is None:
                        unread.append(rows)
                    else:
                        yield rows, *block
                wanted = np.concatenate(unread) if unread else wanted[:0]

    def missing(self, design: Design, keys: list[str] | None = None) -> NDArray[np.int64]:
        """Rows of the design that are not in the bank; each distinct training once."""
        self._index()
        keys = keys_of(self.problem, design) if keys is None else keys
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        return np.array(sorted(row for key, row in first.items() if key not in self._where), dtype=np.int64)

    @cached_property
    def _id(self) -> str:
        return self.problem.id

    def _train(self, design: Design, keys: list[str], missing: NDArray[np.int64], label: str) -> None:
        blocks = list(_blocks(design, missing, self.problem.learner.block_size(self.problem.data)))
        names = _names(self._id, [[keys[r] for r in rows] for rows in blocks]) if self.executor.spreads else None
        task = _task(self.problem, self._id if names else "", design, blocks, names)
        with progress.task(label, len(missing)) as done:
            for number, outcomes in self.executor.do(task, lambda number: done(len(blocks[number]))):
                rows = blocks[number]
                self._save(design.rows(rows), [keys[r] for r in rows], outcomes)
                self.trained += len(rows)

    def _save(self, part: Design, keys: list[str], outcomes: Arrays) -> None:
        arrays = dict(outcomes)
        arrays |= _compact(canonical(part.weights))
        arrays |= {
            "n_train": np.array(part.weights.shape[1]),
            "seeds": np.stack([part.init, part.order], 1),
            "loss_norm": np.array(part.loss_norm),
            "keys": np.array(keys),
            "problem": np.array(self._id),
        }

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.savez(f, allow_pickle=False, **arrays)

        name = "block_" + hashlib.sha256("".join(keys).encode()).hexdigest()[:16] + ".npz"
        self.folder.write(name, write)
        self._register(name, keys)

    def _register(self, name: str, keys: list[str]) -> None:
        self._indexed.add(name)
        self._where |= {key: (name, row) for row, key in enumerate(keys)}

    def _index(self) -> None:
        for name in sorted(self.folder.checksums()):
            if name not in self._indexed and self.folder.has(name):
                block = self._load(name, ("keys",))
                if block is not None:
                    self._register(name, block["keys"].tolist())

    def _load(self, name: str, fields: Iterable[str]) -> dict[str, NDArray[Any]] | None:
        """Arrays of one block; None when they are not what ``_save`` writes for this problem: it is set aside."""
        why = "is damaged"
        try:
            with (self.folder / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if "problem" not in arrays.files or str(arrays["problem"]) != self._id:
                    why = "is not of this problem"
                    raise ValueError(why)
                return {field: arrays[field] for field in fields}
        except (ValueError, KeyError, EOFError, BadZipFile):  # ValueError: pickled, or another problem's
            if not self.folder.read_only:
                set_aside(self.folder / name, why)
                self.folder.forget(name)
            self._indexed.discard(name)
            self._where = {key: place for key, place in self._where.items() if place[0] != name}
            return None

    def _places(self, keys: list[str], wanted: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
        """Block files and the wanted rows that each holds."""
        places: dict[str, list[int]] = {}
        for row in wanted.tolist():
            places.setdefault(self._where[keys[row]][0], []).append(row)
        return [(file, np.array(rows)) for file, rows in places.items()]

    def _read(self, file: str, rows: list[int]) -> tuple[Outcomes, Outcomes] | None:
        """Outcomes of some rows of one block; None when it cannot be read."""
        block = self._load(file, [f"{split}_{name}" for split in SPLITS for name in FIELDS])
        if block is None:
            return None
        reads.note(self.folder / file)
        made = [Outcomes(**{name: block[f"{split}_{name}"][rows] for name in FIELDS}) for split in SPLITS]
        return made[0], made[1]


def canonical(weights: NDArray[Any]) -> NDArray[Any]:
    """uint8 when all weights are small whole numbers, float64 otherwise: one spelling per training."""
    small = np.asarray(weights).astype(np.uint8)
    return small if np.array_equal(small, weights) else np.asarray(weights, dtype=np.float64)


def _compact(weights: NDArray[Any]) -> Arrays:
    """One bit per weight where all are 0 or 1."""
    binary = weights.dtype == np.uint8 and weights.max(initial=0) <= 1
    return {"masks": np.packbits(weights, axis=1)} if binary else {"weights": weights}


def row_keys(design: Design) -> list[str]:
    """One key per training: hash of weights, seeds and normalisation."""
    keys = []
    for row, init, order in zip(design.weights, design.init, design.order, strict=True):
        weights = canonical(row)
        norm: LossNorm = "full" if weights.dtype == np.uint8 and (weights == 1).all() else design.loss_norm
        head = f"{weights.dtype}/{int(init)}/{int(order)}/{norm}/".encode()
        keys.append(hashlib.sha256(head + weights.tobytes()).hexdigest()[:32])
    return keys


def keys_of(problem: Problem, design: Design) -> list[str]:
    """One key per training of a problem; seeds that have no effect on its learner make no other training."""
    if getattr(problem.learner, "deterministic", False):
        design = replace(design, init=np.zeros_like(design.init), order=np.zeros_like(design.order))
    return row_keys(design)


def _blocks(design: Design, missing: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Missing rows in blocks that share initialisation and order."""
    seeds = np.stack([design.init[missing], design.order[missing]], 1)
    for pair in np.unique(seeds, axis=0):
        rows = missing[(seeds == pair).all(axis=1)]
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _task(
    problem: Problem, problem_id: str, design: Design, blocks: list[NDArray[np.int64]], names: Sequence[str] | None
) -> Task:
    """Training of some blocks of a design's rows. Without ``names`` only this process can do it."""
    learner = problem.learner

    def train(number: int) -> Arrays:
        interrupts.check()
        outcomes = learner.retrain(problem.data, problem.seed, design.rows(blocks[number]))
        return {
            f"{split}_{name}": getattr(outcome, name)
            for split, outcome in zip(SPLITS, outcomes, strict=True)
            for name in FIELDS
        }

    told = {
        "kind": "retrain",
        "problem": problem_id,
        "seed": problem.seed,
        "loss_norm": design.loss_norm,
        "dtype": str(design.weights.dtype),
    }
    return Task(
        names=[""] * len(blocks) if names is None else names,
        do=train,
        at_once=learner.concurrent_blocks,
        threads=1,
        told=told,
        arrays=lambda: _packed(design, blocks),
    )


def described_retraining(problem: Problem, told: Mapping[str, Any], arrays: Arrays) -> Task:
    """The task that ``told`` and ``arrays`` describe, in another process."""
    weights = arrays["weights"] if "weights" in arrays else np.unpackbits(arrays["masks"], 1, len(problem.train))
    design = Design(
        weights=weights.astype(told["dtype"]), init=arrays["init"], order=arrays["order"], loss_norm=told["loss_norm"]
    )
    keys, blocks = keys_of(problem, design), np.split(np.arange(len(design)), np.cumsum(arrays["sizes"])[:-1])
    names = _names(told["problem"], [[keys[r] for r in rows] for rows in blocks])
    return _task(problem, told["problem"], design, blocks, names)


def _names(problem_id: str, keys: list[list[str]]) -> list[str]:
    return [content_hash([problem_id, block], 24) for block in keys]


def _packed(design: Design, blocks: list[NDArray[np.int64]]) -> Arrays:
    """The rows of the blocks, one block after the other."""
    rows = np.concatenate(blocks)
    sizes = np.array([len(block) for block in blocks])
    return _compact(canonical(design.weights[rows])) | {
        "init": design.init[rows],
        "order": design.order[rows],
        "sizes": sizes,
    }
