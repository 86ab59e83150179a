"""Prototypes against loops over instances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.learners.linear.ridge import Ridge
from influx.metrics.prototypes import Prototypes, nearest
from influx.metrics.refit import Judge
from influx.metrics.tidy import tables_of
from influx.oracles import toys
from influx.planning import Prospect
from influx.run import Run
from influx.store import Folder

N, M = 21, 40


def run_of(toy: toys.Toy) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=frozenset(), who="prototypes")


def test_accuracy_and_names_are_those_of_loops(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(n_train=N, n_test=M), Logistic())
    rng = np.random.default_rng(0)
    values, own = rng.normal(size=(N, M)), rng.normal(size=N)
    metric = Prototypes(counts=[2], listed=3, draws=2, n_boot=100)
    frame = metric.evaluate(Influence(values=values, self_influence=own), run_of(toy))
    found, tables = frame.set_index("metric").value, tables_of(frame)
    judge, y, z = Judge.of(Prospect(problem=toy.problem, who="x"), 1), toy.train.y, toy.test.y

    def accuracy(score: np.ndarray) -> float:
        kept = [i for c in range(3) for i in sorted(np.flatnonzero(y == c), key=lambda i: -score[i])[:2]]
        hits = [
            y[min(kept, key=lambda i: ((toy.train.x[i] - toy.test.x[j]) ** 2).sum())] == z[j] for j in judge.judging
        ]
        return float(np.mean(hits))

    sums = np.array([sum(values[i, j] for j in judge.ranking if z[j] == y[i]) for i in range(N)])
    centre = np.array([-((toy.train.x[i] - toy.train.x[y == y[i]].mean(axis=0)) ** 2).sum() for i in range(N)])
    np.testing.assert_allclose(nearest(toy.train), centre, rtol=1e-4)
    assert found["prototypes_accuracy_2"] == pytest.approx(accuracy(sums))
    assert found["prototypes_over_nearest_2"] == pytest.approx(accuracy(sums) - accuracy(centre))
    listed = tables["prototypes"]
    for role, score in (("prototype", sums), ("criticism", own)):
        for c, name in enumerate("abc"):
            mine = listed[(listed["class"] == name) & (listed["role"] == role)]
            best = sorted(np.flatnonzero(y == c), key=lambda i: -score[i])[:3]
            assert mine.train_id.tolist() == toy.train.ids[best].tolist() and mine["rank"].tolist() == [1, 2, 3]


def test_an_accuracy_of_1_has_an_interval_all_the_same(tmp_path: Path) -> None:
    data = toys.table(n_train=N, n_test=N)
    known = replace(data, test=replace(data.test, x=data.train.x, y=data.train.y))
    toy = toys.learned(tmp_path, known, Logistic())
    metric = Prototypes(counts=[N], draws=2, n_boot=100)
    values = np.random.default_rng(0).normal(size=(N, N))
    row = metric.evaluate(Influence(values=values), run_of(toy)).set_index("metric").loc[f"prototypes_accuracy_{N}"]
    assert row.value == 1 and 0.6 < row.ci_low < 0.8 and "Wilson" in row.protocol


def test_what_cannot_be_done_says_why(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(n_train=N, n_test=M), Logistic())
    frame = Prototypes().evaluate(Influence(values=np.full((N, M), np.nan)), run_of(toy))
    assert (frame.status == "degenerate").all()
    lacking = toys.table(n_train=N, n_test=M)
    two = replace(lacking, test=replace(lacking.test, y=lacking.test.y % 2))
    frame = Prototypes().evaluate(Influence(values=np.zeros((N, M))), run_of(toy.with_data(two)))
    assert (frame.status == "not applicable").all() and "class c," in frame.note[0]
    numbers = toys.learned(tmp_path, toys.table("regression", n_train=N, n_test=M), Ridge())
    frame = Prototypes().evaluate(Influence(values=np.zeros((N, M))), run_of(numbers))
    assert (frame.status == "not applicable").all()
    with pytest.raises(ConfigError, match=r"metric\.prototypes\.counts"):
        Prototypes(counts=[3, 1])
