"""Memorization of densities from models trained without each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import folds
from influx.engines.contrasts import joint_table, memorization_table
from influx.engines.mixtures import Aggregate, Array, Contrast, Mixtures, jackknifed
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

LABEL = "retraining without each fold"


@dataclass(frozen=True, kw_only=True)
class GenerativeDownsampling:
    """Log-density of an instance under models trained with it, minus that under models trained without another one.

    Estimates: log mean_k p_k(z_j) over models with i minus the same over models without i, positive for proponents, in
        nats; p = exp(-risk). Models are those of repeated cross-validation: every instance is out of ``repeats`` models
        and in (``folds`` - 1) · ``repeats``. Table memorization: the same on the instance itself, with both sides;
        table joint: the mean over test instances. For classes p is the probability of the label, for regression the
        normal density of deviation 1.
    Needs: retraining.
    Cost: K = folds · repeats trainings on n - n / folds instances; 6 repeats · n m sums of logarithms; K (n + m)
        numbers beside the result.
    Source: van den Burg & Williams 2021, "On Memorization in Probabilistic Deep Generative Models"; survey Eq. (14).
        The paper averages densities (aggregate=logmeanexp); the survey's Eq. (9) with (14) averages their logarithms
        (mean_log), which is another number: one good model decides a mean of densities. The paper reads log p of a VAE
        by importance sampling; here it is whatever the model's risk is: exact for model=gaussian, ppca and
        autoregressive, importance sampled in evaluation_draws draws for model=vae model.bound=importance, and with
        model.bound=elbo a bound, whose gap is part of the difference. Both sides are read with the same draws. Errors
        are from a jackknife over repeats, since the folds of one depend on each other. The paper also follows the
        value over epochs; the bank holds final models alone.

    Attributes:
        folds: parts of the training instances in each repeat, each left out once; n is leave-one-out.
        repeats: draws of folds; with 1 there is no standard error.
        seeds: initialisations and batch orders that repeats take in turn; 1 means those of the trained model.
        aggregate: logmeanexp (the paper's) or mean_log.
        debias: subtract the jackknife's estimate of the bias of averaging few densities.
    """

    requires: ClassVar[frozenset[Need]] = frozenset({Need.RETRAIN})
    scale: ClassVar[Scale] = "loss"
    card: ClassVar[Card] = Card(
        family="generative",
        full="K T + K n m",
        incremental="K + K n",
        storage="K (n + m) + n m",
        assumptions="risk is -log p",
        groups="no",
        paper="van den Burg & Williams 2021",
    )

    folds: int = 10
    repeats: int = 10
    seeds: int = 1
    aggregate: str = "logmeanexp"
    debias: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.folds < 2:
            raise ConfigError(f"estimator.folds must be at least 2, got {self.folds}; raise it")
        if self.repeats < 1:
            raise ConfigError(f"estimator.repeats must be at least 1, got {self.repeats}; raise it")
        if not 1 <= self.seeds <= self.repeats:
            raise ConfigError(
                f"estimator.seeds must be from 1 to estimator.repeats={self.repeats}, got {self.seeds}; change it"
            )
        if self.aggregate not in get_args(Aggregate):
            choices = " or ".join(get_args(Aggregate))
            raise ConfigError(f"estimator.aggregate must be {choices}, got {self.aggregate!r}; change it")
        if self.debias and self.repeats < 2:
            raise ConfigError("estimator.debias=true needs 2 repeats or more; raise estimator.repeats")

    def estimate(self, run: Run) -> Influence:
        """Train without each fold of each repeat, and compare both sides."""
        design, fold = self.design(run)
        mixtures = Mixtures(fold, self.folds, "mean_log" if self.aggregate == "mean_log" else "logmeanexp")
        for rows, train, test in run.retrain.parts(design, LABEL):
            mixtures.add(rows, -test.loss, -train.loss)
        values, several = run.zeros(), self.repeats > 1
        stderr = run.zeros() if several else None
        joint, left = np.empty(len(values)), np.empty((self.repeats * several, len(values)))
        for part, found in mixtures.on_tests():
            values[part] = self._value(found)
            joint[part], left[:, part] = values[part].mean(axis=1), found.left.mean(axis=2)
            if stderr is not None:
                stderr[part] = found.stderr
        return run.influence(
            values,
            scale=self.scale,
            stderr=stderr,
            self_influence=self._value(mixtures.own),
            tables=self._tables(run, mixtures.own, values, joint, jackknifed(left)),
            report=self._report(),
        )

    def design(self, run: Run | Prospect) -> tuple[Design, NDArray[np.int64]]:
        """The trainings, and the folds (repeats, n).

        Raises:
            ConfigError: there are fewer instances than folds, or repeats would be the same models.
        """
        n = len(run.train)
        if self.folds == n and self.repeats > self.seeds:
            raise ConfigError(
                f"estimator.folds={n} leaves out one instance at a time, whatever the draw of folds; set "
                f"estimator.repeats={self.seeds}, or as many estimator.seeds as estimator.repeats"
            )
        return folds.repeated(run, self.folds, self.repeats, self.seeds, "estimator.folds")

    def _value(self, found: Contrast) -> Array:
        return found.debiased if self.debias else found.value

    def _tables(self, run: Run, own: Contrast, values: Array, joint: Array, stderr: Array) -> dict[str, pd.DataFrame]:
        memorization = memorization_table(run.train.ids, self._value(own), own.stderr)
        return {
            "joint": joint_table(run.train.ids, values, joint, stderr),
            "memorization": memorization.assign(log_density_with=own.inside, log_density_without=own.outside),
        }

    def _report(self) -> dict[str, Any]:
        seeds = "one seed of training" if self.seeds == 1 else f"{self.seeds} seeds of training"
        held = f"draw of folds, {seeds}; the draw of test instances is apart, in table joint"
        return {
            "models": self.folds * self.repeats,
            "models_without": self.repeats,
            "models_with": self.repeats * (self.folds - 1),
            "aggregate": self.aggregate,
            **({"stderr_holds": held, "stderr_degrees": self.repeats - 1} if self.repeats > 1 else {}),
        }

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m = len(prospect.train), len(prospect.test)
        design, _ = self.design(prospect)
        held = 32.0 * len(design) * m + 16.0 * (self.folds + self.repeats) * n
        return Work(
            trainings=(design,),
            numbers=(30.0 if self.aggregate == "logmeanexp" else 6.0) * self.repeats * n * m,
            bytes=16.0 * n * m + held,
            formula=f"{self.repeats} times {self.folds} trainings without a fold of {n}",
        )
