"""Concentration bounds of influences that are means over random subsets or permutations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from influx.guarantees import unbounded
from influx.influence import Influence
from influx.run import Run


@dataclass(frozen=True)
class Concentration:
    """``half`` is the half-width around each value that holds its expectation; ``said``, for what and by what."""

    half: float
    said: str


def hoeffding(width: float, counts: tuple[int, ...], level: float) -> float:
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


def concentration(influence: Influence, run: Run, level: float) -> Concentration | str:
    """The bound of the judged estimator, or why there is none.

    Models on random subsets: given which of them hold an instance, the others are drawn independently, so the risks on
    either side are. The smallest numbers of models with and without an instance are used for all.
    """
    name, settings, report = run.again.name, settings_of(run), influence.report
    reason = unbounded(name, settings)
    if reason:
        return reason
    if name == "tmc_shapley":
        draws = settings["permutations"] // (2 if settings["antithetic"] else 1)
        half = hoeffding(2.0, (draws,), level)
        return Concentration(half, f"Hoeffding, {draws} independent permutations of marginal risks within [-1, 1]")
    counts = int(report["fewest_models_with"]), int(report["fewest_models_without"])
    half = hoeffding(1.0, counts, level)
    said = f"Hoeffding, at least {counts[0]} models with and {counts[1]} without an instance, risks within [0, 1]"
    if influence.stderr is not None and min(counts) > 1:
        sharper = bernstein(1.0, float(influence.stderr.max()), counts, level)
        said += f" (empirical Bernstein: {sharper:.4g})"
    return Concentration(half, said)


def settings_of(run: Run) -> dict[str, Any]:
    """The fields of the judged estimator."""
    return dict(getattr(run.again.estimator, "__dict__", {}))
