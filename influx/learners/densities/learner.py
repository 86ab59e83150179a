"""Normal densities at their optimum in closed form: no initialisation, no batches, no learning rate."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from influx import interrupts, reads
from influx.errors import NumericalError
from influx.learners.densities.normals import Moments, Normals
from influx.models.inputs import flat_size
from influx.models.settings import check_positive
from influx.needs import Need
from influx.planning import Pace
from influx.problem import Cost, Data, Design, Outcomes, Problem, Split, TaskName
from influx.store import Folder

CHUNK_BYTES = 16 << 20  # of working memory for models that are solved together
MOST = 256  # of them, whatever their size
OUTCOME_BYTES = 64 << 20  # of what one block of models makes of all instances
BLOCK_FLOPS = 2e10  # of one block: a second or two
FILE = "density.npz"
PACED, REPEATS = 64, 3  # models that are timed, and how often: the fastest counts
SINGULAR = 1e-12  # variance relative to that of all instances that counts as none


@dataclass(frozen=True, kw_only=True)
class DensityLearner(ABC):
    """Minimises (1/n) Σ_i -w_i log p(x_i) + penalty/2 · tr(Σ⁻¹) over a family of normal densities, in float64.

    At the optimum the penalty is added to every variance of the data: penalty · n / Σ_i w_i, and with
    ``loss_norm=subset``, which divides by Σ_i w_i instead of n, the penalty itself. A model
    without any weight is the standard normal density. Seeds and labels have no effect.

    Attributes:
        penalty: in squared units of the features; 0 needs more instances in general position than features.
    """

    deterministic: ClassVar[bool] = True  # seeds have no effect
    task: ClassVar[TaskName] = "density"
    log_density: ClassVar[str] = "exact"  # minus the risk
    name: ClassVar[str]

    penalty: float = 0.01

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive("penalty", self.penalty, zero=True)

    @property
    def provides(self) -> frozenset[Need]:
        """Retraining."""
        return frozenset({Need.RETRAIN})

    def check(self, data: Data) -> None:
        """Refuse token ids.

        Raises:
            IncompatibleError: naming model and dataset.
        """
        flat_size(data, self.name)

    @abstractmethod
    def densities(self, moments: Moments, shares: Tensor, added: Tensor) -> Normals:
        """The optimum of every row of ``shares`` (K, n), which sum to 1, with ``added`` (K,) to its variances.

        Means are relative to the centre of ``moments``.

        Raises:
            NumericalError: a covariance is singular.
        """

    @abstractmethod
    def _flops(self, data: Data) -> tuple[float, str]:
        """Operations of one retrained model, and where they come from."""

    def fit(self, data: Data, seed: int, folder: Folder) -> DensityFitted:
        """Solve, or read what was solved before.

        Raises:
            NumericalError: the covariance is singular.
        """
        if not folder.has(FILE):
            weights = torch.ones(1, len(data.train), dtype=torch.float64)
            found = self._optimum(self._moments(data), weights, "full")
            folder.write(FILE, lambda path: _save(path, found))
        with np.load(folder / FILE, allow_pickle=False) as arrays:
            normals = Normals(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})
        return DensityFitted(normals, folder / FILE)

    def retrain(self, data: Data, seed: int, design: Design) -> tuple[Outcomes, Outcomes]:
        """Solve one model per row of ``design``; see ``Learner``.

        Raises:
            NumericalError: a covariance is singular.
        """
        moments = self._moments(data)
        losses: tuple[list[Tensor], list[Tensor]] = ([], [])
        sides = [rows_of(split) for split in (data.train, data.test)]
        for weights in torch.from_numpy(design.weights).split(self._chunk(data)):
            interrupts.check_forced()
            found = self._optimum(moments, weights.to(torch.float64), design.loss_norm)
            for kept, x in zip(losses, sides, strict=True):
                kept.append(found.risks(x))
        train, test = (outcomes_of(torch.cat(kept)) for kept in losses)
        return train, test

    def _optimum(self, moments: Moments, weights: Tensor, norm: str) -> Normals:
        total = weights.sum(1)
        some = total > 0
        size = torch.where(some, total, 1.0)
        added = self.penalty * (len(moments.x) / size if norm == "full" else torch.ones_like(size))
        shares = torch.where(some[:, None], weights / size[:, None], 1 / len(moments.x))
        found = self.densities(moments, shares, added)
        mean = torch.where(some[:, None], found.mean + moments.centre, 0.0)
        if some.all():
            return Normals(mean=mean, root=found.root, inverse=found.inverse, log_determinant=found.log_determinant)
        unit = torch.ones_like(mean) if found.root.ndim == 2 else torch.eye(mean.shape[1], dtype=mean.dtype)
        some_root = some.view(-1, *[1] * (found.root.ndim - 1))
        return Normals(
            mean=mean,
            root=torch.where(some_root, found.root, unit),
            inverse=torch.where(some_root, found.inverse, unit),
            log_determinant=torch.where(some, found.log_determinant, 0.0),
        )

    def _singular(self, what: str) -> NumericalError:
        return NumericalError(
            f"model={self.name} has no density of finite variance on {what}, which do not vary in some direction; set "
            f"model.penalty above {self.penalty:g}, for example {10 * self.penalty or 0.01:g}"
        )

    def check_variances(self, variances: Tensor, scales: Tensor) -> None:
        """Refuse models one of whose variances (K, d) is 0 to rounding beside ``scales``, which broadcast to them.

        Raises:
            NumericalError: naming the setting.
        """
        if not bool((variances > SINGULAR * scales).all()):
            raise self._singular("these instances")

    def _moments(self, data: Data) -> Moments:
        """Of the training split; made once per dataset."""
        known = self.__dict__.get("_prepared")
        if known is None or known[0] is not data:
            known = (data, Moments(rows_of(data.train)))
            self.__dict__["_prepared"] = known
        moments: Moments = known[1]
        return moments

    def _chunk(self, data: Data) -> int:
        """Models that are solved together."""
        d = flat_size(data, self.name)
        return int(np.clip(CHUNK_BYTES // (8 * (4 * d * d + 2 * (len(data.train) + len(data.test)))), 1, MOST))

    def block_size(self, data: Data) -> int:
        """Models per block: a second or two of work whose outcomes fit in memory."""
        each = 24 * (len(data.train) + len(data.test))
        return int(max(1, min(OUTCOME_BYTES // each, BLOCK_FLOPS // self._flops(data)[0], 8192)))

    @property
    def concurrent_blocks(self) -> int:
        """One per processor thread."""
        return torch.get_num_threads()

    def pace(self, problem: Problem) -> Pace:
        """Time a chunk of models on all instances: on fewer a density may not exist."""
        data = problem.data
        count = min(self._chunk(data), PACED)
        ones = np.ones((count, len(data.train)), np.uint8)
        zeros, best = np.zeros(count, np.int64), math.inf
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(max(1, threads // self.concurrent_blocks))
            for _ in range(REPEATS):
                start = time.perf_counter()
                self.retrain(data, problem.seed, Design(weights=ones, init=zeros, order=zeros, loss_norm="subset"))
                best = min(best, time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        model = best / count
        note = f"{1e3 * best:.3g} ms for {count} models"
        return Pace(training=model, model=model / self.concurrent_blocks, note=note)

    def cost(self, data: Data, models: int) -> Cost:
        """Operations in double precision, counted twice."""
        flops, formula = self._flops(data)
        d = flat_size(data, self.name)
        return Cost(
            flops=2.0 * models * flops,
            bytes=8.0 * self._chunk(data) * (4 * d * d + 2 * (len(data.train) + len(data.test))),
            formula=f"{models} models x ({formula}), d={d} features, float64",
        )


@dataclass(frozen=True)
class DensityFitted:
    """The density of all training instances, read from ``file``."""

    normals: Normals
    file: Path

    def outcomes(self, split: Split) -> Outcomes:
        """Risk of each instance; margin and prediction are its negative, the logarithm of the density."""
        reads.note(self.file)
        return outcomes_of(self.normals.risks(rows_of(split))[0])

    def sample(self, normals: Tensor) -> Tensor:
        """Flat instances ``(n, d)`` from standard normal numbers (n, d), float64."""
        reads.note(self.file)
        return self.normals.sample(normals)


def rows_of(split: Split) -> Tensor:
    """Instances as flat rows ``(n, d)`` in float64."""
    return torch.from_numpy(np.asarray(split.x, dtype=np.float64).reshape(len(split), -1))


def outcomes_of(losses: Tensor) -> Outcomes:
    """From risks ``(..., n)``."""
    found = losses.numpy()
    return Outcomes(loss=found, margin=(-found).astype(np.float32), prediction=(-found).astype(np.float32))


def _save(path: Path, found: Normals) -> None:
    with path.open("wb") as f:
        np.savez(f, **{name: tensor.numpy() for name, tensor in vars(found).items()})
