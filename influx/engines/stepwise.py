"""What estimators that go through every training step share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from influx.engines.attribution import attribute, check_memory, doubts, explained, filtered, lean
from influx.engines.audit import chosen
from influx.engines.curves import Curves
from influx.engines.moved import effects
from influx.engines.path import recorded
from influx.engines.unrolled import Unroller
from influx.engines.visits import first_order
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.planning import Prospect, Work

if TYPE_CHECKING:
    from influx.run import Run

FAR_OFF = 0.3  # relative error above which leaving out curvature is worth a warning
Fill = Callable[[NDArray[np.float64], NDArray[np.float64], Curves], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """Settings that they share, and the result around their computation."""

    curve_tests: int = 3

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.curve_tests < 0:
            raise ConfigError(f"estimator.curve_tests must not be negative, got {self.curve_tests}; use 0 for none")

    def filled(self, run: Run, fill: Fill, *, scale: Scale = "loss", note: str = "", own: bool = True) -> Influence:
        """Let ``fill`` add to values, self-influence and curves, and return what to report."""
        values, mine = run.zeros(), np.zeros(len(run.train))
        curves = Curves(run.train, run.test, range(run.path.total), self.curve_tests)
        report = fill(values, mine, curves)
        return run.influence(
            values,
            scale=scale,
            self_influence=mine if own else None,
            self_influence_note=note,
            tables={"curves": curves.table()},
            report=report,
        )

    def visited(self, run: Run, *, every: int = 1, unit: bool = False, note: str = "") -> Influence:
        """TracIn over visited steps."""
        path, gradients = run.path, run.gradients

        def fill(values: NDArray[np.float64], own: NDArray[np.float64], curves: Curves) -> Mapping[str, Any]:
            decay = first_order(path, gradients, values, own, curves, every=every, unit=unit)
            sentences, report = doubts(path, gradients, clips=True)
            for sentence in sentences:
                run.warn(sentence)
            decayed = {"mean_of_weight_decay": float(decay.mean())} if decay.any() else {}
            return {"steps": -(-path.total // every)} | decayed | report

        return self.filled(run, fill, scale="rank" if unit else "loss", note=note)

    def attributed(self, run: Run, memory: str, own: bool) -> Influence:
        """Shares of the first-order fall of test risks, through an optimizer's ``memory`` (momentum or adam)."""
        path, gradients = run.path, run.gradients
        check_memory(path.fitted.recipe, memory)

        def fill(values: NDArray[np.float64], mine: NDArray[np.float64], curves: Curves) -> Mapping[str, Any]:
            found = attribute(path, gradients, values, mine if own else None, curves)
            return {
                "first_order_fall": float(found.fall.mean()),
                "of_instances": float(values.sum(0).mean()),
                "of_weight_decay": float(found.decay.mean()),
                "explained": explained(path, gradients, clips=True),
            }

        return self.filled(run, fill, own=own)

    def without_curvature(self, run: Run, audit: int) -> Influence:
        """-dL/dw_i but for the dependence of later gradients on parameters, and how far that is from the derivative."""
        path, gradients = run.path, run.gradients

        def fill(values: NDArray[np.float64], own: NDArray[np.float64], curves: Curves) -> Mapping[str, Any]:
            kernels = lean(path)
            if kernels is not None:
                filtered(path, gradients, kernels, values, own, curves)
            else:
                Unroller(path, gradients, curvature=False).adjoints(values, own, curves)
            return {"lean": kernels is not None} | self._held_against_derivative(run, values, audit)

        return self.filled(run, fill)

    def _held_against_derivative(self, run: Run, values: NDArray[np.float64], audit: int) -> dict[str, Any]:
        path, gradients = run.path, run.gradients
        rows, row_of = chosen(values, audit), path.rows_in(run.train).tolist()
        if not rows:
            return {}
        tracked = np.array([row_of.index(row) for row in rows])
        parts = [h for _, h in run.unroller().tangents(tracked, leave_out=False)]
        whole = -effects(gradients, torch.cat(parts), run.test, "gradient").numpy()
        found = values[rows]
        size = max(float(np.linalg.norm(found) * np.linalg.norm(whole)), 1e-300)
        error = float(np.linalg.norm(found - whole) / max(float(np.linalg.norm(whole)), 1e-300))
        cosine = float((found * whole).sum()) / size
        if not error < FAR_OFF:
            run.warn(
                f"without curvature {len(rows)} audited instances differ from the full derivative by {error:.0%} "
                f"(cosine {cosine:.2f}); use estimator=hydra or estimator=magic for effects of removal"
            )
        return {"audited": len(rows), "error_without_curvature": error, "cosine_without_curvature": cosine}


def check_every(every: int) -> None:
    """Refuse a stride below one.

    Raises:
        ConfigError: it is.
    """
    if every < 1:
        raise ConfigError(f"estimator.every must be at least 1, got {every}; use 1 for all steps")


def visit_work(prospect: Prospect, every: int = 1, memory: str | None = None, own: bool = False) -> Work:
    """Gradients of every batch, and of all test instances at its step.

    Through an optimizer's ``memory`` (momentum or adam) they are written out; with ``own`` also those of all training
    instances.

    Raises:
        IncompatibleError: the optimizer has another memory.
    """
    backwards = memory is not None
    if memory is not None:
        check_memory(recorded(prospect), memory)
    net, n, m = prospect.net, len(prospect.train), len(prospect.test)
    seen, steps = net.visits, -(-net.steps // every)
    targets = m + n if own else m
    dot = float(net.parameters) if backwards else net.dot
    return Work(
        gradients=float(seen / every + steps * targets),
        flops=6.0 * net.macs * (seen + steps * targets) + 2.0 * dot * seen / every * targets,
        numbers=(3.0 * seen / every + (6.0 * steps * net.parameters if backwards else 0)) * targets,
        bytes=8.0 * n * m + 4.0 * (3 if backwards else 1) * dot * min(targets, 4096),
        formula=f"{steps} steps x ({seen / net.steps:.0f} + {targets}) gradients and their products",
    )
