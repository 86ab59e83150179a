"""Leave-one-out by retraining: an estimator, and the ground truth for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.game_plans import LOOKED_UP_BYTES
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import LossNorm
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Leave-one-out influence by retraining.

    Estimates: L(z_j; θ_{D∖i}) - L(z_j; θ_D), exactly, for the same initialisation and batch order. Removal sets
        the instance's weight to 0 in place. Loss units; positive for proponents.
    Needs: retraining.
    Cost: (n + 1) trainings per seed, many at a time; n (n + m) numbers of storage.
    Source: Cook & Weisberg 1982; survey Eq. (8); averaged over ``seeds``, expected influence (section 3.2).

    Attributes:
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        indices: ids of the training instances to remove; None means all.
        budget: at most this many, drawn at random; None means no limit.
        renormalise: divide by the batch's surviving weight (the n - 1 variant) instead of its size.
        ceiling_budget: with one seed, instances removed again under a second seed to measure how much of the
            result is noise of the seed; 0 switches it off.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="n T",
        incremental="n",
        storage="n (n + m)",
        assumptions="none",
        groups="no",
        paper="Cook & Weisberg 1982",
    )

    seeds: int = 1
    indices: list[int] | None = None
    budget: int | None = None
    renormalise: bool = False
    ceiling_budget: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}; raise it")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"budget must be at least 1 or null, got {self.budget}; raise it")
        if self.ceiling_budget < 0:
            raise ConfigError(f"ceiling_budget must not be negative, got {self.ceiling_budget}; use 0 for none")

    def estimate(self, run: Run) -> Influence:
        """Retrain without each instance under each seed and subtract the full model's losses."""
        if run.removal_noise:
            run.warn(run.removal_noise)
        removed = self.removed(run)
        pairs = [self._one_seed(run, removed, seed) for seed in range(self.seeds)]
        replicates = [values for values, _ in pairs]
        mean = np.mean(replicates, axis=0)
        own = np.mean([own for _, own in pairs], axis=0)
        error = np.std(replicates, axis=0, ddof=1) / np.sqrt(self.seeds) if self.seeds > 1 else None
        if self.seeds == 1 and self.ceiling_budget:
            replicates.append(self._one_seed(run, self._again(run, removed), 1)[0])
        protocol = f"leave-one-out, loss_norm={self.norm}"
        report = {"removed": len(removed), "seeds": self.seeds, "protocol": protocol}
        report |= {"stderr_degrees": self.seeds - 1} if self.seeds > 1 else {}
        return run.influence(
            mean, stderr=error, self_influence=own, replicates=tuple(replicates), report=report, scale="loss"
        )

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, removed = len(prospect.train), len(prospect.test), self.removed(prospect)
        repetitions = [(removed, seed) for seed in range(self.seeds)]
        formula = f"{self.seeds} x ({len(removed)} removed + 1) trainings"
        if self.seeds == 1 and self.ceiling_budget:
            again = self._again(prospect, removed)
            repetitions.append((again, 1))
            formula += f" + {len(again)} + 1 under a second seed for the ceiling"
        listed = [rows[: max(LOOKED_UP_BYTES // n, 1)] for rows, _ in repetitions]
        designs = tuple(
            subsets.leave_one_out(n, rows, seed, self.norm) for rows, (_, seed) in zip(listed, repetitions, strict=True)
        )
        return Work(
            trainings=designs,
            more_trainings=float(sum(len(rows) for rows, _ in repetitions) - sum(map(len, listed))),
            numbers=len(repetitions) * 4.0 * n * m,
            rows=len(removed),
            bytes=len(removed) * (17.0 * n + 16.0 * m) + len(repetitions) * 8.0 * n * m,
            formula=formula,
        )

    def _again(self, run: Run | Prospect, removed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows removed again under a second seed, ascending."""
        return subsets.some(run.train.ids, removed, self.ceiling_budget, run.drawn("removed again"))

    def removed(self, run: Run | Prospect) -> NDArray[np.int64]:
        """Rows of the training split to remove, ascending.

        Raises:
            ConfigError: an index is not a training id.
        """
        return subsets.asked(run.train.ids, self.indices, self.budget, run.drawn("removed"))

    @property
    def norm(self) -> LossNorm:
        """What batches are divided by."""
        return "subset" if self.renormalise else "full"

    def _one_seed(
        self, run: Run, removed: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Influence (n_train, n_test) with NaN where not removed, and self-influence (n_train,)."""
        n, m = len(run.train), len(run.test)
        design = subsets.leave_one_out(n, removed, seed, self.norm)
        left_out = np.concatenate([[0], removed])  # the first training leaves nothing out
        losses, own_losses = np.empty((len(design), m)), np.empty(len(design))
        for rows, train, test in run.retrain.parts(design, "retraining leave-one-out models"):
            losses[rows] = test.loss
            own_losses[rows] = train.loss[np.arange(len(rows)), left_out[rows]]
            if 0 in rows:
                full = train.loss[rows.tolist().index(0)].copy()
        values, own = np.full((n, m), np.nan), np.full(n, np.nan)
        values[removed] = losses[1:] - losses[0]
        own[removed] = own_losses[1:] - full[removed]
        return values, own
