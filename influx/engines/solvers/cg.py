"""Conjugate gradients for many right-hand sides together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from influx import progress
from influx.engines.inverses import Inverse, labels_of
from influx.engines.lanczos import extremes
from influx.engines.operators import VECTORS, Kind, Operator, definite_kind, is_definite
from influx.engines.solver_plans import cg_work
from influx.engines.solvers.ekfac import EKFAC
from influx.errors import ConfigError, NumericalError
from influx.planning import Prospect, Work
from influx.run import Run

Preconditioner = Literal["none", "ekfac"]
DEPENDENT = 1e-14  # share of the largest squared length below which a direction of the block counts as dependent
RESTARTS = 4  # a fresh residual replaces the recursive one so many times
LOST = 0.1  # of the tolerance: how far the recursive residual is pushed, so that the fresh one meets it
HELD_BYTES = 1 << 30  # vectors of one block


@dataclass(frozen=True)
class BlockCG:
    """Solves (H_r + δI) x = v by block conjugate gradients to a relative residual."""

    operator: Operator
    tolerance: float
    max_iterations: int
    preconditioner: Inverse | None
    report: dict[str, float | str] = field(default_factory=dict)
    remedy: str = ""

    @torch.no_grad()
    def solve(self, rhs: Tensor) -> Tensor:
        """Solutions, and in ``report`` their largest relative residual by fresh products.

        Raises:
            NumericalError: the curvature is negative along some direction, or the tolerance was not reached.
        """
        at_once = max(1, min(VECTORS, HELD_BYTES // (8 * 6 * rhs.shape[1])))
        return torch.cat([self._solve(part) for part in rhs.split(at_once)])

    def quadratic(self, rows: Tensor) -> Tensor:
        """One solve for each row."""
        return (rows * self.solve(rows)).sum(1)

    def _solve(self, rhs: Tensor) -> Tensor:
        lengths = rhs.norm(dim=1, keepdim=True).clamp_min(1e-300)
        unit = rhs / lengths
        found, residual, left = torch.zeros_like(rhs), unit, self.max_iterations
        with progress.task("solving with the curvature", self.max_iterations) as done:
            for _ in range(RESTARTS):
                unsolved = residual.norm(dim=1) > self.tolerance
                if not bool(unsolved.any()) or not left:
                    break
                moved, taken = self._block(residual[unsolved], left, done)
                found[unsolved] += moved
                left -= taken
                residual = unit - self.operator.product(found)
        relative = float(residual.norm(dim=1).max())
        self._note("residual", relative)
        self._note("iterations", float(self.max_iterations - left))
        if relative > self.tolerance:
            raise NumericalError(
                f"conjugate gradients reached a relative residual of {relative:.2g} in {self.max_iterations - left} "
                f"iterations and not {self.tolerance:.2g}; {self.remedy}"
            )
        scaled: Tensor = found * lengths
        return scaled

    def _block(self, rhs: Tensor, most: int, done: Callable[[int], None]) -> tuple[Tensor, int]:
        """One run of the block method with orthonormal residuals (Dubrulle 2001, algorithm BCGrQ).

        The block shrinks when right-hand sides become dependent; orthonormality is with respect to the preconditioner.
        """
        found = torch.zeros_like(rhs)
        basis, smoothed, share = self._orthonormal(rhs)  # rhs = share.T @ basis
        directions, taken = smoothed, 0
        while taken < most and len(basis):
            image = self.operator.product(directions)
            inner = directions @ image.T
            step = self._inverted((inner + inner.T) / 2)
            found += share.T @ (step @ directions)
            taken += 1
            done(1)
            after = basis - step @ image
            basis, smoothed, change = self._orthonormal(after)  # after = change.T @ basis
            share = change @ share
            if bool((_lengths(share, basis) <= LOST * self.tolerance).all()):
                break
            directions = smoothed + change @ directions
        return found, taken

    def _orthonormal(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Basis Q (r, p), M⁻¹Q and C (r, k) with rows = Cᵀ Q and Q M⁻¹ Qᵀ = I."""
        smoothed = rows if self.preconditioner is None else self.preconditioner.solve(rows)
        gram = rows @ smoothed.T
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        kept = values > DEPENDENT * values[-1].clamp_min(1e-300)
        scale, turn = values[kept].sqrt(), vectors[:, kept].T
        turned = turn / scale.unsqueeze(1)
        return turned @ rows, turned @ smoothed, scale.unsqueeze(1) * turn

    def _inverted(self, inner: Tensor) -> Tensor:
        """Inverse of dᵀ A d; its eigenvalues, where directions are orthonormal, are Ritz values."""
        values, vectors = torch.linalg.eigh(inner)
        if float(values[0]) <= 0:
            lowest, hessian = self.lowest(), self.operator.kind == "hessian"
            raise NumericalError(
                "conjugate gradients need a positive definite matrix, this one has an eigenvalue of about "
                f"{lowest:.2g}; set estimator.damping={max(-2 * lowest + self.operator.damping, 1e-6):.2g}"
                + (f" or estimator.curvature={definite_kind(self.operator.task)}" if hessian else "")
            )
        inverse: Tensor = (vectors / values) @ vectors.T
        return inverse

    def lowest(self) -> float:
        """Estimate of the smallest eigenvalue of H_r + δI."""
        return extremes(self.operator.product, self.operator.size, self.operator.decay)[0]

    def _note(self, name: str, value: float) -> None:
        self.report[name] = max(float(self.report.get(name, 0.0)), value)


def _lengths(share: Tensor, basis: Tensor) -> Tensor:
    """Norms of the residuals shareᵀ basis, row by row of the block."""
    gram = basis @ basis.T
    return ((share.T @ gram) * share.T).sum(1).clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class ConjugateGradients:
    """Block conjugate gradients.

    Attributes:
        tolerance: largest relative residual ‖(H_r + δI) x - v‖ / ‖v‖.
        max_iterations: products with the curvature per block of right-hand sides.
        preconditioner: none, or ekfac (fewer iterations for ill-conditioned nets).
        remedy: what to say that would help when the tolerance is not reached.
    """

    tolerance: float = 1e-6
    max_iterations: int = 200
    preconditioner: Preconditioner = "none"
    remedy: str = (
        "raise estimator.max_iterations, estimator.damping or estimator.tolerance, or set "
        "estimator.preconditioner=ekfac"
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 < self.tolerance < 1:
            raise ConfigError(
                f"estimator.tolerance must be between 0 and 1, got {self.tolerance}; use for example 1e-6"
            )
        if self.max_iterations < 1:
            raise ConfigError(f"estimator.max_iterations must be at least 1, got {self.max_iterations}")
        if self.preconditioner not in get_args(Preconditioner):
            raise ConfigError(f"estimator.preconditioner must be none or ekfac, got {self.preconditioner}")

    def inverse(self, run: Run, kind: Kind, damping: float | None) -> BlockCG:
        """Nothing but the preconditioner to prepare."""
        operator = run.curvature.operator(kind, damping, labels_of(run, kind))
        before = None
        if self.preconditioner == "ekfac":
            definite = kind if is_definite(kind) else definite_kind(operator.task)
            before = EKFAC(audit=False).inverse(run, definite, operator.damping)
        report: dict[str, float | str] = {"damping": operator.damping}
        return BlockCG(operator, self.tolerance, self.max_iterations, before, report, self.remedy)

    def work(self, prospect: Prospect, kind: Kind, own: bool) -> Work:
        """Products for every right-hand side."""
        return cg_work(prospect, kind, own)
