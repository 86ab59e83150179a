"""Leave-one-group-out by retraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import subsets
from influx.engines.group_shares import Shares, standard_error
from influx.engines.groups import Groups, groups_of
from influx.engines.risks import Target, check_target
from influx.engines.sampled import blocks
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import LossNorm
from influx.run import Card, Run

NOTE = "what an instance gets is its share of the effect of its group, not its own effect on itself"


@dataclass(frozen=True, kw_only=True)
class GroupLeaveOneOut:
    """Influence of groups of training instances by retraining without each group.

    Estimates: I(G, j) = L(z_j; θ_{D∖G}) - L(z_j; θ_D), exactly, for the same initialisation and batch order; positive
        for proponents. Removal sets the instances' weights to 0 in place. Tables: groups (on the mean over test
        instances) and group_influence (on each). The (n, m) values share I(G, j) equally among G's instances, so that
        they sum to it over a group of disjoint ones; an instance in several groups gets the sum of its shares, one in
        none NaN. In loss units with target=loss.
    Needs: retraining.
    Cost: K = groups + 1 trainings per seed; n groups (n + m) operations for the shares; n m numbers.
    Source: Rousseeuw & Leroy 1987; survey section 4.1.3 and Eq. (6).

    Attributes:
        groups: label (classes, or quantiles of the target), cluster (k-means of the inputs), random, or a csv file
            with columns train_id and group.
        group_count: number of groups for cluster, random and quantiles.
        group_size: instances per random group.
        seeds: initialisations and batch orders to average over; the first is the trained model's own.
        renormalise: divide by the batch's surviving weight instead of its size.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="K T",
        incremental="K",
        storage="K (n + m) + n m",
        assumptions="none",
        groups="exact",
        paper="Rousseeuw & Leroy 1987",
    )

    groups: str = "label"
    group_count: int = 10
    group_size: int = 10
    seeds: int = 1
    renormalise: bool = False
    target: Target = "loss"

    def __post_init__(self) -> None:
        """Check ranges."""
        check_target(self.target)
        for name in ("group_count", "group_size", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}; raise it")

    def estimate(self, run: Run) -> Influence:
        """Retrain without each group under each seed and subtract the full model's risks."""
        if run.removal_noise:
            run.warn(run.removal_noise)
        groups = self._groups(run)
        pairs = [self._one_seed(run, groups, seed) for seed in range(self.seeds)]
        tests, train = (np.stack(parts) for parts in zip(*pairs, strict=True))  # (seeds, groups, m), (seeds, groups, n)
        shares = Shares(groups)
        spread = [shares.values(seed) for seed in tests]
        report: dict[str, int | str] = {**shares.report, "seeds": self.seeds}
        report |= {"stderr_degrees": self.seeds - 1} if self.seeds > 1 else {}
        return run.influence(
            np.mean(spread, axis=0),
            scale="loss" if self.target == "loss" else "rank",
            stderr=standard_error(np.stack(spread)) if self.seeds > 1 else None,
            self_influence=shares.own(train.mean(axis=0)),
            self_influence_note=NOTE,
            replicates=tuple(spread),
            tables=shares.tables(tests, run.test.ids),
            report=report | {"protocol": f"leave-one-group-out, loss_norm={self._norm}"},
        )

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, groups = len(prospect.train), len(prospect.test), self._groups(prospect)
        designs = tuple(subsets.without_groups(groups.members, seed, self._norm) for seed in range(self.seeds))
        return Work(
            trainings=designs,
            flops=4.0 * self.seeds * len(groups) * n * m,
            bytes=self.seeds * 8.0 * (4.0 * n * m + 2.0 * len(groups) * (n + m)),
            formula=f"{self.seeds} x ({len(groups)} groups + 1) trainings",
        )

    def _groups(self, run: Run | Prospect) -> Groups:
        """The groups; refuses a target that these data do not have."""
        check_target(self.target, run.problem.data)
        return groups_of(run, self.groups, self.group_count, self.group_size)

    @property
    def _norm(self) -> LossNorm:
        return "subset" if self.renormalise else "full"

    def _one_seed(self, run: Run, groups: Groups, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Influence of groups on test (groups, m) and on train (groups, n)."""
        design = subsets.without_groups(groups.members, seed, self._norm)
        tests, train = np.empty((len(design), len(run.test))), np.empty((len(design), len(run.train)))
        for rows, on_tests, on_train in blocks(run, design, self.target, "retraining without groups"):
            tests[rows], train[rows] = on_tests, on_train
        return tests[1:] - tests[0], train[1:] - train[0]
