"""Out-of-bag values of training instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.engines import sampled, subsets
from influx.engines.contrasts import FEWEST_CLUSTERS, contrast
from influx.engines.risk_sums import clustered
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run


@dataclass(frozen=True, kw_only=True)
class DataOOB(sampled.Subsampled):
    """Out-of-bag value: how well bootstrap models that did not draw an instance predict it.

    Estimates: table data_oob has -mean of L(z_i; θ_b) over bootstrap samples b without i, large for instances that
        others predict well. The (n, m) values are influences from the same models: mean risk of z_j under models
        without i minus under models that drew i at least once, positive for proponents, in loss units with
        target=loss; self-influence likewise. An out-of-bag value is no self-influence: it has no models with i.
    Needs: retraining.
    Cost: K trainings on bootstrap samples; 4 K n m operations; n m numbers in 4 matrices.
    Source: Kwon & Zou 2023; theirs has the accuracy (target=zero_one, where a value is the accuracy minus 1) of
        decision trees. The influences are no part of the paper; a sample without i has other instances more often, so
        that they are relative to the mean of the others as with fixed-size subsets.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model. With 3 or more
            standard errors hold what other seeds would change.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
        models: K, bootstrap samples.
        target_stderr: stop before ``models`` when the median standard error of the joint influence, from the draw of
            samples, is at most this; null trains all.
        fraction: draws with replacement per sample, as a share of the training instances.
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
        paper="Kwon & Zou 2023",
    )

    fraction: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 < self.fraction:
            raise ConfigError(f"estimator.fraction must be above 0, got {self.fraction}; raise it")

    def estimate(self, run: Run) -> Influence:
        """Train on the bootstrap samples; values of training instances out of bag, and influence."""
        import pandas as pd

        design, label = self.design(run), "retraining on bootstrap samples"
        pools, used = sampled.gather(run, design, None, self.target, self.target_stderr, label=label)
        own, every = pools[0].own, slice(None)
        count, mean, variance = (a.ravel() for a in own.sides(every)[1])
        stderr = np.sqrt(variance / count)
        if pools[0].clusters >= FEWEST_CLUSTERS:
            stderr = clustered(own.pulls(every, number)[1] for number in range(pools[0].clusters)).ravel()
        values = {"value": -mean, "stderr": stderr, "models": count.astype(int)}
        table = pd.DataFrame({"train_id": run.train.ids} | values)
        report = sampled.described(used, pools, self.target, design)
        return contrast(run, pools, self.target, report=report, tables={"data_oob": table})

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, design = len(prospect.train), len(prospect.test), self.design(prospect)
        clusters = sampled.clusters_of(prospect, design)
        return sampled.sampling_work(design, n, m, 1, f"{self.models} trainings on bootstrap samples", clusters)

    def design(self, run: Run | Prospect) -> Design:
        """The bootstrap samples: how often each instance is drawn.

        Raises:
            ConfigError: too few hold or lack an instance.
        """
        draws = max(round(self.fraction * len(run.train)), 1)
        counts = subsets.bootstrap(run.train.ids, draws, self.models, run.drawn("bootstrap"))
        sampled.check_counts(sampled.sides_of(counts > 0), run.problem.data, self.target)
        return subsets.turns(counts, self.seeds)
