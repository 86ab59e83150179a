"""How much harder a set of labelled inputs is to fit with an instance than without it (complexity gap).

The complexity of labels y of unit inputs X is yᵀ H⁻¹ y with H_ij = x_iᵀx_j (π - arccos x_iᵀx_j) / 2π, the kernel of an
infinitely wide ReLU network with a trained first layer (Arora et al. 2019, arXiv:1901.08584). Taking instance i out of
a system lowers it by ((H⁻¹y)_i)² / (H⁻¹)_ii, which one factorisation gives for all i.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influx.errors import NumericalError

Array = NDArray[np.float64]
SINGULAR = 1e-7  # least square of a pivot; angles of equal inputs are exact to 1e-8 only


def unit(x: NDArray[np.generic]) -> Tensor:
    """``(n, d)`` rows of length 1; a row of zeros stays."""
    flat = torch.from_numpy(np.asarray(x, dtype=np.float64).reshape(len(x), -1))
    made: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return made


def kernel(x: Tensor, jitter: float) -> Tensor:
    """``(n, n)`` H of unit rows with ``jitter`` on its diagonal."""
    cosine = (x @ x.T).clamp_(-1.0, 1.0)
    h: Tensor = cosine * (torch.pi - torch.arccos(cosine)) / (2 * torch.pi)
    h.diagonal().fill_(0.5 + jitter)
    return h


def gaps(x: Tensor, y: Tensor, jitter: float) -> Tensor:
    """``(n,)`` fall of the complexity of labels ``y`` (n,) ±1 without each of the unit rows ``x`` (n, d).

    Raises:
        NumericalError: the kernel is singular.
    """
    factor, failed = torch.linalg.cholesky_ex(kernel(x, jitter))
    if int(failed) or float(factor.diagonal().min()) ** 2 < SINGULAR:
        raise NumericalError(
            "the kernel of the inputs is singular, some are equal; raise estimator.jitter, for example to 0.0001"
        )
    inverse = torch.cholesky_inverse(factor)
    return (inverse @ y).square() / inverse.diagonal()
