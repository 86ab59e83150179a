"""The game of training: which model stands for a coalition, for nobody, and for a group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.engines.games import RetrainingGame, TableGame
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD, Adam, Optimizer
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.coalitions import trained_on
from influx.oracles.toys import Toy, estimator_named
from influx.store import Folder

DECAYING = SGD(lr=0.3, momentum=0.5, weight_decay=0.3)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=6), MLP(width=3), DECAYING)


def game(toy: Toy, **fields: object) -> RetrainingGame:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    given = {"target": "loss", "members": np.eye(len(toy.train), dtype=bool)} | fields
    return RetrainingGame(bank=bank, **given)


def masks(*rows: str) -> np.ndarray:
    return np.array([[bit == "1" for bit in row] for row in rows])


def test_a_table_is_looked_up_by_bits() -> None:
    table = TableGame(np.arange(8.0)[:, None])
    assert table.players == 3
    assert table.values(masks("000", "100", "011", "111"))[:, 0].tolist() == [0, 1, 6, 7]


def test_a_coalition_is_the_model_trained_on_it_alone(toy: Toy) -> None:
    found = game(toy).values(masks("110010", "000001", "110010"))
    expected = [-plain.losses(toy, trained_on(toy, rows), toy.test) for rows in ([0, 1, 4], [5], [0, 1, 4])]
    assert np.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "optimizer", [DECAYING, Adam(lr=0.05, weight_decay=0.1), SGD(lr=0.1, weight_decay=0.5)], ids=str
)
@pytest.mark.parametrize("engine", ["dense", "vmap", "sequential"])
def test_nobody_is_the_untrained_net(optimizer: Optimizer, engine: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=6), MLP(width=3), optimizer, engine=engine, warmup_steps=2)
    found = -game(toy).values(masks("000000"))[0]
    assert np.allclose(found, plain.losses(toy, toy.module(0), toy.test), rtol=1e-14)


def test_weight_decay_would_shrink_a_net_trained_with_all_weights_zero(toy: Toy) -> None:
    """Why nobody is not looked up in the bank."""
    shrunk = -plain.losses(toy, trained_on(toy, []), toy.test)
    assert np.abs(game(toy).empty - shrunk).max() > 1e-3


def test_nobody_can_be_a_guess_or_a_number(toy: Toy) -> None:
    nobody = masks("000000")
    assert np.allclose(game(toy, empty_value="uniform").values(nobody), -np.log(3))
    assert np.allclose(game(toy, empty_value="uniform", target="margin").values(nobody), -np.log(2))
    assert np.allclose(game(toy, empty_value="uniform", target="zero_one").values(nobody), -2 / 3)
    assert np.allclose(game(toy, empty_value=2.5).values(nobody), -2.5)


def test_seeds_are_averaged(toy: Toy) -> None:
    coalitions = masks("110010", "000000", "111111")
    one, two = (game(toy, seeds=(seed,)).values(coalitions) for seed in (0, 1))
    assert np.allclose(game(toy, seeds=(0, 1)).values(coalitions), (one + two) / 2, rtol=1e-14)
    assert np.abs(one - two).min() > 1e-6


def test_groups_bring_their_members_and_others_always_train(toy: Toy) -> None:
    grouped = game(toy, members=masks("110000", "010100"))
    same = game(toy).values(masks("001011", "111011", "011111", "111111"))
    assert np.array_equal(grouped.values(masks("00", "10", "01", "11")), same)


def test_equal_coalitions_are_trained_once(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=6), MLP(width=3), DECAYING)
    played = game(toy)
    coalitions = masks("110010", "000000", "110010", "111111")
    first = played.values(coalitions)
    assert played.bank.trained == 2
    assert np.array_equal(game(toy).values(coalitions), first)
    assert np.array_equal(played.values(coalitions[::-1]), first[::-1]) and played.bank.trained == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "accuracy"},
        {"seeds": 0},
        {"empty_value": "nothing"},
        {"empty_value": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        estimator_named("shapley", settings)


def test_regression_has_no_guess(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression", n_train=4), MLP(width=2))
    with pytest.raises(ConfigError, match="empty_value=uniform"):
        toy.estimate("shapley", empty_value="uniform")


def test_many_players_are_refused_by_name(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(n_train=15), MLP(width=2))
    for name, other in (("shapley", "tmc_shapley"), ("shapley_taylor", "permutation")):
        with pytest.raises(ConfigError, match=f"15 players.*estimator.groups.*{other}"):
            toy.estimate(name)
    random = toy.estimate("shapley", groups="random", group_count=3, group_size=4)
    assert len(random.tables["groups"]) == 3


def test_one_player_is_refused(tmp_path: Path) -> None:
    data = toys.table(n_train=4)
    alike = replace(data, train=replace(data.train, y=np.zeros(4, np.int64)))
    with pytest.raises(ConfigError, match="2 players"):
        toys.train(tmp_path, alike, MLP(width=2)).estimate("shapley", groups="label")
