"""What TRAK and D-TRAK share: ridge regression on projected gradients, averaged over models and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from influx.engines.leverage import Leverage, leverage, leverage_flops
from influx.engines.members import Means, Member
from influx.engines.outputs import Output, curvatures
from influx.engines.parts import trained_on_part
from influx.engines.projections import Kind, projection_bytes, projection_flops
from influx.engines.stored import Projections, Store, at_checkpoint, stored_bytes
from influx.engines.stored_ahead import store_ahead
from influx.engines.trainings import train_ahead
from influx.engines.views import after_start
from influx.engines.workers import shared_out
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Checkpoint, only_training
from influx.run import Run

RELATIVE = 10.0  # damping over the mean eigenvalue where none is given: see scripts/study_trak.py
FEW = 2  # training instances per number of a projection, below which the matrix is nearly singular
MODELS = "the spread over models"
CHECKPOINTS = "the spread over checkpoints of one training, which are not independent: not that over trainings"
ENSEMBLE = "ensemble"  # names the trainings of further models
NOT_ASKED = "set estimator.self_influence=true to ask for it"


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Settings and computation of estimators that compare gradients through ridge regression on projections."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENTS})
    scale: ClassVar[Scale] = "rank"
    dim: int = 2048
    kind: Kind = "sparse"
    store: Store = "model"
    models: int = 1
    subset: float = 1.0
    checkpoints: int = 1
    damping: float | None = None
    self_influence: bool = True

    def __post_init__(self) -> None:
        """Check ranges; checkpoints before the last are needed where several are asked for."""
        for name in ("dim", "models", "checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}; raise it")
        if not 0 < self.subset <= 1:
            raise ConfigError(f"estimator.subset must be above 0 and at most 1, got {self.subset}; set it to 1 or 0.5")
        if self.damping is not None and not 0 <= self.damping < math.inf:
            raise ConfigError(
                f"estimator.damping must be finite and not negative, got {self.damping}; use null for a part of the "
                "eigenvalues"
            )
        if self.checkpoints > 1:
            object.__setattr__(self, "requires", self.requires | {Need.STATES})

    @property
    def trains(self) -> bool:
        """Whether it looks at other trainings of the problem, which no one else can replace."""
        return self.models > 1 or self.subset < 1

    @property
    def refuses(self) -> Mapping[str, str]:
        """Perspectives that the settings leave out."""
        return {} if self.self_influence else {"memorization": NOT_ASKED}

    def work(self, prospect: Prospect, weighted: bool) -> Work:
        """Trainings, gradients, projections and regressions, the latter with or without weights.

        Raises:
            ConfigError: fewer checkpoints are saved than asked for.
            IncompatibleError: training has no randomness that would give several models.
        """
        if self.trains and (why := only_training(prospect.problem.learner)):
            asked = {name: value for name in ("models", "subset") if (value := getattr(self, name)) != 1}
            given = " and ".join(f"estimator.{name}={value}" for name, value in asked.items())
            remedy = " and ".join(f"estimator.{name}=1" for name in asked)
            raise IncompatibleError(f"further trainings are needed for {given}: {why}, or set {remedy}")
        net, n, m = prospect.net, len(prospect.train), len(prospect.test)
        if self.checkpoints > 1:
            _check_count(self.checkpoints, len(net.saved) - net.from_start)
        dim = net.parameters if self.kind == "none" else self.dim
        dim = min(dim, net.parameters) if self.kind == "sparse" else dim
        each = 6.0 * net.macs + projection_flops(self.kind, dim, net.parameters, net.sides)
        solving = leverage_flops(n, dim, m, weighted, self.self_influence)
        written = 0.0 if self.kind == "two_sided" else 2.0 * net.parameters  # and read again
        members, matrices = self.models * self.checkpoints, 3.0 if self.models * self.checkpoints > 1 else 1.0
        smaller = dim if weighted else min(n, dim)
        more = float(self.models if self.subset < 1 else self.models - 1)
        held = float(smaller * dim + m * dim) * (self.checkpoints if self.models > 1 else 1)  # regressions of one unit
        solved = held + 2.0 * smaller**2 + smaller * dim + m * dim
        return Work(
            more_trainings=self.subset * more,
            more_alone=self.subset * more,
            gradients=float(members * (n + m)),
            flops=members * (each * (n + m) + solving),
            numbers=float(members) * ((2 * dim + written) * (n + m) + matrices * n * m),
            bytes=8.0 * (solved + matrices * n * m) + projection_bytes(self.kind, dim, net.parameters),
            disk=more * net.recorded_bytes + stored_bytes(members * n, dim, net.number_bytes, self.store),
            formula=f"{self.models} models x {self.checkpoints} checkpoints x ({n} + {m}) gradients to {dim} numbers, "
            f"a regression with {smaller} unknowns",
        )

    def attributed(
        self,
        run: Run,
        output: Output,
        *,
        weigh: bool = False,
        with_r: bool = False,
        to_loss: bool = False,
        report: Mapping[str, Any] | None = None,
    ) -> Influence:
        """(mean of slopes) ∘ (mean of φ_jᵀ (ΦᵀRΦ + λI)⁻¹ φ_i), with its standard error over models or checkpoints.

        Args:
            run: the trained problem.
            output: the function of the outputs whose projected gradients are the φ.
            weigh: by the slopes of training instances; otherwise they count as one.
            with_r: R holds the risk's second derivatives with respect to the margin; otherwise it is the identity.
            to_loss: multiply by the mean slopes of test instances.
            report: what else to tell.
        """
        self._ahead(run, output)
        means, solved = Means(run, self.models if self.models > 1 else self.checkpoints, weigh), None
        for unit in self._units(run):
            members = [self._member(*one, output, with_r) for one in unit]
            means.add(members, self.self_influence)
            solved = members[-1].solved
        assert solved is not None
        dim = solved.right.shape[1]
        self._doubts(run, dim, solved)
        values, stderr = means.finish(to_loss)
        told: dict[str, Any] = {"models": self.models, "checkpoints": self.checkpoints, "dim": dim, "kind": self.kind}
        if self.subset < 1:
            told["subset"] = self.subset
        if stderr is not None:
            told |= {"stderr_degrees": means.units - 1, "stderr_holds": MODELS if self.models > 1 else CHECKPOINTS}
        return run.influence(
            values,
            scale=self.scale,
            stderr=stderr,
            self_influence=means.own if self.self_influence else None,
            self_influence_note="" if self.self_influence else NOT_ASKED,
            report=told | solved.report | dict(report or {}),
        )

    def _ahead(self, run: Run, output: Output) -> None:
        """What workers can do before: train, and project the gradients of training instances."""
        train_ahead(run.origin or run.bank, range(self.models), ENSEMBLE, self.subset)
        if shared_out(run):
            models, places = _Models(partial(self._model, run)), range(self.checkpoints)
            every = [(number, place) for number in range(self.models) for place in places]
            store_ahead(run, self, [partial(self._numbered, models, *one, output) for one in every])

    def _numbered(self, models: _Models, number: int, place: int, output: Output) -> Projections:
        """At a checkpoint, by its place among those of the model with that number."""
        trained = models(number)
        return self._projections(trained, self._chosen(trained)[place], output)

    def _projections(self, run: Run, checkpoint: Checkpoint, output: Output) -> Projections:
        return at_checkpoint(run, checkpoint, self.kind, self.dim, output, store=self.store)

    def _units(self, run: Run) -> Iterator[list[tuple[Run, Checkpoint]]]:
        """Models with their checkpoints, or the checkpoints of the only model."""
        for number in range(self.models):
            trained = self._model(run, number)
            chosen = [(trained, checkpoint) for checkpoint in self._chosen(trained)]
            if self.models > 1:
                yield chosen
            else:
                yield from ([one] for one in chosen)

    def _chosen(self, trained: Run) -> list[Checkpoint]:
        return spaced(after_start(trained), self.checkpoints) if self.checkpoints > 1 else [trained.final]

    def _model(self, run: Run, number: int) -> Run:
        if self.subset < 1:
            return trained_on_part(run, number, self.subset, ENSEMBLE)
        return run.trained(number, ENSEMBLE)

    def _member(self, run: Run, checkpoint: Checkpoint, output: Output, with_r: bool) -> Member:
        projections = self._projections(run, checkpoint, output)
        tests = projections.computed(run.test)
        slopes = torch.cat([part.slopes for part in projections.stored()])
        weights = curvatures(run.gradients.fitted.task, slopes) if with_r else None
        solved = leverage(
            lambda: ((part.rows, part.projections) for part in projections.stored()),
            len(run.train),
            tests.projections,
            self.damping,
            RELATIVE,
            weights,
            self.self_influence,
            parameters=projections.parameters,
        )
        return Member(solved, slopes, tests.slopes)

    def _doubts(self, run: Run, dim: int, solved: Leverage) -> None:
        if solved.report["relative_damping"] < 1e-3 and len(run.train) < FEW * dim:
            run.warn(
                f"{len(run.train)} training instances are few for {dim} numbers: the regression fits them nearly "
                "exactly; lower estimator.dim, or raise estimator.damping to a part of the report's mean_eigenvalue"
            )


@dataclass
class _Models:
    """Trained models by their numbers, of which one is held: each has the data that it was trained on."""

    load: Callable[[int], Run]
    _held: tuple[int, Run] | None = None

    def __call__(self, number: int) -> Run:
        """The model with that number."""
        if self._held is None or self._held[0] != number:
            self._held = None  # before the next is loaded
            self._held = number, self.load(number)
        return self._held[1]


def spaced(usable: list[Checkpoint], count: int) -> list[Checkpoint]:
    """So many checkpoints, evenly spaced in training up to the last one.

    Raises:
        ConfigError: fewer are saved.
    """
    _check_count(count, len(usable))
    ends = np.linspace(len(usable), 0, count, endpoint=False).round().astype(int)
    return [usable[end - 1] for end in sorted(ends.tolist())]


def _check_count(count: int, usable: int) -> None:
    if count > usable:
        raise ConfigError(
            f"estimator.checkpoints={count} but {usable} are saved after the initialisation; "
            f"set it to at most {usable}, or save more of them (training.checkpoints) or give more"
        )
