"""Cross-validation: everybody is left out once, and judged by the models that left them out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.engines.folds import assign, design, held_out
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.needs import Need
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Design
from influx.run import Run
from influx.store import Folder


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=22), MLP(width=3), SGD(lr=0.3), batch_size=11)


def test_folds_are_of_one_size_also_within_a_class(toy: Toy) -> None:
    fold = assign(Prospect(problem=toy.problem, who="test"), 4, "folds")
    for rows in (slice(None), *(toy.train.y == label for label in range(3))):
        sizes = np.bincount(fold[rows], minlength=4)
        assert sizes.max() - sizes.min() <= 1


def test_an_instance_is_in_the_same_fold_wherever_it_stands(toy: Toy) -> None:
    order = np.random.default_rng(0).permutation(22)
    moved = replace(toy.problem, data=replace(toy.problem.data, train=toy.train.take(order)))
    before = assign(Prospect(problem=toy.problem, who="a"), 3, "folds")
    assert np.array_equal(assign(Prospect(problem=moved, who="b"), 3, "folds"), before[order])


def test_held_out_is_what_models_trained_alone_say(toy: Toy) -> None:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    run = Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=frozenset({Need.RETRAIN}), who="test")
    found = held_out(run, 3, 3, "folds")
    fold = assign(run, 3, "folds")
    confidence, votes = np.zeros(22), np.zeros((22, 3), int)
    for seed in range(3):
        for number in range(3):
            one = np.array([seed])
            kept = (fold != number).astype(float)[None]
            train, _ = toy.problem.learner.retrain(
                toy.problem.data, 0, Design(weights=kept, init=one, order=one, loss_norm="subset")
            )
            for i in np.flatnonzero(fold == number):
                confidence[i] += np.exp(-train.loss[0, i]) / 3
                votes[i, int(train.prediction[0, i])] += 1
    assert np.allclose(found.confidence, confidence, atol=1e-6)
    assert np.array_equal(found.prediction, votes.argmax(axis=1))
    assert run.bank.requested == len(design(run, 3, 3, "folds")) == 9


def test_more_folds_than_instances_are_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"metric\.x\.folds must be at most the 22 training instances"):
        assign(Prospect(problem=toy.problem, who="test"), 23, "metric.x.folds")
