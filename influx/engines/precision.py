"""Lower precision for gradients and their products, and the error that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from influx.errors import ConfigError

Precision = Literal["model", "tf32", "bfloat16"]
INSTANCES = 256  # training and test instances on which the error is measured
LARGE = 0.05  # relative error worth a warning
UNORDERED = 0.99  # and a rank correlation below which the order suffers


def dtype_of(precision: Precision) -> torch.dtype | None:
    """What modules and instances are converted to; None leaves them."""
    return torch.bfloat16 if precision == "bfloat16" else None


@contextmanager
def computing(precision: Precision, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Products of float32 matrices are in tf32 inside, if that is asked for.

    Raises:
        ConfigError: the device or the model's ``dtype`` has no tf32.
    """
    if precision != "tf32":
        yield
        return
    if device.type != "cuda" or dtype != torch.float32:
        raise ConfigError(
            f"estimator.precision=tf32 is for float32 models on cuda, this one is {str(dtype).partition('.')[2]} on "
            f"{device.type}; set estimator.precision=model"
        )
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        yield
    finally:
        matmul.fp32_precision = before


def error(found: NDArray[np.float64], exact: NDArray[np.float64]) -> dict[str, float]:
    """Largest difference relative to the largest exact value, and mean rank correlation of the columns."""
    from scipy.stats import rankdata

    size = float(np.abs(exact).max(initial=0.0)) or 1.0
    ranks = [rankdata(values, axis=0) - (len(values) + 1) / 2 for values in (found, exact)]
    lengths = np.sqrt((ranks[0] ** 2).sum(0) * (ranks[1] ** 2).sum(0))
    correlations = (ranks[0] * ranks[1]).sum(0)[lengths > 0] / lengths[lengths > 0]
    return {
        "precision_error": float(np.abs(found - exact).max(initial=0.0)) / size,
        "precision_rank_correlation": float(correlations.mean()) if len(correlations) else 1.0,
    }


def doubts(precision: Precision, measured: Mapping[str, float]) -> list[str]:
    """A sentence when the measured error is large."""
    off, rank = measured["precision_error"], measured["precision_rank_correlation"]
    if off <= LARGE and rank >= UNORDERED:
        return []
    return [
        f"estimator.precision={precision} changes the first checkpoint's products by up to {off:.2g} of the largest "
        f"and their order to a rank correlation of {rank:.3f}; estimator.precision=model avoids this"
    ]
