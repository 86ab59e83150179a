"""Conditions are trained under the same seeds and judged on tests that had no say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics import scores
from influx.metrics.aligned import Unavailable
from influx.metrics.refit import Judge, Resamples, area, check_chosen, check_shares, counts_for, weights_of
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
    return toys.train(tmp_path, toys.table(n_train=12, n_test=21), MLP(width=3), SGD(lr=0.3), batch_size=12)


def run_of(toy: Toy) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    requires = frozenset({Need.RETRAIN})
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=requires, who="refit")


def test_halves_share_no_test_instance_and_are_the_same_for_everyone_in_any_order(toy: Toy) -> None:
    judge = Judge.of(run_of(toy), 2)
    assert sorted([*judge.ranking, *judge.judging]) == list(range(21)) and len(judge.ranking) == 10
    again = Judge.of(Prospect(problem=toy.problem, who="another"), 5)
    assert np.array_equal(again.judging, judge.judging)
    order = np.random.default_rng(0).permutation(21)
    moved = replace(toy.problem, data=replace(toy.problem.data, test=toy.test.take(order)))
    there = Judge.of(Prospect(problem=moved, who="another"), 5)
    assert set(toy.test.ids[judge.judging]) == set(moved.test.ids[there.judging])
    assert np.array_equal(there.y, moved.test.y[there.judging])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_every_condition_is_a_training_of_its_own_under_each_seed(tmp_path: Path, task: Any) -> None:
    toy = toys.train(tmp_path, toys.table(task, n_train=8, n_test=6), MLP(width=3), SGD(lr=0.1), batch_size=8)
    run, judge = run_of(toy), Judge.of(Prospect(problem=toy.problem, who="refit"), 2)
    same = weights_of(8, np.array([0, 3]), 0)
    own = weights_of(8, np.array([[1, 2], [4, 5]]), 1)
    found = judge.refit(run.retrain, {"same": same, "own": own}, "test")
    for name, weights in (("same", np.stack([same, same])), ("own", own)):
        for seed in (0, 1):
            numbers = np.array([seed])
            design = Design(weights=weights[seed : seed + 1], init=numbers, order=numbers, loss_norm="subset")
            _, test = toy.problem.learner.retrain(toy.problem.data, 0, design)
            right = test.prediction[0] == toy.test.y if task == "classification" else -test.loss[0]
            assert np.allclose(found[name].quality[seed], right[judge.judging], atol=1e-12)
            assert np.allclose(found[name].loss[seed], test.loss[0, judge.judging], atol=1e-12)
    assert own.tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0]]


def test_other_data_are_trained_on_for_all_seeds_or_for_each_its_own(toy: Toy) -> None:
    run, judge, data = run_of(toy), Judge.of(run_of(toy), 2), toy.problem.data
    flipped = replace(data, train=replace(data.train, y=(data.train.y + 1) % 3))
    nothing = judge.refit(run.retrain, {0: np.ones(12, np.uint8)}, "test")[0]
    found = judge.altered(run, [("all", flipped), ("each", iter([flipped, data]))], "test")
    assert found["all"].loss.shape == found["each"].loss.shape == nothing.loss.shape
    assert np.array_equal(found["each"].loss[0], found["all"].loss[0])
    assert np.array_equal(found["each"].loss[1], nothing.loss[1])
    assert not np.allclose(found["all"].loss, nothing.loss)


def test_other_data_are_trained_on_one_model_at_a_time_and_kept_with_the_problem(toy: Toy) -> None:
    run, data = run_of(toy), toy.problem.data
    flipped = replace(data, train=replace(data.train, y=(data.train.y + 1) % 3))
    other = run.altered(flipped)
    assert other.problem.learner.block_size(flipped) == 1 < run.retrain.problem.learner.block_size(flipped)
    assert other.problem.id == replace(toy.problem, data=flipped).id
    assert other.folder.path == toy.folder / "altered" / other.problem.id / "retrain"
    assert run.altered(data) is run.retrain


def test_the_area_is_the_mean_height_of_the_curve() -> None:
    rng, shares = np.random.default_rng(0), [0.05, 0.1, 0.4]
    differences = [rng.normal(size=(2, 3)) for _ in shares]
    expected = np.trapezoid(np.stack([np.zeros((2, 3)), *differences]), [0, *shares], axis=0) / 0.4
    assert np.allclose(area(shares, differences), expected)
    assert np.allclose(area([0.3], [np.ones((1, 1))]), 0.5)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_intervals_cover_a_mean_over_seeds_and_test_instances(toy: Toy, seeds: int) -> None:
    judge, rng, hits = Judge.of(run_of(toy), seeds), np.random.default_rng(1), 0
    judge = replace(judge, judging=np.arange(40), y=np.zeros(40))
    resamples = Resamples.drawn(run_of(toy), judge, 300)
    for _ in range(300):
        values = 0.3 * rng.normal(size=(seeds, 1)) + rng.normal(size=40) + rng.normal(size=(seeds, 40))
        low, high = resamples.interval(values)
        hits += low <= 0 <= high
    assert 0.93 <= hits / 300 <= 0.99


def test_an_interval_of_one_value_over_and_over_says_so(toy: Toy) -> None:
    judge = Judge.of(run_of(toy), 2)
    resamples = Resamples.drawn(run_of(toy), judge, 100)
    values = np.zeros((2, len(judge.judging)))
    assert "knows nothing" in resamples.measured("gain", values, "").note
    values[0, 0] = 1
    assert "knows nothing" not in resamples.measured("gain", values, "").note


def test_scores_that_rank_nothing_say_why() -> None:
    values = np.arange(12.0).reshape(4, 3)
    assert scores.descending(np.array([1.0, 3.0, 1.0, 2.0])).tolist() == [1, 3, 0, 2]
    found = scores.by_sum(Influence(values=values), np.array([0, 2]))
    assert not isinstance(found, Unavailable) and found.tolist() == [2, 8, 14, 20]
    for influence, reason in (
        (Influence(values=values), "no self-influence"),
        (Influence(values=values, self_influence=np.ones(4)), "the same score"),
        (Influence(values=values, self_influence=np.arange(4.0), self_influence_note="a cosine"), "a cosine"),
        (Influence(values=values, self_influence=np.array([0, 1, np.nan, 2])), "1 of 4"),
    ):
        lost = scores.by_self(influence)
        assert isinstance(lost, Unavailable) and reason in lost.note


def test_test_instances_take_turns() -> None:
    values = np.array([[9.0, 0.0, 5.0], [8.0, 4.0, 6.0], [7.0, 3.0, 4.0], [0.0, 9.5, 0.0]])
    found = scores.by_turns(Influence(values=values), np.array([0, 1]))
    assert not isinstance(found, Unavailable) and scores.descending(found).tolist() == [3, 0, 1, 2]
    found = scores.by_turns(Influence(values=values), np.array([0, 1]), np.array([2, 1]))
    assert not isinstance(found, Unavailable) and found.tolist() == [1, 2]
    for level in (9.0, -7.0):  # instances in another order, and a test instance that has no turn
        again = np.column_stack([values[::-1, :2], np.full(4, level)])
        found = scores.by_turns(Influence(values=again), np.array([0, 1, 2]))
        assert not isinstance(found, Unavailable) and scores.descending(found).tolist() == [0, 3, 2, 1]
    tied = np.array([[0.0, 3.0], [0.0, 2.0], [0.0, 1.0], [1.0, 0.0]])  # three that the first cannot tell apart
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = scores.by_turns(Influence(values=tied[order]), np.array([0, 1]))
        assert not isinstance(found, Unavailable)
        assert [order[row] for row in scores.descending(found)] == [0, 3, 1, 2]
    for broken, reason in ((np.ones((4, 3)), "the same score"), (np.where(values == 0, np.nan, values), "2 of 4")):
        lost = scores.by_turns(Influence(values=broken), np.array([0, 1]))
        assert isinstance(lost, Unavailable) and reason in lost.note


def test_settings_that_make_no_sense_are_refused(toy: Toy) -> None:
    for shares in ([], [0.2, 0.1], [0.0, 0.1], [0.5, 1.5]):
        with pytest.raises(ConfigError, match=r"metric\.x\.shares"):
            check_shares("metric.x.shares", shares)
    with pytest.raises(ConfigError, match="selects"):
        counts_for([0.01, 0.02], 20, "metric.x.shares")
    for chosen in ([], ["a", "a"], ["c"]):
        with pytest.raises(ConfigError, match="some of a, b"):
            check_chosen("metric.x.rules", chosen, ["a", "b"])
    few = replace(toy.problem, data=replace(toy.problem.data, test=toy.test.take(slice(0, 3))))
    with pytest.raises(ConfigError, match=r"dataset\.n_test"):
        Judge.of(Prospect(problem=few, who="refit"), 1)
