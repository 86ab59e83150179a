"""Trees of every library: kept in files, grown again on weighted training sets, refused by name."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import get_class
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier

from influx.errors import ConfigError, DataError, IncompatibleError
from influx.learners.trees.ensemble import Sample
from influx.problem import Data, Design, Split
from influx.store import Folder

CONF = Path(__file__).parents[2] / "conf" / "model"
BOOSTED = ["catboost", "gradient_boosting", "hist_gradient_boosting", "lightgbm", "xgboost"]
NAMES = [*BOOSTED, "extra_trees", "random_forest"]
TASKS = {"regression": 0, "two classes": 2, "three classes": 3}
SMALL = {"lightgbm": {"min_child_samples": 5}, "hist_gradient_boosting": {"min_samples_leaf": 5}}
ROUNDS = {"catboost": "iterations", "hist_gradient_boosting": "max_iter"}


def learner(name: str, rounds: int = 5, **settings: Any) -> Any:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    small = {ROUNDS.get(name, "n_estimators"): rounds, **SMALL.get(name, {}), **settings}
    return get_class(values.pop("_target_"))(**{**values, **small})


def make(classes: int, n: int = 48, m: int = 12) -> Data:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(n + m, 4)).astype(np.float32)
    score = x[:, 0] + np.abs(x[:, 1]) + 0.5 * rng.normal(size=n + m)
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)) if classes else score
    y = y.astype(np.int64 if classes else np.float32)
    ids = np.arange(n + m)
    train, test = (Split(x=x[part], y=y[part], ids=ids[part]) for part in (slice(0, n), slice(n, None)))
    task: Any = "classification" if classes else "regression"
    return Data(name="made", task=task, kind="tabular", train=train, test=test, classes=tuple(map(str, range(classes))))


def retrained(model: Any, data: Data, weights: Any, norm: Any = "subset", seed: int = 0) -> NDArray[Any]:
    """Test losses (m,) of one training."""
    zero = np.zeros(1, np.int64)
    design = Design(weights=np.asarray(weights)[None], init=zero, order=zero, loss_norm=norm)
    return np.asarray(model.retrain(data, seed, design)[1].loss[0])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_read_from_its_file_is_the_one_that_retraining_on_everything_makes(
    name: str, task: str, tmp_path: Path
) -> None:
    model, data = learner(name), make(TASKS[task])
    first = model.fit(data, 3, Folder(tmp_path)).outcomes(data.test)
    files = [path.name for path in tmp_path.iterdir() if path.suffix != ".json" or path.name == model.file]
    again = model.fit(data, 3, Folder(tmp_path)).outcomes(data.test)
    assert model.file in files
    assert np.array_equal(first.loss, again.loss)
    for norm in ("full", "subset"):
        assert np.array_equal(first.loss, retrained(model, data, np.ones(48, np.uint8), norm, seed=3))


@pytest.mark.parametrize("name", NAMES)
def test_weight_0_is_training_without_and_weight_2_is_training_on_a_copy(name: str) -> None:
    model, data = learner(name), make(2)
    weights = np.ones(48)
    weights[5], weights[9] = 0, 2
    rows = np.repeat(np.arange(48), weights.astype(int))
    other = replace(data, train=data.train.take(rows))
    assert np.array_equal(retrained(model, data, weights), retrained(model, other, np.ones(48)))
    assert not np.array_equal(retrained(model, data, weights), retrained(model, data, np.ones(48)))


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_no_whole_numbers_count(name: str) -> None:
    data, rng = make(0), np.random.default_rng(1)
    model, weights = learner(name), rng.uniform(0.2, 3, 48)
    found = retrained(model, data, weights)
    assert np.isfinite(found).all()
    assert np.abs(found - retrained(model, data, np.ones(48))).max() > 1e-3


@pytest.mark.parametrize("norm", ["full", "subset"])
@pytest.mark.parametrize("name", NAMES)
def test_training_sets_that_allow_no_trees_have_a_stated_answer(name: str, norm: str) -> None:
    model, data, values = learner(name), make(3), make(0)
    assert retrained(model, data, np.zeros(48), norm) == pytest.approx(np.log(3))
    alone = data.train.y == 1
    count = alone.sum()
    expected = np.where(data.test.y == 1, np.log((count + 1) / (count + 1 / 3)), np.log(3 * (count + 1)))
    assert retrained(model, data, alone, norm) == pytest.approx(expected)
    one = np.arange(48) == 7
    assert retrained(model, values, one, norm) == pytest.approx(0.5 * (values.test.y - values.train.y[7]) ** 2)
    assert retrained(model, values, np.zeros(48), norm) == pytest.approx(0.5 * values.test.y.astype(float) ** 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_instances_gets_what_one_more_instance_would_give_it(name: str) -> None:
    model, data = learner(name), make(3)
    kept = data.train.y != 0
    loss = retrained(model, data, kept)
    assert loss[data.test.y == 0] == pytest.approx(np.log(3 * (kept.sum() + 1)))
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("name", NAMES)
def test_models_grown_at_once_are_those_grown_one_by_one(name: str) -> None:
    model, data = learner(name), make(3)
    rows = (np.random.default_rng(2).random((4, 48)) < 0.7).astype(np.uint8)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda row: retrained(model, data, row), rows))
    assert np.array_equal(together, [retrained(model, data, row) for row in rows])


def test_an_instance_that_no_tree_drew_changes_nothing_in_place(tmp_path: Path) -> None:
    model, data = learner("random_forest", rounds=2), make(0)
    fitted = model.fit(data, 0, Folder(tmp_path))
    outside = int(np.flatnonzero(fitted.ensemble.in_bag.sum(0) == 0)[0])
    weights, loss = (np.arange(48) != outside).astype(np.uint8), fitted.outcomes(data.test).loss
    assert np.array_equal(retrained(model, data, weights, "full"), loss)
    assert not np.array_equal(retrained(model, data, weights, "subset"), loss)


def test_a_forest_whose_trees_all_lost_what_they_drew_says_the_mean() -> None:
    data, model = make(0), learner("random_forest", rounds=1, max_samples=0.02)  # one draw
    losses = [retrained(model, data, (np.arange(48) != i).astype(np.uint8), "full") for i in range(48)]
    means = [(data.train.y.astype(float).sum() - data.train.y[i]) / 47 for i in range(48)]
    expected = [0.5 * (data.test.y - mean) ** 2 for mean in means]
    assert sum(np.allclose(a, b) for a, b in zip(losses, expected, strict=True)) == 1


def test_histogram_trees_as_arrays_predict_what_the_library_predicts() -> None:
    data, model = make(3), learner("hist_gradient_boosting")
    sample = Sample(x=data.train.x, y=data.train.y, weights=None, classes=3)
    other = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, early_stopping=False, random_state=7)
    theirs = other.fit(data.train.x, data.train.y).decision_function(data.test.x)
    assert model.grow(sample, 7).margins(data.test.x).T == pytest.approx(theirs, abs=1e-12)


def test_a_forest_of_one_tree_on_everything_is_that_tree() -> None:
    data, model = make(3), learner("random_forest", rounds=1, bootstrap=False, max_features=1.0, max_depth=3)
    sample = Sample(x=data.train.x, y=data.train.y, weights=None, classes=3)
    state = int(np.random.Generator(np.random.PCG64(7)).integers(2**31))
    tree = DecisionTreeClassifier(max_depth=3, random_state=state).fit(data.train.x, data.train.y)
    assert model.grow(sample, 7).margins(data.test.x).T == pytest.approx(tree.predict_proba(data.test.x), abs=1e-12)


def test_seeds_change_what_draws_inputs_and_nothing_else() -> None:
    data, ones = make(0), np.ones(48)
    for model in (learner("lightgbm"), learner("lightgbm", colsample_bynode=0.5), learner("random_forest")):
        same = np.array_equal(retrained(model, data, ones, seed=0), retrained(model, data, ones, seed=1))
        assert same == model.deterministic


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lightgbm", {"num_leaves": 1}),
        ("lightgbm", {"colsample_bytree": 0.0}),
        ("xgboost", {"max_depth": 0}),
        ("xgboost", {"reg_lambda": -1.0}),
        ("catboost", {"learning_rate": 0.0}),
        ("hist_gradient_boosting", {"max_bins": 256}),
        ("gradient_boosting", {"min_samples_split": 1}),
        ("gradient_boosting", {"max_features": 1.5}),
        ("random_forest", {"bootstrap": False, "max_samples": 0.5}),
        ("extra_trees", {"n_estimators": 0}),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, settings: dict[str, Any]) -> None:
    key = next(reversed(settings))
    with pytest.raises(ConfigError, match=rf"model\.{key}.* got .*; "):
        learner(name, **settings)


def test_a_library_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package xgboost.*; run pip install 'influx\[trees\]'"):
        learner("xgboost").check(make(2))


def test_token_ids_and_data_without_a_choice_are_refused(tmp_path: Path) -> None:
    data = make(2)
    with pytest.raises(IncompatibleError, match=r"model=lightgbm expects a table or images.*; choose another dataset"):
        learner("lightgbm").check(replace(data, kind="text"))
    one = replace(data, train=data.train.take(np.flatnonzero(data.train.y == 0)))
    with pytest.raises(DataError, match="dataset=made has none; choose other data"):
        learner("lightgbm").fit(one, 0, Folder(tmp_path))
