"""Cleaning, condition by condition, with models trained one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.datasets.corruption.label_noise import LabelNoise
from influx.engines.folds import assign
from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.cleaning import Cleaning
from influx.metrics.refit import Judge
from influx.metrics.tidy import tables_of
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy
from influx.planning import Prospect
from influx.problem import Data, Design, Outcomes
from influx.run import Run
from influx.store import Folder

N, M, SEEDS = 20, 24, 2
SETTINGS: dict[str, Any] = {"shares": [0.1, 0.3], "seeds": SEEDS, "folds": 4, "n_boot": 100}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    data = LabelNoise(fraction=0.3).apply(toys.table(n_train=N, n_test=M), 0)
    return toys.train(tmp_path, data, MLP(width=3), SGD(lr=0.3), batch_size=10)


@pytest.fixture
def influence() -> Influence:
    rng = np.random.default_rng(0)
    return Influence(values=rng.normal(size=(N, M)), self_influence=np.round(rng.normal(size=N)))  # with ties


def run_of(toy: Toy, metric: Cleaning) -> Run:
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    return Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="cleaning")


def measured(toy: Toy, influence: Influence, **settings: Any) -> pd.DataFrame:
    metric = Cleaning(**(SETTINGS | settings))
    return metric.evaluate(influence, run_of(toy, metric))


def trained(toy: Toy, data: Data, seed: int, removed: Any = ()) -> tuple[Outcomes, Outcomes]:
    """Outcomes on train and test of one model, trained alone."""
    weights = np.ones((1, len(data.train)))
    weights[0, list(removed)] = 0
    numbers = np.array([seed])
    design = Design(weights=weights, init=numbers, order=numbers, loss_norm="subset")
    return toy.problem.learner.retrain(data, toy.problem.seed, design)


def accuracy(toy: Toy, judging: np.ndarray, data: Data, removed: Any = ()) -> float:
    """Mean over seeds, on the judging half."""
    found = [trained(toy, data, seed, removed)[1].prediction[0] for seed in range(SEEDS)]
    return float(np.mean([(prediction == toy.test.y)[judging].mean() for prediction in found]))


def with_labels(data: Data, rows: Any, labels: np.ndarray) -> Data:
    y = data.train.y.copy()
    for row in rows:
        y[row] = labels[row]
    return replace(data, train=replace(data.train, y=y))


def test_every_gain_is_that_of_models_trained_one_at_a_time(toy: Toy, influence: Influence) -> None:
    frame = measured(toy, influence)
    found, data = frame.set_index("metric")["value"], toy.problem.data
    judge = Judge.of(Prospect(problem=toy.problem, who="test"), SEEDS)
    fold = assign(Prospect(problem=toy.problem, who="test"), 4, "folds")
    voted = np.empty(N, int)
    for number in range(4):
        rows = np.flatnonzero(fold == number)
        voted[rows] = trained(toy, data, 0, rows)[0].prediction[0, rows]
    total, own = influence.values[:, judge.ranking].sum(axis=1), influence.self_influence
    assert own is not None
    orders = {"self": sorted(range(N), key=lambda i: -own[i]), "sum": sorted(range(N), key=lambda i: total[i])}
    before = accuracy(toy, judge.judging, data)
    for rule, order in orders.items():
        for share, count in ((10, 2), (30, 6)):
            rows = order[:count]
            after = {
                "remove": accuracy(toy, judge.judging, data, rows),
                "correct": accuracy(toy, judge.judging, with_labels(data, rows, data.flags["original_label"])),
                "relabel": accuracy(toy, judge.judging, with_labels(data, rows, voted)),
            }
            for treatment, value in after.items():
                assert found[f"cleaning_{treatment}_{rule}_{share}"] == pytest.approx(value - before, abs=1e-12)
    for treatment in ("remove", "correct", "relabel"):
        curves = tables_of(frame)[f"cleaning_{treatment}"].set_index(["series", "inspected"])["accuracy"]
        assert (curves.xs(0.0, level="inspected") == before).all()
        for rule in orders:
            mine, chance = curves[f"by {rule}"], curves["random order"]
            height = np.trapezoid(mine - chance, mine.index) / 0.3
            assert found[f"cleaning_area_{treatment}_{rule}"] == pytest.approx(height, abs=1e-12)
    assert frame["protocol"].str.contains("12 test instances; the other 12 rank").all()


def test_correcting_all_wrong_labels_gives_the_clean_training_set(toy: Toy) -> None:
    data, judge = toy.problem.data, Judge.of(Prospect(problem=toy.problem, who="test"), SEEDS)
    flags = data.flags["mislabeled"].astype(float)
    influence = Influence(values=np.zeros((N, M)), self_influence=flags)
    frame = measured(toy, influence, rules=["self"], treatments=["correct"], shares=[0.3]).set_index("metric")
    clean = with_labels(data, range(N), data.flags["original_label"])
    expected = accuracy(toy, judge.judging, clean) - accuracy(toy, judge.judging, data)
    assert expected != 0
    assert frame.value["cleaning_correct_self_30"] == pytest.approx(expected, abs=1e-12)
    assert "6 of 6 mislabeled are among 6 inspected" in frame.note["cleaning_correct_self_30"]


def test_what_cannot_be_done_says_why(toy: Toy, tmp_path: Path) -> None:
    quick = {"shares": [0.1], "seeds": 1}
    plain = toy.with_data(replace(toy.problem.data, flags={}))
    nothing = Influence(values=np.ones((N, M)))
    frame = measured(plain, nothing, **quick).set_index("metric")
    assert (frame.status[frame.index.str.contains("_self")] == "not applicable").all()
    assert (frame.status[frame.index.str.contains("_sum")] == "degenerate").all()
    found = Influence(values=np.random.default_rng(0).normal(size=(N, M)))
    frame = measured(plain, found, **quick, rules=["sum"]).set_index("metric")
    assert frame.status.to_dict() | {"cleaning_correct_sum_10": "", "cleaning_area_correct_sum": ""} == {
        name: "" if "correct" in name else "ok" for name in frame.index
    }
    assert "true labels are not known" in frame.note["cleaning_correct_sum_10"]
    numbers = toys.train(tmp_path, toys.table("regression", n_train=N, n_test=M), MLP(width=3), SGD(lr=0.05))
    frame = measured(numbers, found, **quick, rules=["sum"]).set_index("metric")
    assert frame.status["cleaning_remove_sum_10"] == "ok" and "minus loss" in frame.protocol["cleaning_remove_sum_10"]
    assert frame.status["cleaning_relabel_sum_10"] == "not applicable"


def test_the_plan_names_the_models_that_are_known(
    toy: Toy, influence: Influence, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, known = [], Run.altered
    monkeypatch.setattr(Run, "altered", lambda run, data: asked.append(data) or known(run, data))
    metric = Cleaning(**SETTINGS)
    run = run_of(toy, metric)
    metric.evaluate(influence, run)
    planned = metric.plan(Prospect(problem=toy.problem, who="cleaning"))
    assert not any(len(run.bank.missing(design)) for design in planned.trainings)
    conditions = 2 * SEEDS  # shares and seeds
    assert run.bank.requested == SEEDS + 4 + 3 * conditions  # nothing, folds, removed by 2 rules and at random
    assert planned.own_trainings == 2 * 3 * conditions  # 2 rules
    assert planned.more_trainings == 2 * conditions  # other labels at random, which all estimators share
    assert planned.own_alone + planned.more_alone == len(asked)  # the first on each other data


@pytest.mark.parametrize(
    "settings", [{"shares": [0.2, 0.1]}, {"rules": ["both"]}, {"treatments": []}, {"seeds": 0}, {"folds": 1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.cleaning\.{next(iter(settings))}"):
        Cleaning(**settings)
