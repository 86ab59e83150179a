"""Copies of instances, pixel by pixel, and what training with them gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import shift

from influx.datasets.digits import Digits
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.augmentation import Augmentation
from influx.metrics.augmented import DIRECTIONS, augmented, shifted, unfit
from influx.metrics.refit import Judge
from influx.metrics.tidy import tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Data, Design
from influx.run import Run
from influx.store import Folder

N, M, SEEDS = 20, 24, 2
SETTINGS: dict[str, Any] = {
    "shares": [0.1, 0.3],
    "transform": "noise",
    "amount": 0.2,
    "copies": 2,
    "seeds": SEEDS,
    "n_boot": 100,
}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=N, n_test=M), MLP(width=3), SGD(lr=0.3), batch_size=10)


def run_of(toy: Toy, data: Data | None = None) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    problem = toy.problem if data is None else replace(toy.problem, data=data)
    return Run(problem=problem, fitted=toy.fitted, bank=bank, requires=Augmentation.requires, who="augmentation")


def measured(toy: Toy, influence: Influence, **settings: Any) -> pd.DataFrame:
    return Augmentation(**(SETTINGS | settings)).evaluate(influence, run_of(toy))


@pytest.mark.parametrize(("down", "right"), [(0.5, 0.0), (0.0, -0.3), (1.0, 2.0), (-1.25, 0.75)])
def test_images_move_as_scipy_moves_them(down: float, right: float) -> None:
    images = np.random.default_rng(0).random((3, 2, 6, 5))
    expected = np.stack([[shift(c, (down, right), order=1, mode="nearest") for c in image] for image in images])
    assert np.allclose(shifted(images, down, right), expected)


@pytest.mark.parametrize("shape", ["flat", "image"])
def test_copies_of_digits_are_moved_and_then_standardised(toy: Toy, shape: str) -> None:
    data = Digits(n_train=100, n_test=20, shape=shape).load(0)
    found = augmented(run_of(toy, data), np.array([7, 3]), "shift", 0.5, 2)
    assert found.train.x.shape[0] == 104 and np.array_equal(found.train.x[:100], data.train.x)
    assert found.train.y[100:].tolist() == data.train.y[[3, 7, 3, 7]].tolist()
    assert len(np.unique(found.train.ids)) == 104 and not found.flags and not found.display
    pixels, raw = (
        data.display["train"].astype(np.float64),
        Digits(n_train=100, n_test=20, shape=shape, standardize=False),
    )
    plain = raw.load(0).train.x
    assert np.allclose(plain.reshape(pixels.shape), pixels)
    axes = (0,) if shape == "flat" else None
    mean, deviation = plain.mean(axis=axes, dtype=np.float64), plain.std(axis=axes, dtype=np.float64)
    moved = [shift(pixels[row, 0], [0.5 * step for step in DIRECTIONS[copy]], order=1, mode="nearest")
             for copy in (0, 1) for row in (3, 7)]  # fmt: skip
    expected = (np.stack(moved).reshape(4, *plain.shape[1:]) - mean) / np.where(deviation > 0, deviation, 1)
    assert np.allclose(found.train.x[100:], expected, atol=1e-5)


def test_an_instance_has_the_same_copies_whatever_else_is_augmented(toy: Toy) -> None:
    run = run_of(toy)
    alone = augmented(run, np.array([4]), "noise", 0.2, 2).train
    among = augmented(run, np.array([9, 4, 0]), "noise", 0.2, 2).train
    assert np.array_equal(alone.x[N:], among.x[[N + 1, N + 4]]) and np.array_equal(
        alone.ids[N:], among.ids[[N + 1, N + 4]]
    )
    assert not np.array_equal(alone.x[N], alone.x[N + 1])
    many = augmented(run, np.arange(N), "noise", 0.2, 8).train
    assert np.std(many.x[N:] - np.tile(toy.train.x, (8, 1))) == pytest.approx(0.2, rel=0.1)


def test_gains_are_those_of_models_trained_one_at_a_time(toy: Toy) -> None:
    rng = np.random.default_rng(0)
    influence = Influence(values=rng.normal(size=(N, M)), self_influence=np.round(rng.normal(size=N)))
    frame = measured(toy, influence)
    found, run = frame.set_index("metric").value, run_of(toy)
    judging = Judge.of(Prospect(problem=toy.problem, who="test"), SEEDS).judging

    def accuracy(rows: Any) -> float:
        data = augmented(run, np.array(rows), "noise", 0.2, 2) if len(rows) else toy.problem.data
        right = []
        for seed in range(SEEDS):
            numbers = np.array([seed])
            weights = np.ones((1, len(data.train)))
            design = Design(weights=weights, init=numbers, order=numbers, loss_norm="subset")
            right.append(toy.problem.learner.retrain(data, 0, design)[1].prediction[0] == toy.test.y)
        return float(np.mean(right, axis=0)[judging].mean())

    total, own = np.delete(influence.values, judging, axis=1).sum(axis=1), influence.self_influence
    assert own is not None
    before = accuracy([])
    curves = tables_of(frame)["augmentation"].set_index(["series", "augmented"])["accuracy"]
    columns = np.delete(influence.values, judging, axis=1)
    place = [np.sum(columns > row, axis=0) for row in columns]  # of each column's values, how many are larger
    named = [(at.min(), -row[at == at.min()].max()) for at, row in zip(place, columns, strict=True)]
    keys = {"self": [-x for x in own], "sum": [-x for x in total], "turns": named}
    for rule, key in keys.items():
        order = sorted(range(N), key=lambda i: key[i])
        for share, count in ((0.1, 2), (0.3, 6)):
            after, name = accuracy(order[:count]), f"{rule}_{100 * share:g}"
            assert found[f"augmentation_{name}"] == pytest.approx(after - before, abs=1e-12)
            chance = curves["random", share]
            assert found[f"augmentation_gain_{name}"] == pytest.approx(after - chance, abs=1e-12)
    assert found["augmentation_everything"] == pytest.approx(accuracy(range(N)) - before, abs=1e-12)


def test_what_cannot_be_augmented_says_why(toy: Toy) -> None:
    influence = Influence(values=np.ones((N, M)))
    frame = measured(toy, influence, transform="shift")
    assert (frame["status"] == "not applicable").all() and frame["note"].str.contains("transform=noise").all()
    assert len(frame) == 13
    frame = measured(toy, influence, seeds=1).set_index("metric")
    assert frame.status["augmentation_self_10"] == "not applicable"
    assert frame.status["augmentation_gain_sum_30"] == "degenerate"
    assert frame.status["augmentation_everything"] == "ok"
    tokens = replace(toy.problem.data, train=replace(toy.train, x=np.zeros((N, 3), np.int64)))
    assert "tokens" in unfit("noise", tokens)


def test_the_plan_counts_longer_trainings(toy: Toy) -> None:
    metric = Augmentation(**SETTINGS)
    planned = metric.plan(Prospect(problem=toy.problem, who="augmentation"))
    assert sum(map(len, planned.trainings)) == SEEDS
    assert planned.own_trainings == pytest.approx(SEEDS * 3 * (1.2 + 1.6))
    assert planned.more_trainings == pytest.approx(SEEDS * (1.2 + 1.6 + 3))  # at random, and everything
    assert planned.own_alone == pytest.approx(3 * (1.2 + 1.6))  # the first of all seeds
    assert planned.more_alone == pytest.approx(SEEDS * (1.2 + 1.6) + 3)  # other data for each seed, and everything


@pytest.mark.parametrize(
    "settings",
    [
        {"shares": []},
        {"rules": ["all"]},
        {"transform": "cut"},
        {"amount": 0},
        {"amount": np.inf},
        {"copies": 9},
        {"seeds": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.augmentation\.{next(iter(settings))}"):
        Augmentation(**settings)


@pytest.mark.parametrize(
    ("shape", "transform", "amount"), [("flat", "shift", 8), ("image", "shift", 9), ("flat", "noise", 1e30)]
)
def test_copies_that_keep_nothing_are_refused(toy: Toy, shape: str, transform: Any, amount: float) -> None:
    data = Digits(n_train=100, n_test=20, shape=shape).load(0)
    metric, problem = Augmentation(transform=transform, amount=amount), replace(toy.problem, data=data)
    with pytest.raises(ConfigError, match=r"metric\.augmentation\.amount must be (below|at most)"):
        metric.plan(Prospect(problem=problem, who="augmentation"))
    with pytest.raises(ConfigError, match=r"metric\.augmentation\.amount"):
        metric.evaluate(Influence(values=np.ones((100, 20))), run_of(toy, data))
