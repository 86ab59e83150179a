"""What estimators that differentiate the whole training share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.engines.audit import audit, sensitivity
from influx.engines.curves import Curves
from influx.engines.moved import Effect, effects, own_effects
from influx.engines.path import check_steps, recorded
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.sequential import Recipe
from influx.planning import Prospect, Work
from influx.problem import Split

if TYPE_CHECKING:
    from influx.run import Run

LinearizeAt = Literal["derivative", "loo"]
WATCHED = 32  # test instances whose adjoints show how sensitive a training is, where none are needed otherwise


@dataclass(frozen=True, kw_only=True)
class Forward:
    """Tangents of training instances."""

    indices: list[int] | None = None
    linearize_at: LinearizeAt = "derivative"
    test_loss: Effect = "gradient"
    start: int = 0
    audit: int = 2

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(self.audit, self.start)

    def rows(self, train: Split) -> NDArray[np.int64]:
        """Rows of the training split to track, ascending.

        Raises:
            ConfigError: an index is not a training id.
        """
        if self.indices is None:
            return np.arange(len(train))
        unknown = sorted(set(self.indices) - set(train.ids.tolist()))
        if unknown or not self.indices:
            raise ConfigError(
                f"estimator.indices must be ids of training instances (see ids.parquet), got {unknown[:5]}; remove them"
            )
        return np.flatnonzero(np.isin(train.ids, self.indices))

    def forward(self, run: Run) -> Influence:
        """Influence of the tracked instances; the rows of others are NaN."""
        path, gradients = run.path, run.gradients
        _check_start(self.start, path.fitted.recipe)
        unroller = run.unroller(self.start)
        rows, row_of = self.rows(run.train), path.rows_in(run.train).tolist()
        place = {row: member for member, row in enumerate(row_of)}
        tracked = np.array([place[row] for row in rows])
        values, own = run.zeros(), np.full(len(run.train), np.nan)
        if self.indices is not None:
            values[:] = np.nan
        for part, tangents in unroller.tangents(tracked, self.linearize_at == "loo"):
            mine = rows[part]
            for columns, few in _columns(run.test):
                values[mine, columns] = effects(gradients, -tangents, few, self.test_loss).numpy()
            own[mine] = own_effects(gradients, -tangents, run.train.take(mine), self.test_loss).numpy()
        report: dict[str, Any] = {"tracked": len(rows), "linearize_at": self.linearize_at, "test_loss": self.test_loss}
        derivative = self.linearize_at == "derivative" and self.test_loss == "gradient"
        if self.audit:
            watched = unroller.growth(run.test.take(slice(0, WATCHED)))
            report |= _judged(run, values, self.audit, derivative and not self.start, watched, path.total - self.start)
        return run.influence(values, self_influence=own, report=report)


@dataclass(frozen=True, kw_only=True)
class Backward:
    """Adjoints of test risks."""

    self_influence: bool = True
    audit: int = 2
    curve_tests: int = 3

    def __post_init__(self) -> None:
        """Check ranges."""
        _check(self.audit, 0)
        if self.curve_tests < 0:
            raise ConfigError(f"estimator.curve_tests must not be negative, got {self.curve_tests}; use 0 for none")

    def backward(self, run: Run, start: int) -> Influence:
        """Influence through the steps from ``start`` on."""
        path = run.path
        _check_start(start, path.fitted.recipe)
        values, own = run.zeros(), np.zeros(len(run.train))
        curves = Curves(run.train, run.test, range(path.total), self.curve_tests)
        growth = run.unroller(start).adjoints(values, own if self.self_influence else None, curves)
        judged = _judged(run, values, self.audit, not start, growth, path.total - start)  # growth costs nothing here
        return run.influence(
            values,
            self_influence=own if self.self_influence else None,
            self_influence_note="" if self.self_influence else "estimator.self_influence=false",
            tables={"curves": curves.table()},
            report={"steps": path.total - start} | judged,
        )


def _judged(
    run: Run, values: NDArray[np.float64], count: int, derivative: bool, growth: Any, steps: int
) -> dict[str, Any]:
    """Audit and sensitivity, with their warnings."""
    report, sentences = sensitivity(growth, steps)
    audited, more = audit(run.path, run.train, run.test, values, count, derivative)
    for sentence in (*sentences, *more):
        run.warn(sentence)
    return report | audited


def _columns(test: Split, size: int = 1024) -> list[tuple[slice, Split]]:
    parts = [slice(start, min(start + size, len(test))) for start in range(0, len(test), size)]
    return [(part, test.take(part)) for part in parts]


def _check(audit: int, start: int) -> None:
    if audit < 0:
        raise ConfigError(f"estimator.audit must not be negative, got {audit}; use 0 for none")
    if start < 0:
        raise ConfigError(f"estimator.start must not be negative, got {start}; use 0 for the whole training")


def _check_start(start: int, recipe: Recipe) -> None:
    total = recipe.total
    check_steps(recipe)
    if start >= total:
        raise ConfigError(f"estimator.start must be below the {total} steps of the training, got {start}; lower it")


def forward_work(prospect: Prospect, settings: Forward) -> Work:
    """Hessian products of every batch for all tracked instances.

    Raises:
        UserError: the training cannot be unrolled, or a setting does not fit it.
    """
    _check_start(settings.start, recorded(prospect))
    net, n, m, count = prospect.net, len(prospect.train), len(prospect.test), len(settings.rows(prospect.train))
    share = 1 - settings.start / net.steps
    audits = (settings.audit * 3 + 1) * net.visits
    return Work(
        gradients=net.visits + float(n + m) + audits,
        flops=share * 12.0 * net.macs * net.visits * count + 2.0 * net.parameters * count * m + 6.0 * net.macs * audits,
        numbers=share * 8.0 * net.parameters * net.steps * count,
        rows=count,
        bytes=8.0 * n * m + 12.0 * min(count * net.parameters, 1 << 28),
        formula=f"{net.steps} steps x {count} Hessian products of a batch",
    )


def backward_work(prospect: Prospect, own: bool, start: int = 0) -> Work:
    """Hessian products of every batch for all targets.

    Raises:
        UserError: the training cannot be unrolled, or a setting does not fit it.
    """
    _check_start(start, recorded(prospect))
    net, n, m = prospect.net, len(prospect.train), len(prospect.test)
    targets = m + n * own
    share = 1 - start / net.steps
    return Work(
        gradients=net.visits + float(targets),
        flops=share * (12.0 * net.macs + 2.0 * net.parameters) * net.visits * targets,
        numbers=share * 12.0 * net.parameters * net.steps * targets,
        bytes=8.0 * n * m + 12.0 * min(targets * net.parameters, 1 << 28),
        formula=f"{net.steps} steps x {targets} Hessian products of a batch",
    )
