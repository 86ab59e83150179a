"""Rows of a comparison: runs under names that tell them apart, baselines once, noise ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from influx.commands.protocols import settings_that_differ
from influx.reporting.comparison import Entry, Kind
from influx.reporting.verdict import Score, names_of, score_of, words

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

SETTINGS = 3  # that tell rows of one estimator apart; the run's name is shorter than more of them
VALUE = 24  # characters of a value


def labels(records: Sequence[RunRecord]) -> list[str]:
    """A name for each run's row: its estimator, with what differs where several runs have the same."""
    made = []
    for record in records:
        alike = [other for other in records if other.estimator == record.estimator]
        place = next(i for i, other in enumerate(alike) if other is record)
        found = settings_that_differ(alike, own=True) | settings_that_differ(alike)
        told = [f"{name.removeprefix('estimator.')}={values[place][:VALUE]}" for name, values in found.items()]
        told = told if len(told) <= SETTINGS else [record.name]
        made.append(" ".join([record.estimator, *told]))
    runs = run_names(records)
    pairs = zip(made, runs, strict=True)
    return [label if made.count(label) == 1 else f"{label} {run}" for label, run in pairs]


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """Names of runs, or their folders where two have the same name."""
    names = [record.name for record in records]
    return [name if names.count(name) == 1 else str(r.folder) for name, r in zip(names, records, strict=True)]


def own(
    records: Sequence[RunRecord],
    places: Sequence[int],
    labels: Sequence[str],
    columns: Mapping[str, str],
    marks: dict[str, str],
) -> list[Entry]:
    """The rows of the runs themselves, in their order."""
    return [
        _entry(record, record.estimator, label, "run", run, place, columns, marks)
        for record, run, place, label in zip(records, run_names(records), places, labels, strict=True)
    ]


def baselines(
    records: Sequence[RunRecord],
    places: Sequence[int],
    own: Sequence[Entry],
    columns: Mapping[str, str],
    marks: dict[str, str],
) -> list[Entry]:
    """Each once per protocol, unless it has a run of its own."""
    found: dict[tuple[int, str], Entry] = {}
    for record, place in zip(records, places, strict=True):
        for name in names_of(record, record.metric_rows, ()):
            if any(entry.name == name and entry.protocol == place for entry in own):
                continue
            if name == record.estimator:
                continue
            made = _entry(record, name, name, "baseline", record.name, place, columns, marks)
            before = found.get((place, name))
            if before is not None:  # other runs may have measured more
                made = replace(before, scores=dict(made.scores) | dict(before.scores))
            found[place, name] = made
    return list(found.values())


def _entry(
    record: RunRecord,
    name: str,
    label: str,
    kind: Kind,
    run: str,
    place: int,
    columns: Mapping[str, str],
    marks: dict[str, str],
) -> Entry:
    rows = [row for row in record.metric_rows if row["estimator"] == name and row["metric"] in columns]
    costs = record.section("cost")
    cost, truth = _mapping(costs.get(name)), _mapping(costs.get("truth"))
    seconds, trainings = _number(cost, "seconds"), _number(cost, "trainings")
    read = trainings - _number(cost, "trained_now")
    each = _number(truth, "seconds") / made if (made := _number(truth, "trained_now")) > 0 else math.nan
    unpaid = int(read) if read > 0 else 0
    charged = seconds + unpaid * each if unpaid else seconds
    return Entry(
        name=label,
        estimator=name,
        kind=kind,
        run=run,
        protocol=place,
        scores={str(row["metric"]): score_of(row, marks) for row in rows},
        seconds=charged if math.isfinite(charged) else seconds,
        unpaid=unpaid,
        peak_mb=_number(cost, "peak_mb"),
        trainings=trainings,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def ceilings(
    records: Sequence[RunRecord], places: Sequence[int], columns: Mapping[str, str], marks: dict[str, str]
) -> list[Entry]:
    """Per protocol, how well the truth agrees with itself in the metrics shown."""
    found: dict[int, dict[str, Score]] = {}
    for record, place in zip(records, places, strict=True):
        for row in record.metric_rows:
            name = str(row["metric"])
            if "ceiling" not in words(name) or row["status"] != "ok":
                continue
            plain = name.removeprefix("ceiling_").removesuffix("_ceiling")
            if plain in columns:
                found.setdefault(place, {}).setdefault(plain, score_of(row, marks))
    return [
        Entry(name="noise ceiling", estimator="", kind="ceiling", run="", protocol=place, scores=scores)
        for place, scores in found.items()
    ]
