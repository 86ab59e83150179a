"""Gradient similarity over checkpoints: Σ_c w_c ⟨g_i, g_j⟩, plain or between unit gradients.

TracInCP, TracIn-Last and GAS are points of this: which parameters, which normalisation, which weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines.gradients import BLOCK_BYTES, HELD, Gradients, Select
from influx.errors import ConfigError
from influx.influence import Scale
from influx.planning import Prospect, Work
from influx.problem import Checkpoint

RateAt = Literal["next", "prev", "segment_mean"]
Weight = Literal["paper", "calibrated", "uniform"]


def weighted_checkpoints(
    saved: list[Checkpoint],
    rates: NDArray[np.float64],
    n_train: int,
    checkpoints: int | None,
    lr_at: RateAt,
    weight: Weight,
) -> list[tuple[Checkpoint, float]]:
    """Checkpoints and their weights, given the learning rate ``(T,)`` of every step.

    ``lr_at`` next pairs a checkpoint with the learning rate of the step that leaves it (so the final parameters
    have none), prev with that of the step that reached it, segment_mean with the mean over the steps until the next
    one. ``weight`` paper is that rate (survey Eq. 56), uniform is 1, calibrated is the sum of the rates of the steps
    that it stands for divided by n, which estimates TracIn's sum over steps (Eq. 55). A checkpoint stands for the
    steps until the next one kept, the first also for all before it; with ``lr_at`` prev for those since the last
    one kept. So every step counts once and calibrated weights sum to Σ rates / n. ``checkpoints`` keeps that many,
    evenly spaced in training, of those saved (one keeps the last).

    Raises:
        ConfigError: fewer checkpoints are saved than asked for.
    """
    usable = saved[1:] if lr_at == "prev" else saved[:-1]
    if checkpoints is not None:
        _check_count(checkpoints, len(usable))
        spread = np.linspace(0, len(usable) - 1, checkpoints) if checkpoints > 1 else [len(usable) - 1]
        usable = [usable[round(i)] for i in spread]
    steps = [c.step for c in usable]
    bounds = [0, *steps] if lr_at == "prev" else [*steps, len(rates)]
    stands_for = np.add.reduceat(rates, [0, *bounds[1:-1]])  # steps outside the bounds go to the first and the last
    result = []
    for checkpoint, start, end, total in zip(usable, bounds[:-1], bounds[1:], stands_for, strict=True):
        segment = rates[start:end]
        rate = {"next": segment[0], "prev": segment[-1], "segment_mean": segment.mean()}[lr_at]
        value = {"paper": rate, "uniform": 1.0, "calibrated": total / n_train}[weight]
        result.append((checkpoint, float(value)))
    return result


def _check_count(checkpoints: int, usable: int) -> None:
    if not 1 <= checkpoints <= usable:
        raise ConfigError(
            f"estimator.checkpoints={checkpoints} but {usable} usable checkpoints are saved; "
            f"set it to at most {usable} or raise training.checkpoints"
        )


@dataclass(frozen=True)
class Similarity:
    """``values`` (n_train, n_test), ``self_values`` (n_train,), instances whose gradient vanished at a checkpoint."""

    values: NDArray[np.float64]
    self_values: NDArray[np.float64]
    vanished: int


def gradient_similarity(
    gradients: Gradients,
    weighted: list[tuple[Checkpoint, float]],
    values: NDArray[np.float64],
    select: Select = "all",
    unit: bool = False,
) -> Similarity:
    """Σ_c w_c ⟨g_i, g_j⟩, between unit gradients if ``unit``; a zero gradient is similar to nothing.

    ``values`` (n_train, n_test) holds zeros and takes the sums.
    """
    train, test = gradients.train, gradients.test
    own, vanished, sums = np.zeros(len(train)), 0, torch.from_numpy(values)
    with progress.task("influence", len(weighted) * len(train)) as done:
        for checkpoint, weight in weighted:
            at = gradients.at(checkpoint, select)
            for rows, columns, dots, left, right in at.dots(train, test):
                if unit:
                    dots = dots * _inverse_norm(left)[:, None] * _inverse_norm(right)[None, :]
                sums[rows, columns].add_(dots.cpu(), alpha=weight)
                if columns.start == 0:
                    norms = left.double().cpu().numpy()
                    own[rows] += weight * ((norms > 0) if unit else norms)
                    vanished += int((norms == 0).sum())
                    done(rows.stop - rows.start)
                interrupts.check()
    return Similarity(values, own, vanished)


def similarity_work(prospect: Prospect, checkpoints: int | None, select: Select = "all", unit: bool = False) -> Work:
    """Predicted work of ``gradient_similarity`` over ``checkpoints`` of the saved ones (None: all).

    Raises:
        ConfigError: fewer checkpoints are saved than asked for.
    """
    if checkpoints is not None:
        _check_count(checkpoints, len(prospect.net.saved) - 1)
    net, n, m = prospect.net, len(prospect.train), len(prospect.test)
    count = len(net.saved) - 1 if checkpoints is None else checkpoints
    head = select == "head"
    dot, layers = (net.head_dot, 1) if head else (net.dot, net.depth)
    passes = layers + 1 + unit  # products of each layer's factors, the sum over checkpoints, the norms
    what = f"{dot:.3g} multiply-adds per pair{' (last layer)' if head else ''}"
    return Work(
        gradients=float(count * (n + m)),
        flops=count * (6.0 * net.macs * (n + m) + 2.0 * dot * n * m),
        numbers=float(count * passes * n * m),
        bytes=8.0 * n * m + 8.0 * min(n, 4096) * m + (1 + HELD) * min(BLOCK_BYTES, 4 * dot * max(n, m)),
        formula=f"{count} checkpoints x ({n} + {m}) gradients, {count} x {n} x {m} products of {what}",
    )


def _inverse_norm(squares: torch.Tensor) -> torch.Tensor:
    return torch.where(squares > 0, squares.rsqrt(), 0)


def scale_of(weight: Weight, unlike_sgd: str) -> Scale:
    """Only calibrated weights of plain SGD are in loss units; ``unlike_sgd`` says what the training had instead."""
    return "loss" if weight == "calibrated" and not unlike_sgd else "rank"


def optimizer_warning(unlike_sgd: str) -> list[str]:
    """A sentence on steps that a sum of gradient products does not describe."""
    if not unlike_sgd:
        return []
    return [f"the sum over checkpoints describes plain SGD steps, the model was trained with {unlike_sgd}"]
