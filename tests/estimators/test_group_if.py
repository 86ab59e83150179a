"""Groups by influence functions: signed sums, the Newton step that ridge regression takes, refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.engines import group_shifts
from influx.engines.groups import Groups
from influx.engines.solvers import choice
from influx.engines.solvers.lissa import LiSSA
from influx.errors import ConfigError, NumericalError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.models.linear import Linear
from influx.models.mlp import MLP
from influx.oracles import groups_if, toys
from influx.oracles.groups_if import effects, members, refitted, shifts, written
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def ridge(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return groups_if.ridge(tmp_path_factory.mktemp("ridge"))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("net"), toys.table(), MLP(width=3), SGD(lr=0.2, weight_decay=0.1))


def undecayed(tmp_path: Path) -> Toy:
    return toys.train(tmp_path, toys.table("regression", n_train=9, features=3), Linear(), SGD(lr=0.1))


def effects_of(found: Influence) -> pd.DataFrame:
    return found.tables["group_influence"]


def warned(toy: Toy, name: str, **settings: object) -> list[str]:
    estimator = estimator_named(name, settings)
    run = toy.run(estimator, name)
    estimator.estimate(run)
    return run.warnings


@pytest.mark.parametrize("damping", [0.0, 0.4])
def test_t7_a_group_is_the_sum_of_its_influence_functions(ridge: Toy, tmp_path: Path, damping: float) -> None:
    groups = members(len(ridge.train))
    found = ridge.estimate("group_if", groups=written(tmp_path, ridge, groups), damping=damping)
    expected = groups @ ridge.estimate("if_exact", damping=damping).values
    np.testing.assert_allclose(effects(found, 3), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(found.tables["groups"]["influence"], expected.mean(axis=1), rtol=1e-10)
    assert "newton_over_additive" not in found.report and found.stderr is None


def test_t7_newton_is_ridge_without_10_25_and_50_percent(ridge: Toy, tmp_path: Path) -> None:
    groups = members(len(ridge.train))
    settings = {"groups": written(tmp_path, ridge, groups), "damping": 0.0}
    expected = np.stack([refitted(ridge, 1 - row) for row in groups])
    found = shifts(ridge, effects(ridge.estimate("group_if", newton=True, **settings), 3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    additive = shifts(ridge, effects(ridge.estimate("group_if", **settings), 3))
    errors = np.linalg.norm(additive - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert (errors > [0.05, 0.15, 0.3]).all()  # what the sum of influence functions leaves out


def test_e10_opposite_signs_cancel(ridge: Toy, tmp_path: Path) -> None:
    single = ridge.estimate("if_exact", damping=0.0).values[:, 0]
    order = single.argsort()
    row = np.zeros(len(single))
    row[[order[0], order[1], order[-1], order[-2]]] = 1
    found = effects(ridge.estimate("group_if", groups=written(tmp_path, ridge, row[None]), damping=0.0), 1)[0, 0]
    chosen = single[row > 0]
    assert found == pytest.approx(chosen.sum(), abs=1e-12)
    assert abs(found) < 0.8 * np.abs(chosen).sum()


def test_instances_share_their_groups_influence(ridge: Toy, tmp_path: Path) -> None:
    groups = np.zeros((2, len(ridge.train)))
    groups[0, :4], groups[1, 3:5] = 1, 1
    found = ridge.estimate("group_if", groups=written(tmp_path, ridge, groups))
    whole = effects(found, 2)
    expected = [whole[0] / 4] * 3 + [whole[0] / 4 + whole[1] / 2, whole[1] / 2]
    np.testing.assert_allclose(found.values[:5], expected, atol=1e-15)
    assert np.isnan(found.values[5:]).all()
    assert (found.report["in_no_group"], found.report["in_several_groups"]) == (len(ridge.train) - 5, 1)
    assert found.self_influence is None and "share" in found.self_influence_note


def test_groups_of_one_are_influence_functions(net: Toy, tmp_path: Path) -> None:
    settings = {"damping": 2.0, "curvature": "hessian"}
    found = net.estimate("group_if", groups=written(tmp_path, net, np.eye(len(net.train))), **settings)
    np.testing.assert_allclose(found.values, net.estimate("if_exact", **settings).values, rtol=0, atol=1e-14)


@pytest.mark.parametrize("curvature", ["ggn", "hessian", "sampled_fisher", "empirical_fisher"])
def test_newton_by_products_is_newton_by_matrices(net: Toy, tmp_path: Path, curvature: str) -> None:
    groups = members(len(net.train))
    settings = {"groups": written(tmp_path, net, groups), "curvature": curvature, "damping": 2.0, "newton": True}
    exact, cg = (net.estimate("group_if", solver=solver, **settings) for solver in ("exact", "cg"))
    np.testing.assert_allclose(cg.values, exact.values, rtol=0, atol=1e-6 * np.nanmax(np.abs(exact.values)))
    assert exact.report["newton_residual"] < 1e-12 and cg.report["newton_residual"] <= 1e-6
    assert exact.report["newton_over_additive"] == pytest.approx(cg.report["newton_over_additive"], rel=1e-5)


def test_the_report_says_how_much_curvature_leaves_with_a_group(ridge: Toy, tmp_path: Path) -> None:
    groups = members(len(ridge.train))
    settings = {"groups": written(tmp_path, ridge, groups), "damping": 0.0}
    additive, newton = (ridge.estimate("group_if", newton=value, **settings) for value in (False, True))
    a, b = effects(additive, 3), effects(newton, 3)
    assert newton.report["newton_over_additive"] == pytest.approx((a * b).sum() / (a * a).sum())
    each = newton.tables["groups"]["newton_over_additive"].to_numpy()
    np.testing.assert_allclose(each, (a * b).sum(axis=1) / (a * a).sum(axis=1))
    assert 1 < each[0] < each[1] < each[2]  # the sum understates larger groups more
    assert newton.report["largest_share"] == 0.5


def test_lissa_gives_a_standard_error(net: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choice.SOLVERS, "lissa", LiSSA(depth=60, batch_size=6, repeats=6))
    settings = {"damping": 2.0, "groups": "random", "group_count": 2, "group_size": 3}
    found, exact = (effects_of(net.estimate("group_if", solver=name, **settings)) for name in ("lissa", "exact"))
    assert (found["stderr"] > 0).all() and exact["stderr"].isna().all()
    assert (np.abs(found["influence"] - exact["influence"]) < 5 * found["stderr"]).all()  # t with 5 degrees


def test_few_parameter_changes_at_a_time_are_the_same(
    ridge: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = members(len(ridge.train))
    settings = {"groups": written(tmp_path, ridge, groups), "newton": True}
    expected = ridge.estimate("group_if", **settings).values
    monkeypatch.setattr(group_shifts, "HELD_BYTES", 1)
    np.testing.assert_allclose(ridge.estimate("group_if", **settings).values, expected, rtol=1e-9)


def test_all_instances_add_up_but_leave_no_newton_step(ridge: Toy, tmp_path: Path) -> None:
    file = written(tmp_path, ridge, np.ones((1, len(ridge.train))))
    found = effects(ridge.estimate("group_if", groups=file), 1)[0]
    np.testing.assert_allclose(found, ridge.estimate("if_exact").values.sum(axis=0), rtol=0, atol=1e-10)
    with pytest.raises(ConfigError, match=r"^group 'group 0' holds all 60 training instances and nothing .*leave some"):
        ridge.estimate("group_if", groups=file, newton=True)


def test_an_unknown_id_is_refused(ridge: Toy, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("train_id,group\n999999,a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"names training ids that do not exist .*999999.*remove them"):
        ridge.estimate("group_if", groups=str(path))


def test_a_group_without_instances_is_refused(ridge: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Groups(("full", "void"), np.stack([np.arange(60) < 3, np.zeros(60, bool)]))
    monkeypatch.setattr(group_shifts, "groups_of", lambda *_: none)
    with pytest.raises(ConfigError, match=r"'void' has none; leave it out of estimator.groups"):
        ridge.estimate("group_if")


def test_a_solver_that_cannot_leave_a_group_out_is_refused(ridge: Toy) -> None:
    with pytest.raises(ConfigError, match=r"solver=ekfac cannot; set estimator.solver=auto, exact or cg"):
        ridge.estimate("group_if", newton=True, solver="ekfac")


def test_a_curvature_that_is_singular_without_the_group_names_a_damping(tmp_path: Path) -> None:
    toy = undecayed(tmp_path)
    row = np.ones(9)
    row[:2] = 0  # two instances do not fix four parameters
    settings = {"groups": written(tmp_path, toy, row[None]), "newton": True, "solver": "exact"}
    with pytest.raises(NumericalError, match="without group 'group 0'") as refused:
        toy.estimate("group_if", damping=0.0, **settings)
    enough = re.search(r"set estimator.damping=(\S+) or", str(refused.value))
    assert enough and "\n" not in str(refused.value)
    assert np.isfinite(effects(toy.estimate("group_if", damping=float(enough[1]), **settings), 1)).all()


def test_parameters_that_are_no_minimum_are_reported(net: Toy, ridge: Toy) -> None:
    assert any("not at a minimum" in sentence for sentence in warned(net, "group_if", damping=2.0))
    assert not warned(ridge, "group_if")


def test_tests_do_not_depend_on_each_other(net: Toy) -> None:
    few = net.with_data(replace(net.problem.data, test=net.test.take(slice(0, 2))))
    found, expected = (toy.estimate("group_if", newton=True, damping=2.0).values for toy in (few, net))
    np.testing.assert_allclose(found, expected[:, :2], rtol=1e-12)
