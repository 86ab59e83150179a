"""Models trained on the best share, one at a time."""

from __future__ import annotations

import tracemalloc
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.coreset import Coreset, first
from influx.metrics.refit import Judge
from influx.metrics.spread import herding, k_centre, order
from influx.metrics.tidy import tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Design
from influx.run import Run
from influx.store import Folder

N, M, SEEDS = 20, 24, 2


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(n_train=N, n_test=M), MLP(width=3), SGD(lr=0.3), batch_size=10)


def run_of(toy: Toy, metric: Coreset) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="coreset")


def measured(toy: Toy, values: np.ndarray, **settings: Any) -> pd.DataFrame:
    metric = Coreset(**({"shares": [0.3, 0.5], "seeds": SEEDS, "n_boot": 100} | settings))
    return metric.evaluate(Influence(values=values, self_influence=values[:, 0]), run_of(toy, metric))


def accuracy(toy: Toy, kept: Any, seed: int, judging: np.ndarray) -> float:
    weights = np.zeros((1, N))
    weights[0, list(kept)] = 1
    numbers = np.array([seed])
    design = Design(weights=weights, init=numbers, order=numbers, loss_norm="subset")
    prediction = toy.problem.learner.retrain(toy.problem.data, toy.problem.seed, design)[1].prediction[0]
    return float((prediction == toy.test.y)[judging].mean())


def in_turns(values: np.ndarray) -> list[int]:
    """Round after round every column names its next best row; within a round the largest value goes first."""
    named: list[int] = []
    for turn in range(len(values)):
        rows = [sorted(range(len(values)), key=lambda i: -column[i])[turn] for column in values.T]
        calls = sorted((-values[row, j], row) for j, row in enumerate(rows))
        for _, row in calls:
            if row not in named:
                named.append(row)
    return named


@pytest.mark.parametrize("balanced", [False, True])
def test_accuracies_are_those_of_models_trained_one_at_a_time(toy: Toy, balanced: bool) -> None:
    values = np.random.default_rng(0).normal(size=(N, M))
    frame = measured(toy, values, balanced=balanced)
    found, y = frame.set_index("metric"), toy.train.y
    judging = Judge.of(Prospect(problem=toy.problem, who="test"), SEEDS).judging
    total = np.delete(values, judging, axis=1).sum(axis=1)
    orders = {"sum": sorted(range(N), key=lambda i: -total[i]), "self": sorted(range(N), key=lambda i: -values[i, 0])}
    orders["turns"] = in_turns(np.delete(values, judging, axis=1))
    for (rule, best), (share, count) in product(orders.items(), ((30, 6), (50, 10))):
        kept = best[:count]
        if balanced:  # 7, 7 and 6 instances: thirds, and the largest remainders
            quota = {6: [2, 2, 2], 10: [4, 3, 3]}[count]
            kept = [i for label, most in enumerate(quota) for i in [i for i in best if y[i] == label][:most]]
        expected = np.mean([accuracy(toy, kept, seed, judging) for seed in range(SEEDS)])
        assert found.value[f"coreset_{rule}_{share}"] == pytest.approx(expected, abs=1e-12)
    curves, strata = tables_of(frame)["coreset"].set_index(["series", "kept"])["accuracy"], y if balanced else None
    for share in (0.3, 0.5):
        gain = curves["by self", share] - curves["random", share]
        assert found.value[f"coreset_gain_self_{100 * share:g}"] == pytest.approx(gain, abs=1e-12)
        over = curves["by self", share] - curves["by herding", share]
        assert found.value[f"coreset_over_herding_self_{100 * share:g}"] == pytest.approx(over, abs=1e-12)
        kept = first(order("herding", toy.train, 10, strata), round(share * N), strata).tolist()
        expected = np.mean([accuracy(toy, kept, seed, judging) for seed in range(SEEDS)])
        assert found.value[f"coreset_herding_{100 * share:g}"] == pytest.approx(expected, abs=1e-12)
    everything = np.mean([accuracy(toy, range(N), seed, judging) for seed in range(SEEDS)])
    assert curves["by sum", 1.0] == curves["random", 1.0] == pytest.approx(everything, abs=1e-12)


def test_random_subsets_are_as_large_as_the_chosen_and_differ_from_seed_to_seed(toy: Toy) -> None:
    y = toy.train.y
    for balanced in (False, True):
        metric = Coreset(shares=[0.3, 0.5], seeds=3, balanced=balanced)
        prospect = Prospect(problem=toy.problem, who="test")
        six, ten = metric._sets(prospect, metric._common(prospect)["random"]).values()
        assert (six.sum(axis=1) == 6).all() and (ten.sum(axis=1) == 10).all()
        assert (six <= ten).all() and len(np.unique(ten, axis=0)) == 3
        if balanced:
            assert all(np.bincount(y[row > 0]).tolist() == [2, 2, 2] for row in six)


def test_choices_by_inputs_are_the_best_of_all_at_every_step() -> None:
    x = np.random.default_rng(0).normal(size=(15, 3))
    chosen: list[int] = []
    for _ in range(6):
        left = [i for i in range(15) if i not in chosen]
        chosen.append(min(left, key=lambda i: float(np.linalg.norm(x[[*chosen, i]].mean(axis=0) - x.mean(axis=0)))))
    assert herding(x, 6).tolist() == chosen
    spread = k_centre(x, 6).tolist()
    for place in range(1, 6):
        gaps = np.linalg.norm(x[:, None] - x[spread[:place]], axis=2).min(axis=1)
        assert spread[place] == gaps.argmax()
    assert sorted(k_centre(np.zeros((4, 2)), 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("rule", [herding, k_centre])
def test_choices_by_inputs_hold_one_copy_in_single_precision(rule: Any) -> None:
    x = np.random.default_rng(0).normal(1e4, 1, size=(2000, 100)).astype(np.float32)
    rule(x[:5], 2)
    tracemalloc.start()
    rule(x, 2)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1.5 * x.nbytes


def test_an_order_by_inputs_names_every_row_once_and_classes_in_proportion(toy: Toy) -> None:
    rows = order("k_centre", toy.train, 6, toy.train.y)
    assert sorted(rows.tolist()) == list(range(N))
    assert np.bincount(toy.train.y[first(rows, 6, toy.train.y)]).tolist() == [2, 2, 2]


def test_the_first_of_every_class() -> None:
    y, order = np.array([0, 0, 0, 2, 2, 0]), np.array([5, 4, 3, 2, 1, 0])
    assert first(order, 3, None).tolist() == [5, 4, 3]
    assert first(order, 3, y).tolist() == [5, 2, 4]


def test_scores_that_rank_nothing_are_degenerate(toy: Toy) -> None:
    frame = measured(toy, np.ones((N, M)))
    by_inputs = frame["metric"].isin([f"coreset_{kind}herding_{share}" for kind in ("", "gain_") for share in (30, 50)])
    assert (frame["status"][~by_inputs] == "degenerate").all() and (frame["status"][by_inputs] == "ok").all()
    assert len(frame) == 22 and by_inputs.sum() == 4


def test_the_plan_names_the_models_that_are_known(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Coreset(shares=[0.5], seeds=2, n_boot=100)
    run = run_of(toy, metric)
    values = np.random.default_rng(0).normal(size=(N, M))
    frame = metric.evaluate(Influence(values=values), run).set_index("metric")
    assert frame.status["coreset_self_50"] == "not applicable" and frame.status["coreset_sum_50"] == "ok"
    monkeypatch.delattr("influx.metrics.coreset.order")  # choosing by inputs takes longer than planning may
    planned = metric.plan(Prospect(problem=toy.problem, who="coreset"))
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    assert run.bank.requested == sum(map(len, planned.trainings)) + 2 + planned.own_trainings - 2 == 10
    assert planned.more_trainings == 2  # by inputs; those by self-influence, as many, are not there


@pytest.mark.parametrize(
    "settings", [{"shares": [1.0]}, {"rules": ["most"]}, {"specialised": "all"}, {"seeds": 0}, {"n_boot": 1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.coreset\.{next(iter(settings))}"):
        Coreset(**settings)
