"""Tree methods: refits that retraining confirms, derivatives on trees made by hand, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from influx.engines.forest import Forest, Objective
from influx.engines.forest_derivatives import Derivatives
from influx.engines.forest_refit import Refitter
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.trees.catboost import CatBoost
from influx.learners.trees.extra_trees import ExtraTrees
from influx.learners.trees.gradient_boosting import GradientBoosting
from influx.learners.trees.hist_gradient_boosting import HistGradientBoosting
from influx.learners.trees.learner import TreeLearner
from influx.learners.trees.lightgbm import LightGBM
from influx.learners.trees.random_forest import RandomForest
from influx.learners.trees.xgboost import XGBoost
from influx.oracles.toys import Toy, estimator_named, learned, table
from influx.oracles.tree_loops import Trees
from influx.perspectives.group import Group
from influx.problem import Data, Split

CLASSES = {"squared_error": 0, "logistic": 2, "softmax": 3}
OBJECTIVES = list(CLASSES)
STUMPS: list[TreeLearner] = [
    LightGBM(n_estimators=4, min_child_samples=1, min_child_weight=0.0),
    XGBoost(n_estimators=4, max_depth=1, min_child_weight=0.0, learning_rate=0.3),
    CatBoost(iterations=4, depth=1),
    HistGradientBoosting(max_iter=4, min_samples_leaf=1),
    GradientBoosting(n_estimators=4),
]


def by_hand(objective: str, newton: bool = True, l2: float = 0.0) -> Forest:
    """Random leaves, some of one instance and some of none; one tree whose values are given."""
    rng = np.random.default_rng(1)
    n, m, rounds, leaves, outputs = 12, 5, 4, 4, 3 if objective == "softmax" else 1
    labels = [
        rng.normal(size=k) if objective == "squared_error" else rng.integers(CLASSES[objective], size=k) for k in (n, m)
    ]
    fixed = np.zeros((rounds, outputs), bool)
    fixed[1, 0] = True
    return Forest(
        boosted=True,
        objective=Objective(objective),  # type: ignore[arg-type]
        train_y=labels[0],
        test_y=labels[1],
        base=rng.normal(size=outputs),
        train_leaves=rng.integers(leaves, size=(rounds, outputs, n)).astype(np.int32),
        test_leaves=rng.integers(leaves, size=(rounds, outputs, m)).astype(np.int32),
        values=0.1 * rng.normal(size=rounds * outputs * leaves),
        sizes=np.full((rounds, outputs), leaves),
        fixed=fixed,
        rate=0.4,
        l2=l2,
        factor=0.8,
        newton=newton,
    )


@pytest.mark.parametrize("newton", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_refits_equal_a_loop_over_leaves(objective: str, newton: bool) -> None:
    forest = by_hand(objective, newton)
    weights = np.random.default_rng(0).integers(3, size=(6, 12)).astype(np.float64)
    weights[0] = 0.0  # nothing is left: the base value
    loops = [Trees(forest, CLASSES[objective]).margins(row) for row in weights]
    train, test, _ = Refitter(forest).margins(torch.from_numpy(weights.T.copy()))
    assert np.allclose(train.permute(2, 1, 0).numpy(), [mine for mine, _ in loops], atol=1e-12)
    assert np.allclose(test.permute(2, 1, 0).numpy(), [theirs for _, theirs in loops], atol=1e-12)


@pytest.mark.parametrize("newton", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_derivatives_equal_differences_of_refits(objective: str, newton: bool) -> None:
    forest, step = by_hand(objective, newton, l2=0.3), 1e-5
    trees, n = Trees(forest, CLASSES[objective]), 12
    pairs = [(trees.risks(1 + step * unit)[1], trees.risks(1 - step * unit)[1]) for unit in np.eye(n)]
    expected = np.array([(less - more) / (2 * step) for more, less in pairs])
    backwards = Derivatives(forest).back(np.arange(5), on_train=False).numpy()
    forwards = Derivatives(forest).forward(np.arange(n), 4)[0].T.numpy()
    assert np.abs(backwards - expected).max() < 1e-8 * np.abs(expected).max() + 1e-9
    assert np.allclose(forwards, backwards, atol=1e-13)
    alone = Derivatives(forest, cross=False).back(np.arange(5), on_train=False).numpy()
    assert np.allclose(alone, backwards, atol=1e-13) == (objective != "softmax")


def switched(task: str, above: float = 0.0) -> Data:
    """One input of two values: no removal changes the split."""
    data = table(task, n_train=14, n_test=4)  # type: ignore[arg-type]

    def cut(split: Split) -> Split:
        return replace(split, x=(split.x[:, :1] > above).astype(np.float32))

    return replace(data, train=cut(data.train), test=cut(data.test))


@pytest.mark.parametrize("learner", STUMPS, ids=lambda learner: learner.name)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_refits_equal_retraining_where_no_split_can_change(task: str, learner: TreeLearner, tmp_path: Path) -> None:
    pytest.importorskip(learner.package)
    toy = learned(tmp_path, switched(task), learner)
    based = learner.name != "catboost" or task == "regression"
    found = toy.estimate("leaf_refit", refit_base=based)
    assert np.abs(found.values).max() > 1e-3
    assert np.allclose(found.values, toy.estimate("loo", renormalise=True).values, atol=2e-6)
    groups = toy.estimate("group_loo", groups="random", group_count=4, group_size=3, renormalise=True).tables["groups"]
    mine = toy.estimate("leaf_refit", refit_base=based, groups="random", group_count=4, group_size=3).tables["groups"]
    assert np.allclose(mine["influence"], groups["influence"], atol=2e-6)


AVERAGED: dict[str, TreeLearner] = {
    "random_forest": RandomForest(n_estimators=5),
    "extra_trees": ExtraTrees(n_estimators=3),
    "trees of one leaf, which go with their instance": RandomForest(n_estimators=5, max_samples=0.07),
    "one tree of one leaf, without which there is the mean": RandomForest(n_estimators=1, max_samples=0.07),
}


@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_refits_of_averaged_trees_equal_retraining_where_no_split_can_change(
    task: str, name: str, tmp_path: Path
) -> None:
    toy = learned(tmp_path, switched(task, above=0.7), AVERAGED[name])  # some samples have one instance of a value
    asked = {"groups": "random", "group_count": 4, "group_size": 3}
    found, loo = toy.estimate("leaf_refit", **asked), toy.estimate("loo")
    assert np.abs(found.values).max() > 1e-3
    assert np.allclose(found.values, loo.values, atol=1e-6)
    assert found.self_influence is not None and loo.self_influence is not None
    assert np.allclose(found.self_influence, loo.self_influence, atol=1e-6)
    groups = toy.estimate("group_loo", **asked).tables["groups"]
    assert np.allclose(found.tables["groups"]["influence"], groups["influence"], atol=1e-6)


@pytest.mark.parametrize("name", ["random_forest", "one tree of one leaf, without which there is the mean"])
def test_refits_without_a_class_equal_retraining_where_no_split_can_change(name: str, tmp_path: Path) -> None:
    data = switched("classification", above=0.7)
    few = np.flatnonzero((data.train.y != 2) | (np.cumsum(data.train.y == 2) == 1))  # one of the last class
    toy = learned(tmp_path, replace(data, train=data.train.take(few)), AVERAGED[name])
    found, loo = toy.estimate("leaf_refit", groups="label"), toy.estimate("loo")
    assert found.self_influence is not None and loo.self_influence is not None
    assert np.allclose(found.values, loo.values, atol=1e-6)
    assert np.allclose(found.self_influence, loo.self_influence, atol=1e-6)
    groups = toy.estimate("group_loo", groups="label").tables["groups"]
    assert np.allclose(found.tables["groups"]["influence"], groups["influence"], atol=1e-6)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return learned(
        tmp_path_factory.mktemp("toy"), table(n_train=40, n_test=6), GradientBoosting(n_estimators=8, max_depth=2)
    )


def test_the_group_perspective_shows_groups_as_a_whole(toy: Toy) -> None:
    found = toy.estimate("leaf_refit")
    run = toy.run(estimator_named("leaf_refit"), "leaf_refit")
    table = Group().look([found], run).tables["perspective"].sort_values("group")
    refitter = Refitter(run.forest)
    labels = np.stack([toy.train.y == label for label in range(3)])
    kept = torch.from_numpy(np.concatenate([np.ones((1, 40)), ~labels]).T.astype(np.float64))
    risk = refitter.test.risk(refitter.margins(kept)[1]).mean(0).numpy()
    assert np.allclose(table["influence"], risk[1:] - risk[0])
    assert np.abs(table["influence"] - table["sum_of_members"]).max() > 0.1  # members act together


def test_one_round_leaves_nothing_to_pass_on(tmp_path: Path) -> None:
    toy = learned(tmp_path, table(n_train=20), GradientBoosting(n_estimators=1, max_depth=2, min_samples_leaf=2))
    every = toy.estimate("leaf_influence").values
    for update_set in ("single", "top_k"):
        assert np.allclose(toy.estimate("leaf_influence", update_set=update_set, top_k=1).values, every, atol=1e-14)


def test_what_shares_no_leaf_has_no_boostin(toy: Toy) -> None:
    forest = toy.run(estimator_named("boostin"), "boostin").forest
    shared = (forest.train_leaves[..., :, None] == forest.test_leaves[..., None, :]).any((0, 1))
    values = toy.estimate("boostin").values
    assert (~shared).sum() > 20 and (values[~shared] == 0).all() and (values[shared] != 0).mean() > 0.9


def test_wrong_labels_harm(toy: Toy) -> None:
    data = toy.problem.data
    flipped = data.train.y.copy()
    flipped[:6] = (flipped[:6] + 1) % 3
    learner = GradientBoosting(n_estimators=8, max_depth=2, min_samples_leaf=5)
    wrong = learned(toy.folder / "wrong", replace(data, train=replace(data.train, y=flipped)), learner)
    for name in ("leaf_refit", "leaf_influence", "boostin", "trex"):
        found = wrong.estimate(name).self_influence
        assert found is not None and np.median(found[:6]) > np.quantile(found[6:], 0.8), name


def test_averaged_trees_are_refused_by_name(tmp_path: Path) -> None:
    toy = learned(tmp_path, table(n_train=20), RandomForest(n_estimators=3))
    for name in ("leaf_influence", "boostin"):
        with pytest.raises(IncompatibleError, match=f"estimator={name} needs boosted trees.*choose model=lightgbm"):
            toy.estimate(name)
    with pytest.raises(ConfigError, match=r"refit_base=true needs boosted trees.*set estimator\.refit_base=false"):
        toy.estimate("leaf_refit", refit_base=True)
    assert np.isfinite(toy.estimate("trex").values).all()


def test_leaves_of_one_instance_are_warned_of(tmp_path: Path) -> None:
    toy = learned(tmp_path, table(n_train=20), GradientBoosting(n_estimators=3, max_depth=4))
    run = toy.run(estimator_named("boostin"), "boostin")
    estimator_named("boostin").estimate(run)
    assert len(run.warnings) == 1 and "hold one training instance" in run.warnings[0]


def test_a_surrogate_short_of_its_optimum_is_refused(toy: Toy) -> None:
    with pytest.raises(NumericalError, match=r"after 1 steps; raise estimator\.penalty above 0\.006"):
        toy.estimate("trex", max_steps=1)


def test_a_base_value_that_is_no_optimum_is_not_refitted() -> None:
    with pytest.raises(IncompatibleError, match=r"away from them; set estimator\.refit_base=false"):
        Refitter(by_hand("logistic"), base=True).check_base()
