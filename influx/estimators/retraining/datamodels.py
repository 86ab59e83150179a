"""Datamodels: risks predicted from which instances were trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import regressions, sampled, subsets
from influx.engines.contrasts import contrast, joint_table, scale_of
from influx.engines.debiased import Effects, debiased
from influx.engines.regressed import rank_correlations, regression_of
from influx.engines.risks import Target
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 10  # parts whose effects are debiased with fits on the others
HELD_OUT = 6  # fewest held-out models: three to choose by, three to judge by


@dataclass(frozen=True, kw_only=True)
class Datamodels(sampled.Subsampled):
    """Linear datamodels: the weight of an instance in a sparse linear prediction of a test instance's risk.

    Estimates: w_ij in the prediction b_j - Σ_{i∈S} w_ij of the risk of z_j under a model trained on S, fitted with an
        L1 penalty on random subsets; positive for proponents. With target=margin (the paper's) only ranks; in loss
        units with target=loss.
    Needs: retraining.
    Cost: K trainings on subsets; 12 K n (n + m) operations and ``path`` LASSO fits of n² m operations per step;
        n² + n m numbers.
    Source: Ilyas et al. 2022. Subsets hold every instance with probability ``alpha``; the paper's subsets of one
        size leave a common shift of a test instance's weights undetermined. The penalty of each test instance is
        the one with the least error on half of the held-out models; then all models are fitted again. Debiased (not
        in the paper; Zhang & Zhang 2014 with the design's known moments, cross-fitted as in Chernozhukov et al. 2018),
        a weight is the mean over models of the LASSO's, fitted on other parts of the models, and of the residual
        divided by ``alpha`` for members and by ``alpha`` - 1 for others: unbiased for any K, dense, with a standard
        error that covers. Table datamodels has the intercept that goes with the values, and of the LASSO the penalty,
        the number of weights that are not 0, and R² and the rank correlation (linear datamodeling score; 0 where the
        prediction is constant) on the other half of the held-out models, of a fit without any of them. Self-influence
        is the difference of mean risks without and with an instance.

    Attributes:
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model.
        target: what is measured on an instance: margin (its negative), loss or zero_one.
        models: K, subsets to train on.
        target_stderr: stop before ``models`` when the median standard error of the joint influence (by difference
            of means) is at most this; null trains all.
        alpha: probability of an instance to be in a subset.
        held_out: share of the models that are held out: one half chooses the penalty, the other judges the fit.
        debias: add to the LASSO what it lacks, so that intervals cover; false reports the LASSO's weights, whose
            standard error is a jackknife over 20 parts of the models at the chosen penalty and holds neither the
            choice of the penalty nor the shrinkage.
        path: penalties tried.
        path_ratio: smallest of them, relative to the one at which all weights are 0.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="retraining",
        full="K T + K n (n + m)",
        incremental="K + K n",
        storage="K (n + m) + n² + n m",
        assumptions="risk linear in the subset; few instances matter",
        groups="additive",
        paper="Ilyas et al. 2022",
    )

    target: Target = "margin"
    alpha: float = 0.5
    held_out: float = 0.1
    debias: bool = True
    path: int = 50
    path_ratio: float = 0.001

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        regressions.check_path(FOLDS, self.path, self.path_ratio, self.models)
        if not 0 < self.alpha < 1:
            raise ConfigError(f"estimator.alpha must be between 0 and 1, got {self.alpha}; change it")
        if not 0 < self.held_out < 1 or self.models < self._least:
            raise ConfigError(
                f"estimator.held_out={self.held_out} of {self.models} models leaves too few in or out; change it"
            )

    @property
    def _least(self) -> int:
        """Fewest models of which enough are held out and enough are not."""
        return max(2 * FOLDS, math.ceil(HELD_OUT / self.held_out), math.ceil(FOLDS / (1 - self.held_out)))

    def estimate(self, run: Run) -> Influence:
        """Train on the subsets, choose penalties on held-out models and fit all."""
        design, label = self.design(run), "retraining on subsets"
        given = (run, design, None, self.target, self.target_stderr, self._least)
        pools, used = sampled.gather(*given, label=label, by_seed=False)
        simple = contrast(run, pools, self.target, report={})
        sample = regression_of(run, design.rows(slice(0, used)), self.target, label)
        penalty, r2, lds = self._choose(sample)
        centre = regressions.centres(sample, sample.whole)
        sums = regressions.products(sample, centre, sample.whole)

        def fit(part: regressions.Products) -> NDArray[np.float64]:
            return regressions.lasso(part.xx / part.count, part.xy / part.count, penalty, start)

        start = None
        lasso = start = fit(sums)
        m, missed = len(run.test), regressions.violation(sums.xx / used, sums.xy / used, penalty, lasso)
        if doubt := regressions.doubt(missed):
            run.warn(doubt)
        if self.debias:
            folds = regressions.ranges(used, FOLDS)
            slopes, stderr = debiased(sample, centre, sums, folds, fit, self._known(sample))
        else:
            slopes, stderr = lasso, regressions.jackknife(sample, centre, sums, lasso, fit)
        intercept = centre.y[0] - centre.x[0] @ slopes
        chosen = {
            "intercept": intercept,
            "r2": r2,
            "lds": lds,
            "penalty": penalty,
            "nonzero": (lasso != 0).sum(axis=0),
        }
        report = sampled.described(used, pools, self.target, design)
        report |= _mean("held_out_r2", r2[:m]) | _mean("held_out_lds", lds[:m]) | {"lasso_violation": missed}
        if not self.debias:
            report["stderr_holds"] += f"; {regressions.CONDITIONAL}"
        tables = {
            "joint": joint_table(run.train.ids, -slopes[:, :m], -slopes[:, m], stderr[:, m]),
            "memorization": simple.tables["memorization"],
            "datamodels": _table(run.test.ids, chosen),
        }
        return run.influence(
            -slopes[:, :m],
            scale=scale_of(self.target),
            stderr=stderr[:, :m],
            self_influence=simple.self_influence,
            tables=tables,
            report=report,
        )

    def _choose(self, sample: regressions.Sample) -> tuple[NDArray[np.float64], ...]:
        """Per outcome penalty with least error on half of the held-out models; R² and rank correlation on others."""
        held = round(self.held_out * len(sample))
        cut, half = len(sample) - held, held // 2
        centre = regressions.centres(sample, slice(0, cut))
        sums = regressions.products(sample, centre, slice(0, cut))
        x, y = _centred(sample, centre, slice(cut, cut + half))
        x_new, y_new = _centred(sample, centre, slice(cut + half, len(sample)))
        tried = regressions.penalties(sums.xy / sums.count, self.path, self.path_ratio)
        least, penalty, slopes = np.full(y.shape[1], np.inf), tried[0], np.zeros_like(sums.xy)
        for each, found in zip(tried, regressions.path(sums, tried), strict=True):
            error = np.square(y - x @ found).sum(axis=0)
            better = error < least
            least = np.where(better, error, least)
            penalty, slopes = np.where(better, each, penalty), np.where(better, found, slopes)
        slopes = regressions.lasso(sums.xx / sums.count, sums.xy / sums.count, penalty, slopes)  # to its optimum
        predicted, spread = x_new @ slopes, np.square(y_new - y_new.mean(axis=0)).sum(axis=0)
        r2 = 1 - np.square(y_new - predicted).sum(axis=0) / np.where(spread > 0, spread, np.nan)
        return penalty, r2, rank_correlations(predicted, y_new)

    def _known(self, sample: regressions.Sample) -> Effects:
        """What is known of subsets that hold every instance with probability ``alpha``."""
        variance = self.alpha * (1 - self.alpha)
        return Effects(
            weigh=lambda rows: (sample.features(rows) - self.alpha) / variance,
            product=np.ones(1),
            group=sample.strata,
        )

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m = len(prospect.train), len(prospect.test)
        work = sampled.sampling_work(self.design(prospect), n, m, 1, f"{self.models} trainings on {self.alpha} of {n}")
        held = Work(bytes=8.0 * self.held_out * self.models * (n + 2 * m))
        return work + held + regressions.lasso_work(self.models, n, m + 1, FOLDS, self.path + FOLDS)

    def design(self, run: Run | Prospect) -> Design:
        """The subsets.

        Raises:
            ConfigError: too few hold or lack an instance.
        """
        masks = subsets.bernoulli(run.train.ids, self.alpha, self.models, run.drawn(f"bernoulli/{self.alpha}"))
        sampled.check_counts(sampled.sides_of(masks > 0), run.problem.data, self.target)
        return subsets.turns(masks, self.seeds)


def _centred(
    sample: regressions.Sample, centre: regressions.Centres, rows: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features and outcomes of a range of models, in the order in which they are read."""
    parts = [centre.of(sample, part, y) for part, y in sample.read(rows)]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _mean(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    """For the report; nothing where no test instance has a number."""
    finite = values[np.isfinite(values)]
    return {name: float(finite.mean())} if len(finite) else {}


def _table(ids: NDArray[np.int64], columns: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One row per test instance; the outcome after them, their mean, is left out."""
    import pandas as pd

    return pd.DataFrame({"test_id": ids} | {name: values[:-1] for name, values in columns.items()})
