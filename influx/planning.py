"""What a part of a run says it would take, before it does it.

An estimator or metric may define ``plan(prospect) -> Work``; one that does not counts as no work. Work is given
in the few kinds of operations whose speed ``influx plan`` measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Protocol, runtime_checkable

import numpy as np

from influx.errors import IncompatibleError
from influx.problem import Design, Problem, Split
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class Work:
    """Predicted operations of one part of a run; sums with ``+``.

    Attributes:
        trainings: designs to look up in the retraining bank, or to train.
        more_trainings: trainings beside them that are too many to list.
        own_trainings: trainings beside them that follow from what an estimator found, for each estimator that a metric
            judges; they are taken to be missing.
        more_alone: of ``more_trainings``, those that share no block (recorded ones, the first on other data): each
            takes as long as the recorded training.
        own_alone: the same of ``own_trainings``.
        more_new: of ``more_trainings``, those that are taken to be missing whatever the bank has of the listed ones.
        gradients: per-instance gradients.
        flops: floating-point operations in products of matrices (single precision; double precision counts twice).
        numbers: numbers read or written outside products, pass by pass.
        compared: comparisons of sorting, N log₂ N for N numbers.
        bytes: memory held at once; a sum keeps the largest.
        disk: bytes left on disk beside what the bank keeps and the influence itself; of a metric, for each estimator.
        rows: training instances that get values; None means all.
        formula: where the operations come from, in the letters of the class docstrings.
    """

    trainings: tuple[Design, ...] = ()
    more_trainings: float = 0.0
    own_trainings: float = 0.0
    more_alone: float = 0.0
    own_alone: float = 0.0
    more_new: float = 0.0
    gradients: float = 0.0
    flops: float = 0.0
    numbers: float = 0.0
    compared: float = 0.0
    bytes: float = 0.0
    disk: float = 0.0
    rows: int | None = None
    formula: str = ""

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        return Work(
            trainings=(*self.trainings, *other.trainings),
            more_trainings=self.more_trainings + other.more_trainings,
            own_trainings=self.own_trainings + other.own_trainings,
            more_alone=self.more_alone + other.more_alone,
            own_alone=self.own_alone + other.own_alone,
            more_new=self.more_new + other.more_new,
            gradients=self.gradients + other.gradients,
            flops=self.flops + other.flops,
            numbers=self.numbers + other.numbers,
            compared=self.compared + other.compared,
            bytes=max(self.bytes, other.bytes),
            disk=self.disk + other.disk,
            formula="; ".join(part for part in (self.formula, other.formula) if part),
        )


def total(works: list[Work]) -> Work:
    """All of them, one after the other."""
    return reduce(Work.__add__, works, Work())


@dataclass(frozen=True, kw_only=True)
class NetShape:
    """Sizes of a net and its recorded training.

    Attributes:
        parameters: p, all parameters.
        head: parameters of the last linear layer (0 when the net does not end in one).
        macs: multiply-adds of one instance's forward pass.
        dot: multiply-adds of one product of two per-instance gradients, the cheaper way for each layer.
        head_dot: the same for the last linear layer.
        depth: layers with parameters.
        sides: of each weight, numbers in the vectors of its gradients' outer products, (rows, columns, product):
            rows are 0 for a table of tokens, both are for what is no matrix.
        plain: linear layers with elementwise functions between them, nothing else.
        steps: updates of the whole training.
        visits: instances in all their batches together.
        saved: steps whose parameters are saved, up to ``steps``.
        state_bytes: optimizer state saved beside each of them.
        parameter_bytes: parameters and buffers of one checkpoint.
        kept_bytes: of one instance, what a pass keeps for the way back, and what that adds.
        from_start: whether the first of ``saved`` is the initialisation.
    """

    parameters: int
    head: int
    macs: float
    dot: float
    head_dot: float
    depth: int
    sides: tuple[tuple[int, int, int], ...]
    plain: bool
    steps: int
    visits: int
    saved: tuple[int, ...]
    state_bytes: int
    parameter_bytes: int
    kept_bytes: float = 0.0
    from_start: bool = True

    @property
    def step_bytes(self) -> float:
        """Held by a step of the training: parameters and optimizer state, old and new, a gradient, activations."""
        batch = self.visits / max(self.steps, 1)
        return 3.0 * self.parameter_bytes + 2.0 * self.state_bytes + batch * self.kept_bytes

    @property
    def pass_bytes(self) -> float:
        """Held by passes for gradients: parameters as read and in use, and no less than one instance takes."""
        return 2.0 * self.parameter_bytes + 2.0 * self.kept_bytes + self.number_bytes * self.dot

    @property
    def recorded_bytes(self) -> int:
        """What a recorded training leaves on disk."""
        return len(self.saved) * (self.parameter_bytes + self.state_bytes) + 40 * self.steps

    @property
    def number_bytes(self) -> int:
        """Of a gradient's number."""
        return max(4, min(8, self.parameter_bytes // self.parameters))


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that a learner takes here, from a few timed steps: one recorded training, each retrained model."""

    training: float
    model: float
    note: str


@runtime_checkable
class Paced(Protocol):
    """A learner that can time itself."""

    def pace(self, problem: Problem) -> Pace:
        """Train a little and scale up; takes a fraction of a second, writes nothing."""
        ...


@runtime_checkable
class Sampling(Protocol):
    """A learner whose time depends on which instances a model is trained on."""

    def seconds_each(self, problem: Problem, design: Design) -> float:
        """Seconds of one model of the design, from a few of them; takes a fraction of a second, writes nothing."""
        ...


@runtime_checkable
class Shaped(Protocol):
    """A learner of nets, which knows their sizes."""

    def net_shape(self, problem: Problem) -> NetShape:
        """Sizes, from the untrained module."""
        ...


@runtime_checkable
class Represented(Protocol):
    """A learner other than of nets that has learned features."""

    def represented(self, problem: Problem) -> tuple[int, float]:
        """Learned features of an instance, and multiply-adds that they take."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is known of a run before it begins; draws the same random numbers as the run will.

    ``truth_rows`` is how many training instances the ground truth will cover (0: there is none).
    """

    problem: Problem
    who: str
    shape: NetShape | None = None
    truth_rows: int = 0

    @property
    def train(self) -> Split:
        """The training split."""
        return self.problem.train

    @property
    def test(self) -> Split:
        """The test split."""
        return self.problem.test

    @property
    def net(self) -> NetShape:
        """Sizes of the net.

        Raises:
            IncompatibleError: the learner is no net.
        """
        if self.shape is None:
            raise IncompatibleError(f"{self.who} needs a net to plan for; choose a model such as model=mlp")
        return self.shape

    @property
    def represented(self) -> tuple[int, float]:
        """Learned features of an instance, and multiply-adds that they take.

        Raises:
            IncompatibleError: the learner has none.
        """
        learner = self.problem.learner
        if isinstance(learner, Represented):
            return learner.represented(self.problem)
        return self.net.head // self.problem.data.n_outputs, self.net.macs

    def rng(self, purpose: str) -> np.random.Generator:
        """Randomness for a named purpose, as ``Run.rng``."""
        return stream(self.problem.seed, f"{self.who}/{purpose}")

    def drawn(self, what: str) -> np.random.Generator:
        """Randomness of subsets or groups, as ``Run.drawn``."""
        return stream(self.problem.seed, f"draws/{what}")


@runtime_checkable
class Planned(Protocol):
    """An estimator or metric that says what it would do."""

    def plan(self, prospect: Prospect) -> Work:
        """Predicted work on this problem."""
        ...
