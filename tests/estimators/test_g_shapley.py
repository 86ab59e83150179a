"""G-Shapley: the first instance counts, falls add up, and what order cannot matter for has no error."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from influx.engines.online import Online
from influx.engines.permutations import gathered
from influx.engines.stopping import Stop
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.torch.fitted import TorchFitted
from influx.learners.torch.optimizers import SGD, Adam
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.models.resnet9 import ResNet9
from influx.oracles import plain, toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=6), MLP(width=3))


def online(toy: Toy, **fields: int) -> Online:
    assert isinstance(toy.fitted, TorchFitted)
    given = {"batch": 1, "inits": 1} | fields
    return Online(toy.fitted, toy.train, toy.test, given["batch"], given["inits"])


def test_a_pass_telescopes_from_the_untrained_net_and_its_first_step_counts(toy: Toy) -> None:
    order = np.random.default_rng(0).permutation(6)
    for batch in (1, 4):
        rows = online(toy, batch=batch).falls(order[None], 0.2)[0]
        module, (x, y) = toy.module(0), toy.tensors(toy.train)
        before = plain.losses(toy, module, toy.test)
        for start in range(0, 6, batch):
            taken = order[start : start + batch]
            module.zero_grad()
            plain.risks(toy.task, module(x[taken]), y[taken]).mean().backward()
            for p in module.parameters():
                p.data -= 0.2 * p.grad
        assert np.allclose(rows[:, :-1].sum(axis=0), before - plain.losses(toy, module, toy.test), rtol=1e-12)
        assert np.abs(rows[order[0]]).min() > 1e-4


def test_fewer_orders_are_within_their_error_of_more(toy: Toy) -> None:
    few, many = (toy.estimate("g_shapley", permutations=count, stop="budget") for count in (20, 60))
    assert (few.report["permutations"], many.report["permutations"]) == (20, 60)
    z = (few.values - many.values) / few.stderr
    assert 0.2 < np.sqrt(np.square(z).mean()) < 1.5


def test_small_steps_are_gradient_products_whatever_the_order(toy: Toy) -> None:
    """Marginals become lr ⟨g_i, g_j⟩ at the initialisation, with an error that vanishes with the learning rate."""
    found = toy.estimate("g_shapley", lr=1e-6, permutations=10, stop="budget")
    module = toy.module(0)
    expected = 1e-6 * plain.gradients(toy, module, toy.train) @ plain.gradients(toy, module, toy.test).T
    assert np.allclose(found.values, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert found.stderr is not None and found.stderr.max() < 1e-5 * np.abs(expected).max()


def test_a_line_by_hand(tmp_path: Path) -> None:
    """One step on each of two instances in both orders of least squares, by its recursion."""
    toy = toys.train(tmp_path, toys.table("regression", n_train=2, n_test=1, features=1), Linear())
    x, y = plain.with_ones(toy.train.x), toy.train.y.astype(float)
    x_test, y_test = plain.with_ones(toy.test.x)[0], float(toy.test.y[0])
    start = np.concatenate([p.detach().numpy().ravel() for p in toy.module(0).parameters()])

    def after(order: tuple[int, ...]) -> float:
        theta = start.copy()
        for i in order:
            theta -= 0.3 * (x[i] @ theta - y[i]) * x[i]
        return float(0.5 * (x_test @ theta - y_test) ** 2)

    rows = online(toy).falls(np.array([[0, 1], [1, 0]]), 0.3)[:, :, 0]
    expected = [
        [after(()) - after((0,)), after((0,)) - after((0, 1))],
        [after((1,)) - after((1, 0)), after(()) - after((1,))],
    ]
    assert np.allclose(rows, expected, rtol=1e-12)


def test_initialisations_take_turns(toy: Toy) -> None:
    order = np.arange(6)[None]
    turns = online(toy, inits=2)
    both = turns.falls(np.repeat(order, 3, axis=0), 0.2)
    assert np.allclose(both[0], both[2], rtol=1e-12) and np.abs(both[0] - both[1]).max() > 1e-3
    assert np.allclose(turns.falls(order, 0.2)[0], both[1], rtol=1e-12)  # the fourth pass
    assert np.allclose(online(toy).falls(order, 0.2)[0], both[0], rtol=1e-12)


def test_the_search_takes_the_rate_that_learns_most(toy: Toy) -> None:
    found = toy.estimate("g_shapley", lr="search", permutations=10, stop="budget")
    assert found.report["lr"] == 0.1
    own = toy.estimate("g_shapley", permutations=10, stop="budget")
    assert own.report["lr"] == toy.learner.optimizer.lr


def test_a_rate_chosen_for_other_steps_is_warned_of(tmp_path: Path) -> None:
    data = toys.table(n_train=6)
    for place, (optimizer, settings, warned) in enumerate(
        [(Adam(lr=0.05), {}, True), (Adam(lr=0.05), {"lr": 0.1}, False), (SGD(lr=0.1), {}, False)]
    ):
        toy = toys.train(tmp_path / str(place), data, MLP(width=3), optimizer)
        estimator = estimator_named("g_shapley", {"permutations": 4, **settings})
        run = toy.run(estimator, "g_shapley")
        estimator.estimate(run)
        assert [("Adam" in said and "estimator.lr=search" in said) for said in run.warnings] == [True] * warned


def test_intervals_hold_the_mean_over_all_orders(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression", n_train=5), Linear())
    passes = online(toy)
    every = passes.falls(np.array(list(itertools.permutations(range(5)))), 0.1)  # by the order of permutations
    truth, rng, hits = every.mean(axis=0), np.random.default_rng(0), []
    stop = Stop(rule="budget", every=10)
    for _ in range(100):
        found = gathered(
            lambda part: passes.falls(part, 0.1), rng.permuted(np.tile(np.arange(5), (60, 1)), axis=1), 1 << 20, stop, 1
        )
        hits.append(np.abs(found.values - truth) <= 1.96 * found.stderr)
    assert 0.91 <= np.mean(hits) <= 0.98


def test_passes_that_diverge_say_so(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression", n_train=6), Linear())
    with pytest.raises(NumericalError, match="lower estimator"):
        toy.estimate("g_shapley", lr=1e80)


def test_nets_that_mix_instances_are_refused(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.images(6), ResNet9(norm="batch", width=1 / 32), epochs=1, batch_size=3)
    with pytest.raises(IncompatibleError, match="norm=group"):
        toy.estimate("g_shapley")


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"inits": 0},
        {"window": 0},
        {"permutations": 1},
        {"check_every": 0},
        {"convergence": -1.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
        estimator_named("g_shapley", settings)
