"""The verdict of a run as data: which numbers stand where, before anything is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from influx.reporting import ceilings, text
from influx.reporting.guarantee import guarantee_line
from influx.reporting.signs import sign_line

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

BASELINES = ("random", "loss", "gradient_norm", "feature_similarity")

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
class Bounded:
    """A further number of the run's estimator as text, beside its ceiling."""

    metric: str
    value: str
    interval: str
    ceiling: ceilings.Ceiling


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Everything that the verdict says. ``columns`` and ``detection`` map keys to headings."""

    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    detection: Mapping[str, str]
    detection_rows: tuple[Row, ...]
    bounded: tuple[Bounded, ...]
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
        bounded=tuple(_bounded(record, table, columns)),
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


def _bounded(record: RunRecord, table: list[dict[str, Any]], columns: Mapping[str, str]) -> Iterable[Bounded]:
    """Numbers that no column shows; agreement with the truth has its columns, whatever the correlation."""
    for row, ceiling in zip(table, ceilings.beside(table), strict=True):
        if ceiling is None or row["estimator"] != record.estimator or row["metric"] in columns:
            continue
        if not str(ceiling.row["metric"]).startswith("ceiling_"):
            value, spread = text.score(row["value"]), text.interval(row["ci_low"], row["ci_high"])
            yield Bounded(metric=str(row["metric"]), value=value, interval=spread, ceiling=ceiling)


def names_of(record: RunRecord, table: list[dict[str, Any]], costs: Iterable[str]) -> list[str]:
    """The run's estimator, the baselines, then whatever else was measured (not the ceiling's own name)."""
    measured = [str(row["estimator"]) for row in table if not ceilings.is_ceiling(str(row["metric"]))]
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
    yield "ceiling", ceilings.line(table)
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
    yield "sign", sign_line(record, names_of(record, table, ()))
    yield "protocol", record.protocol or "not recorded"


def _coverage(record: RunRecord) -> str:
    if record.truth is None:
        return "no ground truth was computed"
    return f"ground truth on {len(record.truth_rows):,} of {len(record.train):,} instances"
