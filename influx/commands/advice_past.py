"""What finished runs below the outputs folder measured: agreement and seconds of estimators."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influx.commands.advice_figures import Goal
from influx.commands.outputs import folders, read_manifest

KIND = ("dataset", "corruption", "model", "optimizer", "training")  # settings that two runs of a kind share
SIZES = ("n_train", "n_test", "seed", "device")  # apart from these
METRICS: Mapping[Goal, tuple[str, ...]] = {  # of several, the largest counts
    "loo": ("spearman",),
    "lds": ("lds",),
    "mislabel": ("mislabel_auroc_self", "mislabel_auroc_sum"),
    "topk": ("topk_proponents",),
    "pbrf": ("spearman",),
}
TRUTHS: Mapping[Goal, str] = {"loo": "loo", "topk": "loo", "pbrf": "pbrf"}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one run says of one estimator.

    Attributes:
        settings: the estimator's settings; None for a baseline of the run, which has the defaults.
        value: of the goal's metric; NaN where it was not measured.
        seconds: that the estimate took; NaN where it read what other runs had trained.
        same: whether the run's problem is the one asked about, and not only of its kind.
    """

    name: str
    settings: Mapping[str, Any] | None
    value: float
    seconds: float
    same: bool
    run: str


def measurements(outputs: Path, problem: str, asked: Mapping[str, Any], goal: Goal) -> list[Measurement]:
    """What runs of the same problem, or of its kind, have measured. Damaged ones are passed over.

    ``asked`` are the settings of the problem asked about; a run of its kind has the same but for sizes and seeds.
    """
    return [row for run in folders(outputs / "runs") for row in _of_run(run, problem, asked, goal)]


def _of_run(run: Path, problem: str, asked: Mapping[str, Any], goal: Goal) -> Iterator[Measurement]:
    manifest = read_manifest(run)
    theirs = _mapping(manifest.get("choices"))
    pointwise = theirs.get("perspective", "pointwise") == "pointwise"
    if manifest.get("status") != "done" or not pointwise:
        return
    same, config = _mapping(manifest.get("problem")).get("id") == problem, _config(run)
    if not (same or all(_alike(config.get(group), asked.get(group)) for group in KIND)):
        return
    answers = TRUTHS.get(goal) in (None, manifest.get("truth"))
    values = _values(run / "metrics.csv", METRICS[goal]) if answers else {}
    costs, own = _mapping(manifest.get("cost")), str(manifest.get("estimator", ""))
    settings = _mapping(config.get("estimator"))
    for name in sorted({*values, *costs} - {"truth"}):
        yield Measurement(
            name=name,
            settings=settings if name == own else None,
            value=values.get(name, math.nan),
            seconds=_seconds(_mapping(costs.get(name))),
            same=same,
            run=run.name,
        )


def _values(table: Path, metrics: tuple[str, ...]) -> dict[str, float]:
    """The goal's metric of every estimator in ``metrics.csv``, where it has a value."""
    found: dict[str, float] = {}
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                name, value = row.get("estimator") or "", _number(row.get("value"))
                if row.get("metric") in metrics and row.get("status") == "ok" and math.isfinite(value):
                    found[name] = max(value, found.get(name, -math.inf))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    return found


def _alike(theirs: object, asked: object) -> bool:
    mine, other = ({k: v for k, v in _mapping(node).items() if k not in SIZES} for node in (theirs, asked))
    return mine == other


def _config(run: Path) -> dict[str, Any]:
    """All settings of a run, from ``config.yaml``; nothing where it cannot be read."""
    import yaml

    try:
        text = (run / "config.yaml").read_text(encoding="utf-8")
        loaded = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return _mapping(loaded)


def _seconds(cost: Mapping[str, Any]) -> float:
    """Seconds of an estimate whose trainings, if any, were made in it."""
    seconds, asked, made = cost.get("seconds"), cost.get("trainings", 0), cost.get("trained_now", 0)
    return _number(seconds) if asked == made else math.nan


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        return math.nan


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
