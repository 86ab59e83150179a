"""Which saved checkpoints stand for a training, and how much each of them counts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
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
    losses: NDArray[np.float64] | None = None,
) -> list[tuple[Checkpoint, float]]:
    """Checkpoints and their weights, given the learning rate ``(T,)`` of every step.

    ``lr_at`` next pairs a checkpoint with the learning rate of the step that leaves it (so the final parameters
    have none), prev with that of the step that reached it, segment_mean with the mean over the steps until the next
    one. ``weight`` paper is that rate (survey Eq. 56), uniform is 1, calibrated is the sum of the rates of the steps
    that it stands for divided by n, which estimates TracIn's sum over steps (Eq. 55). A checkpoint stands for the
    steps until the next one kept, the first also for all before it; with ``lr_at`` prev for those since the last
    one kept. So every step counts once and calibrated weights sum to Σ rates / n. ``checkpoints`` keeps that
    many of those saved, evenly spaced in training (one keeps the last). With ``losses`` at every saved checkpoint it
    keeps those of the intervals between neighbours in which the loss falls most. A checkpoint that is the only one, of
    a model that was trained elsewhere, is the one of a uniform sum.

    Raises:
        ConfigError: fewer checkpoints are saved than asked for.
    """
    if _takes_one(len(saved), checkpoints, weight):
        return [(saved[0], 1.0)]
    kept = _intervals(len(saved) - 1, checkpoints, losses)
    usable = [saved[interval + 1 if lr_at == "prev" else interval] for interval in kept]
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


def _intervals(count: int, checkpoints: int | None, losses: NDArray[np.float64] | None) -> list[int]:
    """Numbers of the intervals between saved checkpoints whose gradients are used, in order."""
    if count < 1:
        raise ConfigError(
            "the sum over checkpoints is over those before the final one, and one was given; give more of the same "
            "training, or set estimator.weight=uniform, which takes the one"
        )
    if checkpoints is None:
        return list(range(count))
    _check_count(checkpoints, count)
    if losses is not None:
        return sorted(np.argsort(np.diff(losses), kind="stable")[:checkpoints].tolist())
    return [round(i) for i in np.linspace(0, count - 1, checkpoints)] if checkpoints > 1 else [count - 1]


def used_of(saved: int, checkpoints: int | None, weight: Weight) -> int:
    """How many of so many saved checkpoints are used.

    Raises:
        ConfigError: fewer are saved than asked for.
    """
    one = _takes_one(saved, checkpoints, weight)
    return 1 if one else len(_intervals(saved - 1, checkpoints, None))


def _takes_one(saved: int, checkpoints: int | None, weight: Weight) -> bool:
    """Whether the only checkpoint is that of a uniform sum."""
    if saved != 1 or weight != "uniform":
        return False
    if checkpoints is not None:
        _check_count(checkpoints, 1)
    return True


def _check_count(checkpoints: int, usable: int) -> None:
    if not 1 <= checkpoints <= usable:
        raise ConfigError(
            f"estimator.checkpoints={checkpoints} but {usable} usable checkpoints are saved; "
            f"set it to at most {usable} or raise training.checkpoints"
        )
