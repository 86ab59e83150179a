"""Memorization of densities from models trained without each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from influx.engines import folds
from influx.engines.contrasts import APART, joint_table, memorization_table
from influx.engines.mixtures import PIECE_BYTES, PIECES, Aggregate, Array, Contrast, Mixtures, jackknifed
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.problem import Design
from influx.run import Card, Run

if TYPE_CHECKING:
    import pandas as pd

LABEL = "retraining without each fold"
FEWEST_SEEDS = 3  # whose spread is an error
WIDE = 1.0  # deviation in nats of logarithms of densities, above which the mean of few densities is far off
OFTEN = 0.1  # share of pairs that are so wide
BIAS = (
    "a mean of few densities is found too low, so that values are too high and intervals too short: of normal "
    "log-densities with deviation s over 10 repeats of 10 folds, 95 % intervals hold 94 % at s = 0.5 nats (bias "
    "+0.01), 91 % at 1 (+0.08), 88 % at 1.5 (+0.2), 81 % at 3 (+1.0)"
)


@dataclass(frozen=True, kw_only=True)
class GenerativeDownsampling:
    """Log-density of an instance under models trained with it, minus that under models trained without another one.

    Estimates: log mean_k p_k(z_j) over models with i minus the same over models without i, positive for proponents, in
        nats; p = exp(-risk). Models are those of repeated cross-validation: every instance is out of ``repeats`` models
        and in (``folds`` - 1) · ``repeats``. Table memorization: the same on the instance itself, with both sides;
        table joint: the mean over test instances. For classes p is the probability of the label, for regression the
        normal density of deviation 1 times √(2π), which differences do not show.
    Needs: retraining.
    Cost: K = folds · repeats trainings on n - n / folds instances; 6 repeats · n m sums of logarithms; K (n + m)
        numbers beside the result.
    Bias: a mean of densities over ``repeats`` models is found too low, over ``folds`` - 1 times as many less so: the
        value is too high, and its intervals are too short. With log-densities that are normal with deviation s over
        10 repeats of 10 folds, 95 % intervals hold 94 % at s = 0.5 nats (bias +0.01), 91 % at 1 (+0.08), 88 % at 1.5
        (+0.2) and 81 % at 3 (+1.0). The report gives the share of pairs (i, j) with s > 1, wide_pairs, and there is a
        warning where it is above 10 %. ``debias`` takes out nearly all of it up to s = 1 and half at 3, and mends no
        interval; mean_log has no bias, and its intervals hold.
    Source: van den Burg & Williams 2021, "On Memorization in Probabilistic Deep Generative Models"; survey Eq. (14).
        The paper averages densities (aggregate=logmeanexp); the survey's Eq. (9) with (14) averages their logarithms
        (mean_log), which is another number: one good model decides a mean of densities. The paper reads log p of a VAE
        by importance sampling; here it is whatever the model's risk is: exact for model=gaussian, ppca and
        autoregressive, importance sampled in evaluation_draws draws for model=vae model.bound=importance, with
        model.bound=elbo a bound, whose gap is part of the difference, and for model=text_decoder the mean over tokens;
        the report says which (log_density). Both sides are read with the same draws. Errors are from a jackknife over
        repeats, since the folds of one depend on each other; over seeds where 3 or more are shared by repeats. The
        paper also follows the value over epochs; the bank holds final models alone.

    Attributes:
        folds: parts of the training instances in each repeat, each left out once; n is leave-one-out.
        repeats: draws of folds; with 1 there is no standard error.
        seeds: initialisations and batch orders that repeats take in turn; 1 means those of the trained model.
        aggregate: logmeanexp (the paper's) or mean_log.
        debias: subtract the jackknife's estimate of the bias of averaging few densities, from influence, memorization
            and joint, whose errors are then of what is left. The sides log_density_with and log_density_without stay
            as they are, so that their difference is the value before. Takes 3 repeats.
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
        if self.debias and self.repeats < 3:
            raise ConfigError("estimator.debias=true needs 3 repeats or more; raise estimator.repeats")

    def estimate(self, run: Run) -> Influence:
        """Train without each fold of each repeat, and compare both sides."""
        design, fold = self.design(run)
        aggregate: Aggregate = "mean_log" if self.aggregate == "mean_log" else "logmeanexp"
        groups = self._groups(run)
        mixtures = Mixtures(fold, self.folds, aggregate, groups, self.debias)
        for rows, train, test in run.retrain.parts(design, LABEL):
            mixtures.add(rows, -test.loss, -train.loss)
        values, several = run.zeros(), self.repeats > 1
        stderr = run.zeros() if several else None
        joint, left = np.empty(len(values)), np.empty(((groups.max() + 1) * several, len(values)))
        wide = 0
        for part, found in mixtures.on_tests():
            values[part] = found.value
            joint[part], left[:, part] = values[part].mean(axis=1), found.left.mean(axis=2)
            wide += int((found.spread > WIDE).sum())
            if stderr is not None:
                stderr[part] = found.stderr
        share = wide / values.size
        self._warn(run, share)
        return run.influence(
            values,
            scale=self.scale,
            stderr=stderr,
            self_influence=mixtures.own.value,
            tables=self._tables(run, mixtures.own, values, joint, jackknifed(left)),
            report=self._report(run, groups, share),
        )

    def design(self, run: Run | Prospect) -> tuple[Design, NDArray[np.int64]]:
        """The trainings, and the folds (repeats, n).

        Raises:
            ConfigError: there are fewer instances than folds, or repeats would be the same models.
        """
        n, known = len(run.train), _deterministic(run)
        if self.folds == n and self.repeats > (1 if known else self.seeds):
            remedy = (
                "estimator.repeats=1 estimator.seeds=1: this model's training has no randomness"
                if known
                else f"estimator.repeats={self.seeds}, or as many estimator.seeds as estimator.repeats"
            )
            raise ConfigError(
                f"estimator.folds={n} leaves out one instance at a time, whatever the draw of folds; set {remedy}"
            )
        return folds.repeated(run, self.folds, self.repeats, self.seeds, "estimator.folds")

    def _groups(self, run: Run) -> NDArray[np.int64]:
        """``(repeats,)`` which repeats depend on each other: those that share a seed, where there are seeds enough."""
        repeats = np.arange(self.repeats)
        return repeats if _deterministic(run) or self.seeds < FEWEST_SEEDS else repeats % self.seeds

    def _warn(self, run: Run, share: float) -> None:
        """Of values that are not what they seem."""
        if self.aggregate == "logmeanexp" and share > OFTEN:
            run.warn(
                f"the log-densities of the models without an instance differ by more than {WIDE:g} nat (one standard "
                f"deviation) between repeats in {share:.0%} of all pairs: the mean of {self.repeats} densities is "
                "found too low, so that values are too high and their intervals too short; set "
                "estimator.aggregate=mean_log, or raise estimator.repeats"
            )
        beta = getattr(getattr(run.problem.learner, "model", None), "beta", 1)
        if beta != 1:
            run.warn(f"with model.beta={beta:g} the risk is no bound of -log p(x); set model.beta=1 for densities")

    def _tables(self, run: Run, own: Contrast, values: Array, joint: Array, stderr: Array) -> dict[str, pd.DataFrame]:
        memorization = memorization_table(run.train.ids, own.value, own.stderr)
        return {
            "joint": joint_table(run.train.ids, values, joint, stderr),
            "memorization": memorization.assign(log_density_with=own.inside, log_density_without=own.outside),
        }

    def _report(self, run: Run, groups: NDArray[np.int64], share: float) -> dict[str, Any]:
        if _deterministic(run):
            seeds = "training has no randomness"
        elif self.seeds == 1:
            seeds = "under one seed of training"
        elif self.seeds < min(FEWEST_SEEDS, self.repeats):
            seeds = f"the draw of the {self.seeds} seeds of training, which repeats share, is not held"
        else:
            seeds = f"draw of seeds of training ({self.seeds})"
        held = f"draw of folds; {seeds}; {APART}"
        errors = {"stderr_holds": held, "stderr_degrees": int(groups.max())}
        biased = self.aggregate == "logmeanexp"
        return {
            "log_density": _log_density(run),
            "models": self.folds * self.repeats,
            "models_without": self.repeats,
            "models_with": self.repeats * (self.folds - 1),
            "aggregate": self.aggregate,
            **({"wide_pairs": share, "bias": BIAS} if biased and self.repeats > 1 else {}),
            **(errors if self.repeats > 1 else {}),
        }

    def plan(self, prospect: Prospect) -> Work:
        """The same trainings as ``estimate``."""
        n, m = len(prospect.train), len(prospect.test)
        design, _ = self.design(prospect)
        held = 32.0 * len(design) * m + 8.0 * (6 * self.folds + PIECES * self.repeats) * n
        piece = max(float(PIECE_BYTES), 8.0 * self.repeats * m)  # at least one training instance at a time
        pieces = PIECES * min(piece, 8.0 * self.repeats * n * m)
        again = 1 + (self.repeats if self.debias else 0)  # without each repeat
        return Work(
            trainings=(design,),
            numbers=(30.0 if self.aggregate == "logmeanexp" else 6.0) * self.repeats * n * m * again,
            bytes=16.0 * n * m + held + pieces,
            formula=f"{self.repeats} times {self.folds} trainings without a fold of {n}",
        )


def _deterministic(run: Run | Prospect) -> bool:
    return bool(getattr(run.problem.learner, "deterministic", False))


def _log_density(run: Run) -> str:
    """How far minus the risk is the logarithm of a density."""
    task, learner = run.problem.data.task, run.problem.learner
    if task == "classification":
        return "exact (probability of the label)"
    if task == "regression":
        return "exact but for a constant (normal density of deviation 1)"
    known = getattr(learner, "log_density", None) or getattr(getattr(learner, "model", None), "log_density", None)
    return str(known or "whatever the model returns")
