"""Cross-validation by retraining: what models that left an instance out make of it.

Folds are drawn for instances in the order of their ids, class by class where there are classes, so that an instance
is in the same fold wherever it stands in the data, and whoever asks for as many folds and seeds shares the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.planning import Prospect
from influx.problem import Design

if TYPE_CHECKING:
    from influx.run import Run

LABEL = "retraining without each fold"


@dataclass(frozen=True)
class HeldOut:
    """Each training instance under the models that left it out, averaged over seeds.

    ``confidence`` (n,) is the probability of the instance's own label. ``prediction`` (n,) is the class that most of
    the models predict, the first of equally many.
    """

    confidence: NDArray[np.float64]
    prediction: NDArray[np.int64]


def assign(run: Run | Prospect, folds: int, setting: str, repeat: int = 0) -> NDArray[np.int64]:
    """``(n,)`` number of the fold of each training instance; sizes differ by at most 1, in a class too.

    Each ``repeat`` is another draw.

    Raises:
        ConfigError: there are fewer instances than folds; ``setting`` is named.
    """
    split, n = run.train, len(run.train)
    if folds > n:
        raise ConfigError(f"{setting} must be at most the {n} training instances, got {folds}; lower it")
    name = f"folds/{repeat}" if repeat else "folds"
    drawn = np.argsort(split.ids, kind="stable")[run.drawn(name).permutation(n)]
    if run.problem.data.task == "classification":
        drawn = drawn[np.argsort(split.y[drawn], kind="stable")]
    fold = np.empty(n, np.int64)
    fold[drawn] = np.arange(n) % folds
    return fold


def design(run: Run | Prospect, folds: int, seeds: int, setting: str) -> Design:
    """One training without each fold, under each seed: ``seeds`` · ``folds`` models, seed after seed."""
    kept = (assign(run, folds, setting) != np.arange(folds)[:, None]).astype(np.uint8)
    numbers = np.repeat(np.arange(seeds, dtype=np.int64), folds)
    return Design(weights=np.tile(kept, (seeds, 1)), init=numbers, order=numbers.copy(), loss_norm="subset")


def repeated(
    run: Run | Prospect, folds: int, repeats: int, seeds: int, setting: str
) -> tuple[Design, NDArray[np.int64]]:
    """One training without each fold of each draw of folds, and the folds (repeats, n).

    ``repeats`` · ``folds`` models, draw after draw; seeds 0, 1, …, ``seeds`` - 1 take turns from draw to draw.
    """
    fold = np.stack([assign(run, folds, setting, repeat) for repeat in range(repeats)])
    kept = (fold[:, None] != np.arange(folds)[:, None]).astype(np.uint8)
    numbers = np.repeat(np.arange(repeats, dtype=np.int64) % seeds, folds)
    weights = kept.reshape(repeats * folds, -1)
    return Design(weights=weights, init=numbers, order=numbers.copy(), loss_norm="subset"), fold


def held_out(run: Run, folds: int, seeds: int, setting: str) -> HeldOut:
    """Train without each fold and read what the models make of it.

    With margin log p / (1 - p) the probability of the label is p = 1 / (1 + exp(-margin)).
    """
    n, trainings = len(run.train), design(run, folds, seeds, setting)
    margins = np.empty((seeds, n))
    votes = np.zeros((n, run.problem.data.n_outputs), np.int64)
    for rows, train, _ in run.retrain.parts(trainings, LABEL):
        for place, row in enumerate(rows.tolist()):
            out = np.flatnonzero(trainings.weights[row] == 0)
            margins[row // folds, out] = train.margin[place, out]
            votes[out, train.prediction[place, out].astype(np.int64)] += 1
    confidence = np.exp(-np.logaddexp(0.0, -margins)).mean(axis=0)
    return HeldOut(confidence=confidence, prediction=votes.argmax(axis=1))
