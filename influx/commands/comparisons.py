"""Runs side by side: rows, columns, order, who differs from whom, and the front of agreement against cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from influx.commands.comparison_rows import Rows, labels, prices_of
from influx.commands.protocols import Group, beside_models, grouped, trained_as
from influx.errors import ConfigError, did_you_mean
from influx.reporting.ceilings import is_ceiling
from influx.reporting.comparison import (
    Comparison,
    Difference,
    Entry,
    letter_display,
    letters_of,
    pareto_front,
    run_names,
)
from influx.reporting.verdict import agreement_columns, detection_columns

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

COSTS = "runtime_"  # begin the names of metrics of which less is better
FURTHER = 6  # metrics shown where none of the usual ones was measured
WITHIN = (
    "each model is judged by its own ground truth: differences, letters and Pareto fronts are within a model, between "
    "models only the intervals of the rows are known"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be shown: ``metrics`` first, sorted by the first of them; ``against`` names the reference row."""

    metrics: tuple[str, ...] = ()
    lower_is_better: bool = False
    against: str = ""
    force: bool = False


def comparisons_of(records: Sequence[RunRecord], asked: Asked, notes: Sequence[str] = ()) -> tuple[Comparison, ...]:
    """Put finished runs side by side, those of one protocol in one comparison; ``notes`` are sentences to pass on.

    Raises:
        ConfigError: protocols differ without ``force``, or a metric or reference is unknown.
    """
    _check(records, asked)
    groups = grouped(records, list(_columns(records, asked.metrics)), asked.force)
    runs, prices, marks = run_names(records), prices_of(records), dict[str, str]()
    made = []
    for group in groups:
        chosen = [records[i] for i in group.rows]
        made.append(_comparison(chosen, [runs[i] for i in group.rows], group, asked, prices, marks))
    _check_reference(made, asked.against)
    made[0] = replace(made[0], notes=(*notes, *made[0].notes))
    return tuple(made)


def _comparison(
    records: Sequence[RunRecord],
    runs: Sequence[str],
    group: Group,
    asked: Asked,
    prices: Mapping[str, float],
    marks: dict[str, str],
) -> Comparison:
    """Those of one protocol; ``runs`` are their names, ``marks`` those of footnotes."""
    columns = _columns(records, asked.metrics)
    metric = next(iter(columns), "")
    lower = metric.startswith(COSTS) or (asked.lower_is_better and metric == asked.metrics[0])
    rows = Rows(columns=columns, marks=marks, prices=prices)
    entries: list[Entry] = []
    known: list[Entry] = []
    about: dict[str, str] = {}
    named: list[dict[str, RunRecord]] = []  # by the names of rows, for each model
    for model in group.models or ("",):
        of_it = [i for i, record in enumerate(records) if not model or trained_as(record) == model]
        chosen = [records[i] for i in of_it]
        made = rows.own(chosen, [runs[i] for i in of_it], labels(chosen, [runs[i] for i in of_it]))
        made = [entry.of(model) for entry in _with_front([*made, *rows.baselines(chosen, made)], metric, lower)]
        named.append(dict(zip([entry.name for entry in made], chosen, strict=False)))  # runs come first
        entries += made
        ceilings, told = rows.ceilings(chosen)
        known += [entry.of(model) for entry in ceilings]
        about |= told
    entries = _ordered(entries, metric, lower, group.models)
    further = [WITHIN, *beside_models(records)] if group.models else []
    pairs: dict[tuple[int, int], Difference] = {}
    for of_model in named:
        found, letters = _pairs(of_model, entries, metric, further, used=[entry.letters for entry in entries])
        pairs |= found
        entries = [replace(e, letters=own) if own else e for e, own in zip(entries, letters, strict=True)]
    references = {model: _reference(entries, pairs, asked.against, model) for model in group.models or ("",)}
    to = {model: row for model, row in references.items() if row is not None}
    entries = [
        replace(e, difference=_between(pairs, i, to[e.model])) if e.model in to else e for i, e in enumerate(entries)
    ]
    further += _about_references(references, entries) if group.models and to else []
    further += _about_seconds(entries)
    further += [f"noise ceiling of {metric}: {sentence}" for metric, sentence in about.items()]
    every = (*entries, *known)
    used = {score.mark for entry in every for score in entry.scores.values()}
    return Comparison(
        columns=columns,
        metric=metric,
        lower_is_better=lower,
        entries=every,
        pairs=pairs,
        references=tuple(to.values()),
        title=group.title,
        protocol=group.protocol,
        notes=tuple(dict.fromkeys(further)),
        footnotes=tuple((mark, reason) for reason, mark in marks.items() if mark in used),
        commands=dict(zip(runs, (record.command for record in records), strict=True)),
    )


def _check(records: Sequence[RunRecord], asked: Asked) -> None:
    """Refuse what makes no sense whatever the runs hold, or names metrics that none of them measured.

    Raises:
        ConfigError: ``asked`` has an unknown metric, or a direction without a metric.
    """
    if asked.lower_is_better and not asked.metrics:
        raise ConfigError("--lower-is-better is about the metric asked for, there is none; add --metric NAME")
    measured = list(dict.fromkeys(str(row["metric"]) for record in records for row in record.metric_rows))
    for metric in asked.metrics:
        if metric not in measured:
            raise ConfigError(
                f"--metric {metric} was measured in none of these runs{did_you_mean(metric, measured)}; they have "
                f"{', '.join(measured) or 'no metrics'}"
            )


def _about_seconds(entries: Sequence[Entry]) -> list[str]:
    """What stands for the trainings that rows read from the bank."""
    found = {math.isfinite(entry.seconds) for entry in entries if entry.unpaid}
    charged = (
        "~ seconds: trainings that were read from the bank are charged what one took when the ground truth was made"
    )
    unknown = (
        "seconds of rows that read trainings from the bank are unknown where no run here made them; add the run that "
        "computed the ground truth"
    )
    return [charged] * (True in found) + [unknown] * (False in found)


def _columns(records: Sequence[RunRecord], asked: Sequence[str]) -> dict[str, str]:
    """Metrics with at least one number, those ``asked`` for first, and their headings."""
    headings: dict[str, str] = {}
    measured: dict[str, bool] = {}
    for record in records:
        table = record.metric_rows
        for row in table:
            name = str(row["metric"])
            measured[name] = measured.get(name, False) or row["status"] == "ok"
        headings = agreement_columns(record, table) | headings
        headings |= {k: v for k, v in detection_columns(table).items() if k not in headings}
    asked = [name for name in asked if name in measured]  # others were measured under another protocol
    usual = [name for name in ("spearman", "lds") if name in headings]
    order = [name for name in dict.fromkeys([*asked, *usual, *headings]) if measured[name] or name in asked]
    if not order:
        order = [name for name, ok in measured.items() if ok and not is_ceiling(name)][:FURTHER]
    return {name: headings.get(name, name.replace("_", " ")) for name in order}


def value_of(entry: Entry, metric: str) -> float:
    """The number of a row; NaN where it has none."""
    score = entry.scores.get(metric)
    return math.nan if score is None or score.word else score.value


def _ordered(entries: Sequence[Entry], metric: str, lower: bool, models: Sequence[str]) -> list[Entry]:
    """Model by model, each with the best first."""

    def key(entry: Entry) -> tuple[int, bool, float, str]:
        value, place = value_of(entry, metric), models.index(entry.model) if models else 0
        known = math.isfinite(value)
        return place, not known, (value if lower else -value) if known else 0.0, entry.name

    return sorted(entries, key=key)


def _with_front(entries: Sequence[Entry], metric: str, lower: bool) -> list[Entry]:
    scores = [value_of(entry, metric) * (-1 if lower else 1) for entry in entries]
    fronts = pareto_front(scores, [entry.seconds for entry in entries])
    return [replace(entry, front=front) for entry, front in zip(entries, fronts, strict=True)]


def _pairs(
    records: Mapping[str, RunRecord],
    entries: Sequence[Entry],
    metric: str,
    notes: list[str],
    used: Sequence[str] = (),
) -> tuple[dict[tuple[int, int], Difference], list[str]]:
    """Differences by rows of ``entries``, and letters; adds what must be said about them to ``notes``.

    ``records`` by the names of their rows, those of one model; ``used`` are letters of other models.
    """
    from influx.commands import paired

    letters = [""] * len(entries)
    if len(records) < 2 or not metric:
        return {}, letters
    if metric not in paired.METRICS:
        notes.append(
            f"differences are paired for {', '.join(paired.METRICS)} alone, which follow from what runs save: "
            f"for {metric} only the intervals of the rows are known"
        )
        return {}, letters
    inside = [i for i, e in enumerate(entries) if e.name in records and math.isfinite(value_of(e, metric))]
    if len(inside) < 2:
        return {}, letters
    chosen = [records[entries[i].name] for i in inside]
    pairs = paired.pairs_of(chosen, metric, _k(chosen[0], metric))
    found = {(inside[i], inside[j]): difference for (i, j), difference in pairs.differences.items()}
    taking_part = [i for i, reason in enumerate(pairs.reasons) if not reason]
    taken = len({one for told in used for one in letters_of(told)})
    among = pairs.different[[[i] for i in taking_part], taking_part] if pairs.differences else pairs.different[:0, :0]
    shown = letter_display(among, taken)
    for i, told in zip(taking_part, shown, strict=False):
        letters[inside[i]] = told
    notes += pairs.left_out([entries[i].name for i in inside])
    if found:
        notes.append(
            f"letters: estimators that share one do not differ in {metric} (paired bootstrap over the same "
            f"{pairs.over} x{paired.N_BOOT}, 95% for all pairs at once); intervals of differences are for one pair each"
        )
        if any(entry.kind == "baseline" for entry in entries):
            notes.append("baselines have no letters: their matrices are not kept; give a baseline a run to pair it")
        fewest = min(difference.n for difference in found.values())
        if fewest < paired.FEW:
            notes.append(f"with as few as {fewest} test instances letters part estimators a little too readily")
    return found, letters


def _k(record: RunRecord, metric: str) -> int:
    """The k of a top-k metric, from its protocol."""
    stated = (re.search(r"\bk=(\d+)", str(row["protocol"])) for row in record.metric_rows if row["metric"] == metric)
    return next((int(found[1]) for found in stated if found), 10)


def _reference(
    entries: Sequence[Entry], pairs: Mapping[tuple[int, int], Difference], against: str, model: str
) -> int | None:
    """The row of a model that its differences are taken to: the one asked for, or the best that was paired.

    Where there are several models, one without the row that is asked for has none.
    """
    paired = sorted({i for pair in pairs for i in pair if entries[i].model == model})
    for called in range(len(_called(entries[0]))):
        for i in paired:
            if _called(entries[i])[called] == against:
                return i
    return None if not paired or (model and against) else paired[0]


def _called(entry: Entry) -> tuple[str, str, str]:
    """What ``--against`` may call a row, the narrowest first: its name, that without the model, its estimator."""
    return entry.name, entry.name.removesuffix(f", {entry.model}"), entry.estimator


def _about_references(references: Mapping[str, int | None], entries: Sequence[Entry]) -> list[str]:
    """Which rows differences are taken to, and which model has none."""
    known = [entries[row].name for row in references.values() if row is not None]
    none = [model for model, row in references.items() if row is None]
    lacking = f"; model {', '.join(none)} has no such row with paired differences" if none else ""
    return [f"differences are to {' / '.join(known)}, each within its model{lacking}"]


def _check_reference(made: Sequence[Comparison], against: str) -> None:
    """Refuse a reference that is in none of the comparisons.

    Raises:
        ConfigError: no row with differences has that name.
    """
    shown = [c.entries[i] for c in made for i in sorted({i for pair in c.pairs for i in pair})]
    names = list(dict.fromkeys(entry.name for entry in shown))
    if against and not any(against in _called(entry) for entry in shown):
        raise ConfigError(
            f"--against expects a row with paired differences, got {against}{did_you_mean(against, names)}; there are "
            f"{', '.join(names) or 'none'}"
        )


def _between(pairs: Mapping[tuple[int, int], Difference], row: int, reference: int) -> Difference | None:
    """Row minus reference."""
    if (row, reference) in pairs:
        return pairs[row, reference]
    found = pairs.get((reference, row))
    return found and Difference(value=-found.value, low=-found.high, high=-found.low, n=found.n)
