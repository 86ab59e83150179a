"""Datamodels: risks predicted from which instances were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from influx.engines import regressions, sampled, subsets
from influx.engines.contrasts import contrast, joint_table, scale_of
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

FOLDS = 10  # parts of the jackknife


@dataclass(frozen=True, kw_only=True)
class Datamodels:
    """Linear datamodels: the weight of an instance in a sparse linear prediction of a test instance's risk.

    Estimates: w_ij in the prediction b_j - Σ_{i∈S} w_ij of the risk of z_j under a model trained on S, fitted with an
        L1 penalty on random subsets; positive for proponents. With target=margin (the paper's) only ranks; in loss
        units with target=loss.
    Needs: retraining.
    Cost: K trainings on subsets; 6 K n (n + m) operations and ``path`` LASSO fits of n² m operations per step;
        n² + n m numbers.
    Source: Ilyas et al. 2022. Subsets hold every instance with probability ``alpha``; the paper's subsets of one
        size leave a common shift of a test instance's weights undetermined. The penalty of each test instance is
        the one with the least error on held-out models; then all models are fitted again. Table datamodels has the
        intercept, and R² and the rank correlation (linear datamodeling score) on held-out models of the fit without
        them. Standard errors are a jackknife over 10 parts of the models at the chosen penalty. Self-influence is
        the difference of mean risks without and with an instance.

    Attributes:
        alpha: probability of an instance to be in a subset.
        models: K, subsets to train on.
        held_out: share of the models that choose the penalty.
        path: penalties tried.
        path_ratio: smallest of them, relative to the one at which all weights are 0.
        seeds: initialisations and batch orders that take turns; 1 means those of the trained model.
        target: what is measured on an instance: margin (its negative), loss or zero_one.
        target_stderr: stop before ``models`` when the median standard error of the joint influence (by difference
            of means) is at most this; null trains all.
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

    alpha: float = 0.5
    models: int = 1000
    held_out: float = 0.1
    path: int = 50
    path_ratio: float = 0.001
    seeds: int = 1
    target: Target = "margin"
    target_stderr: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        sampled.check_sampling(self.models, self.seeds, self.target, self.target_stderr)
        regressions.check_path(FOLDS, self.path, self.path_ratio, self.models)
        if not 0 < self.alpha < 1:
            raise ConfigError(f"estimator.alpha must be between 0 and 1, got {self.alpha}; change it")
        if not (0 < self.held_out < 1 and 3 <= round(self.held_out * self.models) <= self.models - FOLDS):
            raise ConfigError(
                f"estimator.held_out={self.held_out} of {self.models} models leaves too few in or out; change it"
            )

    def estimate(self, run: Run) -> Influence:
        """Train on the subsets, choose penalties on held-out models and fit all."""
        design, label = self.design(run), "retraining on subsets"
        pools, used = sampled.gather(run, design, None, self.target, self.target_stderr, label=label)
        simple = contrast(run, pools, self.target, report={})
        sample = regression_of(run, design.rows(slice(0, used)), self.target, label)
        penalty, r2, lds = self._choose(sample)
        centre = regressions.centres(sample, sample.whole)
        sums = regressions.products(sample, centre, sample.whole)

        def fit(part: regressions.Products) -> NDArray[np.float64]:
            return regressions.lasso(part.xx / part.count, part.xy / part.count, penalty, start)

        start = None
        slopes = start = fit(sums)
        stderr = regressions.jackknife(sample, centre, sums, regressions.ranges(used, FOLDS), slopes, fit)
        m, missed = len(run.test), regressions.violation(sums.xx / used, sums.xy / used, penalty, slopes)
        if doubt := regressions.doubt(missed):
            run.warn(doubt)
        intercept = centre.y[0] - centre.x[0] @ slopes
        chosen = {
            "intercept": intercept,
            "r2": r2,
            "lds": lds,
            "penalty": penalty,
            "nonzero": (slopes != 0).sum(axis=0),
        }
        report = sampled.described(used, pools, self.target, self.seeds)
        report |= {"held_out_r2": float(np.mean(r2[:m])), "held_out_lds": _mean(lds[:m]), "lasso_violation": missed}
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
        """Per outcome the penalty with the least error on the last models; R² and rank correlation there."""
        cut = len(sample) - round(self.held_out * len(sample))
        centre = regressions.centres(sample, slice(0, cut))
        sums = regressions.products(sample, centre, slice(0, cut))
        parts = [centre.of(sample, rows, y) for rows, y in sample.read(slice(cut, len(sample)))]
        x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
        tried = regressions.penalties(sums.xy / sums.count, self.path, self.path_ratio)
        least, penalty, slopes = np.full(y.shape[1], np.inf), tried[0], np.zeros_like(sums.xy)
        for each, found in zip(tried, regressions.path(sums, tried), strict=True):
            error = np.square(y - x @ found).sum(axis=0)
            better = error < least
            least = np.where(better, error, least)
            penalty, slopes = np.where(better, each, penalty), np.where(better, found, slopes)
        spread = np.square(y - y.mean(axis=0)).sum(axis=0)
        r2 = 1 - least / np.where(spread > 0, spread, np.nan)
        return penalty, r2, rank_correlations(x @ slopes, y)

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
        masks = subsets.bernoulli(run.train.ids, self.alpha, self.models, run.rng("subsets"))
        sampled.check_counts(sampled.sides_of(masks > 0), run.problem.data, self.target)
        return subsets.turns(masks, self.seeds)


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0


def _table(ids: NDArray[np.int64], columns: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One row per test instance; the outcome after them, their mean, is left out."""
    import pandas as pd

    return pd.DataFrame({"test_id": ids} | {name: values[:-1] for name, values in columns.items()})
