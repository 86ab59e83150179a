"""Defence, condition by condition, with models trained one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.datasets.corruption.backdoor import Backdoor
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.aligned import Unavailable
from influx.metrics.attacks import attack_on
from influx.metrics.poison_defence import PoisonDefence, spectral
from influx.metrics.scores import descending
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.planning import Prospect
from influx.problem import Design
from tests.metrics.retrained import prospect_of, run_of, without

N, M, SEEDS = 20, 40, 2


def attacked(tmp_path: Path) -> toys.Toy:
    clean = toys.table(n_train=N, n_test=M)
    named = type(clean)(**{**clean.__dict__, "features": ("u", "v", "w")})
    data = Backdoor(fraction=0.4, features=["u"], test="half").apply(named, 0)
    assert data.test_flags["backdoor"].sum() == M // 2
    return toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.3), batch_size=10)


def test_success_and_accuracy_are_those_of_models_trained_one_at_a_time(tmp_path: Path) -> None:
    toy = attacked(tmp_path)
    data = toy.problem.data
    metric = PoisonDefence(shares=[0.2], rules=["sum"], seeds=SEEDS, n_boot=100)
    run = run_of(toy, metric, "poison_defence")
    guilty = data.flags["backdoor"]
    values = np.where(guilty, -1.0, 1.0)[:, None] + 0.01 * np.random.default_rng(0).normal(size=(N, M))
    frame = metric.evaluate(Influence(values=values), run).set_index("metric")
    attack = attack_on(Prospect(problem=toy.problem, who="x"), SEEDS)
    assert not isinstance(attack, str)
    held = attack.success.judging
    assert data.test_flags["backdoor"][held].all() and (data.test.y[held] != 0).all()
    assert not set(held) & set(attack.watched) and not data.test_flags["backdoor"][attack.accuracy.judging].any()
    removed = sorted(range(N), key=lambda i: values[i, attack.known].sum())[:4]
    success, right = [], []
    for seed in range(SEEDS):
        weights = np.ones((1, N))
        weights[0, removed] = 0
        number = np.array([seed])
        design = Design(weights=weights, init=number, order=number, loss_norm="subset")
        predicted = toy.problem.learner.retrain(data, 0, design)[1].prediction[0]
        success.append((predicted[held] == 0).mean())
        right.append((predicted == data.test.y)[attack.accuracy.judging].mean())
    assert frame.value["defence_success_sum_20"] == pytest.approx(np.mean(success))
    assert frame.value["defence_accuracy_sum_20"] == pytest.approx(np.mean(right))
    assert f"4 of {int(guilty.sum())} poisoned among 4 removed" in frame.note["defence_success_sum_20"]


def test_the_tail_sums_over_test_instances_that_have_one(tmp_path: Path) -> None:
    toy = attacked(tmp_path)
    metric = PoisonDefence(shares=[0.2], rules=["tail"], identified=5, k=2, seeds=SEEDS, n_boot=100)
    attack = attack_on(prospect_of(toy), SEEDS)
    assert not isinstance(attack, str)
    noise, values = np.random.default_rng(0).normal(size=(N, M)), np.zeros((N, M))
    heavy = attack.watched[:2]
    values[:, heavy] = noise[:, heavy]
    values[0, attack.watched[2]] = np.nan
    frame = metric.evaluate(Influence(values=values), run_of(toy, metric, "poison_defence")).set_index("metric")
    removed = np.argsort(values[:, heavy].sum(axis=1))[:4]  # labels are true: poison has low influence
    held = attack.success.judging
    success = [(without(toy, removed, seed).prediction[held] == 0).mean() for seed in range(SEEDS)]
    assert frame.value["defence_success_tail_20"] == pytest.approx(np.mean(success))
    assert "2 test instances identified instead of 5" in frame.protocol["defence_success_tail_20"]


def test_spread_that_is_rounding_alone_is_no_tail(tmp_path: Path) -> None:
    toy = attacked(tmp_path)
    metric = PoisonDefence(identified=5, k=2, seeds=SEEDS)
    attack = attack_on(prospect_of(toy), SEEDS)
    assert not isinstance(attack, str)
    steps = (np.arange(N)[:, None] % 3 - 1) * np.ones((1, M))  # -1, 0, 1: a spread of one rounding
    values = (1000 + np.spacing(np.float32(1000)) * steps).astype(np.float32)
    run = run_of(toy, metric, "poison_defence")
    found = metric._identified(Influence(values=values), attack, run)
    assert isinstance(found, Unavailable) and found.status == "degenerate"
    found = metric._identified(Influence(values=values.astype(np.float64)), attack, run)  # no rounding there
    assert not isinstance(found, Unavailable) and len(found) == 5
    assert found.tolist() == attack.watched[np.argsort(toy.test.ids[attack.watched])][:5].tolist()  # equal tails: by id


def test_equal_suspects_go_by_id() -> None:
    assert descending(np.array([1.0, 1.0, 2.0, 1.0]), np.array([5, 2, 9, 3])).tolist() == [2, 1, 3, 0]


def test_spectral_scores_are_projections_on_the_first_eigenvector() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), np.repeat([0, 1], 6)
    for label in (0, 1):
        part = x[y == label] - x[y == label].mean(axis=0)
        vector = np.linalg.eigh(part.T @ part)[1][:, -1]
        np.testing.assert_allclose(spectral(x, y)[y == label], (part @ vector) ** 2)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"metric\.poison_defence\.k"):
        PoisonDefence(k=0)
