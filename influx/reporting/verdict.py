"""The verdict of a run as data: which numbers stand where, before anything is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from influx.reporting import text
from influx.reporting.guarantee import guarantee_line

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

BASELINES = ("random", "loss", "gradient_norm", "feature_similarity")
ABOUT_CEILING = "truth of one seed against that of another; an estimate of the same seed may exceed it"
CEILING_OF_MEAN = "ceiling_spearman_mean"
ABOUT_CEILING_OF_MEAN = (
    "truth as a mean over its seeds against a mean over as many fresh ones; an estimate of the expected influence may "
    "exceed it"
)
SIGN = "positive influence = proponent: the test loss would be higher without it"
RETRAINED = ("removal", "qld", "brittleness")  # metrics that have nothing to estimate
ABOUT_RETRAINED = "they measure what retraining does, beside random removal, and no noisy truth stands between"
ABOUT_CALIBRATION = "R² of calibration is at most the Pearson ceiling, unless the estimate is of the truth's own seed"

# Metrics are found by the words of their names: pooled_pearson, topk_proponents, mislabel_auroc_self, ceiling_spearman
_DETECTION = {"auroc": "AUROC", "ap": "AP", "auprc": "AUPRC", "mrr": "MRR"}
_APART = {"ceiling", "stability", "gaps", "tradeoff", *_DETECTION}
_AGREEMENT: Mapping[str, Callable[[set[str]], bool]] = {
    "spearman": lambda w: "spearman" in w and not w & {"pooled", "lds"},
    "pearson": lambda w: {"pearson", "pooled"} <= w,
    "lds": lambda w: "lds" in w or {"linear", "datamodeling"} <= w,
    "overlap": lambda w: bool(w & {"overlap", "topk"}) and not w & {"pooled", "opponents"},
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One cell: a number with its interval, or a word and the mark of a footnote."""

    value: float
    low: float
    high: float
    word: str = ""
    mark: str = ""

    @property
    def main(self) -> str:
        """The number, or the word with its mark."""
        return f"{self.word} ({self.mark})" if self.word else text.score(self.value)

    @property
    def interval(self) -> str:
        """The 95% confidence interval, or nothing."""
        return "" if self.word else text.interval(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimator. ``scores`` by column key; a missing key was not measured."""

    name: str
    baseline: bool
    scores: Mapping[str, Score]
    seconds: str
    peak_mb: str
    trainings: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Everything that the verdict says. ``columns`` and ``detection`` map keys to headings."""

    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    detection: Mapping[str, str]
    detection_rows: tuple[Row, ...]
    footnotes: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, str], ...]


def words(metric: str) -> set[str]:
    """The words of a metric's name; digits stand apart ("top10_overlap" has "top", "10", "overlap")."""
    return set(re.findall(r"[a-z]+|\d+", metric.lower()))


def agreement_columns(record: RunRecord, table: list[dict[str, Any]]) -> dict[str, str]:
    """Metrics that say how well influence agrees with the truth, plainest names, and their headings."""
    metrics = list(dict.fromkeys(str(row["metric"]) for row in table))
    chosen = {key: _choose(metrics, fits) for key, fits in _AGREEMENT.items()}
    return {metric: _heading(key, metric, record, table) for key, metric in chosen.items() if metric}


def detection_columns(table: list[dict[str, Any]]) -> dict[str, str]:
    """Metrics that say how well some instances are told from others, those with a number, and their headings."""
    found = [m for m in dict.fromkeys(str(row["metric"]) for row in table) if words(m) & _DETECTION.keys()]
    usable = {row["metric"] for row in table if row["status"] == "ok"}
    return {metric: _detection_heading(metric) for metric in found if metric in usable}


def verdict_of(record: RunRecord) -> Verdict:
    """Collect a run's verdict from its metrics and manifest."""
    table = record.metric_rows
    columns, detection = agreement_columns(record, table), detection_columns(table)
    notes: dict[str, str] = {}
    rows = _rows(record, table, columns, notes)
    detection_rows = _rows(record, table, detection, notes)
    return Verdict(
        columns=columns,
        rows=rows,
        detection=detection,
        detection_rows=tuple(row for row in detection_rows if row.scores),
        footnotes=tuple((mark, reason) for reason, mark in notes.items()),
        lines=tuple(_lines(record, table)),
    )


def _choose(metrics: list[str], fits: Callable[[set[str]], bool]) -> str:
    """The plainest fitting name: ``spearman`` before ``spearman_q10``."""
    candidates = [m for m in metrics if fits(words(m)) and not words(m) & _APART]
    return min(candidates, key=lambda m: len(words(m)), default="")


def _heading(key: str, metric: str, record: RunRecord, table: list[dict[str, Any]]) -> str:
    if key == "overlap":
        protocols = (str(row["protocol"]) for row in table if row["metric"] == metric)
        found = (re.search(r"\bk=(\d+)", protocol) for protocol in protocols)
        return f"top-{next((k[1] for k in found if k), 'k')} overlap"
    headings = {
        "spearman": f"agreement with {record.truth_name} (per-test Spearman)",
        "pearson": "pooled Pearson",
        "lds": "LDS",
    }
    return headings[key]


def _detection_heading(metric: str) -> str:
    """``membership_auroc_top`` as "membership AUROC (top)"; that labels are meant goes without saying."""
    parts = metric.lower().split("_")
    place = next(i for i, part in enumerate(parts) if words(part) & _DETECTION.keys())
    kind = next(name for word, name in _DETECTION.items() if word in words(parts[place]))
    subject, rule = " ".join(parts[:place]), " ".join(parts[place + 1 :])
    about = "" if subject in ("", "mislabel") else f"{subject} "
    return f"{about}{kind} ({rule})" if rule else f"{about}{kind}"


def _rows(
    record: RunRecord, table: list[dict[str, Any]], columns: Mapping[str, str], notes: dict[str, str]
) -> tuple[Row, ...]:
    costs = record.section("cost")
    rows = []
    for name in names_of(record, table, costs):
        scores = {
            str(row["metric"]): score_of(row, notes)
            for row in table
            if row["estimator"] == name and row["metric"] in columns
        }
        cost = costs.get(name)
        cost = cost if isinstance(cost, Mapping) else {}
        rows.append(
            Row(
                name=name,
                baseline=name != record.estimator,
                scores=scores,
                seconds=text.seconds(cost.get("seconds")),
                peak_mb=text.count(cost.get("peak_mb")),
                trainings=text.count(cost.get("trainings")),
            )
        )
    return tuple(rows)


def names_of(record: RunRecord, table: list[dict[str, Any]], costs: Iterable[str]) -> list[str]:
    """The run's estimator, the baselines, then whatever else was measured (not the ceiling's own name)."""
    measured = [str(row["estimator"]) for row in table if "ceiling" not in words(str(row["metric"]))]
    known = set(measured) | set(costs)
    order = dict.fromkeys([record.estimator, *(b for b in BASELINES if b in known), *measured])
    return [name for name in order if name]


def score_of(row: Mapping[str, Any], notes: dict[str, str]) -> Score:
    """One row of the metrics as a cell; ``notes`` collects reasons and the marks that stand for them."""
    value, status = float(row["value"]), text.clean(row["status"])
    word = mark = ""
    if status != "ok" or not math.isfinite(value):
        word = status if status != "ok" else "undefined"
        reason = f"{word}: {row['note'] or 'no reason was recorded'}"
        mark = notes.setdefault(reason, _mark(len(notes)))
    return Score(value=value, low=float(row["ci_low"]), high=float(row["ci_high"]), word=word, mark=mark)


def _mark(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    more, letter = divmod(index, len(ascii_lowercase))
    return (_mark(more - 1) if more else "") + ascii_lowercase[letter]


def _lines(record: RunRecord, table: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    yield "ceiling", _ceiling(table)
    yield "coverage", _coverage(record)
    spent = record.section("cost").get("truth")
    if isinstance(spent, Mapping):
        trainings, peak = text.count(spent.get("trainings")), text.count(spent.get("peak_mb"))
        read = text.number(spent.get("trainings")) - text.number(spent.get("trained_now"))
        unpaid = f", of which {text.count(read)} were read from the bank and cost nothing here" if read > 0 else ""
        yield "truth", f"{text.seconds(spent.get('seconds'))} s, {peak} MB, {trainings} trainings{unpaid}"
    settings = record.config.get("estimator")
    settings = settings if isinstance(settings, Mapping) else {}
    yield "guarantee", guarantee_line(table, record.estimator, settings, truth=record.truth is not None)
    yield "sign", SIGN
    yield "protocol", record.protocol or "not recorded"


def _ceiling(table: list[dict[str, Any]]) -> str:
    """How well the truth agrees with itself over seeds, or why nobody knows."""
    first: dict[str, dict[str, Any]] = {}
    for row in table:  # the same for every estimator: the first is enough
        if "ceiling" in words(str(row["metric"])):
            first.setdefault(str(row["metric"]), row)
    rows = [row for row in first.values() if row["status"] == "ok" and math.isfinite(row["value"])]
    distinct = [row for i, row in enumerate(rows) if row["value"] not in [earlier["value"] for earlier in rows[:i]]]
    known = [_ceiling_text(row) for row in distinct]
    shown = {str(row["metric"]) for row in distinct}
    known += [ABOUT_CEILING] if "ceiling_spearman" in shown else []
    known += [ABOUT_CEILING_OF_MEAN] if CEILING_OF_MEAN in shown else []
    families = {str(row["metric"]).partition("_")[0] for row in table}
    known += [ABOUT_CALIBRATION] if first and "calibration" in families else []
    without = ", ".join(name for name in RETRAINED if name in families)
    known += [f"not applicable to {without}: {ABOUT_RETRAINED}"] if without else []
    lost = [row for name, row in first.items() if "lds" not in words(name) and row["status"] != "ok"]
    if lost:
        known.insert(0, f"{lost[0]['status']}: {lost[0]['note'] or 'no reason was recorded'}")
    return "; ".join(known) if known else "not measured"


def _ceiling_text(row: Mapping[str, Any]) -> str:
    name = " ".join(w for w in str(row["metric"]).split("_") if w not in ("noise", "ceiling"))
    name = {"lds": "LDS", "spearman": "Spearman", "pearson": "Pearson"}.get(name, name.capitalize())
    parts = (name, text.score(row["value"]), text.interval(row["ci_low"], row["ci_high"], 3))
    return " ".join(part for part in parts if part)


def _coverage(record: RunRecord) -> str:
    if record.truth is None:
        return "no ground truth was computed"
    return f"ground truth on {len(record.truth_rows):,} of {len(record.train):,} instances"
