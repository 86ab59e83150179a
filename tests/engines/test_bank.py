"""The bank tells trainings apart, and gives them back in the order asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.engines.executors.exchange import save_arrays
from influx.engines.retrain import Bank, row_keys
from influx.learners.torch.learner import TorchLearner
from influx.learners.torch.optimizers import SGD
from influx.learners.torch.training import Training
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.problem import Design, Problem
from influx.store import Folder


def design(weights: NDArray[Any], init: list[int] | None = None) -> Design:
    zeros = np.zeros(len(weights), np.int64)
    return Design(
        weights=weights, init=zeros if init is None else np.array(init, np.int64), order=zeros, loss_norm="full"
    )


def bank(below: Path) -> Bank:
    training = Training(epochs=2, batch_size=4, dtype="float64", block=2)
    learner = TorchLearner(model=MLP(width=4), optimizer=SGD(lr=0.3), training=training)
    return Bank(Problem(data=toys.table(), learner=learner, seed=0, config={}), Folder(below))


def test_weights_that_differ_in_the_ninth_digit_are_other_trainings() -> None:
    weights = np.ones((3, 4))
    weights[0, 0], weights[1, 0] = 1 + 1e-9, 1 - 1e-9
    assert len(set(row_keys(design(weights)))) == 3


def test_whole_weights_are_one_training_however_they_are_stored() -> None:
    weights = np.array([[0, 1, 2, 1], [1, 1, 1, 1]])
    spelled = [row_keys(design(weights.astype(dtype))) for dtype in (np.uint8, np.int64, np.float32, np.float64)]
    assert all(keys == spelled[0] for keys in spelled)


def test_weights_outside_a_byte_are_not_folded_into_it() -> None:
    weights = np.array([[1.0, 1], [257, 1], [-255, 1]])
    assert len(set(row_keys(design(weights)))) == 3


def test_outcomes_follow_the_design_wherever_they_lie(tmp_path: Path) -> None:
    opened, n = bank(tmp_path), 9
    whole = design((1 - np.eye(n)).astype(np.uint8), init=[0, 1, 0, 1, 0, 1, 0, 1, 0])
    opened.outcomes(whole.rows(np.array([7, 2, 5, 0])))  # blocks of two, in another order
    opened.outcomes(whole.rows(np.array([8, 1])))
    order = np.array([3, 8, 0, 6, 1, 7, 2, 5, 4])
    train, test = opened.outcomes(whole.rows(order))
    for place, row in enumerate(order):
        alone = opened.problem.learner.retrain(opened.problem.data, 0, whole.rows(slice(row, row + 1)))
        for found, expected in zip((train, test), alone, strict=True):
            assert np.allclose(found.loss[place], expected.loss[0], rtol=1e-12)
            assert np.allclose(found.margin[place], expected.margin[0], rtol=1e-6)
            assert np.array_equal(found.prediction[place], expected.prediction[0])


def test_a_training_asked_for_twice_is_trained_once(tmp_path: Path) -> None:
    opened = bank(tmp_path)
    weights = (1 - np.eye(9)[[4, 2, 4, 4, 2]]).astype(np.uint8)
    _, test = opened.outcomes(design(weights))
    assert (opened.requested, opened.trained) == (2, 2)
    assert np.array_equal(test.loss, test.loss[[0, 1, 0, 0, 1]])
    assert not np.array_equal(test.loss[0], test.loss[1])


def test_only_blocks_that_name_the_problem_count_and_looking_changes_nothing(tmp_path: Path) -> None:
    opened, whole = bank(tmp_path), design((1 - np.eye(9))[:2].astype(np.uint8))
    opened.outcomes(whole)
    (block,) = tmp_path.glob("block_*.npz")
    with np.load(block) as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    for problem in ({"problem": np.array("another")}, {}):
        nameless = {name: array for name, array in kept.items() if name != "problem"}
        opened.folder.write(block.name, lambda path, a=nameless | problem: save_arrays(path, a))
        looked = Bank(opened.problem, Folder(tmp_path, read_only=True))
        assert looked.missing(whole).tolist() == [0, 1] and block.exists()
    again = bank(tmp_path)
    again.outcomes(whole)
    assert again.trained == 2 and len(list(tmp_path.glob("*.corrupt"))) == 1
