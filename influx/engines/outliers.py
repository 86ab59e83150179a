"""How unlike the training instances others are, by methods that know no influence. High is unlike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from influx.learners.torch.fitted import TorchFitted
from influx.problem import Fitted, Split

Array = NDArray[np.float64]


def isolation_forest(train: Split, test: Split, trees: int, rng: np.random.Generator) -> Array:
    """``(m,)`` anomaly score of an isolation forest (Liu et al. 2008), from 0 to 1."""
    from sklearn.ensemble import IsolationForest

    seed = int(rng.integers(1 << 31))
    forest = IsolationForest(n_estimators=trees, random_state=seed).fit(_flat(train))
    return np.asarray(-forest.score_samples(_flat(test)), dtype=np.float64)


def neighbour_distance(train: Split, test: Split, k: int) -> Array:
    """``(m,)`` mean Euclidean distance to the ``k`` nearest training instances."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(_flat(train)).kneighbors(_flat(test))[0]
    return np.asarray(found.mean(axis=1), dtype=np.float64)


@torch.no_grad()
def reconstruction_error(fitted: Fitted, split: Split) -> Array | None:
    """``(m,)`` mean squared difference of features and the model's reconstruction; None where it makes none.

    A module that makes one has ``reconstruct``, from what it reads of instances to their expected features.
    """
    module = fitted.model() if isinstance(fitted, TorchFitted) else None
    reconstruct = getattr(module, "reconstruct", None)
    if reconstruct is None or not isinstance(fitted, TorchFitted):
        return None
    made = torch.cat([reconstruct(chunk) for chunk in fitted.parts(split)])
    squares = (made.flatten(1).double().cpu().numpy() - _flat(split)) ** 2
    return np.asarray(squares.mean(axis=1), dtype=np.float64)


def _flat(split: Split) -> Array:
    return np.asarray(split.x, dtype=np.float64).reshape(len(split), -1)
