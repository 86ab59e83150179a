"""Consistency of an instance with models that were not trained on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import sampled, subsets
from influx.engines.contrasts import FEWEST_CLUSTERS, contrast
from influx.engines.risk_sums import Array, Pool, clustered
from influx.engines.risks import check_target
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CScore(sampled.Seeded):
    """Consistency profile and C-score, and influence from the same models.

    Estimates: the profile C_s(z) = -E[L(z; θ_S)] over subsets S of s instances without z, and the C-score, its mean
        over ``sizes``: large for instances that others predict well, small for atypical or mislabelled ones. They are
        the tables consistency and c_score, of training and test instances. The (n, m) values are influences from the
        same models: the mean risk without minus with i, positive for proponents, averaged over sizes with weights
        k_in k_out / (k_in + k_out), the numbers of models with and without i; in loss units with target=loss.
    Needs: retraining.
    Cost: K = ``runs`` · sizes trainings on subsets; 4 K n m operations; n m numbers in 2 matrices per size, with 3 or
        more seeds in up to 12.
    Source: Jiang et al. 2021; survey Eq. (15) and (16), whose text calls large scores hard while the negated risk
        makes them easy. A training instance is scored by models that leave it out. The paper has target=zero_one,
        where a score is the share of right predictions minus 1. The influences are no part of the paper.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model. With 3 or more
            standard errors hold what other seeds would change.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
        sizes: shares of the training instances in a subset.
        runs: subsets per size.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="K T + K n m",
        incremental="K + K n",
        storage="K (n + m) + n m",
        assumptions="none",
        groups="no",
        paper="Jiang et al. 2021",
    )

    sizes: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    runs: int = 100

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not self.sizes or not all(0 < size < 1 for size in self.sizes):
            raise ConfigError(f"estimator.sizes must be numbers between 0 and 1, got {self.sizes}; change them")
        if self.runs < 4:
            raise ConfigError(f"estimator.runs must be at least 4, got {self.runs}; raise it")
        self.check_seeds("runs", self.runs)

    def estimate(self, run: Run) -> Influence:
        """Train on subsets of every size; consistency of all instances, influence of the training instances."""
        design, sizes = self.design(run)
        strata = np.repeat(np.arange(len(sizes)), self.runs)
        pools, used = sampled.gather(run, design, strata, self.target, label="retraining on subsets of every size")
        inside = [pool.joint.count for pool in pools]
        weights = [count * (self.runs - count) / self.runs for count in inside]
        if np.sum(weights, axis=0).min() <= 0:
            raise ConfigError("an instance is in all or in no subset of every size; raise estimator.runs")
        by_size, by_all = _errors_by_seed(pools) if pools[0].clusters >= FEWEST_CLUSTERS else (None, None)
        consistency = self._consistency(run, pools, sizes, by_size)
        lacking = int(consistency["score"].isna().sum())
        if lacking:
            run.warn(
                f"{lacking} consistencies lack a model that leaves the instance out at that size, and the C-scores "
                "of these instances are missing; raise estimator.runs"
            )
        report = sampled.described(used, pools, self.target, design)
        report |= {"sizes": ", ".join(map(str, sizes)), "runs": self.runs}
        tables = {"consistency": consistency, "c_score": _scores(consistency, by_all)}
        return contrast(run, pools, self.target, weights=weights, report=report, tables=tables)

    def _consistency(self, run: Run, pools: list[Pool], sizes: list[int], by_seed: Array | None) -> pd.DataFrame:
        """One row per instance and size; NaN where no model leaves the instance out."""
        import pandas as pd

        parts, n = [], len(run.train)
        for place, (size, pool) in enumerate(zip(sizes, pools, strict=True)):
            without = pool.own.sides(slice(None))[1]
            every = pool.tests.whole
            for split, ids, side in (("train", run.train.ids, without), ("test", run.test.ids, every)):
                count, mean, variance = (np.broadcast_to(a.ravel(), len(ids)) for a in side)
                score, error = np.where(count > 0, -mean, np.nan), np.sqrt(variance / np.maximum(count, 1))
                if by_seed is not None:
                    error = by_seed[place, :n] if split == "train" else by_seed[place, n:]
                stderr = np.where(count > 1, error, np.nan)
                columns = {"split": split, "id": ids, "size": size, "score": score, "stderr": stderr}
                parts.append(pd.DataFrame(columns | {"models": count.astype(int)}))
        return pd.concat(parts, ignore_index=True)

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, (design, sizes) = len(prospect.train), len(prospect.test), self.design(prospect)
        formula, clusters = (
            f"{self.runs} trainings at each of {len(sizes)} sizes",
            sampled.clusters_of(prospect, design),
        )
        return sampled.sampling_work(design, n, m, len(sizes), formula, clusters)

    def design(self, run: Run | Prospect) -> tuple[Design, list[int]]:
        """Subsets size after size, and the sizes."""
        check_target(self.target, run.problem.data)
        n = len(run.train)
        sizes = sorted({min(max(round(share * n), 1), n - 1) for share in self.sizes})
        masks = [subsets.fixed_size(run.train.ids, size, self.runs, run.drawn(f"fixed/{size}")) for size in sizes]
        turn: NDArray[np.int64] = np.tile(np.arange(self.runs, dtype=np.int64) % self.seeds, len(sizes))
        return Design(weights=np.concatenate(masks), init=turn, order=turn.copy(), loss_norm="subset"), sizes


def _errors_by_seed(pools: list[Pool]) -> tuple[Array, Array]:
    """Standard errors of consistencies (sizes, n + m) and of their means over sizes, which share seeds (n + m,)."""
    own, every = slice(None), range(pools[0].clusters)
    pulls = [
        np.stack([np.append(pool.own.pulls(own, number)[1], pool.tests.whole_pull(number)) for pool in pools])
        for number in every
    ]
    return clustered(pulls), clustered(pull.mean(axis=0, keepdims=True) for pull in pulls).ravel()


def _scores(consistency: pd.DataFrame, by_seed: Array | None) -> pd.DataFrame:
    """Means over sizes, whose subsets are drawn apart; NaN where a size is missing."""
    grouped = consistency.assign(variance=consistency["stderr"] ** 2).groupby(["split", "id"], sort=False)
    score = grouped["score"].agg(lambda s: s.mean(skipna=False))
    variance = (grouped["variance"].agg(lambda s: s.mean(skipna=False)) / grouped.size()).to_numpy(dtype=np.float64)
    stderr = np.sqrt(variance) if by_seed is None else np.where(np.isnan(variance), np.nan, by_seed)
    return score.to_frame("score").assign(stderr=stderr).reset_index()
