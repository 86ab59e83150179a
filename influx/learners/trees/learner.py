"""Learning with trees: one ensemble per training set, many ensembles in threads, each on one thread."""

from __future__ import annotations

import importlib.util
import math
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from influx import interrupts
from influx.errors import ConfigError, DataError, IncompatibleError
from influx.learners.trees import outcomes as told
from influx.learners.trees.ensemble import Ensemble, Rule, Sample
from influx.learners.trees.fitted import Predictor, TreesFitted, flat
from influx.learners.trees.nodes import Nodes
from influx.needs import Need
from influx.planning import Pace
from influx.problem import Cost, Data, Design, Outcomes, Problem
from influx.store import Folder
from influx.streams import stream, stream_seed

BLOCK_FLOPS = 2e9  # of one block of models: seconds
MOST = 64  # models per block
TREE_FLOPS = 2e6  # of beginning a tree, whatever its size
TIMED_SECONDS = 0.5  # after which no more models are timed


@dataclass(frozen=True, kw_only=True)
class TreeLearner(ABC):
    """Grows trees with one library, on one thread and from fixed seeds: the same bits every time.

    A removed instance is dropped from the training set, a whole number as weight repeats it, other weights are the
    library's instance weights. Objectives are sums, so that ``loss_norm`` does not change them. Training sets of one
    class or none get the shares of classes, with one more instance spread evenly over all classes; equal targets get
    that value, no instance the value 0; so do sets whose inputs are all equal, with the mean or the shares.

    ``name`` is that of ``model=``, ``package`` the library and ``file`` where its trees are kept. ``in_place`` learners
    draw from the whole training set under ``loss_norm=full`` and give removed instances the weight 0.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    file: ClassVar[str]
    in_place: ClassVar[bool] = False

    @property
    @abstractmethod
    def rounds(self) -> int:
        """T."""

    @property
    @abstractmethod
    def levels(self) -> float:
        """Usual depth of a tree."""

    @property
    @abstractmethod
    def leaves(self) -> float:
        """Most leaves of a tree, whatever the data; may be infinite."""

    @property
    @abstractmethod
    def deterministic(self) -> bool:
        """Whether seeds have no effect."""

    @abstractmethod
    def rule(self, outputs: int) -> Rule:
        """How leaf values come about with that many classes, or 1 for regression."""

    @abstractmethod
    def grow(self, sample: Sample, seed: int) -> Ensemble:
        """Grow the trees."""

    @abstractmethod
    def read(self, path: Path, sample: Sample) -> Ensemble:
        """Trees as saved, grown from ``sample``."""

    @property
    def provides(self) -> frozenset[Need]:
        """Retraining, leaves as features, and the trees themselves."""
        return frozenset({Need.RETRAIN, Need.FEATURES, Need.FOREST})

    def check(self, data: Data) -> None:
        """Refuse token ids, and a library that is not installed.

        Raises:
            ConfigError: naming the package.
            IncompatibleError: naming model and dataset.
        """
        if importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f"model={self.name} needs the package {self.package}, which is not installed; "
                "run pip install 'influx[trees]', or choose model=hist_gradient_boosting"
            )
        if data.kind == "text":
            raise IncompatibleError(
                f"model={self.name} expects a table or images, dataset={data.name} holds token ids; "
                "choose another dataset"
            )

    def fit(self, data: Data, seed: int, folder: Folder) -> TreesFitted:
        """Grow, or read what was grown before.

        Raises:
            DataError: the training data have one class, one target value or no varying input.
            IncompatibleError: trees read into arrays predict something else than the library does.
        """
        x = flat(data.train)
        sample, present = _sample(data, x, np.ones(len(x)), in_place=False)
        if _nothing_to_split(sample):
            raise DataError(
                f"model={self.name} needs training data with different inputs and targets, dataset={data.name} has "
                "none; choose other data"
            )
        if not folder.has(self.file):
            grown = self.grow(sample, _seed(seed, 0, 0))
            if isinstance(grown, Nodes):
                grown.check(x, self.name)
            folder.write(self.file, grown.save)
        ensemble = self.read(folder / self.file, sample)
        predictor = self._predictor(data, sample, present, ensemble)
        return TreesFitted(learner=self, predictor=predictor, file=folder / self.file)

    def retrain(self, data: Data, seed: int, design: Design) -> tuple[Outcomes, Outcomes]:
        """Grow one ensemble per row of ``design``; see ``Learner``."""
        train, test = flat(data.train), flat(data.test)
        made = []
        for weights, init, order in zip(design.weights, design.init, design.order, strict=True):
            interrupts.check_forced()
            in_place = self.in_place and design.loss_norm == "full"
            predictor = self.predictor(data, train, weights, _seed(seed, int(init), int(order)), in_place)
            made.append((predictor.outcomes(train, data.train.y), predictor.outcomes(test, data.test.y)))
        fields = ("loss", "margin", "prediction")
        joined = [{f: np.stack([getattr(pair[i], f) for pair in made]) for f in fields} for i in (0, 1)]
        return Outcomes(**joined[0]), Outcomes(**joined[1])

    def predictor(
        self, data: Data, x: NDArray[np.float32], weights: NDArray[np.generic], seed: int, in_place: bool
    ) -> Predictor:
        """Trees grown with instance weights (n,)."""
        sample, present = _sample(data, x, weights, in_place)
        ensemble = None if _nothing_to_split(sample) else self.grow(sample, seed)
        return self._predictor(data, sample, present, ensemble)

    def _predictor(
        self, data: Data, sample: Sample, present: NDArray[np.int64], ensemble: Ensemble | None
    ) -> Predictor:
        weights = np.ones(len(sample.y)) if sample.weights is None else sample.weights
        constant, total = None, float(weights.sum())
        if ensemble is None and data.task == "regression":
            constant = np.array([weights @ sample.y / total if total else 0.0])
        elif ensemble is None:
            counts = np.zeros(len(data.classes))
            counts[present] = np.bincount(sample.y, weights, len(present))
            constant = told.shares(counts)
        averaged = 0 if ensemble is None or self.rule(data.n_outputs).boosted else ensemble.rounds
        return Predictor(
            data=data, present=present, instances=total, ensemble=ensemble, averaged=averaged, constant=constant
        )

    def block_size(self, data: Data) -> int:
        """Models per block: some seconds of work."""
        return int(np.clip(BLOCK_FLOPS / self._flops(data), 1, MOST))

    @property
    def concurrent_blocks(self) -> int:
        """One per processor thread."""
        return torch.get_num_threads()

    def pace(self, problem: Problem) -> Pace:
        """Time models on random halves, as many at once as will be."""
        ones = np.ones(len(problem.train), np.uint8)
        training = self._timed(problem, [ones])
        draws = stream(problem.seed, "pace").random((self.concurrent_blocks, len(ones))) < 0.5
        model = self._timed(problem, list(draws.astype(np.uint8)))
        return Pace(training=training, model=model, note=f"{1e3 * model:.3g} ms for each model on random halves")

    def seconds_each(self, problem: Problem, design: Design) -> float:
        """Time some models of the design."""
        size = self.block_size(problem.data)
        at_once = min(self.concurrent_blocks, math.ceil(len(design) / size))
        best, spent = math.inf, 0.0
        for number in range(3):
            start = time.perf_counter()
            rows = ((np.arange(at_once) + 0.25 + 0.2 * number) * len(design) / at_once).astype(np.int64)
            best = min(best, self._timed(problem, list(design.weights[rows]), design))
            spent += time.perf_counter() - start
            if spent > TIMED_SECONDS:
                break
        return best

    def _timed(self, problem: Problem, rows: list[NDArray[np.generic]], like: Design | None = None) -> float:
        """Seconds per model of rows of weights that are done at once."""
        zero = np.zeros(1, np.int64)
        designs = [
            Design(weights=row[None], init=zero, order=zero, loss_norm=like.loss_norm if like else "subset")
            for row in rows
        ]
        with ThreadPoolExecutor(len(rows)) as pool:
            start = time.perf_counter()
            list(pool.map(lambda design: self.retrain(problem.data, problem.seed, design), designs))
            return (time.perf_counter() - start) / len(rows)

    def _flops(self, data: Data) -> float:
        """Operations of one model: every instance is in one node of each level."""
        trees = self._trees(data)
        return trees * (TREE_FLOPS + 4.0 * self.levels * data.train.x.size)

    def represented(self, problem: Problem) -> tuple[int, float]:
        """At most all leaves that trees may have, and the levels that an instance goes down."""
        data = problem.data
        trees = self._trees(data)
        return int(trees * min(self.leaves, len(data.train))), trees * self.levels

    def _trees(self, data: Data) -> int:
        """One for each class where several are boosted."""
        each = data.n_outputs > 2 and self.rule(data.n_outputs).boosted
        return self.rounds * (data.n_outputs if each else 1)

    def cost(self, data: Data, models: int) -> Cost:
        """Passes over the data for every level of every tree."""
        trees = self._trees(data)
        return Cost(
            flops=models * self._flops(data),
            bytes=32.0 * trees * min(self.leaves, len(data.train)),
            formula=f"{models} models x {trees} trees x {self.levels:g} levels x n d, "
            f"n d={data.train.x.size}, and {TREE_FLOPS:.0e} for each tree",
        )


def _seed(seed: int, init: int, order: int) -> int:
    """For libraries that take 31 bits."""
    return stream_seed(seed, f"trees/{init}/{order}") >> 32


def _sample(
    data: Data, x: NDArray[np.float32], weights: NDArray[np.generic], in_place: bool
) -> tuple[Sample, NDArray[np.int64]]:
    """What is left with these weights, with classes numbered without gaps, and the classes that those are."""
    given = np.asarray(weights, np.float64)
    rows = np.flatnonzero(given)
    classification = data.task == "classification"
    present = np.unique(data.train.y[rows]).astype(np.int64) if classification else np.zeros(0, np.int64)
    kept: NDArray[np.float64] | None = given[rows]
    if in_place:
        rows, kept = np.arange(len(given)), given
    elif np.array_equal(given[rows], np.round(given[rows])):
        rows, kept = np.repeat(rows, given[rows].astype(np.int64)), None
    y = np.asarray(data.train.y, np.int64 if classification else np.float64)[rows]
    if classification:
        y = np.minimum(np.searchsorted(present, y), max(len(present) - 1, 0))  # classes without weight: any
    return Sample(x=x[rows], y=y, weights=kept, classes=len(present) if classification else 0), present


def _nothing_to_split(sample: Sample) -> bool:
    some = slice(None) if sample.weights is None else sample.weights > 0
    x, y = sample.x[some], sample.y[some]
    return len(y) == 0 or bool((y == y[0]).all()) or bool((x == x[0]).all())
