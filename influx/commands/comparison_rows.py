"""Rows of a comparison: runs under names that tell them apart, baselines once, noise ceilings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from influx.commands.protocols import settings_that_differ
from influx.reporting.ceilings import about, shared_ceiling
from influx.reporting.comparison import Entry, Kind
from influx.reporting.text import number
from influx.reporting.verdict import Score, names_of, score_of

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

SETTINGS = 3  # that tell rows of one estimator apart; the run's name is shorter than more of them
VALUE = 24  # characters of a value


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What makes rows of runs.

    Attributes:
        columns: metrics that rows show.
        marks: of footnotes, by what they say; grows with the rows.
        prices: seconds of one training by problem.
    """

    columns: Mapping[str, str]
    marks: dict[str, str] = field(default_factory=dict)
    prices: Mapping[str, float]

    def own(self, records: Sequence[RunRecord], runs: Sequence[str], labels: Sequence[str]) -> list[Entry]:
        """The rows of the runs themselves, in their order; ``runs`` are their names."""
        return [
            self._entry(record, record.estimator, label, "run", run)
            for record, run, label in zip(records, runs, labels, strict=True)
        ]

    def baselines(self, records: Sequence[RunRecord], own: Sequence[Entry]) -> list[Entry]:
        """Each once, unless it has a run of its own."""
        found: dict[str, Entry] = {}
        for record in records:
            for name in names_of(record, record.metric_rows, ()):
                if name == record.estimator or any(entry.name == name for entry in own):
                    continue
                made = self._entry(record, name, name, "baseline", record.name)
                before = found.get(name)
                if before is not None:  # other runs may have measured more
                    made = replace(before, scores=dict(made.scores) | dict(before.scores))
                found[name] = made
        return list(found.values())

    def _entry(self, record: RunRecord, name: str, label: str, kind: Kind, run: str) -> Entry:
        rows = [row for row in record.metric_rows if row["estimator"] == name and row["metric"] in self.columns]
        cost = _mapping(record.section("cost").get(name))
        seconds, trainings = number(cost.get("seconds")), number(cost.get("trainings"))
        read = trainings - number(cost.get("trained_now"))
        unpaid = int(read) if read > 0 else 0
        return Entry(
            name=label,
            estimator=name,
            kind=kind,
            run=run,
            scores={str(row["metric"]): score_of(row, self.marks) for row in rows},
            seconds=seconds + unpaid * self.prices.get(_problem(record), math.nan) if unpaid else seconds,
            unpaid=unpaid,
            peak_mb=number(cost.get("peak_mb")),
            trainings=trainings,
        )

    def ceilings(self, records: Sequence[RunRecord]) -> tuple[list[Entry], dict[str, str]]:
        """How well the truth agrees with itself in the metrics shown, and what this means, by metric.

        What belongs to one estimator's removals is no ceiling of the others and is left out.
        """
        found: dict[str, Score] = {}
        told: dict[str, str] = {}
        for record in records:
            for metric in self.columns:
                ceiling = shared_ceiling(metric, record.metric_rows)
                if metric not in found and ceiling is not None:
                    found[metric], told[metric] = score_of(ceiling.row, self.marks), about(ceiling)
        told = {metric: told[metric] for metric in self.columns if told.get(metric)}
        made = [Entry(name="noise ceiling", estimator="", kind="ceiling", run="", scores=found)] if found else []
        return made, told


def labels(records: Sequence[RunRecord], runs: Sequence[str]) -> list[str]:
    """A name for each run's row: its estimator, with what differs where several runs have the same."""
    made = []
    for record in records:
        alike = [other for other in records if other.estimator == record.estimator]
        place = next(i for i, other in enumerate(alike) if other is record)
        found = settings_that_differ(alike, own=True) | settings_that_differ(alike)
        told = [f"{name.removeprefix('estimator.')}={values[place][:VALUE]}" for name, values in found.items()]
        told = told if len(told) <= SETTINGS else [record.name]
        made.append(" ".join([record.estimator, *told]))
    pairs = zip(made, runs, strict=True)
    return [label if made.count(label) == 1 else f"{label} {run}" for label, run in pairs]


def prices_of(records: Sequence[RunRecord]) -> dict[str, float]:
    """Seconds of one training by problem, from the run that made most of them for its truth: others read the bank."""
    found: dict[str, tuple[float, float]] = {}
    for record in records:
        truth = _mapping(record.section("cost").get("truth"))
        seconds, made = number(truth.get("seconds")), number(truth.get("trained_now"))
        if made > 0 and math.isfinite(seconds):
            found[_problem(record)] = max(found.get(_problem(record), (0.0, math.nan)), (made, seconds / made))
    return {problem: price for problem, (_, price) in found.items()}


def _problem(record: RunRecord) -> str:
    return str(record.section("problem").get("id", ""))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
