"""Shapley values of training: the empty set, groups, prefixes, truncation, tables and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.engines.players import Players
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.perspectives.asked import refused_by
from influx.planning import Prospect
from influx.problem import Design

GAMES = ("shapley", "tmc_shapley", "beta_shapley", "shapley_interaction", "shapley_taylor", "g_shapley")
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


def test_permutations_are_the_same_for_all_who_draw_them(tmp_path: Path) -> None:
    """So that one estimator's coalitions are in the bank for the next."""
    toy = toys.train(tmp_path, toys.table(n_train=7), MLP(width=3))
    settings = {"permutations": 6, "stop": "budget", "antithetic": False}
    first = estimator_named("tmc_shapley", settings | {"truncation": 0.0})
    first.estimate(toy.run(first, "one"))
    for name, given in (
        ("beta_shapley", settings),
        ("beta_shapley", {"permutations": 2 * 6, "stop": "budget"}),  # with their reverses
        ("shapley_interaction", {"estimator": "permutation", "permutations": 6}),
        ("shapley_taylor", {"estimator": "permutation", "permutations": 6}),
    ):
        design = estimator_named(name, given).plan(Prospect(problem=toy.problem, who=name)).trainings[0]
        bank = toy.run(first, "two").bank
        found = len(design) - len(bank.missing(design))
        assert found >= 6 * 6 * 0.8 and (found == len(design)) == (given is settings)


def test_joint_values_have_both_errors(toy: Toy) -> None:
    for name, settings in (
        ("tmc_shapley", SAMPLED),
        ("tmc_shapley", SAMPLED | {"groups": "label"}),
        ("beta_shapley", SAMPLED),
        ("shapley_interaction", {"estimator": "permutation"}),
        ("shapley_taylor", {"estimator": "permutation"}),
        ("g_shapley", SAMPLED),
        ("shapley", {"seeds": 2}),
    ):
        found = toy.estimate(name, **settings)
        joint, m = found.tables["joint"], found.values.shape[1]
        assert np.allclose(joint["influence"], found.values.mean(axis=1), rtol=1e-10)
        assert np.allclose(joint["stderr_test"], found.values.std(axis=1, ddof=1) / np.sqrt(m), rtol=1e-10)
        assert (joint["stderr_design"] > 0).all()
        assert (
            joint["stderr_design"] <= found.stderr.mean(axis=1) * (1 + 1e-9)
        ).all()  # of a mean: triangle inequality
        assert "table joint" in found.report["stderr_holds"]


def test_the_report_says_whether_the_error_holds_the_randomness_of_training(toy: Toy) -> None:
    for settings, said in (({}, "no randomness of training (one seed)"), ({"seeds": 2}, "same 2 seeds")):
        assert said in toy.estimate("tmc_shapley", **SAMPLED, **settings).report["stderr_holds"]
    assert "stderr_holds" not in toy.estimate("shapley").report
    assert "randomness of training (2 seeds)" in toy.estimate("shapley", seeds=2).report["stderr_holds"]


@pytest.mark.parametrize("name", GAMES)
def test_memorization_is_refused_before_any_work(name: str) -> None:
    with pytest.raises(IncompatibleError, match=f"perspective=memorization does not fit estimator={name}: players"):
        refused_by(estimator_named(name), "memorization", name)


def test_defaults_walk_all_permutations_and_say_so(toy: Toy) -> None:
    for name in ("tmc_shapley", "beta_shapley", "g_shapley"):
        found = toy.estimate(name)
        assert (found.report["stopped"], found.report["permutations"]) == ("budget", estimator_named(name).permutations)
        early = toy.estimate(name, stop="stderr", target_stderr=10.0, permutations=200)
        draw = 1 if name == "g_shapley" else 2
        assert (early.report["stopped"], early.report["permutations"]) == ("stderr", 50 * draw)


def test_instances_as_players_take_no_matrix_of_members(toy: Toy) -> None:
    players = estimator_named("tmc_shapley").players(toy.run(estimator_named("tmc_shapley"), "x"))
    assert players.members is None and len(players) == 6


def test_an_empty_group_gives_nobody_anything() -> None:
    players = Players(np.array([[True, True, False], [False, False, False]]), np.array(["a", "b"]), np.arange(2))
    assert np.array_equal(players.spread(np.array([[4.0], [1.0]])), [[2.0], [2.0], [np.nan]], equal_nan=True)


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
