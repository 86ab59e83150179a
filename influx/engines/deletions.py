"""What removing one instance does to a generalised linear model, from one factorisation.

With r_i (K,) an instance's residuals, Λ_i (K, K) the second derivative of its risk in the K outputs, X_i = I ⊗ x_iᵀ
and H the Hessian of the whole objective Σ_i ℓ_i + penalty, one Newton step on the objective without i gives

    θ - θ_{-i} = -H⁻¹ X_iᵀ (I - Λ_i G_i)⁻¹ r_i,    G_i = X_i H⁻¹ X_iᵀ.

It is exact for squared error. For one output, (I - ΛG)⁻¹ is 1 / (1 - h_i).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influx.errors import NumericalError

LEVERAGE_ONE = 1e-9  # eigenvalue of I - ΛG that counts as zero: the system without the instance is singular

SINGULAR = 1e-13  # pivot relative to the diagonal that counts as zero


@dataclass(frozen=True)
class Deletions:
    """One row per instance.

    Attributes:
        shift: ``(n, K, q)`` θ - θ_{-i}; NaN where the system without the instance is singular.
        leverage: ``(n,)`` trace of Λ_i G_i.
        distance: ``(n,)`` r_iᵀ (I - GΛ)⁻¹ G (I - ΛG)⁻¹ r_i, for one output r² h / (V (1 - h)²); infinite there.
    """

    shift: Tensor
    leverage: Tensor
    distance: Tensor


def one_step(x: Tensor, curvature: Tensor, residual: Tensor, penalty: Tensor) -> Deletions:
    """Remove every instance in turn.

    Args:
        x: ``(n, q)`` inputs.
        curvature: ``(n, K, K)`` Λ.
        residual: ``(n, K)`` predicted minus observed.
        penalty: ``(K q, K q)`` Hessian of the penalty, outputs before inputs, for the sum of risks.

    Raises:
        NumericalError: the system is singular with all instances.
    """
    (n, inputs), outputs = x.shape, curvature.shape[1]
    inverse = _inverse(summed(x, curvature) + penalty).view(outputs, inputs, outputs, inputs)
    g = torch.empty(n, outputs, outputs, dtype=x.dtype)
    for a in range(outputs):
        for b in range(outputs):
            g[:, a, b] = ((x @ inverse[a, :, b]) * x).sum(1)
    bent = curvature @ g
    kept = torch.eye(outputs, dtype=x.dtype) - bent
    singular = torch.linalg.svdvals(kept)[:, -1] < LEVERAGE_ONE
    kept[singular] = torch.eye(outputs, dtype=x.dtype)
    raised = torch.linalg.solve(kept, residual[..., None])  # (n, K, 1)
    spread = (raised * x[:, None]).view(n, outputs * inputs)
    shift = -(spread @ inverse.view(outputs * inputs, -1)).view(n, outputs, inputs)
    distance = (raised.mT @ g @ raised)[:, 0, 0]
    shift[singular], distance[singular] = torch.nan, torch.inf
    return Deletions(shift, bent.diagonal(dim1=1, dim2=2).sum(1), distance)


def summed(x: Tensor, curvature: Tensor) -> Tensor:
    """``(K q, K q)`` Hessian Σ_i Λ_i ⊗ x_i x_iᵀ of the risks."""
    outputs, inputs = curvature.shape[1], x.shape[1]
    found = torch.empty(outputs, inputs, outputs, inputs, dtype=x.dtype)
    for a in range(outputs):
        for b in range(a + 1):
            found[a, :, b] = found[b, :, a] = (x * curvature[:, a, b, None]).T @ x
    return found.view(outputs * inputs, -1)


def _inverse(matrix: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or (factor.diagonal().square() <= SINGULAR * matrix.diagonal()).any():
        raise NumericalError(
            "the curvature of the linear model must be positive definite, and it is singular; set model.weight_decay "
            "above 0, or for sketches estimator.lam"
        )
    return torch.cholesky_inverse(factor)
