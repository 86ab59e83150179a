"""Estimators side by side as data: which row stands where, who is on the Pareto front, who differs from whom."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from influx.reporting.verdict import Score

if TYPE_CHECKING:
    from influx.reporting.record import RunRecord

Kind = Literal["run", "baseline", "ceiling"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One row's score minus that of another over the same ``n`` test instances, with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row.

    Attributes:
        name: the estimator, with the settings that tell it from others of that name.
        estimator: its plain name.
        kind: an estimator's own run, a baseline measured beside it, or the noise ceiling.
        run: name of the run that it comes from; empty for ceilings.
        model: what was trained, where rows of several models stand together.
        scores: by metric; a missing one was not measured.
        seconds: what it took, with what the trainings that it read from the bank would have taken; NaN if unknown.
        unpaid: trainings that it read and did not make.
        peak_mb: largest memory of the process meanwhile; NaN if unknown.
        trainings: models that it asked for; NaN if unknown.
        front: no other row is at least as good and as fast, and better in one.
        letters: rows that share a letter do not differ; empty where nothing was paired.
        difference: to the comparison's reference.
    """

    name: str
    estimator: str
    kind: Kind
    run: str
    scores: Mapping[str, Score]
    seconds: float = math.nan
    unpaid: int = 0
    peak_mb: float = math.nan
    trainings: float = math.nan
    front: bool = False
    letters: str = ""
    difference: Difference | None = None
    model: str = ""

    def of(self, model: str) -> Entry:
        """The row with its model in its name; itself where there is one model."""
        return replace(self, name=f"{self.name}, {model}", model=model) if model else self


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that ``influx compare`` says about the runs of one protocol.

    Attributes:
        columns: metrics and their headings, the one that rows are sorted by first.
        metric: that one; empty when nothing was measured.
        lower_is_better: of that one.
        entries: best first, baselines among them, ceilings last.
        pairs: differences of rows ``(i, j)`` of ``entries``, i before j.
        references: rows that ``Entry.difference`` is taken to, one for each model with pairs.
        title: what tells the problem from those of other comparisons beside it; empty when there are none.
        protocol: in words, by what it is about: the problem, the ground truth, every metric.
        notes: sentences about what was left out and what the columns mean.
        footnotes: marks of cells and their reasons.
        commands: how each run is made again, by its name.
    """

    columns: Mapping[str, str]
    metric: str
    lower_is_better: bool
    entries: tuple[Entry, ...]
    pairs: Mapping[tuple[int, int], Difference]
    references: tuple[int, ...]
    title: str
    protocol: Mapping[str, str]
    notes: tuple[str, ...]
    footnotes: tuple[tuple[str, str], ...]
    commands: Mapping[str, str]

    @property
    def several(self) -> bool:
        """Whether rows of several models stand together."""
        return len({entry.model for entry in self.entries}) > 1

    @property
    def against(self) -> str:
        """What differences are taken to, in words; empty without differences."""
        if not self.references:
            return ""
        return "the reference of its model" if self.several else self.entries[self.references[0]].name


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """Names of runs, or their folders where two have the same name."""
    names = [record.name for record in records]
    return [name if names.count(name) == 1 else str(r.folder) for name, r in zip(names, records, strict=True)]


def pareto_front(scores: Sequence[float], seconds: Sequence[float]) -> list[bool]:
    """Which rows no other dominates: at least as good (larger) and as fast, and better in one. NaN never is."""
    known = [math.isfinite(s) and math.isfinite(t) for s, t in zip(scores, seconds, strict=True)]
    order = sorted((i for i, usable in enumerate(known) if usable), key=lambda i: (seconds[i], -scores[i]))
    front = [False] * len(scores)
    best, at = -math.inf, math.nan
    for i in order:  # by time: a row is dominated by whatever was better before, or as good but faster
        if scores[i] > best:
            best, at = scores[i], seconds[i]
            front[i] = True
        elif scores[i] == best and seconds[i] == at:
            front[i] = True
    return front


def letter_display(different: NDArray[np.bool_], used: int = 0) -> list[str]:
    """Letters for rows, best first, after ``used`` others: two rows share one if and only if not ``different`` (R, R).

    Rows that do not differ are covered by groups within which nobody differs, each grown from the first pair that no
    earlier group holds (a greedy form of Piepho's letter display, 2004).
    """
    count = len(different)
    covered = np.zeros((count, count), dtype=bool)
    groups: list[list[int]] = []
    for i in range(count):
        for j in range(i, count):
            if different[i, j] or covered[i, j]:
                continue
            group = list(dict.fromkeys([i, j]))
            for other in range(count):
                if other not in group and not different[other, group].any():
                    group.append(other)
            group.sort()
            covered[np.ix_(group, group)] = True
            groups.append(group)
    shown = [""] * count
    for number, group in enumerate(sorted(groups)):
        for row in group:
            shown[row] += letter(used + number)
    return shown


def letters_of(shown: str) -> set[str]:
    """The letters of a row; "a1" is one."""
    return set(re.findall(r"[a-z]\d*", shown))


def share_letter(one: str, other: str) -> bool:
    """Whether two rows of a letter display have a letter in common; "a1" is one letter."""
    return bool(letters_of(one) & letters_of(other))


def letter(number: int) -> str:
    """a, b, ..., z, then a1, b1, ...: several stand side by side and must still be told apart."""
    more, index = divmod(number, len(ascii_lowercase))
    return ascii_lowercase[index] + (str(more) if more else "")
