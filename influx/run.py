"""A trained problem and the engines over it, as one estimator or metric sees them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from influx.errors import IncompatibleError, UndeclaredNeed, UserError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.problem import Checkpoint, Data, Fitted, Outcomes, Problem, Split, only_training, trained_again
from influx.store import Folder
from influx.streams import stream

if TYPE_CHECKING:
    import pandas as pd

    from influx.engines.curvature import Curvature
    from influx.engines.features import Features
    from influx.engines.forest import Forest
    from influx.engines.gradients import Gradients
    from influx.engines.path import Path
    from influx.engines.retrain import Bank
    from influx.engines.unrolled import Unroller
    from influx.judged import Judged
    from influx.learners.linear.fitted import LinearModel
    from influx.learners.torch.fitted import TorchFitted


@dataclass(frozen=True, kw_only=True)
class Card:
    """One row of ``influx list estimators``, in the columns of the survey's Table 1.

    Costs in n (training instances), m (test instances), p (parameters), T (steps), C (checkpoints), K (models).
    ``groups`` is how the method scores a set of instances together: exact, additive or no.
    """

    family: str
    full: str
    incremental: str
    storage: str
    assumptions: str
    groups: str
    paper: str


class Estimator(Protocol):
    """Turns a run into influence. A frozen dataclass whose fields are its hyperparameters."""

    requires: ClassVar[frozenset[Need]]
    scale: ClassVar[Scale]
    card: ClassVar[Card]

    def estimate(self, run: Run) -> Influence:
        """Influence of every training instance on every test instance."""
        ...


class Metric(Protocol):
    """Judges an influence matrix against something else. A frozen dataclass like an estimator."""

    requires: ClassVar[frozenset[Need]]

    def evaluate(self, influence: Influence, run: Run) -> pd.DataFrame:
        """One row per number: see ``influx.metrics.tidy``."""
        ...


def refuse_missing(requires: frozenset[Need], provides: frozenset[Need], who: str, learner: str) -> None:
    """Stop before any work when a learner cannot serve an estimator or metric.

    Raises:
        IncompatibleError: naming the missing needs.
    """
    missing = sorted(requires - provides)
    if missing:
        raise IncompatibleError(
            f"{who} needs {', '.join(missing)}, which model={learner} does not provide; "
            f"choose another model or an estimator without that need (influx list estimators)"
        )


def _reserve(descriptor: int, size: int) -> None:
    """Take the disk space now: a memory-mapped file that outgrows the disk later would kill the process."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise UserError(
            f"an influence matrix needs {size / 1e9:.1f} GB of disk below paths.outputs ({error.strerror}); "
            "free some space or raise matrix_mb to hold it in memory"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one estimator or metric may touch. Every engine access is checked against ``requires``.

    ``truth`` is the ground truth, ``judged`` the estimator (metrics only); ``used`` collects needs that were exercised,
    ``warnings`` what users should know. ``origin`` is the bank of the problem that was trained, where this
    one has other test instances.
    """

    problem: Problem
    fitted: Fitted
    bank: Bank
    requires: frozenset[Need]
    who: str = "estimator"
    truth: Influence | None = None
    judged: Judged | None = None
    origin: Bank | None = None
    used: set[Need] = field(default_factory=set)
    matrix_mb: float = 1024.0
    warnings: list[str] = field(default_factory=list)

    def warn(self, sentence: str) -> None:
        """Tell the user, in tables and reports, what makes this result doubtful."""
        self.warnings.append(sentence)

    @property
    def train(self) -> Split:
        """The training split."""
        return self.problem.train

    @property
    def test(self) -> Split:
        """The test split."""
        return self.problem.test

    def rng(self, purpose: str) -> np.random.Generator:
        """Randomness for a named purpose; depends on the seed and the name alone."""
        return stream(self.problem.seed, f"{self.who}/{purpose}")

    def drawn(self, what: str) -> np.random.Generator:
        """Randomness of subsets or groups, by what is drawn: whoever asks for the same draws gets the same ones."""
        return stream(self.problem.seed, f"draws/{what}")

    @property
    def again(self) -> Judged:
        """The judged estimator, to be asked again under other trainings."""
        assert self.judged is not None
        return self.judged

    def outcomes(self, split: Split) -> Outcomes:
        """Loss, margin and prediction of each instance under the trained model."""
        return self.fitted.outcomes(split)

    @property
    def retrain(self) -> Bank:
        """The bank of retrained models."""
        self._use(Need.RETRAIN)
        return self.bank

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Saved checkpoints in order of training, from initialisation to the final model."""
        self._use(Need.CHECKPOINTS)
        return self._torch.checkpoints

    @property
    def states(self) -> list[Checkpoint]:
        """The same where their learning rates do not matter and may be unknown."""
        self._use(Need.STATES)
        return self._torch.checkpoints

    @property
    def learning_rates(self) -> NDArray[np.float64]:
        """``(T,)`` learning rate of every step."""
        self._use(Need.CHECKPOINTS)
        if (doubt := self._torch.rates_held) and doubt not in self.warnings:
            self.warn(doubt)
        return self._torch.learning_rates

    @property
    def final(self) -> Checkpoint:
        """The last checkpoint."""
        return self._torch.checkpoints[-1]

    @property
    def gradients(self) -> Gradients:
        """Per-instance gradients of the risk."""
        self._use(Need.GRADIENTS)
        return self._gradients

    @property
    def curvature(self) -> Curvature:
        """Curvature of the mean training objective including its regulariser."""
        self._use(Need.CURVATURE)
        return self._curvature

    @property
    def path(self) -> Path:
        """The states that training went through."""
        self._use(Need.TRAJECTORY)
        from influx.engines.path import ROUNDED, Path

        fitted = self._torch
        if fitted.recipe.training.precision != "model" and ROUNDED not in self.warnings:
            self.warn(ROUNDED)
        return Path(fitted)

    def unroller(self, first: int = 0) -> Unroller:
        """Derivatives through the training from step ``first`` on, its batches' curvature included."""
        self._use(Need.CURVATURE)
        from influx.engines.unrolled import Unroller

        return Unroller(self.path, self.gradients, first)

    @property
    def unlike_sgd(self) -> str:
        """What makes the training's steps differ from plain SGD (momentum, Adam, clipping), or an empty string."""
        return self._torch.recipe.unlike_sgd

    def altered(self, data: Data) -> Bank:
        """The bank of the same learner and seed on other data: relabeled, augmented, another test split."""
        self._use(Need.RETRAIN)
        return self.bank.of(replace(self.problem, data=data))

    def trained(self, number: int, name: str = "training") -> Run:
        """The same data and settings trained again, from the initialisation and batch order numbered ``number``.

        0 is this run. A training is recorded in the folder of its own problem, beside this one's, and read from there.
        Those named ``training`` are the other trainings that perspectives and metrics ask for; a mean over models
        takes those of another name, so that its values under two such trainings have no model in common.

        Raises:
            IncompatibleError: training has no randomness.
        """
        from influx.engines.retrain import Bank
        from influx.trained import trained

        if number == 0:
            return self
        if why := only_training(self.problem.learner):
            raise IncompatibleError(why)
        beside, base = (self.bank, self.problem) if self.origin is None else (self.origin, self.origin.problem)
        problem = trained_again(base, number, name)
        folder = Folder(beside.folder.path.parent.parent / problem.id)
        fitted, bank = trained(problem, folder), Bank(problem, folder.sub("retrain"), beside.executor)
        if self.origin is None:
            return replace(self, problem=problem, fitted=fitted, bank=bank)
        seen = replace(problem, data=self.problem.data)
        return replace(self, problem=seen, fitted=fitted, bank=bank.of(seen), origin=bank)

    @property
    def removal_noise(self) -> str:
        """What else than its own effect a removed instance changes in retraining, or an empty string."""
        self._use(Need.RETRAIN)
        recipe = getattr(self.fitted, "recipe", None)
        return str(recipe.removal_noise) if recipe is not None else ""

    @property
    def linear_model(self) -> LinearModel:
        """The fitted linear model with its design matrix and curvature."""
        self._use(Need.LINEAR_MODEL)
        from influx.learners.linear.fitted import LinearFitted

        if not isinstance(self.fitted, LinearFitted):
            raise IncompatibleError(f"{self.who} needs model=ridge or model=logistic; choose one of them")
        return self.fitted.model

    def head(self) -> Literal["head"]:
        """Selects the parameters of the last linear layer."""
        self._use(Need.LINEAR_HEAD)
        return "head"

    @property
    def forest(self) -> Forest:
        """The trained trees as arrays, checked against the library that grew them."""
        self._use(Need.FOREST)
        return self._forest

    @property
    def features(self) -> Features:
        """Learned representations."""
        self._use(Need.FEATURES)
        return self._features

    def zeros(self) -> NDArray[np.float64]:
        """``(n_train, n_test)`` accumulator; on disk when it would take more than ``limits.matrix_mb``."""
        shape = (len(self.train), len(self.test))
        if shape[0] * shape[1] * 8 <= self.matrix_mb * 1e6:
            return np.zeros(shape)
        folder = self.bank.folder.path.parent
        folder.mkdir(parents=True, exist_ok=True)  # that of altered data is there once a model was trained
        with tempfile.TemporaryFile(dir=folder) as f:
            _reserve(f.fileno(), shape[0] * shape[1] * 8)
            return np.memmap(f, np.float64, "w+", shape=shape)

    def influence(self, values: Any, **fields: Any) -> Influence:
        """Wrap values ``(n_train, n_test)``; checks the shape."""
        expected = (len(self.train), len(self.test))
        if values.shape != expected:
            raise UndeclaredNeed(f"{self.who} returned shape {values.shape}, expected {expected}")
        return Influence(values=values, **fields)

    def _use(self, need: Need) -> None:
        if need not in self.requires:
            raise UndeclaredNeed(f"{self.who} read {need!r} but its `requires` does not list it; add Need.{need.name}")
        self.used.add(need)

    @property
    def _torch(self) -> TorchFitted:
        from influx.learners.torch.fitted import TorchFitted

        if not isinstance(self.fitted, TorchFitted):
            raise IncompatibleError(f"{self.who} needs a torch model, this learner is {type(self.fitted).__name__}")
        return self.fitted

    @cached_property
    def _gradients(self) -> Gradients:
        from influx.engines.gradients import Gradients

        return Gradients(self._torch, self.train, self.test)

    @cached_property
    def _curvature(self) -> Curvature:
        from influx.engines.curvature import Curvature

        return Curvature(self._torch, self.train, self._gradients)

    @cached_property
    def _features(self) -> Features:
        from influx.engines.features import Features
        from influx.learners.trees.fitted import TreesFitted

        return Features(self.fitted if isinstance(self.fitted, TreesFitted) else self._torch)

    @cached_property
    def _forest(self) -> Forest:
        from influx.engines.forest_reading import read
        from influx.learners.trees.fitted import TreesFitted

        if not isinstance(self.fitted, TreesFitted):
            raise IncompatibleError(f"{self.who} needs trees; choose model=lightgbm or another tree model")
        return read(self.fitted, self.problem.data)
