"""Trees as arrays: derivatives, margins and leaf values that are held against the library's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from influx.engines.features import Features
from influx.engines.forest import Forest, Name, Objective
from influx.engines.forest_reading import check, read
from influx.errors import IncompatibleError
from influx.store import Folder
from tests.models.test_trees import BOOSTED, NAMES, TASKS, learner, make


def forest(name: str, classes: int, folder: Path, **settings: Any) -> tuple[Any, Forest]:
    data = make(classes)
    fitted = learner(name, **settings).fit(data, 0, Folder(folder))
    return fitted, read(fitted, data)


@pytest.mark.parametrize("name", [name for name in get_args(Name) if name != "share"])
def test_derivatives_are_those_of_the_risk(name: Name) -> None:
    rng, objective, step = np.random.default_rng(0), Objective(name), 1e-5
    outputs = 3 if name == "softmax" else 1
    margins = rng.normal(size=(2, outputs, 5))
    y = rng.integers(0, max(outputs, 2), 5) if name != "squared_error" else rng.normal(size=5)
    for c in range(outputs):
        moved = np.zeros_like(margins)
        moved[:, c] = step
        up, down = margins + moved, margins - moved
        slope = (objective.risk(up, y) - objective.risk(down, y)) / (2 * step)
        g, h = objective.slopes(margins, y)
        assert g[:, c] == pytest.approx(slope, abs=1e-8)
        slope = (objective.slopes(up, y)[0] - objective.slopes(down, y)[0])[:, c] / (2 * step)
        assert h[:, c] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_leaf_values_and_margins_are_the_librarys(name: str, task: str, tmp_path: Path) -> None:
    fitted, found = forest(name, TASKS[task], tmp_path)
    exact = 1e-9 if name in ("catboost", "gradient_boosting", "random_forest", "extra_trees") else 2e-6
    assert found.recomputed() == pytest.approx(found.values, abs=exact)
    data = fitted.predictor.data
    assert found.margins()[1] == pytest.approx(fitted.margins(data.test), abs=2e-6)
    for split, leaves in zip((data.train, data.test), (found.train_leaves, found.test_leaves), strict=True):
        assert np.array_equal(leaves, fitted.leaves(split))
    assert found.boosted == (name in BOOSTED)
    assert not found.fixed.all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lightgbm", {"reg_lambda": 2.0, "colsample_bytree": 0.5, "max_bin": 16}),
        ("lightgbm", {"min_child_samples": 40}),  # nothing can be split
        ("xgboost", {"reg_lambda": 5.0, "gamma": 1.0, "max_leaves": 5, "grow_policy": "lossguide"}),
        ("xgboost", {"colsample_bynode": 0.5, "min_child_weight": 4.0}),
        ("catboost", {"grow_policy": "Depthwise", "min_data_in_leaf": 4, "random_strength": 1.0, "rsm": 0.5}),
        ("hist_gradient_boosting", {"l2_regularization": 3.0, "max_features": 0.5}),
        ("gradient_boosting", {"max_leaf_nodes": 4, "max_features": "sqrt"}),
        ("random_forest", {"max_samples": 0.3, "min_samples_leaf": 3}),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_other_settings_follow_the_rule_too(name: str, settings: dict[str, Any], task: str, tmp_path: Path) -> None:
    found = forest(name, TASKS[task], tmp_path, **settings)[1]
    assert found.recomputed() == pytest.approx(found.values, abs=2e-6)


@pytest.mark.parametrize("task", ["regression", "three classes"])
def test_walking_through_the_rounds_gives_their_margins(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = forest("hist_gradient_boosting", TASKS[task], tmp_path)[1]
    monkeypatch.setattr("influx.engines.forest.STRETCH_BYTES", 1)  # one round at a time
    for one in (found, replace(found)):
        stretches = list(one.stretches())
        assert len(stretches) == (1 if one is found else found.rounds)
        for number, leaves in enumerate((found.train_leaves, found.test_leaves)):
            total = np.tile(found.base[:, None], leaves.shape[-1])
            for t, before in enumerate(rows for s in stretches for rows in (s.test if number else s.train)(s.before)):
                assert before == pytest.approx(total, abs=1e-12)
                assert one.margins(t)[number] == pytest.approx(total, abs=1e-12)
                total = total + [found.tree(t, c)[leaf] for c, leaf in enumerate(leaves[t])]
            assert t == found.rounds - 1


def test_other_leaf_values_or_margins_are_refused_with_the_difference(tmp_path: Path) -> None:
    found = forest("lightgbm", 2, tmp_path)[1]
    margins = found.margins()
    wrong = replace(found, l2=0.1)
    with pytest.raises(IncompatibleError, match=r"leaf values .* model=lightgbm .* differ by up to 0\.\d+ .*; "):
        check(wrong, *margins, name="lightgbm")
    with pytest.raises(IncompatibleError, match=r"margins of test instances .* differ by up to 0\.0\d+ "):
        check(found, margins[0], margins[1] + 0.01, name="lightgbm")
    assert check(found, *margins, name="lightgbm") is found


def test_leaves_of_lightgbm_without_a_training_instance_are_refused(tmp_path: Path) -> None:
    fitted, found = forest("lightgbm", 3, tmp_path)
    told = fitted.ensemble.values(found.train_leaves)
    assert np.array_equal(told.values, found.values)
    last, there = found.train_leaves[0, 0] == found.sizes[0, 0] - 1, len(found.values)
    with pytest.raises(IncompatibleError, match=rf"^\d+ of {there} leaves of model=lightgbm hold none of .*; give "):
        fitted.ensemble.values(found.train_leaves[..., ~last])


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_seen_alike_together_and_apart(name: str, tmp_path: Path) -> None:
    fitted, found = forest(name, 3, tmp_path)
    grown, x, rows = fitted.ensemble, fitted.predictor.data.test.x, np.array([3, 1])
    leaves, margins = grown.seen(x, rows)
    assert np.array_equal(leaves, found.test_leaves)
    assert margins == pytest.approx(grown.margins(x[rows]), abs=1e-12)


def test_a_class_without_training_instances_is_refused(tmp_path: Path) -> None:
    data = make(3)
    data = replace(data, train=data.train.take(np.flatnonzero(data.train.y != 1)))
    with pytest.raises(IncompatibleError, match=r"instances of every class, dataset=made has only 2 of 3"):
        read(learner("lightgbm").fit(data, 0, Folder(tmp_path)), data)


@pytest.mark.parametrize("name", ["lightgbm", "random_forest"])
def test_products_of_leaf_features_are_the_share_of_trees_that_do_not_part_two_instances(
    name: str, tmp_path: Path
) -> None:
    fitted, found = forest(name, 3, tmp_path)
    data = fitted.predictor.data
    mine, theirs = (Features(fitted).penultimate(split).numpy() for split in (data.train, data.test))
    left, right = (leaves.reshape(-1, leaves.shape[-1]) for leaves in (found.train_leaves, found.test_leaves))
    assert mine @ theirs.T == pytest.approx((left[:, :, None] == right[:, None, :]).mean(0), abs=1e-12)
