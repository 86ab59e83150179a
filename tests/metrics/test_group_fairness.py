"""Gaps between groups, with models trained one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.metrics.demography import groups_of, reweighed
from influx.metrics.group_fairness import GroupFairness
from influx.metrics.refit import Judge
from influx.oracles import toys
from influx.planning import Prospect
from influx.problem import Design
from influx.run import Run
from influx.store import Folder

N, M = 20, 40


def test_gaps_are_those_of_models_trained_one_at_a_time(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(n_train=N, n_test=M), Logistic(weight_decay=0.05))
    metric = GroupFairness(classes=["a", "b"], shares=[0.2], seeds=1, n_boot=100)
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    run = Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="group_fairness")
    values = np.random.default_rng(0).normal(size=(N, M))
    frame = metric.evaluate(Influence(values=values), run).set_index("metric")
    judge, y = Judge.of(Prospect(problem=toy.problem, who="x"), 1), toy.test.y

    def gap(rows: np.ndarray, loss: np.ndarray) -> float:
        return float(loss[[j for j in rows if y[j] == 0]].mean() - loss[[j for j in rows if y[j] == 1]].mean())

    def without(rows: list[int]) -> np.ndarray:
        weights = np.ones((1, N))
        weights[0, rows] = 0
        zero = np.zeros(1, int)
        design = Design(weights=weights, init=zero, order=zero, loss_norm="subset")
        return toy.problem.learner.retrain(toy.problem.data, 0, design)[1].loss[0]

    sign = np.sign(gap(judge.ranking, without([])))
    first, second = (judge.ranking[y[judge.ranking] == label] for label in (0, 1))
    score = sign * (values[:, first].mean(axis=1) - values[:, second].mean(axis=1))
    removed = sorted(range(N), key=lambda i: score[i])[:4]
    assert frame.value["fairness_before"] == pytest.approx(sign * gap(judge.judging, without([])))
    assert frame.value["fairness_gap_20"] == pytest.approx(sign * gap(judge.judging, without(removed)))
    random = metric._random(run)[0][:4].tolist()
    cut = abs(gap(judge.judging, without(random))) - abs(gap(judge.judging, without(removed)))
    assert frame.value["fairness_cut_20"] == pytest.approx(cut)
    assert frame.status["fairness_reweighed"] == "not applicable"
    same = metric.evaluate(Influence(values=np.tile(values[:, :1], M)), run).set_index("metric")
    assert same.status["fairness_gap_20"] == "degenerate" and same.status["fairness_before"] == "ok"
    planned = metric.plan(Prospect(problem=toy.problem, who="group_fairness"))
    assert not any(len(bank.missing(design)) for design in planned.trainings)


def test_weights_make_group_and_label_independent() -> None:
    rng = np.random.default_rng(0)
    y, group = rng.integers(0, 3, 60), rng.random(60) < 0.3
    weights = reweighed(y, group)
    for label in range(3):
        mine = y == label
        joint = weights[mine & group].sum() / weights.sum()
        assert joint == pytest.approx(group.mean() * mine.mean())


def test_groups_by_column_and_what_is_refused() -> None:
    plain = toys.table(n_train=N, n_test=M)
    data = type(plain)(**{**plain.__dict__, "features": ("u", "v", "w")})
    found = groups_of(data, "metric.x", "v", None)
    assert not isinstance(found, str) and found.train[0].sum() == N // 2
    assert (found.test[0] == (data.test.x[:, 1] > np.median(data.train.x[:, 1]))).all()
    assert "no named columns" in str(groups_of(plain, "metric.x", "v", None))
    for feature, classes in (
        (None, None),
        ("v", ["a", "b"]),
        ("nothing", None),
        (None, ["a", "a"]),
        (None, ["a", "z"]),
    ):
        with pytest.raises(ConfigError, match=r"metric\.x\."):
            groups_of(data, "metric.x", feature, classes)
    with pytest.raises(ConfigError, match=r"metric\.group_fairness\.gap"):
        GroupFairness(gap="size")  # type: ignore[arg-type]
