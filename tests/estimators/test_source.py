"""What SOURCE refuses and says; its numbers are held against dense matrices by its oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.engines import solver_plans
from influx.engines.gradients import GradientsAt
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD, Adam
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.dense import dense_matrix
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect
from influx.problem import Data, Split


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=3), SGD(lr=0.2), checkpoints=6)


def test_one_curvature_for_all_is_another_answer_than_one_per_stretch(toy: Toy) -> None:
    one, three = (toy.estimate("source", segments=count, checkpoints=None).values for count in (1, 3))
    assert np.corrcoef(one.ravel(), three.ravel())[0, 1] > 0.9 and not np.allclose(one, three, rtol=1e-3)


def test_the_report_says_how_stationary_the_stretches_are(toy: Toy) -> None:
    found = toy.estimate("source")
    table = found.tables["segments"]
    assert table["first_step"].tolist() == [0, 3, 6] and table["last_step"].tolist() == [3, 6, 9]
    assert table["rates"].sum() == pytest.approx(0.2 * 9) and (table["variation"] > 0).all()
    assert found.report["checkpoints"] == 6 and found.report["variation"] == table["variation"].max()


@pytest.mark.parametrize("settings", [{"solver": "exact"}, {"whole": 0}, {}])
def test_traces_of_the_curvature_are_those_of_dense_matrices(toy: Toy, settings: dict[str, Any]) -> None:
    table = toy.estimate("source", checkpoints=None, self_influence=False, **settings).tables["segments"]
    decay = toy.learner.optimizer.weight_decay
    steps = [step for step in toy.steps() if step]
    for row in table.itertuples():
        inside = [dense_matrix(toy, "ggn", s) for s in steps if row.first_step < s <= row.last_step]
        traces = np.array([np.trace(h) - decay * len(h) for h in inside])
        assert row.trace == pytest.approx(traces.mean()) and row.checkpoints == len(traces)
        assert row.trace_variation == pytest.approx(np.ptp(traces) / traces.mean())
    assert table["trace_variation"].max() > 0.01


def test_mean_parameters_are_another_answer_at_half_the_passes(toy: Toy) -> None:
    slow, fast = (toy.estimate("source", average=average) for average in ("gradients", "parameters"))
    assert np.corrcoef(slow.values.ravel(), fast.values.ravel())[0, 1] > 0.9
    assert not np.allclose(slow.values, fast.values, rtol=1e-3)
    table = fast.tables["segments"]
    assert table[["variation", "trace_variation"]].isna().all(axis=None) and "variation" not in fast.report
    assert fast.report["checkpoints"] == slow.report["checkpoints"] == 6
    prospect = Prospect(problem=toy.problem, who="source", shape=toy.learner.net_shape(toy.problem))
    works: list[Any] = [estimator_named("source", {"average": a}) for a in ("gradients", "parameters")]
    plans = [work.plan(prospect) for work in works]
    passes = 2 * toy.problem.data.n_outputs + 2  # for the curvature, for influence and for self-influence
    assert plans[0].gradients - plans[1].gradients == 3 * passes * len(toy.train)
    assert plans[1].bytes == plans[0].bytes


def test_the_mean_of_one_checkpoint_is_that_checkpoint(toy: Toy) -> None:
    found = [toy.estimate("source", checkpoints=1, average=a) for a in ("gradients", "parameters")]
    assert np.array_equal(found[0].values, found[1].values) and not found[1].tables["segments"]["variation"].any()


def test_self_influence_can_be_left_out(toy: Toy) -> None:
    found = toy.estimate("source", self_influence=False)
    assert found.self_influence is None and "self_influence=true" in found.self_influence_note
    assert np.array_equal(found.values, toy.estimate("source").values)


def test_other_optimizers_and_missing_checkpoints_are_refused(toy: Toy, tmp_path: Path) -> None:
    for segments, told in ((9, "no checkpoint is saved"), (10, "the training has 9 steps")):
        with pytest.raises(ConfigError, match=rf"estimator\.segments={segments} but {told}"):
            toy.estimate("source", segments=segments)
    adam = toys.train(tmp_path, toys.table(), MLP(width=3), Adam(lr=0.01))
    with pytest.raises(IncompatibleError, match="estimator=source is about SGD"):
        adam.estimate("source")


@pytest.mark.parametrize("solver", ["ekfac", "exact"])
def test_the_plan_counts_the_passes_that_memory_forces(toy: Toy, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prospect = Prospect(problem=toy.problem, who="source", shape=toy.learner.net_shape(toy.problem))
    estimator: Any = estimator_named("source", {"solver": solver, "self_influence": False})
    taken, written = 0, GradientsAt.written

    def counted(self: GradientsAt, split: Split, *given: int) -> Any:
        nonlocal taken
        taken += len(split)
        return written(self, split, *given)

    monkeypatch.setattr(GradientsAt, "written", counted)
    counts, planned = [], []
    for held in (1 << 20, 1):
        monkeypatch.setattr(solver_plans, "HELD_BYTES", held)
        planned.append(estimator.plan(prospect))
        taken = 0
        toy.estimate("source", solver=solver, self_influence=False)
        counts.append(taken)
    assert counts[1] - counts[0] == 6 * len(toy.train) * (len(toy.test) - 1)
    assert planned[1].gradients - planned[0].gradients == counts[1] - counts[0]
    one: Any = estimator_named("source", {"solver": solver, "segments": 1, "self_influence": False})
    many = replace(prospect, problem=replace(toy.problem, data=more_tests(toy.problem.data, 1000)))
    assert planned[0].bytes > 8 * len(toy.train) * len(toy.test)
    extra = estimator.plan(many).bytes - one.plan(many).bytes  # of matrices, whatever the test instances
    assert extra == estimator.plan(prospect).bytes - one.plan(prospect).bytes > 0


def more_tests(data: Data, times: int) -> Data:
    rows = np.tile(np.arange(len(data.test)), times)
    return replace(data, test=replace(data.test.take(rows), ids=np.arange(len(rows)) + 10**6), test_flags={})


def test_clipping_is_told(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=3), SGD(lr=0.2), clip_norm=0.1)
    run = toy.run(estimator_named("source"), "source")
    estimator_named("source").estimate(run)
    assert any("clipping" in warning for warning in run.warnings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"segments": 0}, r"estimator\.segments must be at least 1"),
        ({"curvature": "hessian"}, r"estimator\.curvature"),
        ({"average": "losses"}, r"average must be gradients or parameters"),
        ({"filter": "box"}, r"filter must be exp or discrete"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        estimator_named("source", settings)
