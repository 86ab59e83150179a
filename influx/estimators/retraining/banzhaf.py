"""Banzhaf values: effects in a random half of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from influx.engines import sampled, subsets
from influx.engines.contrasts import contrast, joint_table, memorization_table, scale_of
from influx.engines.regressed import regression_of
from influx.engines.regressions import least_squares
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

Rule = Literal["msr", "ols"]


@dataclass(frozen=True, kw_only=True)
class Banzhaf(sampled.Subsampled):
    """Data Banzhaf values: the mean effect of an instance over all subsets of the others, each as likely.

    Estimates: 2^-(n-1) Σ over subsets S of the others of L(z_j; θ_S) - L(z_j; θ_{S∪i}); positive for proponents.
        Effects in half of the training set (with ``p``: p n of it), in loss units with target=loss.
    Needs: retraining.
    Cost: K trainings on subsets; 4 K n m operations; rule=ols also n² K + n³ and n² numbers.
    Source: Banzhaf 1965; Wang & Jia 2023; survey Eq. (27). rule=msr is their maximum sample reuse, the difference of
        mean risks without and with i, with Welch's standard error. rule=ols regresses risks on membership, with HC3
        standard errors. Its limit is the same; it has less variance when K is several times n, where it takes the
        others' additive effects out, and more when K is near n. It needs K > n + 1 and warns below 3 n.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model. With 3 or more
            the standard errors of msr hold what other seeds would change.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
        models: K, subsets to train on.
        target_stderr: stop before ``models`` when the median standard error of the joint influence (by difference of
            means, from the draw of subsets) is at most this; null trains all.
        p: probability of an instance to be in a subset; 0.5 is the Banzhaf value, others are weighted ones.
        rule: msr (difference of means) or ols (least squares).
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
        paper="Wang & Jia 2023",
    )

    p: float = 0.5
    rule: Rule = "msr"

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 < self.p < 1:
            raise ConfigError(f"estimator.p must be between 0 and 1, got {self.p}; change it")
        if self.rule not in get_args(Rule):
            raise ConfigError(f"estimator.rule must be msr or ols, got {self.rule!r}; change it")

    def estimate(self, run: Run) -> Influence:
        """Train on the subsets and compare, or regress."""
        design, label = self.design(run), "retraining on subsets"
        least, msr = len(run.train) + 2 if self.rule == "ols" else 0, self.rule == "msr"
        given = (run, design, None, self.target, self.target_stderr, least)
        pools, used = sampled.gather(*given, label=label, by_seed=msr)
        report = sampled.described(used, pools, self.target, design) | {"rule": self.rule}
        if msr:
            return contrast(run, pools, self.target, report=report)
        n, m = len(run.train), len(run.test)
        if used < 3 * n:
            run.warn(
                f"least squares on {used} models is noisy for {n} training instances; raise estimator.models to "
                f"{3 * n} or use estimator.rule=msr"
            )
        sample = regression_of(run, design.rows(slice(0, used)), self.target, label, own=True)
        slopes, stderr = least_squares(sample)
        own, own_stderr = -np.diag(slopes[:, m + 1 :]), np.diag(stderr[:, m + 1 :])
        return run.influence(
            -slopes[:, :m],
            scale=scale_of(self.target),
            stderr=stderr[:, :m],
            self_influence=own,
            tables={
                "joint": joint_table(run.train.ids, -slopes[:, :m], -slopes[:, m], stderr[:, m]),
                "memorization": memorization_table(run.train.ids, own, own_stderr),
            },
            report=report,
        )

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, design = len(prospect.train), len(prospect.test), self.design(prospect)
        clusters = sampled.clusters_of(prospect, design) if self.rule == "msr" else 0
        work = sampled.sampling_work(design, n, m, 1, f"{self.models} trainings on {self.p} of {n}", clusters)
        if self.rule == "ols":
            products = Work(
                flops=2 * (6.0 * self.models * n * (2 * n + m) + 4.0 * n**3),
                bytes=8.0 * (6.0 * n * n + 4.0 * n * (n + m)) + 1.0 * self.models * n,
                formula=f"least squares of {n} + {m} outcomes on {n} instances",
            )
            work = work + products
        return work

    def design(self, run: Run | Prospect) -> Design:
        """The subsets.

        Raises:
            ConfigError: too few hold or lack an instance, or they are too few for least squares.
        """
        masks = subsets.bernoulli(run.train.ids, self.p, self.models, run.drawn(f"bernoulli/{self.p}"))
        sampled.check_counts(sampled.sides_of(masks > 0), run.problem.data, self.target)
        if self.rule == "ols" and self.models <= len(run.train) + 1:
            raise ConfigError(
                f"estimator.rule=ols needs more models than {len(run.train) + 1}, the training instances and 1, "
                f"got estimator.models={self.models}; raise it or use estimator.rule=msr"
            )
        return subsets.turns(masks, self.seeds)
