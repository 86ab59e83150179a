"""What training on subsets and neighbours find of labels that were flipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys

N, FLIPPED = 200, 20


@pytest.mark.slow
def test_flipped_labels_have_the_lowest_values(tmp_path: Path) -> None:
    """200 instances of which every tenth has a wrong label; random values would have an area of one half."""
    data = toys.table(n_train=N, n_test=100)
    wrong = np.random.default_rng(0).permutation(N)[:FLIPPED]
    y = data.train.y.copy()
    y[wrong] = (y[wrong] + 1) % 3
    toy = toys.train(
        tmp_path, replace(data, train=replace(data.train, y=y)), MLP(width=8), SGD(lr=0.5), batch_size=N, epochs=30
    )
    flags = np.isin(np.arange(N), wrong)

    def area(values: NDArray[np.float64]) -> float:
        return float(roc_auc_score(flags, -values))

    found = {
        "banzhaf": area(toy.estimate("banzhaf", models=2000).values.sum(axis=1)),
        "knn_shapley": area(toy.estimate("knn_shapley").values.sum(axis=1)),
        "data_oob": area(toy.estimate("data_oob", models=500).tables["data_oob"]["value"].to_numpy()),
        "loo": area(toy.estimate("loo", ceiling_budget=0).values.sum(axis=1)),
    }
    assert min(found["banzhaf"], found["knn_shapley"], found["data_oob"]) > 0.7 and found["loo"] > 0.5, found
