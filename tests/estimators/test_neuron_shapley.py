"""Shapley values of units: where units are, removal, truncation, bounds, tables and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from influx.engines import explanations, subsets
from influx.engines.coalitions import powerset, semivalues, shapley_weights
from influx.engines.games import TableGame
from influx.engines.neuron_games import Ablated, NeuronGame, sites_of
from influx.engines.permutations import Truncation
from influx.engines.removals import Ranked, Removals, Removed, removed
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD
from influx.models.cnn import CNN
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect
from tests.contract.checks import (
    block_sizes_do_not_matter,
    columns_do_not_depend_on_each_other,
    it_uses_what_it_declares_and_nothing_else,
    nothing_outside_is_changed,
    permuted_training_instances_permute_rows,
)

PLAYERS = 8
SAMPLED = {"max_exact": 0, "permutations": 20, "truncation": 0.0, "top_k": None}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=6), SGD(lr=0.3))


def table_game(noise: float = 0.3) -> TableGame:
    rng = np.random.default_rng(0)
    additive = np.concatenate(list(powerset(PLAYERS))) @ rng.normal(size=(PLAYERS, 3))
    return TableGame(additive + noise * rng.normal(size=(2**PLAYERS, 3)))


def walked(
    game: TableGame, count: int, seed: int = 0, every: int | None = None, ranked: Ranked | None = None
) -> Removed:
    walk = Removals(value=game.values, players=game.players, lead=2, truncation=Truncation())
    orders = subsets.permutations(np.arange(game.players), count, np.random.default_rng(seed))
    return removed(walk, orders, every or count, ranked or Ranked(top=None, delta=0.1, bound="normal"))


def test_removals_divide_the_whole_and_their_errors_cover_the_exact_values() -> None:
    game = table_game()
    exact, z = semivalues(game, shapley_weights(PLAYERS)), []
    whole = game.table[-1] - game.table[0]
    for seed in range(150):
        found = walked(game, 40, seed)
        assert np.allclose(found.values[:, :-1].sum(axis=0), whole, rtol=0, atol=1e-12)
        assert np.allclose(found.values[:, -1], found.values[:, :2].mean(axis=1), rtol=0, atol=1e-12)
        z.append((found.values[:, :-1] - exact) / found.stderr[:, :-1])
    assert 0.92 < (np.abs(z) < 1.96).mean() < 0.98


def test_bounds_are_those_of_maurer_and_pontil() -> None:
    draws = np.random.default_rng(0).normal(size=30)
    error = draws.std(ddof=1) / np.sqrt(30)
    ranked = Ranked(top=1, delta=0.1, bound="bernstein")
    found = ranked.radius(np.array([error]), np.array([np.ptp(draws)]), np.array([30]))
    log = np.log(2 / 0.1)
    expected = np.sqrt(2 * draws.var(ddof=1) * log / 30) + 7 * np.ptp(draws) * log / (3 * 29)
    assert np.allclose(found, expected, rtol=1e-12)
    normal = Ranked(top=1, delta=0.05, bound="normal").radius(np.array([error]), np.zeros(1), np.array([30]))
    assert np.allclose(normal, 1.959964 * error, rtol=1e-6)


@pytest.mark.parametrize(("bound", "noise"), [("bernstein", 0.3), ("normal", 1.0)])
def test_players_whose_place_is_settled_draw_no_more(bound: str, noise: float) -> None:
    game = table_game(noise)
    exact = semivalues(game, shapley_weights(PLAYERS))[:, :2].mean(axis=1)
    ranked = Ranked(top=3, delta=0.01, bound=bound)
    found = walked(game, 400, every=10, ranked=ranked)
    assert found.stopped == "settled" and len(set(found.draws.tolist())) > 1
    assert set(np.flatnonzero(ranked.chosen(found.values[:, -1]))) == set(np.argsort(-exact)[:3].tolist())
    ordered = np.sort(exact)[::-1]
    distance = np.abs(exact - ordered[2:4].mean())
    assert distance[found.draws == found.draws.max()].mean() < distance[found.draws == found.draws.min()].mean()
    everybody = walked(game, 400, every=10).coalitions
    assert found.coalitions < everybody / 2


def test_a_settled_player_is_jumped_over_and_leaves_the_others_their_marginals() -> None:
    game, orders = table_game(), subsets.permutations(np.arange(PLAYERS), 20, np.random.default_rng(1))
    alone = np.arange(PLAYERS) == 4
    some, every = (Removals(value=game.values, players=PLAYERS, lead=2, truncation=Truncation()) for _ in range(2))
    some.walk(orders, alone)
    every.walk(orders, np.ones(PLAYERS, bool))
    assert np.allclose(some.found.mean[4], every.found.mean[4], rtol=1e-12)
    assert some.found.count.tolist() == (20 * alone).tolist() and some.coalitions <= 2 + 2 * 20


def test_truncation_leaves_marginals_out(toy: Toy) -> None:
    whole = toy.estimate("neuron_shapley", **SAMPLED)
    early = toy.estimate("neuron_shapley", **SAMPLED | {"truncation": 0.4, "patience": 1})
    assert whole.report["truncated"] == 0 < early.report["truncated"] < 1
    assert early.report["coalitions"] < whole.report["coalitions"]


def test_a_dead_unit_has_no_value(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=4), SGD(lr=0.3))
    net = Ablated(toy.fitted, toy.train, None, "mean")
    with torch.no_grad():
        net.module[-1].weight[:, 2] = 0
    game = NeuronGame(net=net, task="classification", output="loss", split=toy.test)
    values = semivalues(game, shapley_weights(4))
    assert np.abs(values[2]).max() < 1e-15 and np.abs(values[[0, 1, 3]]).min() > 1e-8


class Shared(nn.Module):
    """One activation layer for two uses, channels last in between."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.unused = nn.ReLU(), nn.Tanh()
        self.conv, self.mix, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv(x)).permute(0, 2, 3, 1)
        return self.head(self.relu(self.mix(x)).mean(dim=(1, 2)))


def test_units_are_the_channels_of_every_call_of_an_activation() -> None:
    sites = sites_of(Shared(), torch.randn(2, 1, 6, 6), None)
    assert [(site.name, site.dim, site.size) for site in sites] == [("relu", 1, 3), ("relu#2", 3, 5)]


def test_units_of_nets_without_activation_layers_are_those_of_hidden_layers() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert [(site.name, site.size) for site in sites_of(net, torch.randn(2, 3), None)] == [("0", 4)]
    with pytest.raises(IncompatibleError, match="no hidden units"):
        sites_of(nn.Sequential(nn.Linear(3, 2)), torch.randn(2, 3), None)


def test_layers_choose_by_whole_name(toy: Toy) -> None:
    found = toy.estimate("neuron_shapley", layers="0").tables["neurons"]
    assert found["layer"].unique().tolist() == ["0"] and len(found) == 6
    with pytest.raises(ConfigError, match=r"estimator\.layers.*layers are 0, 1, 2"):
        toy.estimate("neuron_shapley", layers="1.+")


def test_hooks_are_gone_afterwards_and_all_units_together_are_the_net(toy: Toy) -> None:
    net = Ablated(toy.fitted, toy.train, None, "mean")
    game = NeuronGame(net=net, task="classification", output="loss", split=toy.test)
    assert np.array_equal(-game.values(np.ones((1, 6), bool))[0], toy.fitted.outcomes(toy.test).loss)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.module.modules())


def test_sampled_values_keep_the_contract(tmp_path: Path) -> None:
    estimator = estimator_named("neuron_shapley", SAMPLED | {"permutations": 4})
    made = iter(range(20))

    def make(**settings: object) -> Toy:
        return toys.train(tmp_path / str(next(made)), toys.images(), CNN(channels=[3], hidden=3), **settings)

    permuted_training_instances_permute_rows(estimator, make)
    columns_do_not_depend_on_each_other(estimator, make)
    block_sizes_do_not_matter(estimator, make)
    it_uses_what_it_declares_and_nothing_else(estimator, make)
    nothing_outside_is_changed(estimator, make)


def test_more_orders_go_on_from_fewer(toy: Toy) -> None:
    first, more = (
        toy.estimate("neuron_shapley", **SAMPLED | {"permutations": count, "check_every": every}).values
        for count, every in ((20, 10), (20, 20))
    )
    assert np.allclose(first, more, rtol=1e-12)


def test_tables_hold_means_bounds_and_places(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"top_k": 2}, SAMPLED | {"top_k": 2}):
        found = toy.estimate("neuron_shapley", **settings)
        neurons = found.tables["neurons"]
        each = found.tables["neurons_by_test"].groupby("unit")["value"].mean()
        assert np.allclose(neurons["value"], each, rtol=1e-10)
        assert neurons.loc[neurons["in_top_k"], "value"].min() > neurons.loc[~neurons["in_top_k"], "value"].max()
        assert neurons["in_top_k"].sum() == 2
        width = neurons["ci_high"] - neurons["ci_low"]
        assert (width > 0).all() == ("max_exact" in settings)
    monkeypatch.setattr(explanations, "TABLE_ROWS", 6 * len(toy.test) - 1)
    kept = toy.estimate("neuron_shapley").tables
    assert set(kept) == {"neurons"} and isinstance(kept["neurons"], pd.DataFrame)


def test_the_plan_counts_units_and_changes_no_random_state(toy: Toy, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    shape = toy.learner.net_shape(toy.problem)
    for settings, text in (({}, "2^6 coalitions"), (SAMPLED, "20 orders x 6 units")):
        work = estimator_named("neuron_shapley", settings).plan(
            Prospect(problem=toy.problem, who="neuron_shapley", shape=shape)
        )
        assert text in work.formula and work.flops > 0
    assert torch.equal(state, torch.get_rng_state())
    line = toys.train(tmp_path, toys.table(), Linear())
    with pytest.raises(IncompatibleError, match="no hidden units"):
        estimator_named("neuron_shapley").plan(Prospect(problem=line.problem, who="neuron_shapley", shape=shape))


@pytest.mark.parametrize(
    "settings",
    [
        {"permutations": 1},
        {"check_every": 1},
        {"max_exact": -1},
        {"truncation": -0.1},
        {"patience": 0},
        {"top_k": 0},
        {"delta": 1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
        estimator_named("neuron_shapley", settings)
