"""Average marginal effects over subsets of several sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import regressions, sampled, subsets
from influx.engines.contrasts import contrast, joint_table, scale_of
from influx.engines.debiased import Effects, debiased
from influx.engines.regressed import regression_of
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["lasso", "ipw"]


@dataclass(frozen=True, kw_only=True)
class AverageMarginalEffect(sampled.Subsampled):
    """Average marginal effect (AME): the mean effect of an instance over subsets drawn at several densities.

    Estimates: mean over p of E[L(z_j; θ_S) | i not in S] - E[L(z_j; θ_S) | i in S], where S holds every instance with
        probability p; positive for proponents. In loss units with target=loss.
    Needs: retraining.
    Cost: K trainings on subsets; 12 K n (n + m) operations and ``folds`` · ``path`` LASSO fits of n² m operations per
        step; n² + n m numbers.
    Source: Lin et al. 2022, Eq. (3). Each of K subsets has its own p. rule=lasso regresses risks on 1 / (√c p) for
        members and -1 / (√c (1 - p)) for others, c = E[1 / (p (1 - p))], features of mean 0 and variance 1; the value
        is √c times the coefficient. The penalty is the largest within one standard error of the least error in
        cross-validation. These values shrink and most are 0, so that intervals around them do not cover. Debiased
        (not in the paper; Zhang & Zhang 2014 with the design's known moments, cross-fitted as in Chernozhukov et al.
        2018), the value is the mean over models of b_i + (1/p or -1/(1-p)) · residual, with coefficients fitted on
        other parts of the models: unbiased for any K, with a standard error that covers. The LASSO is then in table
        lasso: joint value, and for how many test instances it keeps an instance. rule=ipw weighs by inverse
        probabilities, normalised within each p: the difference of mean risks at each p, averaged. Self-influence is by
        ipw under both.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model. With 3 or more
            the standard errors of ipw hold what other seeds would change.
        target: what is measured on an instance: loss, margin (its negative) or zero_one.
        models: K, subsets to train on.
        target_stderr: stop before ``models`` when the median standard error of the joint influence (by ipw, from the
            draw of subsets) is at most this; null trains all.
        probabilities: the p, each as likely.
        rule: lasso or ipw.
        debias: add to the LASSO what it lacks, so that intervals cover; false reports the LASSO, whose standard error
            is a jackknife over 20 parts of the models at the chosen penalty (with ``post_ols``: at the chosen
            instances, where others have 0) and holds neither the choice nor the shrinkage.
        post_ols: least squares on the instances that the LASSO keeps, which takes back its shrinkage.
        p_dummies: an intercept per p, so that the fall of the risk with the size of subsets is no noise.
        folds: parts for cross-validation and for the fits that are debiased.
        path: penalties tried.
        path_ratio: smallest of them, relative to the one at which all values are 0.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="K T + K n (n + m)",
        incremental="K + K n",
        storage="K (n + m) + n² + n m",
        assumptions="few instances matter (lasso)",
        groups="no",
        paper="Lin et al. 2022",
    )

    probabilities: list[float] = field(default_factory=lambda: [0.2, 0.4, 0.6, 0.8])
    rule: Rule = "lasso"
    debias: bool = True
    post_ols: bool = True
    p_dummies: bool = True
    folds: int = 10
    path: int = 20
    path_ratio: float = 0.001

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not self.probabilities or not all(0 < p < 1 for p in self.probabilities):
            raise ConfigError(
                f"estimator.probabilities must be numbers between 0 and 1, got {self.probabilities}; change them"
            )
        if len(set(self.probabilities)) < len(self.probabilities):
            raise ConfigError(f"estimator.probabilities must differ, got {self.probabilities}; remove repetitions")
        if self.rule not in get_args(Rule):
            raise ConfigError(f"estimator.rule must be lasso or ipw, got {self.rule!r}; change it")
        regressions.check_path(self.folds, self.path, self.path_ratio, self.models)

    def estimate(self, run: Run) -> Influence:
        """Train on the subsets, regress their risks or compare those with and without each instance."""
        (design, density), label = self.design(run), "retraining on subsets"
        given = (run, design, density, self.target, self.target_stderr, 2 * self.folds)
        pools, used = sampled.gather(*given, label=label, by_seed=self.rule == "ipw")
        report = sampled.described(used, pools, self.target, design) | {"rule": self.rule}
        simple = contrast(run, pools, self.target, report=report)
        if self.rule == "ipw":
            return simple
        slopes, stderr, lasso, facts = self._regress(run, design.rows(slice(0, used)), density[:used], label)
        m = len(run.test)
        if not self.debias:
            report["stderr_holds"] += f"; {regressions.CONDITIONAL}"
        joint = joint_table(run.train.ids, -slopes[:, :m], -slopes[:, m], stderr[:, m])
        return run.influence(
            -slopes[:, :m],
            scale=scale_of(self.target),
            stderr=stderr[:, :m],
            self_influence=simple.self_influence,
            tables={"joint": joint, "memorization": simple.tables["memorization"], "lasso": lasso},
            report=report | facts,
        )

    def _regress(
        self, run: Run, design: Design, density: NDArray[np.int64], label: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], pd.DataFrame, dict[str, float]]:
        """Effects on risks (n, m + 1), the last on their mean, their standard errors, the LASSO and facts on it."""
        p = np.asarray(self.probabilities)[density]
        unit = float(np.sqrt(np.mean([1 / (q * (1 - q)) for q in self.probabilities])))

        def features(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            chance = p[rows][:, None]
            return np.where(design.weights[rows] > 0, 1 / chance, -1 / (1 - chance)) / unit

        strata = density if self.p_dummies else None
        sample = regression_of(run, design, self.target, label, features=features, strata=strata)
        centre = regressions.centres(sample, sample.whole)
        sums = regressions.products(sample, centre, sample.whole)
        folds = regressions.ranges(len(sample), self.folds)
        tried = regressions.penalties(sums.xy / sums.count, self.path, self.path_ratio)
        penalty = regressions.cross_validated(sample, centre, sums, folds, tried)
        kept = regressions.lasso(sums.xx / sums.count, sums.xy / sums.count, penalty)
        missed = regressions.violation(sums.xx / sums.count, sums.xy / sums.count, penalty, kept)
        if doubt := regressions.doubt(missed):
            run.warn(doubt)

        def fit(part: regressions.Products) -> NDArray[np.float64]:
            gram, cross = part.xx / part.count, part.xy / part.count
            if self.post_ols and not self.debias:
                return regressions.on_support(gram, cross, kept != 0)
            found = regressions.lasso(gram, cross, penalty, kept)
            return regressions.on_support(gram, cross, found != 0) if self.post_ols else found

        slopes = fit(sums)
        facts = {"lasso_violation": missed, "mean_instances_kept": float((kept[:, :-1] != 0).sum(axis=0).mean())}
        lasso = _lasso_table(run.train.ids, -unit * slopes, kept)
        if not self.debias:
            return unit * slopes, unit * regressions.jackknife(sample, centre, sums, slopes, fit), lasso, facts
        chances = np.asarray(self.probabilities)
        moment = 1 / (chances * (1 - chances)) / unit
        known = Effects(weigh=lambda rows: unit * features(rows), product=moment, group=density)
        return *debiased(sample, centre, sums, folds, fit, known), lasso, facts

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m, (design, _) = len(prospect.train), len(prospect.test), self.design(prospect)
        strata, clusters = len(self.probabilities), sampled.clusters_of(prospect, design) if self.rule == "ipw" else 0
        formula = f"{self.models} trainings at {strata} densities"
        work = sampled.sampling_work(design, n, m, strata, formula, clusters)
        if self.rule == "lasso":
            work = work + regressions.lasso_work(self.models, n, m + 1, self.folds, self.folds * self.path, strata)
        return work

    def design(self, run: Run | Prospect) -> tuple[Design, NDArray[np.int64]]:
        """The subsets, and for each the place of its p in ``probabilities``.

        Raises:
            ConfigError: at some p too few subsets hold or lack an instance.
        """
        count = len(self.probabilities)
        rounds = np.tile(np.arange(count), (-(-self.models // count), 1))
        density = run.rng("densities").permuted(rounds, axis=1).ravel()[: self.models]
        masks, turn = np.empty((self.models, len(run.train)), np.uint8), np.empty(self.models, np.int64)
        for number, p in enumerate(self.probabilities):
            rows = np.flatnonzero(density == number)
            masks[rows] = subsets.bernoulli(run.train.ids, p, len(rows), run.drawn(f"bernoulli/{p}"))
            turn[rows] = np.arange(len(rows)) % self.seeds  # as if there were no other p
        sampled.check_counts(sampled.sides_of(masks > 0, density), run.problem.data, self.target)
        return Design(weights=masks, init=turn, order=turn.copy(), loss_norm="subset"), density


def _lasso_table(ids: NDArray[np.int64], values: NDArray[np.float64], kept: NDArray[np.float64]) -> pd.DataFrame:
    """The LASSO's joint influence of each instance, and for how many test instances it keeps the instance."""
    import pandas as pd

    found = {"influence": values[:, -1], "tests_that_keep_it": (kept[:, :-1] != 0).sum(axis=1)}
    return pd.DataFrame({"train_id": ids} | found)
