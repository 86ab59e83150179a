"""Concentration bounds of influences that are means over random subsets or permutations.

Models on random subsets: given which of them hold an instance, the others are drawn independently, and so are the risks
on either side. Permutations, or pairs of one and its reverse, are drawn independently; a draw is a marginal risk, times
a factor of its position that is known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.coalitions import log_beta_weights, of_positions
from influx.guarantees import ORDERS, SUBSETS, own_seeds, unbounded
from influx.influence import Influence
from influx.run import Run

if TYPE_CHECKING:
    import pandas as pd

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Concentration:
    """``half`` is the half-width around each value that holds its expectation; ``said``, for what and by what."""

    half: float
    said: str


def hoeffding(width: float, counts: tuple[float, ...], level: float) -> float:
    """Half-width for a sum or difference of independent means of ``counts`` numbers within an interval of ``width``.

    P(|error| >= t) <= 2 exp(-2 t² / (width² Σ 1/count)) (Hoeffding 1963, theorem 2).
    """
    return width * math.sqrt(math.log(2 / (1 - level)) / 2 * sum(1 / count for count in counts))


def bernstein(width: float, stderr: float, counts: tuple[int, ...], level: float) -> float:
    """The same from the sample variances (Maurer & Pontil 2009, theorem 4), where ``stderr``² = Σ variance / count.

    Each of the means is within √(2 V ln(2/δ') / k) + 7 w ln(2/δ') / (3 (k - 1)) on either side, with δ' the missing
    confidence over both sides of all means; √a + √b is at most √(2 (a + b)).
    """
    log = math.log(2 * 2 * len(counts) / (1 - level))
    spread = math.sqrt(2 * log * len(counts)) * stderr
    return spread + 7 * width * log / 3 * sum(1 / (count - 1) for count in counts)


def known_variance(variance: float, most: float, count: int, level: float) -> float:
    """Half-width for a mean of independent numbers of at most this variance, none beyond ``most`` from its expectation.

    P(|error| >= t) <= 2 exp(-count t² / (2 variance + 2/3 most t)), Bernstein's inequality (Boucheron, Lugosi & Massart
    2013, corollary 2.11), solved for t.
    """
    log = math.log(2 / (1 - level)) / count
    linear = most * log / 3
    return linear + math.sqrt(linear**2 + 2 * variance * log)


def concentration(influence: Influence, run: Run, level: float) -> Concentration | str:
    """The bound of the judged estimator, or why there is none."""
    name, settings = run.again.name, settings_of(run)
    reason = unbounded(name, settings, classes=run.problem.data.task == "classification")
    if reason:
        return reason
    if influence.report.get("trainings", 1) > 1:
        return "means over several trainings are no means over independent draws; set perspective=pointwise"
    if name in ORDERS:
        return _of_orders(name, settings, influence, level)
    if name == "c_score":
        return _of_sizes(influence.tables["consistency"], settings["runs"], level)
    return _of_subsets(name, settings, influence, level)


def _of_subsets(name: str, settings: Settings, influence: Influence, level: float) -> Concentration:
    """Differences of two means, averaged over probabilities where there are several.

    The smallest numbers of models with and without an instance are used for all.
    """
    report = influence.report
    counts = int(report["fewest_models_with"]), int(report["fewest_models_without"])
    strata = len(settings["probabilities"]) if name == "ame" else 1
    half = hoeffding(1 / strata, counts * strata, level)
    each = " at each probability" if strata > 1 else ""
    said = f"{SUBSETS[name]}; Hoeffding, at least {counts[0]} models with and {counts[1]} without an instance{each}, "
    said += "risks within [0, 1], " + ("each under its own seed" if own_seeds(name, settings) else "under one seed")
    if influence.stderr is not None and min(counts) > 1:
        sharper = bernstein(1 / strata, float(np.nanmax(influence.stderr)), counts * strata, level)
        said += f" (empirical Bernstein: {sharper:.4g})"
    if name == "data_oob":
        said += f"; values of table data_oob likewise ± {hoeffding(1.0, counts[1:], level):.4g}"
    return Concentration(half, said)


def _of_sizes(consistency: pd.DataFrame, runs: int, level: float) -> Concentration:
    """Differences of two means at each size, weighed by k_in k_out / runs: their factors 1/k_in + 1/k_out cancel it."""
    train = consistency[consistency["split"] == "train"]
    without = train.pivot(index="id", columns="size", values="models").to_numpy(np.float64)  # (n, sizes)
    weight = float((without * (runs - without) / runs).sum(axis=1).min())
    said = (
        f"{SUBSETS['c_score']}; Hoeffding, {runs} models of each of {without.shape[1]} sizes, weights of an instance "
        f"sum to {weight:.4g} at least, risks within [0, 1], under one seed"
    )
    scored = without[(without > 0).all(axis=1)]
    if len(scored):  # means over sizes of independent means; of test instances with all models, which is more
        fewest = float((without.shape[1] ** 2 / (1 / scored).sum(axis=1)).min())
        said += f"; values of table c_score likewise ± {hoeffding(1.0, (fewest,), level):.4g}"
    return Concentration(hoeffding(1.0, (weight,), level), said)


def _of_orders(name: str, settings: Settings, influence: Influence, level: float) -> Concentration:
    """A mean of factors, of mean 1, times marginal risks within [-1, 1]; the narrower of two bounds known beforehand.

    An antithetic pair has the positions q and n - 1 - q. A group's value is shared by its members.
    """
    pairs, players = bool(settings.get("antithetic")), int(influence.report["players"])
    draws = settings["permutations"] // (2 if pairs else 1)
    sizes = _sizes(name, settings, players)
    sizes = (sizes + sizes[::-1]) / 2 if pairs else sizes
    most = float(sizes.max())
    plain = hoeffding(2 * most, (draws,), level)
    narrow = known_variance(float(np.square(sizes).mean()), most + 1, draws, level)  # an expectation is within [-1, 1]
    share = 1.0 if settings.get("groups") is None else 1 / int(influence.tables["groups"]["size"].min())
    said = f"{ORDERS[name]}; {'Hoeffding' if plain <= narrow else 'Bernstein'}, {draws} independent "
    said += f"{'pairs of permutations' if pairs else 'permutations'} of marginal risks within [-1, 1]"
    said += f", weighed by {most:.3g} at most" if name == "beta_shapley" else ""
    said += f", shared by at least {round(1 / share)} members of a group" if share < 1 else ""
    if influence.stderr is not None and draws > 1:
        sharper = bernstein(2 * most * share, float(np.nanmax(influence.stderr)), (draws,), level)
        said += f" (empirical Bernstein: {sharper:.4g})"
    return Concentration(share * min(plain, narrow), said)


def _sizes(name: str, settings: Settings, players: int) -> NDArray[np.float64]:
    """``(players,)`` factor of the marginal risk at each position."""
    if name != "beta_shapley":
        return np.ones(players)
    return of_positions(log_beta_weights(players, settings["alpha"], settings["beta"]))


def settings_of(run: Run) -> dict[str, Any]:
    """The fields of the judged estimator."""
    return dict(getattr(run.again.estimator, "__dict__", {}))
