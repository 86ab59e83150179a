"""Shapley values of training: the empty set, groups, prefixes, truncation, tables and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect
from influx.problem import Design

SAMPLED = {"permutations": 40, "stop": "budget"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=6), MLP(width=3), SGD(lr=0.3))


def test_another_value_of_nothing_moves_all_values_equally(toy: Toy) -> None:
    one, two = (toy.estimate("shapley", empty_value=value).values for value in (1.0, 2.5))
    assert np.allclose(two - one, 1.5 / 6, rtol=1e-12)


def test_the_value_of_the_mean_risk_is_the_mean_of_the_columns(toy: Toy) -> None:
    found = toy.estimate("shapley_interaction", groups="label")
    table = found.tables["groups"].set_index("group")["value"]
    each = found.tables["groups_by_test"].groupby("group")["value"].mean()
    assert np.allclose(table, each.loc[table.index], rtol=1e-12)


def test_scale_is_loss_for_the_loss_alone(toy: Toy) -> None:
    assert [toy.estimate("shapley", target=t).scale for t in ("loss", "margin", "zero_one")] == ["loss", "rank", "rank"]


def test_groups_share_their_value_and_instances_in_none_have_none(toy: Toy, tmp_path: Path) -> None:
    ids = toy.train.ids
    file = tmp_path / "groups.csv"
    pd.DataFrame({"train_id": ids[[0, 1, 3]], "group": ["a", "a", "b"]}).to_csv(file, index=False)
    found = toy.estimate("shapley", groups=str(file))
    assert np.array_equal(found.computed, [True, True, False, True, False, False])
    table = found.tables["groups_by_test"].pivot(index="group", columns="test_id", values="value").to_numpy()
    assert np.allclose(found.values[[0, 1, 3]], [table[0] / 2, table[0] / 2, table[1]], rtol=1e-12)
    assert found.tables["groups"]["size"].tolist() == [2, 1]


@pytest.mark.parametrize("name", ["tmc_shapley", "beta_shapley"])
def test_more_permutations_go_on_from_fewer(name: str, tmp_path: Path) -> None:
    data, model = toys.table(n_train=6), MLP(width=3)
    extended = toys.train(tmp_path / "extended", data, model)
    extended.estimate(name, **SAMPLED)
    afresh = toys.train(tmp_path / "afresh", data, model)
    more = SAMPLED | {"permutations": 80}
    assert np.array_equal(extended.estimate(name, **more).values, afresh.estimate(name, **more).values)
    assert not np.array_equal(extended.estimate(name, **SAMPLED).values, extended.estimate(name, **more).values)


def test_results_do_not_depend_on_how_many_prefixes_are_trained_together(toy: Toy) -> None:
    for truncation in (0.0, 0.4):
        settings = SAMPLED | {"truncation": truncation, "patience": 1}
        one, all_ = (toy.estimate("tmc_shapley", block=block, **settings) for block in (1, 6))
        assert np.allclose(one.values, all_.values, rtol=1e-12, atol=1e-15)
        assert one.report["truncated"] == all_.report["truncated"]
        assert (one.report["truncated"] > 0) == (truncation > 0)


def test_untruncated_permutations_divide_the_gain_of_training(toy: Toy) -> None:
    found = toy.estimate("tmc_shapley", truncation=0.0, **SAMPLED).values.sum(axis=0)
    assert np.allclose(found, toy.estimate("shapley").values.sum(axis=0), rtol=1e-12)


def test_beta_1_1_is_the_untruncated_shapley_value_of_the_same_permutations(toy: Toy) -> None:
    problem = toys.estimator_named("beta_shapley", SAMPLED | {"alpha": 1.0, "beta": 1.0})
    other = toys.estimator_named("tmc_shapley", SAMPLED | {"truncation": 0.0})
    first, second = (each.estimate(toy.run(each, "same")) for each in (problem, other))
    assert np.allclose(first.values, second.values, rtol=1e-12)
    assert np.allclose(first.stderr, second.stderr, rtol=1e-12)


def test_the_plan_lists_the_trainings_that_the_run_asks_for(toy: Toy) -> None:
    for name, settings in (
        ("shapley", {"seeds": 2}),
        ("tmc_shapley", SAMPLED | {"truncation": 0.0}),
        ("beta_shapley", SAMPLED),
        ("shapley_interaction", {}),
        ("shapley_interaction", {"estimator": "permutation", "permutations": 5}),
        ("shapley_taylor", {"estimator": "permutation", "permutations": 2}),
    ):
        estimator = estimator_named(name, settings)
        (planned,) = estimator.plan(Prospect(problem=toy.problem, who=name)).trainings
        asked: set[bytes] = set()
        run = toy.run(estimator, name)
        parts = run.bank.parts

        def spied(design: Design, label: str, parts=parts, asked=asked):
            asked |= keys(design)
            return parts(design, label)

        run.bank.parts = spied
        estimator.estimate(run)
        assert asked == keys(planned)


def keys(design: Design) -> set[bytes]:
    rows = zip(design.weights, design.init, design.order, strict=True)
    return {bytes(row) + bytes([init, order]) for row, init, order in rows if row.any()}


def test_interactions_by_permutation_are_close_to_the_exact_ones(toy: Toy) -> None:
    for name, count in (("shapley_interaction", 3000), ("shapley_taylor", 1000)):
        exact = toy.estimate(name).tables["interactions"]
        found = toy.estimate(name, estimator="permutation", permutations=count).tables["interactions"]
        assert found[["first", "second"]].equals(exact[["first", "second"]])
        z = (found["value"] - exact["value"]) / found["stderr"]
        assert 0.3 < np.sqrt(np.square(z).mean()) < 2


def test_few_permutations_warn_of_pairs_without_a_value(toy: Toy) -> None:
    estimator = estimator_named("shapley_interaction", {"estimator": "permutation", "permutations": 2})
    run = toy.run(estimator, "few")
    found = estimator.estimate(run)
    assert np.isfinite(found.values).all() and found.tables["interactions"]["value"].isna().any()
    assert len(run.warnings) == 1 and "never neighbours" in run.warnings[0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tmc_shapley", {"permutations": 3}),
        ("tmc_shapley", {"permutations": 1, "antithetic": False}),
        ("tmc_shapley", {"check_every": 5}),
        ("tmc_shapley", {"truncation": -0.1}),
        ("tmc_shapley", {"patience": 0}),
        ("tmc_shapley", {"block": 0}),
        ("tmc_shapley", {"window": 0}),
        ("tmc_shapley", {"convergence": -1.0}),
        ("tmc_shapley", {"target_stderr": -1.0}),
        ("beta_shapley", {"alpha": 0.0}),
        ("beta_shapley", {"beta": float("inf")}),
        ("beta_shapley", {"block": 0}),
        ("beta_shapley", {"gr_threshold": -1.0}),
        ("beta_shapley", {"stop": "gelman_rubin"}),
        ("shapley_interaction", {"permutations": 1}),
        ("shapley_taylor", {"permutations": 0}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
        estimator_named(name, settings)
