"""Scores made of gradient norms, and lists counted one test instance at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from influx.engines.retrain import Bank
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.tradeoff import EACH, LISTS, Tradeoff, names
from influx.models.mlp import MLP
from influx.oracles import plain, toys
from influx.oracles.toys import Toy
from influx.run import Run
from influx.store import Folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(n_train=15, n_test=7), MLP(width=3))


@pytest.fixture(scope="module")
def norms(toy: Toy) -> np.ndarray:
    return np.linalg.norm(plain.gradients(toy, toy.module(), toy.train), axis=1)


def measured(toy: Toy, influence: Influence, **settings: Any) -> pd.DataFrame:
    metric = Tradeoff(**{"k": 3, "n_boot": 200} | settings)
    bank = Bank(toy.problem, Folder(toy.folder / "retrain"))
    run = Run(problem=toy.problem, fitted=toy.fitted, bank=bank, requires=metric.requires, who="tradeoff")
    return metric.evaluate(influence, run).set_index("metric")


def test_correlations_are_those_of_scipy(toy: Toy, norms: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    values, own = rng.normal(size=(15, 7)), rng.normal(size=15)
    found = measured(toy, Influence(values=values, self_influence=own))
    losses = plain.losses(toy, toy.module(), toy.train)
    for size, sizes in (("norm", norms), ("loss", losses)):
        for kind, of in (("spearman", spearmanr), ("pearson", pearsonr)):
            for score, scores in (("self", own), ("sum", np.abs(values).sum(axis=1))):
                row = found.loc[f"tradeoff_{size}_{kind}_{score}"]
                assert row.value == pytest.approx(of(sizes, scores).statistic, abs=1e-9)
                assert row.ci_low < row.value < row.ci_high and row.n == 15
        each = [spearmanr(sizes, np.abs(column)).statistic for column in values.T]
        row = found.loc[f"tradeoff_{size}_spearman_each"]
        assert row.value == pytest.approx(np.median(each), abs=1e-9)
        assert min(each) <= row.ci_low <= row.value <= row.ci_high <= max(each) and row.n == 7


def test_a_score_that_is_the_norm_names_the_same_instances_everywhere(toy: Toy, norms: np.ndarray) -> None:
    found = measured(toy, Influence(values=np.tile(norms[:, None], (1, 7)), self_influence=norms))
    assert np.allclose(found.value[["tradeoff_norm_spearman_self", "tradeoff_norm_pearson_sum"]], 1)
    assert found.value["tradeoff_same_topk"] == found.value["tradeoff_most"] == 1
    assert found.value["tradeoff_distinct"] == 3 / 15
    often = np.where(np.argsort(np.argsort(-norms)) < 3, 7, 0)
    assert found.value["tradeoff_norm_spearman_topk"] == pytest.approx(spearmanr(norms, often).statistic)


def test_lists_are_counted(toy: Toy) -> None:
    values = np.zeros((15, 7))
    for column, members in enumerate([(0, 1, 2), (2, 1, 0), (0, 3, 4), (0, 5, 6), (7, 8, 9), (7, 8, 9), (9, 8, 7)]):
        values[list(members), column] = (3, 2, 1)
    found = measured(toy, Influence(values=values))
    assert found.value["tradeoff_same_topk"] == 3 / 7
    assert found.value["tradeoff_most"] == 4 / 7
    assert found.value["tradeoff_distinct"] == 10 / 15
    assert found.note["tradeoff_distinct"] == "10 distinct training instances in 7 lists"
    assert np.isnan(found.ci_low["tradeoff_distinct"]) and found.ci_low["tradeoff_same_topk"] < 3 / 7


def test_what_cannot_be_had_is_said(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(15, 7))
    assert (measured(toy, Influence(values=values)).status[names("self")] == "not applicable").all()
    constant = measured(toy, Influence(values=np.ones((15, 7)), self_influence=np.ones(15)))
    assert (constant.status == "degenerate").all()
    values[:, 0] = np.nan
    found = measured(toy, Influence(values=values), k=15)
    assert (found.status[list(LISTS)] == "not applicable").all() and "k=15" in found.note["tradeoff_most"]
    assert (found.n[list(EACH)] == 6).all() and "1 of 7 test instances" in found.note[EACH[0]]
    assert "1 of 7 test instances" in measured(toy, Influence(values=values)).note["tradeoff_most"]


def test_instances_without_scores_are_left_out(toy: Toy) -> None:
    values = np.random.default_rng(0).normal(size=(15, 7))
    values[10:] = np.nan
    found = measured(toy, Influence(values=values))
    assert found.n["tradeoff_norm_spearman_sum"] == 10 and "10 of 15" in found.protocol["tradeoff_same_topk"]


@pytest.mark.parametrize("settings", [{"k": 0}, {"n_boot": 1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.tradeoff\.{next(iter(settings))}"):
        Tradeoff(**settings)
