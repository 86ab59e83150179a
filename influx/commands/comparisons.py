"""Runs side by side: rows, columns, order, who differs from whom, and the front of agreement against cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from influx.commands.comparison_rows import Rows, labels, prices_of
from influx.commands.protocols import Group, grouped
from influx.errors import ConfigError, did_you_mean
from influx.reporting.comparison import Comparison, Difference, Entry, letter_display, pareto_front, run_names
from influx.reporting.verdict import agreement_columns, detection_columns, words

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

FURTHER = 6  # metrics shown where none of the usual ones was measured


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
    lower = asked.lower_is_better and metric == asked.metrics[0]
    names = labels(records, runs)
    rows = Rows(columns=columns, marks=marks, prices=prices)
    entries = rows.own(records, runs, names)
    entries += rows.baselines(records, entries)
    entries = _ordered(_with_front(entries, metric, lower), metric, lower)
    further: list[str] = []
    pairs, letters = _pairs(dict(zip(names, records, strict=True)), entries, metric, further)
    entries = [replace(entry, letters=found) for entry, found in zip(entries, letters, strict=True)]
    reference = _reference(entries, pairs, asked.against)
    if reference is not None:
        entries = [replace(e, difference=_between(pairs, i, reference)) for i, e in enumerate(entries)]
    further += _about_seconds(entries)
    known, about = rows.ceilings(records)
    further += [f"noise ceiling of {metric}: {sentence}" for metric, sentence in about.items()]
    every = (*entries, *known)
    used = {score.mark for entry in every for score in entry.scores.values()}
    return Comparison(
        columns=columns,
        metric=metric,
        lower_is_better=lower,
        entries=every,
        pairs=pairs,
        reference=reference,
        title=group.title,
        protocol=group.protocol,
        notes=tuple(further),
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
        order = [name for name, ok in measured.items() if ok and "ceiling" not in words(name)][:FURTHER]
    return {name: headings.get(name, name.replace("_", " ")) for name in order}


def value_of(entry: Entry, metric: str) -> float:
    """The number of a row; NaN where it has none."""
    score = entry.scores.get(metric)
    return math.nan if score is None or score.word else score.value


def _ordered(entries: Sequence[Entry], metric: str, lower: bool) -> list[Entry]:
    def key(entry: Entry) -> tuple[bool, float, str]:
        value = value_of(entry, metric)
        return not math.isfinite(value), (value if lower else -value) if math.isfinite(value) else 0.0, entry.name

    return sorted(entries, key=key)


def _with_front(entries: Sequence[Entry], metric: str, lower: bool) -> list[Entry]:
    scores = [value_of(entry, metric) * (-1 if lower else 1) for entry in entries]
    fronts = pareto_front(scores, [entry.seconds for entry in entries])
    return [replace(entry, front=front) for entry, front in zip(entries, fronts, strict=True)]


def _pairs(
    records: Mapping[str, RunRecord], entries: Sequence[Entry], metric: str, notes: list[str]
) -> tuple[dict[tuple[int, int], Difference], list[str]]:
    """Differences by rows of ``entries``, and letters; adds what must be said about them to ``notes``.

    ``records`` by the names of their rows.
    """
    from influx.commands import paired

    letters = [""] * len(entries)
    if len(records) < 2 or not metric:
        return {}, letters
    if metric not in paired.METRICS:
        notes.append(
            f"differences are paired for {', '.join(paired.METRICS)} alone, which follow from the saved matrices: "
            f"for {metric} only the intervals of the rows are known"
        )
        return {}, letters
    inside = [i for i, e in enumerate(entries) if e.kind == "run" and math.isfinite(value_of(e, metric))]
    if len(inside) < 2:
        return {}, letters
    chosen = [records[entries[i].name] for i in inside]
    pairs = paired.pairs_of(chosen, metric, _k(chosen[0], metric))
    found = {(inside[i], inside[j]): difference for (i, j), difference in pairs.differences.items()}
    taking_part = [i for i, reason in enumerate(pairs.reasons) if not reason]
    shown = letter_display(pairs.different[[[i] for i in taking_part], taking_part]) if pairs.differences else []
    for i, told in zip(taking_part, shown, strict=False):
        letters[inside[i]] = told
    notes += [f"{entries[inside[i]].name} is not paired: {why}" for i, why in enumerate(pairs.reasons) if why]
    notes += [f"no differences: {pairs.lack}"] if pairs.lack else []
    if found:
        notes.append(
            f"letters: estimators that share one do not differ in {metric} (paired bootstrap over the same test "
            f"instances x{paired.N_BOOT}, 95% for all pairs at once); intervals of differences are for one pair each"
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


def _reference(entries: Sequence[Entry], pairs: Mapping[tuple[int, int], Difference], against: str) -> int | None:
    """The row that differences are taken to: the one asked for, or the best that was paired."""
    paired = sorted({i for pair in pairs for i in pair})
    if not paired:
        return None
    names = {entries[i].name: i for i in paired}
    plain = {entries[i].estimator: i for i in reversed(paired)}
    return names.get(against, plain.get(against, paired[0]))


def _check_reference(made: Sequence[Comparison], against: str) -> None:
    """Refuse a reference that is in none of the comparisons.

    Raises:
        ConfigError: no row with differences has that name.
    """
    shown = [c.entries[i] for c in made for i in sorted({i for pair in c.pairs for i in pair})]
    names = list(dict.fromkeys(entry.name for entry in shown))
    if against and against not in names and against not in {entry.estimator for entry in shown}:
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
