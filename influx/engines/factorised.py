"""A damped curvature matrix by its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influx.engines.lanczos import extremes
from influx.errors import IncompatibleError, NumericalError

DIAGONALISED = 256  # parameters up to which all eigenvalues are computed
KRYLOV = 16  # products for the largest one of larger matrices
INVERSE_KRYLOV = 8  # solves for the smallest one, which stands apart in the inverse
PROBES = 16  # random vectors for the trace of an inverse


@dataclass(frozen=True)
class Factorised:
    """H_r + δI by its Cholesky factor. ``report`` says how far to believe its solutions."""

    matrix: Tensor  # (p, p), damping included
    factor: Tensor
    report: dict[str, float | str]

    def solve(self, rhs: Tensor) -> Tensor:
        """``(k, p)`` solutions for right-hand sides ``(k, p)``."""
        solved: Tensor = torch.cholesky_solve(rhs.T, self.factor).T
        self.report["residual"] = max(float(self.report.get("residual", 0.0)), self.residual(solved, rhs))
        return solved

    def residual(self, x: Tensor, rhs: Tensor) -> float:
        """Largest relative residual of ``k`` solutions, from a fresh product."""
        return float(((x @ self.matrix - rhs).norm(dim=1) / rhs.norm(dim=1).clamp_min(1e-300)).max())

    def quadratic(self, rows: Tensor) -> Tensor:
        """``(k,)`` values gᵀ (H_r + δI)⁻¹ g of rows ``(k, p)``."""
        half: Tensor = torch.linalg.solve_triangular(self.factor, rows.T, upper=False)
        return half.square().sum(0)


RAISE = "raise estimator.max_p or choose a smaller model"


def check_size(p: int, max_p: int, remedy: str = RAISE) -> None:
    """Refuse a matrix that is too large; ``remedy`` says what would help.

    Raises:
        IncompatibleError: p exceeds ``max_p``.
    """
    if p > max_p:
        raise IncompatibleError(
            f"the exact solver builds a {p} x {p} matrix ({p**2 * 8 / 1e9:.1f} GB), "
            f"the limit is {max_p} parameters; {remedy}"
        )


def factorise(h: Tensor, damping: float | None, kind: str = "hessian", instead: str = "ggn") -> Factorised:
    """Factorise H_r + δI.

    ``damping`` None means δ = 0 when H_r is well conditioned (λ_min > 1e-8 λ_max) and otherwise a tenth of its
    mean eigenvalue, a common heuristic without theory behind it.
    ``kind`` and ``instead``, a curvature to advise, are for messages.

    The report's extreme eigenvalues and effective dimension tr(H_r (H_r + δI)⁻¹) are estimates for large p.

    Raises:
        NumericalError: H_r + δI is not positive definite; names a damping that is enough.
    """
    mean = float(h.diagonal().mean())
    chosen = 0.0 if damping is None else damping
    factor, smallest, largest = _factor(h, chosen)
    if damping is None and (factor is None or smallest <= 1e-8 * largest):
        chosen = 0.1 * mean
        factor, smallest, largest = _factor(h, chosen)
    if factor is None or smallest + chosen <= 0:
        smallest = float(torch.linalg.eigvalsh(h)[0])
        enough = max(-2 * smallest, 1e-3 * abs(mean), 1e-6)
        raise NumericalError(
            f"the curvature matrix plus estimator.damping={chosen:.3g} must be positive definite, its smallest "
            f"eigenvalue is {smallest + chosen:.3g}; set estimator.damping={enough:.2g}"
            + (f" or estimator.curvature={instead}" if kind == "hessian" else "")
        )
    effective = len(h) - chosen * _trace_of_inverse(factor)
    report = {"damping": chosen, "lambda_min": smallest, "lambda_max": largest, "effective_dimension": effective}
    return Factorised(_damped(h, chosen), factor, dict(report))


def _trace_of_inverse(factor: Tensor) -> float:
    """Trace of (L Lᵀ)⁻¹ = ‖L⁻¹‖²; of large matrices from random signs (Hutchinson 1990)."""
    size, count = len(factor), len(factor)
    probes = torch.eye(size, dtype=factor.dtype, device=factor.device)
    if size > DIAGONALISED:
        count, generator = PROBES, torch.Generator().manual_seed(0)
        probes = (torch.randint(0, 2, (size, PROBES), generator=generator) * 2 - 1).to(factor)
    half: Tensor = torch.linalg.solve_triangular(factor, probes, upper=False)
    return float(half.square().sum()) * (1.0 if count == size else 1 / count)


def _damped(h: Tensor, damping: float) -> Tensor:
    damped = h.clone()
    damped.diagonal().add_(damping)
    return damped


def _factor(h: Tensor, damping: float) -> tuple[Tensor | None, float, float]:
    """Cholesky factor of H_r + δI if it has one, and the extreme eigenvalues of H_r."""
    factor, failed = torch.linalg.cholesky_ex(_damped(h, damping))
    if int(failed):
        return None, float("-inf"), float("inf")
    if len(h) <= DIAGONALISED:
        values = torch.linalg.eigvalsh(h)
        return factor, float(values[0]), float(values[-1])
    largest = extremes(lambda v: v @ h, len(h), h, KRYLOV)[1]
    inverse = extremes(lambda v: torch.cholesky_solve(v.T, factor).T, len(h), h, INVERSE_KRYLOV)[1]
    return factor, 1 / inverse - damping, largest
