"""φ_jᵀ (Σ_i w_i φ_i φ_iᵀ + λI)⁻¹ φ_i for all instances i and a few j, from features that are read in parts.

In float64, by a Cholesky factor of the (D, D) matrix, or of the (n, n) matrix of products when n is smaller and there
are no weights: (Φ Φᵀ + λI)⁻¹ Φ = Φ (ΦᵀΦ + λI)⁻¹.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from influx.errors import NumericalError

Features = Callable[[], Iterator[tuple[slice, Tensor]]]  # rows and their (b, D) features, in order
SOLVED_CHUNK = 4096  # rows whose features are made float64 at a time


@dataclass(frozen=True)
class Leverage:
    """What is left of the matrix: values of rows are ``left @ right.T``."""

    features: Features
    right: Tensor  # (m, D)
    damping: float
    report: dict[str, float]
    _whitener: Tensor | None  # (D, D) upper triangular inverse of the Cholesky factor
    _left: Tensor | None  # (n, D) solved features, when n is smaller

    def values(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their ``(b, m)`` values."""
        if self._left is not None:
            yield slice(0, len(self._left)), self._left @ self.right.T
            return
        for rows, found in pieces(self.features):
            yield rows, found @ self.right.T

    def own(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their ``(b,)`` values with themselves."""
        for rows, found in pieces(self.features):
            if self._left is not None:
                yield rows, (found * self._left[rows]).sum(1)
            else:
                assert self._whitener is not None
                yield rows, (found @ self._whitener).square().sum(1)


def leverage(
    features: Features,
    count: int,
    tests: Tensor,
    damping: float | None,
    relative: float,
    weights: Tensor | None = None,
    own: bool = True,
    mean_over: int | None = None,
    parameters: int | None = None,
) -> Leverage:
    """Factorise. ``damping`` None takes ``relative`` times the mean eigenvalue of those that can differ from zero.

    Args:
        features: (n, D) in parts.
        count: n.
        tests: (m, D).
        damping: λ.
        relative: to what it is relative otherwise.
        weights: (n,).
        own: whether ``Leverage.own`` will be asked for.
        mean_over: eigenvalues that the mean is taken over; None means those that can differ from zero, min(n, D, p).
        parameters: p, numbers that features are projections of; None means at least D.

    Raises:
        NumericalError: the matrix is singular.
    """
    tests = tests.double()
    dim = tests.shape[1]
    dual = count < dim and weights is None
    whole = torch.cat([found for _, found in pieces(features)]) if dual else None
    matrix = whole @ whole.T if whole is not None else _gram(features, tests, weights)
    mean = float(matrix.trace()) / (mean_over or min(count, dim, parameters or dim))
    chosen = (relative * mean or 1.0) if damping is None else damping  # all gradients zero: so are all values
    matrix.diagonal().add_(chosen)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = factor.diagonal()
    least = float((diagonal.min() / diagonal.max()) ** 2) if not int(failed) else 0.0
    if not least > torch.finfo(diagonal.dtype).eps:
        of = "" if parameters is None else f" of {parameters} parameters"
        raise NumericalError(
            f"the {dim} x {dim} matrix of {count} projected gradients{of} is singular with damping {chosen:.3g}; raise "
            "estimator.damping, or lower estimator.dim below the numbers of training instances and of parameters"
        )
    report = {
        "damping": chosen,
        "mean_eigenvalue": mean,
        "relative_damping": chosen / mean if mean > 0 else 1.0,
        "condition_at_least": 1 / least,
    }
    if whole is not None:
        return Leverage(features, tests, chosen, report, None, torch.cholesky_solve(whole, factor))
    right = torch.cholesky_solve(tests.T, factor).T.contiguous()
    whitener = None
    if own:
        identity = torch.eye(dim, dtype=factor.dtype, device=factor.device)
        whitener = torch.linalg.solve_triangular(factor, identity, upper=False).T.contiguous()
    return Leverage(features, right, chosen, report, whitener, None)


def pieces(features: Features) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time, in float64."""
    for rows, found in features():
        for start in range(0, len(found), SOLVED_CHUNK):
            piece = found[start : start + SOLVED_CHUNK]
            first = rows.start + start
            yield slice(first, first + len(piece)), piece.double()


def _gram(features: Features, like: Tensor, weights: Tensor | None) -> Tensor:
    """``(D, D)`` Σ w φ φᵀ."""
    dim = like.shape[1]
    total = torch.zeros(dim, dim, dtype=torch.float64, device=like.device)
    for rows, found in pieces(features):
        if weights is not None:
            found = found * weights[rows].sqrt()[:, None]
        if found.device.type == "cpu":  # NumPy sees that the product is symmetric and computes half of it
            array = found.numpy()
            total += torch.from_numpy(array.T @ array)
        else:
            total.addmm_(found.T, found)
    return total


def leverage_flops(count: int, dim: int, tests: int, weighted: bool, own: bool) -> float:
    """Floating-point operations in single precision, of which one in double counts as two."""
    if count < dim and not weighted:
        return 2.0 * (2.0 * count**2 * dim + count**3 / 3 + 2.0 * count * dim * tests)
    work = 1.0 * count * dim**2 + dim**3 / 3 + 2.0 * dim**2 * tests + 2.0 * count * dim * tests
    return 2.0 * (work + (2.0 * count * dim**2 + dim**3 / 3 if own else 0.0))
