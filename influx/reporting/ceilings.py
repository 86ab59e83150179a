"""Noise ceilings among the metrics of a run: which number each belongs to, and what it says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from influx.reporting import text

OF_MEAN, ONE_SEED = "ceiling_spearman_mean", "ceiling_spearman"
ABOUT_ONE_SEED = (
    "truth of one seed against that of another; an estimate of the same seed or of the expected influence may exceed it"
)
ABOUT_RELIABILITY = (
    "reliability of a mean over seeds against a mean over as many fresh ones; an estimate without noise may exceed it, "
    "up to its square root"
)
ABOUT_CALIBRATION = (
    "reliability of the truth, the R² of an estimate without noise; an estimate of the same seed may exceed it"
)
ABOUT_REMOVALS = "reliability of removals: what part of the differences between test instances other seeds would repeat"
TITLES = {"lds": "LDS", "spearman": "Spearman", "pearson": "Pearson", "calibration": "R² of calibration"}
_OF_REMOVALS = re.compile(r"(removal_ceiling_\w+|qld_ceiling|brittleness_ceiling)")
# words of metrics that a perfect answer brings to 1, and that no noisy truth bounds
_TO_ONE = {"auroc", "ap", "auprc", "mrr", "recall", "found", "tpr", "jaccard", "rbo", "icc", "distinct", "ndcg"}
_SHARES = re.compile(r"(same_(sub)?class|fact)_(first|share)|stability_spearman|topk_\w+|guarantee_coverage")
_SEEDS = re.compile(r"\bmean over (\d+) seeds?\b")  # in the note of OF_MEAN


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """A ceiling beside a number.

    Attributes:
        row: of the metrics.
        reliability: it says what part of the number's differences between test instances returns under other seeds,
            and bounds no mean; otherwise it is on the number's own scale, see ``about`` for what may exceed it.
    """

    row: Mapping[str, Any]
    reliability: bool

    @property
    def value(self) -> str:
        """The number as text."""
        return f"{'reliability ' * self.reliability}{text.score(float(self.row['value']))}"

    @property
    def interval(self) -> str:
        """Its 95% confidence interval, or nothing."""
        return text.interval(float(self.row["ci_low"]), float(self.row["ci_high"]))


def is_ceiling(metric: str) -> bool:
    """Whether a metric says how noisy others are, and nothing of an estimator's quality."""
    return "ceiling" in metric.lower().split("_") or metric.startswith("group_reliability_")


def is_shared(metric: str) -> bool:
    """Whether a ceiling is the truth's, the same for all estimators, and not that of one estimator's removals."""
    return is_ceiling(metric) and not _OF_REMOVALS.fullmatch(metric)


def beside(table: Sequence[Mapping[str, Any]]) -> list[Ceiling | None]:
    """The ceiling of every row of a run's metrics; None where none is known, or the row has no number."""
    shared = [row for row in table if is_shared(str(row["metric"]))]
    own = {name: [row for row in table if row["estimator"] == name] for name in {row["estimator"] for row in table}}
    by_estimator = {name: _by_name([*rows, *shared]) for name, rows in own.items()}
    return [_ceiling(str(row["metric"]), by_estimator[row["estimator"]]) if _known(row) else None for row in table]


def shared_ceiling(metric: str, table: Sequence[Mapping[str, Any]]) -> Ceiling | None:
    """The ceiling of a metric for all estimators of a run; None: it is unknown, or each has its own."""
    return _ceiling(metric, _by_name([row for row in table if is_shared(str(row["metric"]))]))


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows with a number, the first of each name."""
    return {str(row["metric"]): row for row in reversed(rows) if _known(row)}


def _ceiling(metric: str, found: Mapping[str, Mapping[str, Any]]) -> Ceiling | None:
    """A truth that is a mean over seeds has the ceiling of a mean where that is known, and no other."""
    if is_ceiling(metric):
        return None
    for name in _names(metric, of_mean=_averaged(found)):
        if name in found:
            return Ceiling(row=found[name], reliability=not is_shared(name))
    return None


def best(metric: str) -> str:
    """What a perfect answer would have, of metrics that say how well instances are told apart or found again."""
    to_one = _TO_ONE & set(metric.lower().split("_")) or _SHARES.fullmatch(metric)
    return "1 at best" if to_one and not is_ceiling(metric) and "gain" not in metric else ""


def about(ceiling: Ceiling) -> str:
    """What one that belongs to a truth compares and what may exceed it, or nothing."""
    return _about(str(ceiling.row["metric"]))


def _about(name: str) -> str:
    if name == "calibration_ceiling":
        return ABOUT_CALIBRATION
    if name == OF_MEAN or name == "lds_ceiling" or name.startswith("group_reliability_"):
        return ABOUT_RELIABILITY
    return ABOUT_ONE_SEED if name.startswith("ceiling_") else ""


def line(table: Sequence[Mapping[str, Any]]) -> str:
    """How well the truth agrees with itself over seeds, or why nobody knows; sentences for the verdict."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in table:  # the same for every estimator: the first is enough
        if is_shared(str(row["metric"])):
            first.setdefault(str(row["metric"]), row)
    found = {name: row for name, row in first.items() if _known(row)}
    if ONE_SEED in found and not _averaged(found):
        found.pop(OF_MEAN, None)  # a mean over one seed
    told: dict[str, list[str]] = {}
    for name, row in found.items():
        told.setdefault(_about(name), []).append(_told(row))
    known = [", ".join(numbers) + (f" ({sentence})" if sentence else "") for sentence, numbers in told.items()]
    lost = [row for name, row in first.items() if name.startswith("ceiling_") and row["status"] != "ok"]
    if lost:
        known.insert(0, f"{lost[0]['status']}: {lost[0]['note'] or 'no reason was recorded'}")
    if any(_OF_REMOVALS.fullmatch(str(row["metric"])) and _known(row) for row in table):
        known.append(ABOUT_REMOVALS)
    return "; ".join(known) if known else "not measured"


def _names(metric: str, *, of_mean: bool) -> tuple[str, ...]:
    """Rows that can be the ceiling of a metric, the one to take first."""
    if metric == "spearman":
        return (OF_MEAN,) if of_mean else (ONE_SEED, OF_MEAN)
    if metric.startswith("group_rank_"):
        return (metric.replace("rank", "reliability", 1),)
    if metric.startswith("removal_area_"):
        return (metric.replace("area", "ceiling", 1),)
    if metric in ("calibration_r2", "calibration_skill"):
        return ("calibration_ceiling",)
    if metric.startswith("brittleness_"):
        return ("brittleness_ceiling",)
    return (f"{metric}_ceiling",) if of_mean else (f"{metric}_ceiling", f"ceiling_{metric}")


def _averaged(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the truth is a mean over several seeds; ceilings of one seed's truth are then too low for it.

    Equal ceilings say nothing of it: a negative correlation has reliability 0 for any number of seeds.
    """
    stated = _SEEDS.search(str(found[OF_MEAN]["note"])) if OF_MEAN in found else None
    return stated is not None and int(stated[1]) > 1


def _known(row: Mapping[str, Any]) -> bool:
    return bool(row["status"] == "ok") and math.isfinite(float(row["value"]))


def _told(row: Mapping[str, Any]) -> str:
    name = " ".join(word for word in str(row["metric"]).split("_") if word not in ("noise", "ceiling"))
    title, spread = TITLES.get(name, name.capitalize()), text.interval(row["ci_low"], row["ci_high"], 3)
    parts = (title, text.score(row["value"]), spread)
    return " ".join(part for part in parts if part)
