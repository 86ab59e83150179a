"""FastIF: influence functions where candidates are, nothing elsewhere, and an honest recall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from influx.engines import gradients, pruned
from influx.errors import ConfigError, IncompatibleError
from influx.influence import Influence
from influx.learners.torch.optimizers import SGD
from influx.metrics.agreement import Agreement
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.perspectives.asked import refused_by
from influx.run import Run

N = 30


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    data = toys.table(n_train=N, n_test=5)
    return toys.train(tmp_path_factory.mktemp("net"), data, MLP(width=3), SGD(lr=0.2, weight_decay=0.1))


def ran(toy: Toy, **settings: object) -> tuple[Influence, Run]:
    estimator = estimator_named("fast_if", settings)
    run = toy.run(estimator, "fast_if")
    return estimator.estimate(run), run


def test_t4_all_candidates_and_the_exact_solver_are_influence_functions(net: Toy) -> None:
    found = net.estimate("fast_if", candidates=N, solver="exact", damping=2.0)
    expected = net.estimate("if_exact", damping=2.0).values
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-14)
    assert found.report["recall"] == 1.0 and found.report["solver"] == "exact"


def test_t4_all_candidates_and_lissa_are_lissa_of_the_same_seed(net: Toy) -> None:
    settings = {"damping": 2.0, "depth": 60, "batch_size": 4, "repeats": 3}
    found, expected = net.estimate("fast_if", candidates=N, **settings), net.estimate("if_lissa", **settings)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=0, atol=1e-15)
    assert np.max(found.stderr) > 0


@pytest.mark.parametrize("audited", [0, 2])
def test_t4_others_than_candidates_have_no_value(net: Toy, audited: int) -> None:
    expected = net.estimate("if_exact", damping=2.0).values
    found = net.estimate("fast_if", candidates=4, solver="exact", damping=2.0, audited=audited)
    known = np.isfinite(found.values)
    assert (known.sum(axis=0) == 4).all() and np.isnan(found.values[~known]).all()
    np.testing.assert_allclose(found.values[known], expected[known], rtol=0, atol=1e-14)
    assert found.report["instances_used"] == known.any(axis=1).sum() < N


def test_candidates_are_near_by_learned_features(net: Toy) -> None:
    module = net.module()
    features = [module[:-1](net.tensors(split)[0]).detach().numpy() for split in (net.train, net.test)]
    distances = np.linalg.norm(features[0][:, None] - features[1][None], axis=2)
    known = np.isfinite(net.estimate("fast_if", candidates=6, solver="exact", damping=2.0).values)
    for near, column in zip(known.T, distances.T, strict=True):
        assert column[near].max() < column[~near].min()


def test_the_standard_error_is_missing_where_the_value_is(net: Toy) -> None:
    found = net.estimate("fast_if", candidates=4, damping=2.0, depth=20, repeats=2)
    assert found.stderr is not None
    assert (np.isnan(found.stderr) == np.isnan(found.values)).all()


def test_the_recall_is_that_of_the_most_influential_instances(net: Toy) -> None:
    found = net.estimate("fast_if", candidates=8, solver="exact", damping=2.0)
    whole = np.abs(net.estimate("if_exact", damping=2.0).values)
    shares = [np.isfinite(found.values[whole[:, j].argsort()[::-1][:8], j]).mean() for j in range(5)]
    assert found.report["recall"] == pytest.approx(np.mean(shares)) and 0 < found.report["recall"] < 1
    assert found.report["recall_by_chance"] == pytest.approx(8 / N)
    assert (found.report["recall_top"], found.report["audited"]) == (8, 5)


def test_a_low_recall_is_a_warning(net: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruned, "MISSED", 1.1)
    _, run = ran(net, candidates=4, solver="exact", damping=2.0)
    assert any("raise estimator.candidates" in sentence for sentence in run.warnings)


def test_more_candidates_than_there_are_mean_all(net: Toy) -> None:
    found, run = ran(net, candidates=N + 1, solver="exact", damping=2.0)
    assert np.isfinite(found.values).all() and found.report["candidates"] == N
    assert f"estimator.candidates={N + 1} is more than the {N} training instances; all are candidates" in run.warnings


def test_no_audit_takes_no_gradients_of_others(net: Toy) -> None:
    found, run = ran(net, candidates=1, solver="exact", damping=2.0, audited=0)
    assert "recall" not in found.report and not any("minimum" in sentence for sentence in run.warnings)
    audit, run = ran(net, candidates=1, solver="exact", damping=2.0)
    assert any("minimum" in sentence for sentence in run.warnings)
    np.testing.assert_array_equal(np.isnan(found.values), np.isnan(audit.values))


@pytest.mark.parametrize("audited", [0, 1, 3])
def test_blocks_do_not_matter(net: Toy, monkeypatch: pytest.MonkeyPatch, audited: int) -> None:
    settings = {"candidates": 5, "solver": "exact", "damping": 2.0, "audited": audited}
    expected = net.estimate("fast_if", **settings)
    monkeypatch.setattr(gradients, "WRITTEN_BYTES", 1)
    monkeypatch.setattr(pruned, "HELD_BYTES", 1)
    found = net.estimate("fast_if", **settings)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-14)
    assert found.report.get("recall") == expected.report.get("recall")
    assert found.report.get("gradient_norm") == pytest.approx(expected.report.get("gradient_norm"))


def test_self_influence_is_refused_with_the_reason(net: Toy) -> None:
    assert net.estimate("fast_if", solver="exact", damping=2.0).self_influence is None
    with pytest.raises(IncompatibleError, match="only the candidates"):
        refused_by(estimator_named("fast_if"), "memorization", "fast_if")


@pytest.mark.parametrize("perspective", ["joint", "ranking"])
def test_what_runs_over_all_test_instances_is_refused(perspective: str) -> None:
    with pytest.raises(IncompatibleError, match="candidates of its own"):
        refused_by(estimator_named("fast_if"), perspective, "fast_if")


def test_a_series_that_is_cut_off_early_is_a_warning(net: Toy) -> None:
    few, many = (ran(net, damping=0.1, depth=depth, repeats=2)[1].warnings for depth in (2, 300))
    assert any("raise estimator.depth" in sentence for sentence in few)
    assert not any("raise estimator.depth" in sentence for sentence in many)


def test_columns_with_gaps_do_not_pass_for_agreement(net: Toy) -> None:
    truth = net.estimate("if_exact", damping=2.0)
    for count, statuses in ((N, {"ok"}), (4, {"degenerate"})):
        found, run = ran(net, candidates=count, solver="exact", damping=2.0)
        judged = Agreement(n_boot=100).evaluate(found, replace(run, truth=truth))
        assert set(judged["status"]) == statuses


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"candidates": 0}, "estimator.candidates must be at least 1, got 0"),
        ({"audited": -1}, "estimator.audited must not be negative, got -1"),
        ({"depth": 0}, "estimator.depth must be at least 1, got 0"),
        ({"solver": "nearest"}, "solver must be auto or exact or cg"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        estimator_named("fast_if", settings)
