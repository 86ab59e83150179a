"""A learning problem: data, how to learn from it, and a seed. Everything later is computed from one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from influx.needs import Need
from influx.store import Folder, content_hash
from influx.streams import stream_seed

FORMAT = 1  # raise when files of older versions can no longer be read

TaskName = Literal["classification", "regression", "density"]
DataKind = Literal["tabular", "image", "text"]
LossNorm = Literal["full", "subset"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Instances: ``x`` (n, ...), ``y`` (n,), ``ids`` (n,) stable positions in the source."""

    x: NDArray[Any]
    y: NDArray[Any]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """Hash of every number that training and testing see."""
        digest = hashlib.sha256()
        for array in (self.x, self.y, self.ids):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def take(self, rows: NDArray[Any] | slice) -> Split:
        """The given rows, in that order."""
        return Split(x=self.x[rows], y=self.y[rows], ids=self.ids[rows])


@dataclass(frozen=True, kw_only=True)
class Data:
    """A training and a test split of one dataset, ready for a learner.

    ``x`` is float32 for tables (n, d) and images (n, channels, height, width), int64 for tokens (n, length);
    ``y`` is int64 class indices or float32 targets; a density model does not learn from them. ``display`` is for people
    to look at, ``{"train": (n, ...), "test": (n, ...)}``: images (n, c, h, w) in [0, 1] as they were before
    standardisation, or texts (n,) as UTF-8 (see ``influx.vocabulary``).
    ``vocabulary`` names the tokens, and ``tokenizer`` is how they were made, as JSON of the tokenizers library.
    ``flags`` hold what a corruption did to each training instance (bool or int arrays of length n_train),
    ``test_flags`` the same of test instances (n_test).
    """

    name: str
    task: TaskName
    kind: DataKind
    train: Split
    test: Split
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    flags: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    test_flags: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    display: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    tokenizer: str = ""
    notes: tuple[str, ...] = ()  # what was done to the data, in sentences for the report
    described: bool = False  # the arrays stand in for contents that nobody read: good for plans alone

    @property
    def n_outputs(self) -> int:
        """Width of a model's output: classes, or 1 for regression and for the risk that a density model returns."""
        return len(self.classes) if self.task == "classification" else 1

    def fingerprint(self) -> str:
        """Hash of every number that training and testing see, and of the words that stand for tokens."""
        digest = hashlib.sha256(f"{self.task}/{self.classes}".encode())
        for split in (self.train, self.test):
            for array in (split.x, split.y, split.ids):
                digest.update(f"{array.dtype}{array.shape}".encode())
                if self.described:  # to be mistaken for no data that exist
                    digest.update(b"described")
                    continue
                digest.update(np.ascontiguousarray(array).data)
        if self.kind == "text":  # the same numbers may be other words: what people see and models look up
            digest.update(repr(self.vocabulary).encode("utf-8", "replace"))
            for part, shown in sorted(self.display.items()):
                digest.update(f"{part}{shown.dtype}{shown.shape}".encode())
                digest.update(np.ascontiguousarray(shown).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Outcomes:
    """What a trained model makes of instances: arrays of one shape, ``(n,)`` or ``(models, n)``.

    ``loss`` is the per-instance training risk without regulariser (float64). ``margin`` is larger when the
    model is more right: log p_y / (1 - p_y) for classes, minus the absolute error for regression, minus the risk for
    densities.
    ``prediction`` is the class index, the predicted value or the logarithm of the density (or its bound).
    """

    loss: NDArray[np.float64]
    margin: NDArray[np.float32]
    prediction: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Trainings to do: one row per model.

    ``weights`` (K, n_train) multiply the instances' risks (0 removes, 2 counts twice); ``init`` and ``order``
    (K,) number the random initialisation and the order of batches, 0 being those of the problem's own model.
    ``loss_norm`` says what a batch's sum of weighted risks is divided by: its size (``full``, the
    weight-in-place protocol) or its surviving weight (``subset``, training on the subset).
    """

    weights: NDArray[Any]
    init: NDArray[np.int64]
    order: NDArray[np.int64]
    loss_norm: LossNorm

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, which: NDArray[Any] | slice) -> Design:
        """Some of the trainings."""
        return Design(
            weights=self.weights[which], init=self.init[which], order=self.order[which], loss_norm=self.loss_norm
        )

    def __add__(self, other: Design) -> Design:
        """These trainings, then the others (of the same normalisation)."""
        return Design(
            weights=np.concatenate([self.weights, other.weights]),
            init=np.concatenate([self.init, other.init]),
            order=np.concatenate([self.order, other.order]),
            loss_norm=self.loss_norm,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Predicted work. ``flops`` and ``bytes`` are totals; ``formula`` says where they come from."""

    flops: float
    bytes: float
    formula: str


@dataclass(frozen=True)
class Checkpoint:
    """Parameters after ``step`` updates; ``lr`` is the learning rate of the next step per parameter group."""

    step: int
    lr: tuple[float, ...]
    path: Path


class Fitted(Protocol):
    """A trained model together with what its training recorded."""

    def outcomes(self, split: Split) -> Outcomes:
        """Loss, margin and prediction of each instance under the final model."""
        ...


class Learner(Protocol):
    """How to learn from data: nets, trees, neighbours, densities. Knows no estimator."""

    @property
    def provides(self) -> frozenset[Need]:
        """The needs that this learner can serve."""
        ...

    def check(self, data: Data) -> None:
        """Refuse data that it cannot learn from (``IncompatibleError``), before any work."""
        ...

    def fit(self, data: Data, seed: int, folder: Folder) -> Fitted:
        """Train and record into ``folder``; continue from or load what is already there."""
        ...

    def block_size(self, data: Data) -> int:
        """How many retrainings are done together: the unit of progress, resumption and distribution."""
        ...

    @property
    def concurrent_blocks(self) -> int:
        """How many blocks may be retrained at once in this process."""
        ...

    def retrain(self, data: Data, seed: int, design: Design) -> tuple[Outcomes, Outcomes]:
        """Train ``len(design)`` models; their outcomes on train (K, n_train) and on test (K, n_test)."""
        ...

    def cost(self, data: Data, models: int) -> Cost:
        """Predicted work of training that many models."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Data, a learner and a seed. Its ``id`` names the folder that all estimators share."""

    data: Data
    learner: Learner
    seed: int
    config: Mapping[str, Any]  # resolved dataset, corruption, model, optimizer and training settings

    @property
    def train(self) -> Split:
        """The training split."""
        return self.data.train

    @property
    def test(self) -> Split:
        """The test split."""
        return self.data.test

    @property
    def id(self) -> str:
        """Content hash of everything that training depends on."""
        return content_hash([FORMAT, self.config, self.seed, self.data.fingerprint()], length=16)


def only_training(learner: Learner) -> str:
    """Why seeds make no other model of a learner, and what to do about it; nothing where they do."""
    if not getattr(learner, "deterministic", False):
        return ""
    none = "this model's training has no randomness to average over; choose a net such as model=mlp"
    return str(getattr(learner, "trained_elsewhere", none))


def trained_again(problem: Problem, number: int, name: str = "training") -> Problem:
    """The same data and settings with the initialisation and batch order numbered ``number``; 0 is the problem."""
    return replace(problem, seed=stream_seed(problem.seed, f"{name}/{number}")) if number else problem
