"""Krylov spaces of a symmetric operator: the Lanczos iteration with full reorthogonalisation.

For a symmetric matrix the Arnoldi iteration is the Lanczos iteration (Golub & Van Loan 2013, section 10.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from influx import progress

EXACT = 1e-12  # a remainder below this share of the largest value: the space is invariant


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs, ascending, with how far each is from one.

    Attributes:
        values: ``(q,)`` Ritz values; the extreme ones converge first.
        vectors: ``(q, p)`` orthonormal rows.
        residuals: ``(q,)`` norms of H v - λ v: some eigenvalue lies within this distance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


@torch.no_grad()
def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, what: str = "") -> Ritz:
    """``steps`` products (at most p) with an operator, from ``start`` (p,).

    A space that is invariant before that holds one vector of every eigenvalue that occurs several times; it goes on
    from a random vector orthogonal to it. ``product`` takes and gives ``(1, p)``; ``what`` names a progress bar. Holds
    the space, ``steps`` times p numbers.
    """
    steps = min(steps, len(start))
    basis = start.new_empty(steps, len(start))
    basis[0] = start / start.norm()
    diagonal, beside, largest = [], [], 0.0
    generator = torch.Generator().manual_seed(1)
    with progress.task(what, steps) as done:
        for step in range(steps):
            image = product(basis[step][None])[0]
            diagonal.append(basis[step] @ image)
            image = _orthogonal(image, basis[: step + 1])
            beside.append(image.norm())
            largest = max(largest, abs(float(diagonal[-1])))
            done(1)
            if step + 1 == steps:
                break
            if float(beside[-1]) <= EXACT * largest:
                beside[-1] = torch.zeros_like(beside[-1])
                drawn = torch.randn(len(start), generator=generator, dtype=torch.float64).to(start)
                image = _orthogonal(drawn, basis[: step + 1])
            basis[step + 1] = image / image.norm()
    band = torch.stack(beside[:-1]) if steps > 1 else start.new_empty(0)
    tridiagonal = torch.diag(torch.stack(diagonal)) + torch.diag(band, 1) + torch.diag(band, -1)
    values, rotation = torch.linalg.eigh(tridiagonal)
    return Ritz(values, rotation.T @ basis, (beside[-1] * rotation[-1]).abs())


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """``vector`` (p,) without its part in the rows of ``basis``."""
    for _ in range(2):  # once is not enough: Parlett 1998, section 6.9
        vector = vector - basis.T @ (basis @ vector)
    return vector


def extremes(product: Callable[[Tensor], Tensor], size: int, like: Tensor, steps: int = 40) -> tuple[float, float]:
    """Smallest and largest Ritz value after a few steps from a fixed start: within the spectrum, close to its ends."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(like)
    values = lanczos(product, start, steps).values
    return float(values[0]), float(values[-1])
