"""Runs side by side: rows, columns, order, who differs from whom, and the front of agreement against cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from influx.commands.comparison_rows import baselines, ceilings, labels, own, run_names
from influx.commands.protocols import grouped
from influx.errors import ConfigError, did_you_mean
from influx.reporting.comparison import Comparison, Difference, Entry, letter_display, pareto_front
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


def comparison_of(records: Sequence[RunRecord], asked: Asked, notes: Sequence[str] = ()) -> Comparison:
    """Put finished runs side by side; ``notes`` are sentences to pass on.

    Raises:
        ConfigError: protocols differ without ``force``, or a metric or reference is unknown.
    """
    _check(records, asked)
    columns = _columns(records, asked.metrics)
    metric = next(iter(columns), "")
    places, protocols = grouped(records, list(columns), asked.force)
    marks: dict[str, str] = {}
    names = labels(records)
    entries = own(records, places, names, columns, marks)
    entries += baselines(records, places, entries, columns, marks)
    entries = _ordered(_with_front(entries, metric, asked.lower_is_better), metric, asked.lower_is_better)
    further = list(notes)
    pairs, letters = _pairs(records, names, places, entries, metric, further)
    entries = [replace(entry, letters=found) for entry, found in zip(entries, letters, strict=True)]
    reference = _reference(entries, pairs, asked.against)
    if reference is not None:
        entries = [replace(e, difference=_between(pairs, i, reference)) for i, e in enumerate(entries)]
    further += _about_seconds(entries)
    known, about = ceilings(records, places, columns, marks)
    further += [f"noise ceiling of {metric}: {sentence}" for metric, sentence in about.items()]
    return Comparison(
        columns=columns,
        metric=metric,
        lower_is_better=asked.lower_is_better,
        entries=(*entries, *known),
        pairs=pairs,
        reference=reference,
        protocols=tuple(protocols),
        notes=tuple(further),
        footnotes=tuple((mark, reason) for reason, mark in marks.items()),
        commands=dict(zip(run_names(records), (record.command for record in records), strict=True)),
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
    """Metrics with at least one number, and their headings."""
    headings: dict[str, str] = {}
    measured: dict[str, bool] = {}
    for record in records:
        table = record.metric_rows
        for row in table:
            name = str(row["metric"])
            measured[name] = measured.get(name, False) or row["status"] == "ok"
        headings = agreement_columns(record, table) | headings
        headings |= {k: v for k, v in detection_columns(table).items() if k not in headings}
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
    made = list(entries)
    for place in {entry.protocol for entry in entries}:
        inside = [i for i, entry in enumerate(entries) if entry.protocol == place]
        scores = [value_of(entries[i], metric) * (-1 if lower else 1) for i in inside]
        for i, front in zip(inside, pareto_front(scores, [entries[i].seconds for i in inside]), strict=True):
            made[i] = replace(entries[i], front=front)
    return made


def _pairs(
    records: Sequence[RunRecord],
    labels: Sequence[str],
    places: Sequence[int],
    entries: Sequence[Entry],
    metric: str,
    notes: list[str],
) -> tuple[dict[tuple[int, int], Difference], list[str]]:
    """Differences by rows of ``entries``, and letters; adds what must be said about them to ``notes``."""
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
    by_label = dict(zip(labels, records, strict=True))
    found: dict[tuple[int, int], Difference] = {}
    for place in dict.fromkeys(places):
        inside = [i for i, e in enumerate(entries) if e.kind == "run" and e.protocol == place]
        inside = [i for i in inside if math.isfinite(value_of(entries[i], metric))]
        chosen = [by_label[entries[i].name] for i in inside]
        if len(chosen) < 2:
            continue
        pairs = paired.pairs_of(chosen, metric, _k(chosen[0], metric))
        found |= {(inside[i], inside[j]): difference for (i, j), difference in pairs.differences.items()}
        taking_part = [i for i, reason in enumerate(pairs.reasons) if not reason]
        shown = letter_display(pairs.different[[[i] for i in taking_part], taking_part]) if pairs.differences else []
        for i, told in zip(taking_part, shown, strict=False):
            letters[inside[i]] = told
        lacking = [(inside[i], reason) for i, reason in enumerate(pairs.reasons) if reason]
        notes += [f"{entries[i].name} is not paired: {reason}" for i, reason in lacking]
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
            notes.append(f"with {fewest} test instances letters part estimators a little too readily")
    return found, letters


def _k(record: RunRecord, metric: str) -> int:
    """The k of a top-k metric, from its protocol."""
    stated = (re.search(r"\bk=(\d+)", str(row["protocol"])) for row in record.metric_rows if row["metric"] == metric)
    return next((int(found[1]) for found in stated if found), 10)


def _reference(entries: Sequence[Entry], pairs: Mapping[tuple[int, int], Difference], against: str) -> int | None:
    """The row that differences are taken to: the one asked for, or the best that was paired."""
    paired = sorted({i for pair in pairs for i in pair})
    if not against:
        return paired[0] if paired else None
    names = {entries[i].name: i for i in paired}
    plain = {entries[i].estimator: i for i in reversed(paired)}
    if against not in names and against not in plain:
        raise ConfigError(
            f"--against expects a row with paired differences, got {against}{did_you_mean(against, names)}; there are "
            f"{', '.join(names) or 'none'}"
        )
    return names.get(against, plain.get(against))


def _between(pairs: Mapping[tuple[int, int], Difference], row: int, reference: int) -> Difference | None:
    """Row minus reference."""
    if (row, reference) in pairs:
        return pairs[row, reference]
    found = pairs.get((reference, row))
    return found and Difference(value=-found.value, low=-found.high, high=-found.low, n=found.n)
