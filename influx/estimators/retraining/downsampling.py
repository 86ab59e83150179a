"""Influence and memorization from models trained on random subsets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import sampled, subsets
from influx.engines.contrasts import contrast
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

Sampling = Literal["fixed_size", "bernoulli", "paired_sizes"]
OFFSET = {
    "fixed_size": "influences sum to about 0 over training instances: each is relative to the mean of the others",
    "bernoulli": "none: instances are in a subset independently of each other",
    "paired_sizes": "none: models without an instance have one instance less",
}


@dataclass(frozen=True, kw_only=True)
class Downsampling(sampled.Subsampled):
    """Risk of models trained without an instance minus risk of models trained with it, over random subsets.

    Estimates: mean of L(z_j; θ_S) over subsets S without i, minus the mean over subsets with i; positive for
        proponents. Effects in training sets of ``fraction`` · n instances, in loss units with target=loss. Table
        memorization: the same on the instance itself; table joint: on the mean over test instances.
    Needs: retraining.
    Cost: K trainings on subsets; 4 K n m operations; n m numbers in 4 matrices.
    Source: Feldman & Zhang 2020; survey Eq. (9)-(13). With sampling=fixed_size a model without i has another
        instance in its place, so that the sum over i is 0 when all subsets are drawn: for an additive risk with
        effects a the value is a_i minus the mean of the other a. sampling=paired_sizes takes the models with i at
        size s and those without at s - 1, which is Eq. (13); sampling=bernoulli includes every instance with
        probability ``fraction``. Neither has the offset.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model. With 3 or more
            standard errors hold what other seeds would change.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
        models: K, subsets to train on.
        target_stderr: stop before ``models`` when the median standard error of the joint influence, from the draw of
            subsets, is at most this; null trains all.
        fraction: share of the training instances in a subset.
        sampling: fixed_size (the paper's), bernoulli or paired_sizes.
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
        paper="Feldman & Zhang 2020",
    )

    models: int = 500
    fraction: float = 0.7
    sampling: Sampling = "fixed_size"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise ConfigError(f"estimator.fraction must be between 0 and 1, got {self.fraction}; change it")
        if self.sampling not in get_args(Sampling):
            choices = ", ".join(get_args(Sampling))
            raise ConfigError(f"estimator.sampling must be one of {choices}, got {self.sampling!r}; change it")

    def estimate(self, run: Run) -> Influence:
        """Train on the subsets and compare those with and without each instance."""
        design, strata = self.design(run)
        label = "retraining on subsets"
        pools, used = sampled.gather(
            run, design, strata, self.target, self.target_stderr, label=label, paired=self._paired
        )
        report = sampled.described(used, pools, self.target, design, self._paired)
        report |= {"sampling": self.sampling, "offset": OFFSET[self.sampling]}
        return contrast(run, pools, self.target, paired=self._paired, report=report)

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, (design, _) = len(prospect.train), len(prospect.test), self.design(prospect)
        pools, clusters = 2 if self._paired else 1, sampled.clusters_of(prospect, design)
        return sampled.sampling_work(
            design, n, m, pools, f"{self.models} trainings on {self.fraction} of {n}", clusters
        )

    @property
    def _paired(self) -> bool:
        return self.sampling == "paired_sizes"

    def design(self, run: Run | Prospect) -> tuple[Design, NDArray[np.int64]]:
        """The subsets, and which pool each is counted in.

        Raises:
            ConfigError: subsets would be empty or whole, or too few hold or lack an instance.
        """
        n, ids = len(run.train), run.train.ids
        size, strata = round(self.fraction * n), np.zeros(self.models, np.int64)
        if self.sampling == "bernoulli":
            masks = subsets.bernoulli(ids, self.fraction, self.models, run.drawn(f"bernoulli/{self.fraction}"))
        elif not 1 <= size - self._paired or size >= n:
            raise ConfigError(f"estimator.fraction={self.fraction} of {n} instances leaves none in or out; change it")
        elif self._paired:
            strata = np.arange(self.models) % 2
            masks = np.empty((self.models, n), np.uint8)
            for less in (0, 1):
                rng, count = run.drawn(f"fixed/{size - less}"), int((strata == less).sum())
                masks[strata == less] = subsets.fixed_size(ids, size - less, count, rng)
        else:
            masks = subsets.fixed_size(ids, size, self.models, run.drawn(f"fixed/{size}"))
        design = subsets.turns(masks, self.seeds)
        if self._paired:  # both sizes take every turn
            turn = np.arange(self.models, dtype=np.int64) // 2 % self.seeds
            design = replace(design, init=turn, order=turn.copy())
        inside, outside = sampled.sides_of(masks > 0, strata)
        sampled.check_counts((inside[0], outside[-1]), run.problem.data, self.target)
        return design, strata
