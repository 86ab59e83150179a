"""Linear models at the optimum of a convex objective: no initialisation, no batches, no learning rate."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from influx import interrupts
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.linear import newton
from influx.learners.linear.fitted import LinearFitted, LinearModel
from influx.learners.linear.system import System
from influx.needs import Need
from influx.planning import Pace
from influx.problem import Cost, Data, Design, LossNorm, Outcomes, Problem, Split, TaskName
from influx.store import Folder
from influx.streams import stream

CHUNK_BYTES = 2 << 20  # of working memory for models that are solved together: about a core's cache
LEAST, MOST = 8, 1024  # of them, whatever their size
OUTCOME_BYTES = 64 << 20  # of what one block of models makes of all instances
BLOCK_FLOPS = 2e10  # of one block: a second or two
FILE = "linear.npz"
PACED, REPEATS = 64, 3  # models that are timed, and how often: the fastest counts
SAMPLE = 16  # of a design's models, which are timed
NEWTON_STEPS = 6  # usual number from the solution on all data
SEPARATED = 1e-7  # curvature left at the optimum, relative to that at 0


@dataclass(frozen=True, kw_only=True)
class LinearLearner(ABC):
    """Minimises (1/n) Σ_i w_i ℓ_i(θ) + weight_decay/2 |θ|² in float64, to rounding.

    ``loss_norm=subset`` divides by Σ_i w_i instead of n. A model without any weight has θ = 0. Seeds have no effect.
    A class without any weight, whose intercept is not penalised, gets the probability at which the gradient falls
    below the tolerance.

    Attributes:
        weight_decay: of the mean objective, as in SGD; 0 needs a system that is not singular.
        intercept: whether there is one.
        penalise_intercept: whether the weight decay includes it.
    """

    deterministic: ClassVar[bool] = True  # seeds have no effect
    logistic: ClassVar[bool]
    task: ClassVar[TaskName]
    name: ClassVar[str]
    other: ClassVar[str]

    weight_decay: float = 0.01
    intercept: bool = True
    penalise_intercept: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(
                f"model.weight_decay must be a number of at least 0, got {self.weight_decay}; set for example 0.01"
            )

    @property
    def provides(self) -> frozenset[Need]:
        """Retraining and the model itself."""
        return frozenset({Need.RETRAIN, Need.LINEAR_MODEL})

    def check(self, data: Data) -> None:
        """Refuse token ids and the other task.

        Raises:
            IncompatibleError: naming model and dataset.
        """
        if data.task != self.task:
            raise IncompatibleError(
                f"model={self.name} expects a {self.task} task, dataset={data.name} is {data.task}; "
                f"choose model={self.other}"
            )
        if data.kind == "text":
            raise IncompatibleError(
                f"model={self.name} expects a table or images, dataset={data.name} holds token ids; "
                "choose another dataset"
            )

    def inputs(self, data: Data) -> int:
        """Numbers per instance, the intercept's 1 included."""
        return math.prod(data.train.x.shape[1:]) + self.intercept

    def system(self, data: Data, split: Split) -> System:
        """Inputs, targets and penalty."""
        x = torch.from_numpy(np.asarray(split.x, dtype=np.float64).reshape(len(split), -1))
        penalty = torch.full((self.inputs(data),), float(self.weight_decay), dtype=torch.float64)
        if self.intercept:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
            penalty[-1] *= self.penalise_intercept
        y = torch.from_numpy(np.array(split.y))
        target = F.one_hot(y, len(data.classes)).T[:-1].to(x).contiguous() if self.logistic else y.to(x)[None]
        return System(x=x, target=target, penalty=penalty, logistic=self.logistic)

    def fit(self, data: Data, seed: int, folder: Folder) -> LinearFitted:
        """Solve, or read what was solved before.

        Raises:
            NumericalError: the system is singular or the solver did not converge.
        """
        if not folder.has(FILE):
            folder.write(FILE, lambda path: _save(path, self._solution(data)))
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            theta = torch.from_numpy(arrays["theta"])
        return LinearFitted(LinearModel(learner=self, data=data, theta=theta), folder / FILE)

    def refit(self, system: System, weights: Tensor, norm: LossNorm, start: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters ``(models, K, q)`` and outputs ``(models, K, n)`` for rows of weights."""
        parts = [self._optimum(system, rows, norm, start) for rows in weights.split(self._chunk(system))]
        return torch.cat([theta for theta, _ in parts]), torch.cat([outputs for _, outputs in parts])

    def retrain(self, data: Data, seed: int, design: Design) -> tuple[Outcomes, Outcomes]:
        """Solve one model per row of ``design``, started from the solution on all data; see ``Learner``.

        Raises:
            NumericalError: a system is singular or a solver did not converge.
        """
        start, train, test = self._solution(data), self._train(data), self.system(data, data.test)
        parts = []
        for rows in torch.from_numpy(design.weights).split(self._chunk(train)):
            interrupts.check_forced()
            theta, outputs = self._optimum(train, rows, design.loss_norm, start)
            parts.append((train.outcomes(outputs), test.outcomes(theta @ test.x.T)))
        fields = ("loss", "margin", "prediction")
        joined = [{f: np.concatenate([getattr(part[i], f) for part in parts]) for f in fields} for i in (0, 1)]
        return Outcomes(**joined[0]), Outcomes(**joined[1])

    def _optimum(self, system: System, weights: Tensor, norm: LossNorm, start: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights.to(torch.float64)
        total = weights.sum(1)
        divisors = torch.full_like(total, len(system.x)) if norm == "full" else total
        some = total > 0
        if some.all():
            return self.minimise(system, weights, divisors, start)
        theta = torch.zeros(len(weights), *start.shape, dtype=start.dtype)
        outputs = torch.zeros(len(weights), len(start), len(system.x), dtype=start.dtype)
        if some.any():
            theta[some], outputs[some] = self.minimise(system, weights[some], divisors[some], start)
        return theta, outputs

    @abstractmethod
    def minimise(self, system: System, weights: Tensor, divisors: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters and outputs, as ``refit``, for rows of weights that are divided by ``divisors``."""

    def _solution(self, data: Data) -> Tensor:
        """Parameters ``(K, q)`` on all training data; solved once per dataset."""
        known = self.__dict__.get("_solved")
        if known is None or known[0] is not data:
            system = self._train(data)
            zero = torch.zeros(len(system.target), system.x.shape[1], dtype=torch.float64)
            weights = torch.ones(1, len(system.x), dtype=torch.float64)
            theta, outputs = self._optimum(system, weights, "full", zero)
            left = system.curvature(system.means(outputs)).sum()
            if self.logistic and left < SEPARATED * system.curvature(system.means(torch.zeros_like(outputs))).sum():
                raise NumericalError(
                    f"model={self.name} has no finite optimum on dataset={data.name}, whose classes can be separated "
                    f"without error; set model.weight_decay above {self.weight_decay:g}, for example 0.01"
                )
            known = (data, theta[0])
            self.__dict__["_solved"] = known
        solved: Tensor = known[1]
        return solved

    def _train(self, data: Data) -> System:
        """The system of the training split, with what it has computed; made once per dataset."""
        known = self.__dict__.get("_system")
        if known is None or known[0] is not data:
            known = (data, self.system(data, data.train))
            self.__dict__["_system"] = known
        system: System = known[1]
        return system

    def _chunk(self, system: System) -> int:
        """Models that are solved together."""
        outputs, n = len(system.target), len(system.x)
        hessian = system.size**2 if system.size <= newton.DENSE else 4 * system.size
        each = 8 * (4 * n * outputs + n * outputs * (outputs - 1) // 2 + 2 * hessian)
        return int(np.clip(CHUNK_BYTES // each, LEAST, MOST))

    def block_size(self, data: Data) -> int:
        """Models per block: a second or two of work whose outcomes fit in memory."""
        each = 24 * (len(data.train) + len(data.test))
        return int(max(1, min(OUTCOME_BYTES // each, BLOCK_FLOPS // self._flops(data), 8192)))

    def pace(self, problem: Problem) -> Pace:
        """Time the solution on all data, and a chunk of models on random halves."""
        data = problem.data
        start = time.perf_counter()
        self._solution(data)
        training = time.perf_counter() - start
        count = min(self._chunk(self._train(data)), PACED)
        halves = (stream(problem.seed, "pace").random((count, len(data.train))) < 0.5).astype(np.uint8)
        zeros = np.zeros(count, np.int64)
        best = self._timed(problem, Design(weights=halves, init=zeros, order=zeros, loss_norm="subset"), REPEATS)
        model = best / count / self.concurrent_blocks
        return Pace(training=training, model=model, note=f"{1e3 * best:.3g} ms for {count} models on random halves")

    def seconds_each(self, problem: Problem, design: Design) -> float:
        """Time some models of the design: without a class, or of few instances, they take many more steps."""
        self._solution(problem.data)
        count = min(self._chunk(self._train(problem.data)), len(design), SAMPLE)
        rows = ((np.arange(count) + 0.5) * len(design) / count).astype(np.int64)
        return self._timed(problem, design.rows(rows), 2) / count * self._waited(problem.data, len(design))

    def _waited(self, data: Data, models: int) -> float:
        """Part of their seconds that so many models take: blocks run at once, but few models are one block."""
        size = self.block_size(data)
        rounds = math.ceil(models / size / self.concurrent_blocks)
        return min(rounds * min(size, models) / models, 1.0)

    def _timed(self, problem: Problem, design: Design, repeats: int) -> float:
        """Seconds of the models of a design, as one block takes them; the fastest of ``repeats``."""
        best, threads = math.inf, torch.get_num_threads()
        try:
            torch.set_num_threads(max(1, threads // self.concurrent_blocks))
            for _ in range(repeats):
                start = time.perf_counter()
                self.retrain(problem.data, problem.seed, design)
                best = min(best, time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        return best

    @property
    def concurrent_blocks(self) -> int:
        """One per processor thread."""
        return torch.get_num_threads()

    def _flops(self, data: Data) -> float:
        """Operations of one retrained model."""
        n, inputs, outputs = len(data.train), self.inputs(data), max(1, data.n_outputs - 1)
        size = inputs * outputs
        if not self.logistic:
            return 2.0 * n * inputs * inputs + inputs**3 / 3
        if size > newton.DENSE:
            return NEWTON_STEPS * 10 * (8.0 * n * size + 4.0 * min(size, newton.FACTORISED) ** 2)
        return NEWTON_STEPS * (n * inputs**2 * outputs * (outputs + 1) / 2 + 8.0 * n * size + size**3 / 3)

    def cost(self, data: Data, models: int) -> Cost:
        """Operations in double precision, counted twice."""
        how = "6 Newton steps of n q² K (K + 1) / 2 + (q K)³ / 3" if self.logistic else "2 n q² + q³ / 3"
        return Cost(
            flops=2.0 * models * self._flops(data),
            bytes=8.0 * self.inputs(data) * max(1, data.n_outputs - 1),
            formula=f"{models} models x ({how}), q={self.inputs(data)} inputs, float64",
        )


def _save(path: Path, theta: Tensor) -> None:
    with path.open("wb") as f:
        np.savez(f, theta=theta.numpy())
