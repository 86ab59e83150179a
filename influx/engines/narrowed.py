"""A bank as it would be if the problem had only some of its test instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.engines.retrain import FIELDS, Bank
from influx.problem import Design, Outcomes, Problem


def narrowed(problem: Problem, tests: NDArray[np.int64]) -> Problem:
    """The problem with those of its test instances alone, ``tests`` being their rows."""
    data = problem.data
    display = {part: shown[tests] if part == "test" else shown for part, shown in data.display.items()}
    flags = {name: flag[tests] for name, flag in data.test_flags.items()}
    return replace(problem, data=replace(data, test=data.test.take(tests), test_flags=flags, display=display))


@dataclass(kw_only=True)
class Narrowed(Bank):
    """The models of ``whole``, and what they make of the test instances in the rows ``tests`` alone.

    Models are looked up and trained in ``whole``, so that nothing is retrained for having fewer test instances.
    """

    whole: Bank
    tests: NDArray[np.int64]

    @classmethod
    def of_bank(cls, whole: Bank, problem: Problem, tests: NDArray[np.int64]) -> Narrowed:
        """``problem`` is that of ``whole`` with the test instances ``tests`` (see ``narrowed``)."""
        return cls(problem=problem, folder=whole.folder, whole=whole, tests=tests)

    @property
    def requested(self) -> int:
        """Different models asked for, trained now or read."""
        return self.whole.requested

    def seen_alike(self, other: Bank, problem: Problem) -> Bank:
        """The same of another training's bank."""
        return Narrowed.of_bank(other, problem, self.tests)

    def parts(
        self, design: Design, label: str = "retraining"
    ) -> Iterator[tuple[NDArray[np.int64], Outcomes, Outcomes]]:
        """Rows of ``design`` with their outcomes on train and on these test instances, as of ``Bank``."""
        for rows, train, test in self.whole.parts(design, label):
            yield rows, train, Outcomes(**{name: getattr(test, name)[:, self.tests] for name in FIELDS})

    def missing(self, design: Design, keys: list[str] | None = None) -> NDArray[np.int64]:
        """Rows of the design that are not in the bank."""
        return self.whole.missing(design, keys)
