"""A stochastic Neumann series: LiSSA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx import progress
from influx.engines.inverses import labels_of
from influx.engines.lanczos import extremes
from influx.engines.operators import VECTORS, Kind, Operator, definite_kind, is_definite
from influx.engines.solver_plans import lissa_work
from influx.errors import ConfigError, NumericalError
from influx.planning import Prospect, Work
from influx.run import Run

TRIED = 10  # batches whose largest eigenvalue is looked at
MARGIN = 1.1  # of the scale over the largest eigenvalue seen
LOOKED = 10  # products per batch to find it
CHECKED = 50  # steps between looks at the size of the iterate
CACHED = 4 << 20  # bytes of the iterates that take their steps together: a step reads and writes them many times
FEW = 4  # vectors for which a batch's forward pass is not repeated
GROWN = 2.0  # times its right-hand side per step: an iterate that grows faster diverges


@dataclass(frozen=True)
class Series:
    """Averages of u ← v + u - (H_B + δI) u / σ over random batches B, over the second half of the steps."""

    operator: Operator
    scale: float
    depth: int
    batch_size: int
    averaged: bool
    orders: Callable[[int], np.random.Generator]
    count: int
    remedy: str
    report: dict[str, float | str] = field(default_factory=dict)

    @torch.no_grad()
    def repeats(self, rhs: Tensor) -> Tensor:
        """``(r, k, p)`` solutions of independent runs.

        Raises:
            NumericalError: the iteration diverges; names a larger scale.
        """
        together = CACHED // (4 * rhs.shape[1])
        parts = rhs.split(min(together, VECTORS) if together >= FEW else VECTORS)
        with progress.task("solving with the curvature", self.count * len(parts) * self.depth) as done:
            runs = [[self._run(part, self.orders(run), done) for part in parts] for run in range(self.count)]
        found = torch.stack([torch.cat(run) for run in runs])
        mean = found.mean(0)
        relative = (self.operator.product(mean) - rhs).norm(dim=1) / rhs.norm(dim=1).clamp_min(1e-300)
        self.report["residual"] = max(float(self.report.get("residual", 0.0)), float(relative.max()))
        return found

    def solve(self, rhs: Tensor) -> Tensor:
        """Mean of the runs."""
        return self.repeats(rhs).mean(0)

    def quadratic(self, rows: Tensor) -> Tensor:
        """One solve for each row."""
        return (rows * self.solve(rows)).sum(1)

    def _run(self, rhs: Tensor, rng: np.random.Generator, done: Callable[[int], None]) -> Tensor:
        """``(k, p)`` solutions of one run; in single precision when batches are drawn, whose noise is far larger."""
        n = len(self.operator.train)
        whole = self.batch_size >= n
        given = rhs if whole else rhs.float()
        start, kept = self.operator.pieces(given), self.operator.pieces((1 - self.operator.shift / self.scale)[None])
        kept = [v.to(given.dtype) for v in kept]
        found, total = [v.clone() for v in start], [torch.zeros_like(v) for v in start]
        first = self.depth // 2 if self.averaged else self.depth - 1
        size = float(rhs.norm())
        for step in range(self.depth):
            products = self.operator.undamped(found, None if whole else self._rows(rng, n))
            for u, v, keep, product in zip(found, start, kept, products, strict=True):
                torch.addcmul(v, u, keep, out=u).sub_(product, alpha=1 / self.scale)
            if step >= first:
                for into, u in zip(total, found, strict=True):
                    into.add_(u)
            if step % CHECKED == CHECKED - 1 or step == self.depth - 1:
                now = math.sqrt(sum(float(u.double().square().sum()) for u in found))
                self._check(now / size if size else 0.0, step + 1)
            done(1)
        solved = torch.cat([v.flatten(1) for v in total], 1).double()
        return solved / ((self.depth - first) * self.scale)

    def _rows(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """A batch without repetition, by instance and not by row."""
        return self._by_id[rng.choice(n, self.batch_size, replace=False)]

    @cached_property
    def _by_id(self) -> NDArray[np.int64]:
        return np.argsort(self.operator.train.ids, kind="stable")

    def _check(self, size: float, steps: int) -> None:
        """A converging iterate grows by at most its right-hand side in every step, on average over batches."""
        if math.isfinite(size) and size <= GROWN * steps:
            return
        remedy = self.remedy.format(scale=4 * self.scale, kind=definite_kind(self.operator.task))
        raise NumericalError(
            f"LiSSA diverges (the iterate is {size:.1e} times its right-hand side after {steps} steps): "
            f"its scale {self.scale:.3g} is below half the largest eigenvalue of some batch, or the "
            f"curvature is negative somewhere; {remedy}"
        )


@dataclass(frozen=True, kw_only=True)
class LiSSA:
    """Koh and Liang's use of Agarwal et al.'s series, with a damping that is δ itself.

    The published update v + (1 - d) u - H u / σ solves (H + d σ I) x = v: its damping is ``d`` times σ.

    Attributes:
        depth: steps per run.
        batch_size: instances per step; n or more makes a deterministic series of the whole curvature.
        repeats: independent runs, whose spread is the standard error.
        lissa_scale: σ; None takes 1.1 times the largest eigenvalue of the damped curvature of ten batches.
        averaged: average the iterates of the second half (Polyak averaging) instead of keeping the last.
        remedy: what to say that would help when it diverges, with places for a ``scale`` and a ``kind`` of curvature.
    """

    depth: int = 1000
    batch_size: int = 32
    repeats: int = 4
    lissa_scale: float | None = None
    averaged: bool = True
    remedy: str = "set estimator.lissa_scale={scale:.2g}, a larger estimator.batch_size, or estimator.curvature={kind}"

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("depth", "batch_size", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"estimator.{name} must be at least 1, got {getattr(self, name)}")
        if self.lissa_scale is not None and not self.lissa_scale > 0:
            raise ConfigError(f"estimator.lissa_scale must be positive, got {self.lissa_scale}; use null for automatic")

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> Series:
        """Find the scale."""
        operator = run.curvature.operator(kind, damping, labels_of(run, kind))
        batches = run.drawn("batches of LiSSA, looked at")
        lowest, largest = math.inf, 0.0
        ids = np.argsort(run.train.ids, kind="stable")
        size = min(self.batch_size, len(ids))
        for _ in range(TRIED if size < len(ids) else 1):
            rows = ids[batches.choice(len(ids), size, replace=False)] if size < len(ids) else None
            low, high = extremes(partial(operator.product, rows=rows), operator.size, operator.decay, LOOKED)
            lowest, largest = min(lowest, low), max(largest, high)
        if kind == "hessian" and size == len(ids) and lowest <= 0:
            raise NumericalError(
                f"the curvature plus estimator.damping={operator.damping:.3g} has an eigenvalue of about {lowest:.2g}: "
                f"LiSSA would diverge; set estimator.damping={2 * abs(lowest) + operator.damping:.2g} or "
                f"estimator.curvature={definite_kind(operator.task)}"
            )
        scale = MARGIN * largest if self.lissa_scale is None else self.lissa_scale
        smallest = float(operator.shift.min())
        report: dict[str, float | str] = {
            "damping": operator.damping,
            "scale": scale,
            "lambda_max_batch": largest,
        }
        if is_definite(kind):
            report["bias_bound"] = self._bias(smallest / scale)
        return Series(
            operator,
            scale,
            self.depth,
            size,
            self.averaged,
            lambda number: run.drawn(f"batches of LiSSA, run {number}"),
            self.repeats,
            self.remedy,
            report,
        )

    def _bias(self, slowest: float) -> float:
        """Largest relative bias of a whole-curvature series along an eigenvector, ``slowest`` being λ_min / σ."""
        rate, first = 1 - slowest, self.depth // 2 if self.averaged else self.depth - 1
        if not 0 < slowest < 1:
            return 1.0 if slowest <= 0 else 0.0
        return (rate ** (first + 2) - rate ** (self.depth + 2)) / (slowest * (self.depth - first))

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Steps of all runs."""
        return lissa_work(prospect, kind, own, self.repeats * self.depth, self.batch_size)
