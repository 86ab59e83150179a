"""What estimators over sampled subsets share: designs that extend, turns of seeds, early stops, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines.retrain import row_keys
from influx.errors import ConfigError
from influx.learners.linear.logistic import Logistic
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect
from tests.estimators.sampled_games import run_of

NAMES = ["ame", "banzhaf", "data_oob", "datamodels", "downsampling"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table(), MLP(width=4), SGD(lr=0.3), batch_size=9)


def trainings(toy: Toy, name: str, **settings: Any) -> list[str]:
    """Keys of the models that an estimator plans to train."""
    estimator: Any = estimator_named(name, settings)
    work = estimator.plan(Prospect(problem=toy.problem, who=name))
    return [key for design in work.trainings for key in row_keys(design)]


@pytest.mark.parametrize("name", NAMES)
def test_more_models_begin_with_the_same_and_give_what_they_give_alone(name: str, toy: Toy, tmp_path: Path) -> None:
    assert trainings(toy, name, models=400)[:240] == trainings(toy, name, models=240)
    toy.estimate(name, models=240)
    extended = toy.estimate(name, models=400)
    alone = toys.train(tmp_path / "alone", toys.table(), MLP(width=4), SGD(lr=0.3), batch_size=9)
    expected = alone.estimate(name, models=400)
    assert extended.stderr is not None and expected.stderr is not None
    assert np.allclose(extended.values, expected.values, atol=1e-12)
    assert np.allclose(extended.stderr, expected.stderr, atol=1e-10)


@pytest.mark.parametrize("name", [*NAMES, "c_score", "group_loo"])
def test_the_plan_names_the_models_that_are_trained(name: str, toy: Toy) -> None:
    settings = {"target": "loss", **({"seeds": 3} if name == "group_loo" else {})}
    estimator: Any = estimator_named(name, settings)
    run = toy.run(estimator, name)
    estimator.estimate(run)
    assert run.bank.trained == len(set(trainings(toy, name, **settings)))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_take_turns(name: str, toy: Toy) -> None:
    estimator: Any = estimator_named(name, {"models": 240, "seeds": 3})
    (design,) = estimator.plan(Prospect(problem=toy.problem, who=name)).trainings
    assert np.bincount(design.init).tolist() == [80, 80, 80] and (design.init == design.order).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_errors_hold_the_randomness_of_training_only_when_every_model_has_its_own(name: str, toy: Toy) -> None:
    """Models of one seed err together, whatever their number: what other seeds would do is not in the error."""
    holds = [toy.estimate(name, models=240, seeds=seeds).report["stderr_holds"] for seeds in (1, 2, 240)]
    assert "no randomness of training (one seed)" in holds[0]
    assert "these 2 seeds" in holds[1] and "randomness" not in holds[1]
    own = "these 60 seeds" if name == "ame" else "every model has its own seed"  # the four p share theirs
    assert own in holds[2]


@pytest.mark.parametrize("name", ["ame", "banzhaf", "c_score", "data_oob", "downsampling"])
def test_from_three_seeds_on_errors_are_students_over_sets_of_seeds(name: str, toy: Toy) -> None:
    rule = {"rule": "ipw"} if name == "ame" else {}
    for seeds, degrees in ((1, None), (2, None), (3, 2), (12, 9)):
        found = toy.estimate(name, seeds=seeds, **rule)
        assert found.report.get("stderr_degrees") == degrees
        assert ("variance_from_seeds" in found.report) == ("stderr" in found.tables["joint"]) == (degrees is not None)


@pytest.mark.parametrize(("name", "settings"), [("ame", {}), ("banzhaf", {"rule": "ols"}), ("datamodels", {})])
def test_regressions_hold_the_seeds_that_took_turns_alone(name: str, settings: dict[str, Any], toy: Toy) -> None:
    report = toy.estimate(name, models=240, seeds=3, **settings).report
    assert "these 3 seeds" in report["stderr_holds"] and "stderr_degrees" not in report


@pytest.mark.parametrize("name", ["banzhaf", "c_score", "data_oob"])
def test_models_without_randomness_have_no_seeds_to_hold(name: str, tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table(), Logistic(weight_decay=0.1))
    one, three = (toy.estimate(name, seeds=seeds) for seeds in (1, 3))
    assert three.stderr is not None and np.allclose(three.stderr, one.stderr, rtol=1e-6)
    assert "stderr_degrees" not in three.report


@pytest.mark.parametrize("p", [0.5, 0.7])
def test_who_asks_for_the_same_subsets_gets_the_same_models(p: float, toy: Toy) -> None:
    models = trainings(toy, "banzhaf", p=p, models=300)
    assert trainings(toy, "datamodels", alpha=p, models=300) == models
    assert trainings(toy, "downsampling", sampling="bernoulli", fraction=p, models=300) == models
    mixed = trainings(toy, "ame", probabilities=[0.3, p], models=300)
    assert set(models[:150]) <= set(mixed) and len(set(mixed) & set(models)) < 200
    seeds = trainings(toy, "ame", probabilities=[0.3, p], models=300, seeds=3)
    assert set(trainings(toy, "banzhaf", p=p, models=300, seeds=3)[:150]) <= set(seeds)


def test_subsets_of_one_size_are_shared(toy: Toy) -> None:
    one = trainings(toy, "downsampling", fraction=6 / 9, models=100)
    assert set(one) <= set(trainings(toy, "c_score", runs=100))
    paired = set(trainings(toy, "downsampling", fraction=6 / 9, sampling="paired_sizes", models=200))
    assert set(one) < paired and paired - set(one) <= set(trainings(toy, "downsampling", fraction=5 / 9, models=100))


def test_one_bank_serves_several(toy: Toy) -> None:
    toy.estimate("banzhaf", models=200)
    estimator: Any = estimator_named("datamodels", {"models": 200})
    run = toy.run(estimator, "datamodels")
    estimator.estimate(run)
    assert run.bank.trained == 0


@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [("banzhaf", {"rule": "ols"}, 152), ("ame", {"folds": 60}, 120), ("datamodels", {"held_out": 0.04}, 150)],
)
def test_it_does_not_stop_before_it_can_be_computed(
    name: str, settings: dict[str, Any], least: int, tmp_path: Path
) -> None:
    n = 150 if name == "banzhaf" else 9
    run = run_of(lambda masks: masks[:, :2] @ np.ones((2, 2)) + np.sin(7 * masks[:, 2:4]), n, 0)
    estimator: Any = estimator_named(name, {"models": 600, "target": "loss", "target_stderr": 1e3, **settings})
    if name == "ame":
        estimator = replace(estimator, probabilities=[0.5])
    assert estimator.estimate(run).report["models"] == least


@pytest.mark.parametrize("name", NAMES)
def test_it_stops_when_the_joint_influence_is_precise(name: str, toy: Toy) -> None:
    loose = toy.estimate(name, models=500, target_stderr=1e3)
    strict = toy.estimate(name, models=500, target_stderr=1e-9)
    assert (loose.report["models"], strict.report["models"]) == (100, 500)
    assert np.allclose(loose.values, toy.estimate(name, models=100).values, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_models_are_refused(name: str, toy: Toy) -> None:
    rare = {"banzhaf": {"p": 0.02}, "data_oob": {"fraction": 9.0}, "datamodels": {"alpha": 0.02}}
    rare["downsampling"] = {"fraction": 0.12}
    with pytest.raises(ConfigError, match=r"2 without it.* raise estimator\.models"):
        toy.estimate(name, models=60 if name == "datamodels" else 20, **rare.get(name, {}))


@pytest.mark.parametrize("name", [*NAMES, "c_score", "group_loo"])
@pytest.mark.parametrize(("setting", "value"), [("seeds", 0), ("target", "accuracy")])
def test_settings_out_of_range_are_refused_by_name(name: str, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{setting} must be"):
        estimator_named(name, {setting: value})


@pytest.mark.parametrize("name", [*NAMES, "c_score", "group_loo"])
def test_a_target_for_classes_is_refused_for_regression(name: str, tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=4), SGD(lr=0.05))
    with pytest.raises(ConfigError, match=r"estimator\.target=zero_one"):
        toy.estimate(name, target="zero_one")


@pytest.mark.parametrize("name", ["downsampling", "banzhaf", "data_oob", "c_score"])
def test_only_losses_are_in_loss_units(name: str, toy: Toy) -> None:
    assert [toy.estimate(name, target=t).scale for t in ("loss", "margin", "zero_one")] == ["loss", "rank", "rank"]


@pytest.mark.parametrize("name", ["downsampling", "banzhaf", "data_oob"])
def test_joint_influence_is_the_mean_of_columns(name: str, toy: Toy) -> None:
    found = toy.estimate(name)
    assert np.allclose(found.tables["joint"]["influence"], found.values.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("name", [*NAMES, "c_score"])
def test_a_wrong_label_beside_a_test_instance_harms_it(name: str, tmp_path: Path) -> None:
    """Test instance 0 is repeated in training: once with its label and once with another."""
    data = toys.table(n_train=18)
    x, y = data.train.x.copy(), data.train.y.copy()
    x[:2], y[0], y[1] = data.test.x[0], data.test.y[0], (data.test.y[0] + 1) % 3
    data = replace(data, train=replace(data.train, x=x, y=y))
    toy = toys.train(tmp_path, data, MLP(width=4), SGD(lr=0.5), batch_size=18, epochs=30)
    column = toy.estimate(name, **({"rule": "ipw"} if name == "ame" else {})).values[:, 0]
    assert column[0] > column.mean() and column[1] < min(column.mean(), 0)
