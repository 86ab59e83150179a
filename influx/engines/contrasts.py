"""Risks of models trained without an instance minus those of models trained with it, summed up block by block.

Two sums per pair (of risks and of their squares, over the models with the instance) and the totals give means and
variances on both sides: one pass over the bank, whatever the number of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from influx.engines.risks import Target
from influx.influence import Influence, Scale

if TYPE_CHECKING:
    import pandas as pd

    from influx.run import Run

Array = NDArray[np.float64]
ROWS_CHUNK = 1024  # training instances whose means and variances are formed at once


class Side(NamedTuple):
    """Models on one side: how many (rows, 1), mean and unbiased variance of their risks (rows, columns)."""

    models: Array
    mean: Array
    variance: Array


class Sums:
    """Sums of risks over the models with each training instance, and over all.

    Risks are (models, columns), the same for every training instance; with ``own`` column i belongs to training
    instance i, and what is kept is one column.
    """

    def __init__(self, n: int, columns: int, zeros: Callable[[], Array] | None = None, own: bool = False) -> None:
        """``zeros`` makes the two (n, columns) accumulators; None means in memory."""
        make = zeros or (lambda: np.zeros((n, columns)))
        self.own, self.models, self.count = own, 0, np.zeros((n, 1))
        self.risk, self.square = make(), make()
        self.all_risk, self.all_square = np.zeros((2, n, 1) if own else (2, 1, columns))
        self.shift: Array | None = None

    def add(self, inside: NDArray[np.bool_], risk: Array) -> None:
        """Add models: ``inside`` (models, n) says which instances each was trained on."""
        if self.shift is None:  # near the mean, so that squares lose no digits
            self.shift = risk.mean(axis=0)[:, None] if self.own else risk.mean(axis=0)[None, :]
        centred = risk - (self.shift.T if self.own else self.shift)
        within = inside.astype(np.float64)
        self.models += len(risk)
        self.count += within.sum(axis=0)[:, None]
        for values, total, everything in (
            (centred, self.risk, self.all_risk),
            (centred * centred, self.square, self.all_square),
        ):
            everything += values.sum(axis=0)[:, None] if self.own else values.sum(axis=0)[None, :]
            if self.own:
                total += (within * values).sum(axis=0)[:, None]
                continue
            for rows in chunks(len(total)):
                total[rows] += within[:, rows].T @ values

    def sides(self, rows: slice) -> tuple[Side, Side]:
        """Models with and models without the instances of ``rows``."""
        count, risk, square = self.count[rows], self.risk[rows], self.square[rows]
        totals = rows if self.own else slice(None)
        shift = np.zeros((1, 1)) if self.shift is None else self.shift[totals]
        inside = _side(count, risk, square, shift)
        outside = _side(self.models - count, self.all_risk[totals] - risk, self.all_square[totals] - square, shift)
        return inside, outside

    @property
    def whole(self) -> Side:
        """All models."""
        shift = np.zeros((1, 1)) if self.shift is None else self.shift
        return _side(np.full((1, 1), float(self.models)), self.all_risk, self.all_square, shift)


def _side(count: Array, risk: Array, square: Array, shift: Array) -> Side:
    some = np.maximum(count, 1)
    variance = np.maximum(square - risk * risk / some, 0) / np.maximum(count - 1, 1)
    return Side(count, shift + risk / some, variance)


class Pool:
    """Sums over a set of models: risks of test instances, their mean, and each training instance's own."""

    def __init__(self, n: int, m: int, zeros: Callable[[], Array] | None = None) -> None:
        """``zeros`` makes (n, m) accumulators."""
        self.tests, self.joint = Sums(n, m, zeros), Sums(n, 1)
        self.own = Sums(n, 1, own=True)

    def add(self, inside: NDArray[np.bool_], tests: Array, train: Array) -> None:
        """Add models with their risks on test (models, m) and train (models, n)."""
        self.tests.add(inside, tests)
        self.joint.add(inside, tests.mean(axis=1, keepdims=True))  # averaged inside each model: columns are correlated
        self.own.add(inside, train)

    @property
    def fewest(self) -> tuple[int, int]:
        """Smallest number of models with, and without, an instance."""
        count = self.joint.count
        return int(count.min()), int(self.joint.models - count.max())


@dataclass(frozen=True)
class Difference:
    """Mean risk without minus mean risk with each instance, and the standard error from the draw of models."""

    values: Array
    stderr: Array


def difference(
    pairs: list[tuple[Sums, Sums]], weights: list[Array] | None = None, zeros: Callable[[], Array] | None = None
) -> Difference:
    """Average over strata of the mean risk of models without minus that of models with each instance.

    Args:
        pairs: for each stratum, where the models with and where those without an instance are counted.
        weights: for each stratum (n, 1), relative; None weighs strata alike. With weights, a stratum has one variance
            for its models with and without an instance, so that one model on a side is enough.
        zeros: makes the results; None means in memory.
    """
    shape = pairs[0][0].risk.shape
    make = zeros or (lambda: np.zeros(shape))
    values, stderr = make(), make()
    for rows in chunks(shape[0]):
        mean, variance, total = np.zeros((3, 1, 1))
        for number, (with_, without) in enumerate(pairs):
            inside, outside = with_.sides(rows)[0], without.sides(rows)[1]
            weight = np.ones((1, 1)) if weights is None else weights[number][rows]
            mean = mean + weight * (outside.mean - inside.mean)
            variance = variance + weight**2 * _error(inside, outside, common=weights is not None)
            total = total + weight
        values[rows], stderr[rows] = mean / total, np.sqrt(variance) / total
    return Difference(values, stderr)


def _error(inside: Side, outside: Side, common: bool) -> Array:
    """Squared standard error of a difference of means: Welch's, or with one common variance."""
    if not common:
        return inside.variance / np.maximum(inside.models, 1) + outside.variance / np.maximum(outside.models, 1)
    squares = sum(side.variance * np.maximum(side.models - 1, 0) for side in (inside, outside))
    variance = squares / np.maximum(inside.models + outside.models - 2, 1)
    return variance * sum(1 / np.maximum(side.models, 1) for side in (inside, outside))


def chunks(n: int) -> Iterator[slice]:
    """Consecutive rows."""
    return (slice(start, min(start + ROWS_CHUNK, n)) for start in range(0, n, ROWS_CHUNK))


def joint_table(ids: NDArray[np.int64], values: Array, joint: NDArray[Any], stderr: NDArray[Any]) -> pd.DataFrame:
    """Influence on the mean risk of the test instances.

    ``stderr_design`` is from the draw of models, ``stderr_test`` from the draw of test instances: the deviation of
    pointwise ``values`` (n, m) over them.
    """
    import pandas as pd

    m, spread = values.shape[1], np.full(len(values), np.nan)
    if m > 1:
        for rows in chunks(len(values)):
            spread[rows] = values[rows].std(axis=1, ddof=1) / np.sqrt(m)
    columns = {"influence": joint.ravel(), "stderr_design": stderr.ravel(), "stderr_test": spread}
    return pd.DataFrame({"train_id": ids} | columns)


def memorization_table(ids: NDArray[np.int64], own: Array, stderr: Array) -> pd.DataFrame:
    """Influence of each training instance on itself with its standard error."""
    import pandas as pd

    return pd.DataFrame({"train_id": ids, "influence": own.ravel(), "stderr": stderr.ravel()})


def pairs_of(pools: list[Pool], part: str, paired: bool = False) -> list[tuple[Sums, Sums]]:
    """For each stratum the sums in which models with, and those in which models without an instance are counted.

    ``paired``: the first pool holds the models with, the second the models without an instance.
    """
    sums: list[Sums] = [getattr(pool, part) for pool in pools]
    return [(sums[0], sums[1])] if paired else [(each, each) for each in sums]


def contrast(
    run: Run,
    pools: list[Pool],
    target: Target,
    *,
    paired: bool = False,
    weights: list[Array] | None = None,
    report: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Influence:
    """Influence, memorization and joint influence by differences of mean risks; arguments as in ``difference``."""
    pointwise, joint, own = (
        difference(pairs_of(pools, part, paired), weights, zeros)
        for part, zeros in (("tests", run.zeros), ("joint", None), ("own", None))
    )
    found = {
        "joint": joint_table(run.train.ids, pointwise.values, joint.values, joint.stderr),
        "memorization": memorization_table(run.train.ids, own.values, own.stderr),
    }
    return run.influence(
        pointwise.values,
        scale=scale_of(target),
        stderr=pointwise.stderr,
        self_influence=own.values.ravel(),
        tables=found | dict(tables or {}),
        report=dict(report),
    )


def scale_of(target: Target) -> Scale:
    """Differences of losses are in loss units, others only rank."""
    return "loss" if target == "loss" else "rank"
