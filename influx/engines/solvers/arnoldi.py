"""The dominant eigenpairs of the curvature, and one number for all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from influx.engines.inverses import labels_of
from influx.engines.lanczos import Ritz, lanczos
from influx.engines.operators import Kind, definite_kind
from influx.engines.solver_plans import arnoldi_work
from influx.errors import ConfigError, NumericalError
from influx.planning import Prospect, Work
from influx.run import Run

Complement = Literal["mean", "zero", "drop"]
Negative = Literal["drop", "absolute", "keep"]
ROUNDING = 1e-10  # eigenvalues over the largest from which they are not noise
IGNORED = 0.05  # share of a gradient inside the subspace below which the estimate ignores the gradient
SEED = 0  # of the start vector's own generator, so that the space does not depend on instances


@dataclass(frozen=True)
class LowRank:
    """V diag(1/(λ + δ)) Vᵀ with orthonormal rows V (k, p), plus ``rest`` times what is orthogonal to V."""

    vectors: Tensor
    inverse: Tensor  # (k,) 1 / (λ + δ)
    rest: float
    report: dict[str, float | str] = field(default_factory=dict)

    def solve(self, rhs: Tensor) -> Tensor:
        """One product into the subspace and one out of it."""
        inside = rhs @ self.vectors.T
        squares = rhs.square().sum(1)
        shares = (inside.square().sum(1) / squares)[squares > 0]
        if len(shares):
            self.report["explained_min"] = min(float(self.report.get("explained_min", 1.0)), float(shares.min()))
        return (inside * (self.inverse - self.rest)) @ self.vectors + self.rest * rhs

    def quadratic(self, rows: Tensor) -> Tensor:
        """Weighted squares inside and outside the subspace."""
        inside = (rows @ self.vectors.T).square()
        outside = rows.square().sum(1) - inside.sum(1)
        found: Tensor = inside @ self.inverse + self.rest * outside.clamp_min(0)
        return found


@dataclass(frozen=True, kw_only=True)
class Arnoldi:
    """Schioppa et al.'s low-rank inverse.

    Attributes:
        iterations: products with the curvature; as many vectors of p numbers are held.
        rank: how many eigenpairs to keep, the largest in absolute value.
        negative: what to do with negative eigenvalues among them: drop, absolute or keep (as published).
        complement: the curvature outside the subspace: the mean of the remaining eigenvalues (their sum is the trace
            less the kept ones), zero (damping alone), or drop (as published: what is outside counts for nothing).
    """

    iterations: int = 200
    rank: int = 100
    negative: Negative = "drop"
    complement: Complement = "mean"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.rank <= self.iterations:
            raise ConfigError(
                f"estimator.rank must lie between 1 and estimator.iterations={self.iterations}, got {self.rank}"
            )
        if self.negative not in get_args(Negative):
            raise ConfigError(f"estimator.negative must be one of {', '.join(get_args(Negative))}, got {self.negative}")
        if self.complement not in get_args(Complement):
            raise ConfigError(
                f"estimator.complement must be one of {', '.join(get_args(Complement))}, got {self.complement}"
            )

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> LowRank:
        """The subspace."""
        operator = run.curvature.operator(kind, damping, labels_of(run, kind))
        delta, bare = operator.damping, operator.damped(0.0)
        generator = torch.Generator().manual_seed(SEED)
        start = torch.randn(operator.size, generator=generator, dtype=torch.float64).to(operator.decay)
        ritz = lanczos(bare.product, start, self.iterations, "eigenvectors of the curvature")
        kept = self._chosen(ritz, definite_kind(operator.task))
        values, outside = ritz.values[kept], operator.size - len(kept)
        trace = bare.trace() if kind == "hessian" else run.curvature.trace(bare)
        tail = max((trace - float(values.sum())) / outside, 0.0) if outside else 0.0
        used = values.abs() if self.negative == "absolute" else values
        if float((used + delta).abs().min()) <= ROUNDING * float(values.abs().max()):
            raise NumericalError(
                f"an eigenvalue plus estimator.damping={delta:.3g} is zero and cannot be inverted; set "
                f"estimator.damping={max(0.1 * abs(trace) / operator.size, 1e-6):.2g}"
            )
        rest = self._rest(tail, delta, 0.1 * abs(trace) / operator.size) if outside else 0.0
        report: dict[str, float | str] = {
            "damping": delta,
            "rank": float(len(kept)),
            "lambda_max": float(ritz.values[-1]),
            "lambda_kept": float(values.abs().min()),
            "lambda_tail": tail,
            "ritz_residual": float(ritz.residuals[kept].max()),
        }
        return LowRank(ritz.vectors[kept], 1 / (used + delta), rest, report)

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """The Krylov space, then products in it."""
        return arnoldi_work(prospect, kind, self.iterations, self.rank)

    def doubt(self, run: Run, report: Mapping[str, object]) -> None:
        """Warn when a test gradient lies outside the subspace."""
        share = report.get("explained_min")
        if self.complement == "drop" and isinstance(share, float) and share < IGNORED:
            run.warn(
                f"only {share:.1%} of some test gradient lies in the subspace of the {self.rank} largest eigenvalues; "
                "raise estimator.rank or set estimator.complement=mean"
            )

    def _chosen(self, ritz: Ritz, instead: str) -> Tensor:
        """Positions of the kept pairs; ``instead`` is a curvature to advise where there are none."""
        usable = torch.arange(len(ritz.values), device=ritz.values.device)
        usable = usable[ritz.values.abs() > ROUNDING * ritz.values.abs().max()]
        if self.negative == "drop":
            usable = usable[ritz.values[usable] > 0]
        if not len(usable):
            raise NumericalError(f"no eigenvalue of the curvature is positive; set estimator.curvature={instead}")
        order = ritz.values[usable].abs().argsort(descending=True)
        return usable[order[: self.rank]]

    def _rest(self, tail: float, delta: float, enough: float) -> float:
        if self.complement == "drop":
            return 0.0
        level = delta + (tail if self.complement == "mean" else 0.0)
        if level <= 0:
            raise NumericalError(
                "outside the subspace the curvature counts as zero and needs damping; set "
                f"estimator.damping={max(enough, 1e-6):.2g}"
            )
        return 1 / level
