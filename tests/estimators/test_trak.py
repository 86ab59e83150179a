"""TRAK: what projections leave unchanged, ensembles with their errors, and settings that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from influx.config import compose
from influx.engines import stored
from influx.engines.projections import Whole
from influx.engines.rows import Rows
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.estimators.projected.trak import Trak
from influx.job import Job, assemble
from influx.judged import Judged
from influx.learners.linear.ridge import Ridge
from influx.learners.torch.learner import TorchLearner
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.planning import Prospect, Work
from influx.trained import trained_problem


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5))


class Turned(Whole):
    """An orthogonal matrix with as many rows as parameters."""

    def project(self, rows: Rows) -> torch.Tensor:
        own = torch.Generator().manual_seed(0)
        matrix = torch.linalg.qr(torch.randn(self.dim, self.dim, dtype=torch.float64, generator=own))[0]
        return rows.flat() @ matrix


def test_an_orthogonal_projection_changes_nothing(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = toy.estimate("trak", kind="none", damping=1.0)
    other = toys.train(tmp_path, toys.table(), MLP(width=5))  # nothing is stored here
    monkeypatch.setattr(stored, "maker", lambda kind, dim, seed: lambda at: Turned(at.size))
    found = other.estimate("trak", kind="none", damping=1.0)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12 * np.abs(expected.values).max())


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "sparse", "two_sided"])
def test_more_numbers_are_closer_to_the_whole(kind: str, toy: Toy) -> None:
    whole = toy.estimate("trak", kind="none", damping=20.0).values
    errors = [np.abs(toy.estimate("trak", kind=kind, dim=dim, damping=20.0).values - whole).max() for dim in (4, 4096)]
    assert errors[1] < 0.25 * errors[0]


def test_the_standard_error_is_nearly_the_jackknifes(toy: Toy) -> None:
    settings: dict[str, Any] = {"kind": "none", "damping": 5.0}
    found = toy.estimate("trak", models=4, **settings)
    estimator, parts, slopes = estimator_named("trak", settings), [], []
    run = toy.run(estimator, "trak")
    for number in range(4):
        one = run.trained(number, "ensemble")
        slopes.append(1 - torch.sigmoid(torch.from_numpy(one.outcomes(one.train).margin)).double().numpy())
        parts.append(estimator.estimate(one).values / slopes[-1][:, None])
    q, values = np.stack(slopes), np.stack(parts)
    np.testing.assert_allclose(found.values, q.mean(0)[:, None] * values.mean(0), rtol=1e-5)
    left = [np.delete(q, k, 0).mean(0)[:, None] * np.delete(values, k, 0).mean(0) for k in range(4)]
    jackknife = np.sqrt(3 / 4 * ((np.stack(left) - np.mean(left, 0)) ** 2).sum(0))
    assert found.stderr is not None and found.report["stderr_degrees"] == 3
    assert np.median(np.abs(found.stderr / jackknife - 1)) < 0.1


def test_models_are_trained_once_and_shared_with_their_own_problems(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    first = toy.estimate("trak", dim=4, damping=1.0, models=3)
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert len(folders) == 3 and all(
        (tmp_path / name / "problem.json").exists() for name in folders if name != toy.problem.id
    )
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step_*.safetensors")}
    again = toy.estimate("trak", dim=4, damping=1.0, models=3)
    assert again.values.tobytes() == first.values.tobytes()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step_*.safetensors")} == times


def test_values_are_the_same_on_disk(toy: Toy) -> None:
    estimator = estimator_named("trak", {"dim": 4, "damping": 1.0, "checkpoints": 2})
    found = [estimator.estimate(toy.run(estimator, "trak", matrix_mb=mb)) for mb in (0, 1024)]
    assert np.array_equal(found[0].values, found[1].values) and np.array_equal(found[0].stderr, found[1].stderr)


def test_few_instances_for_many_numbers_are_warned_about(toy: Toy) -> None:
    for dim, damping, expected in ((64, 1e-4, True), (4, 1e-4, False), (64, None, False)):
        estimator = estimator_named("trak", {"dim": dim, "damping": damping})
        run = toy.run(estimator, "trak")
        estimator.estimate(run)
        assert any("estimator.dim" in warning for warning in run.warnings) is expected


def test_without_self_influence_none_is_given(toy: Toy) -> None:
    found = toy.estimate("trak", dim=4, self_influence=False)
    assert found.self_influence is None and "self_influence=true" in found.self_influence_note


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "estimator.dim must be at least 1, got 0"),
        ({"models": 0}, "estimator.models must be at least 1, got 0"),
        ({"subset": 0.0}, "estimator.subset must be above 0 and at most 1, got 0.0"),
        ({"subset": 1.5}, "estimator.subset must be above 0 and at most 1, got 1.5"),
        ({"checkpoints": -1}, "estimator.checkpoints must be at least 1, got -1"),
        ({"damping": -1.0}, "estimator.damping must be finite and not negative"),
        ({"damping": float("inf")}, "estimator.damping must be finite and not negative, got inf"),
        ({"checkpoints": 9}, "estimator.checkpoints=9 but 3 are saved"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, toy: Toy) -> None:
    with pytest.raises(ConfigError, match=message):
        toy.estimate("trak", **settings)


def test_zero_damping_needs_as_many_instances_as_numbers(toy: Toy) -> None:
    with pytest.raises(NumericalError, match="singular"):
        toy.estimate("trak", kind="none", with_r=True, damping=0.0)


def test_a_training_without_randomness_has_no_other_models(tmp_path: Path) -> None:
    toy = toys.learned(tmp_path, toys.table("regression"), Ridge(weight_decay=0.1))
    with pytest.raises(IncompatibleError, match="no randomness"):
        toy.run(estimator_named("trak"), "trak").trained(1)


def test_two_trainings_have_no_model_in_common(toy: Toy) -> None:
    estimator = Trak(models=2)
    run = toy.run(estimator, "trak")
    seeds = [{unit[0][0].problem.seed for unit in estimator._units(run.trained(number))} for number in (0, 1)]
    assert len(seeds[0]) == len(seeds[1]) == 2 and seeds[0].isdisjoint(seeds[1])


def test_models_of_parts_see_other_parts_and_are_kept(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    estimator = Trak(models=3, subset=0.5, dim=4, damping=1.0)
    run = toy.run(estimator, "trak")
    found = estimator.estimate(run)
    kept = sorted(path for path in tmp_path.iterdir() if path.name != toy.problem.id)
    assert len(kept) == 3 and found.report["subset"] == 0.5 and found.stderr is not None
    seen = [unit[0][0].fitted.recipe.ids for unit in estimator._units(run)]
    assert all(len(ids) == 4 for ids in seen) and len({tuple(ids) for ids in seen}) == 3
    for unit in estimator._units(run):
        assert len(unit[0][0].train) == len(toy.train) and unit[0][0].fitted.outcomes(toy.train).loss.shape == (9,)
    others = [unit[0][0].problem.seed for unit in estimator._units(run.trained(1))]
    assert {unit[0][0].problem.seed for unit in estimator._units(run)}.isdisjoint(others)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step_*.safetensors") if kept[0] in path.parents}
    assert np.array_equal(estimator.estimate(run).values, found.values)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_checkpoints_of_one_model_of_a_part_have_the_error_of_checkpoints(toy: Toy) -> None:
    found = toy.estimate("trak", subset=0.5, checkpoints=2, dim=4, damping=1.0)
    assert found.stderr is not None and "checkpoints of one training" in found.report["stderr_holds"]
    assert not np.allclose(found.values, toy.estimate("trak", checkpoints=2, dim=4, damping=1.0).values, rtol=0.1)


def test_sparse_sums_beyond_the_parameters_are_not_made(toy: Toy) -> None:
    parameters = sum(p.numel() for p in toy.module().parameters())
    found, whole = toy.estimate("trak", dim=2 * parameters), toy.estimate("trak", kind="none")
    assert found.report["dim"] == parameters and found.report["damping"] == pytest.approx(whole.report["damping"])
    np.testing.assert_allclose(found.values, whole.values, atol=1e-9 * np.abs(whole.values).max())


def job_of(outputs: Path, *overrides: str) -> Job:
    return assemble(
        compose(
            [
                *("dataset=iris", "dataset.n_train=20", "dataset.n_test=6", "model.width=[4]", "training.epochs=2"),
                *("truth=none", "quiet=true", "metric=[]", "baselines=[]", "estimator=trak", "estimator.dim=4"),
                *(f"paths.outputs={outputs}", *overrides),
            ]
        )
    )


@pytest.mark.parametrize("subset", [1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_other_test_instances_are_seen_by_the_same_models(subset: float, tmp_path: Path) -> None:
    job = job_of(tmp_path, "estimator.models=2", f"estimator.subset={subset}")
    own = job.estimator.estimate(job.run(trained_problem(job), job.estimator.requires, "trak", job.bank()))
    folders, test = sorted((tmp_path / "problems").iterdir()), job.problem.test.take(slice(1, 4))
    judged = Judged.of(job, "trak", own, [])
    found = judged.on(replace(test, ids=test.ids + 10**6))
    np.testing.assert_allclose(found.values, own.values[:, 1:4], rtol=1e-4, atol=1e-6 * np.abs(own.values).max())
    assert sorted((tmp_path / "problems").iterdir()) == folders and not [*tmp_path.rglob("altered/*/problem.json")]
    with pytest.raises(IncompatibleError, match="trains the problem again"):
        judged.untrained(0)


def test_disk_and_memory_grow_with_models_and_checkpoints(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    assert isinstance(job.problem.learner, TorchLearner)
    net = job.problem.learner.net_shape(job.problem)

    def work(**settings: Any) -> Work:
        return job.work(Trak(dim=4, **settings), "trak")

    stored = 20 * (4 * 4 + 16)
    assert work().disk == stored
    assert work(models=3, checkpoints=2).disk == 6 * stored + 2 * net.recorded_bytes
    assert work(models=3, subset=0.5).disk == 3 * stored + 3 * net.recorded_bytes
    assert work(models=3, subset=0.5).more_trainings == 1.5 and work(models=3).more_trainings == 2
    regression = 8 * (4 * 4 + 6 * 4)
    assert work(models=3, checkpoints=2).bytes - work(models=3).bytes == regression
    assert work(checkpoints=2).bytes - work().bytes == 8 * 2 * 20 * 6  # of one model: sums, no second regression


def test_several_models_of_a_training_without_randomness_are_refused_before_work(tmp_path: Path) -> None:
    learner = SimpleNamespace(deterministic=True)
    problem = SimpleNamespace(learner=learner, train=range(9), test=range(4))
    prospect: Any = Prospect(problem=problem, who="trak")  # type: ignore[arg-type]
    with pytest.raises(IncompatibleError, match=r"estimator\.models=2: .* set estimator\.models=1$"):
        Trak(models=2).plan(prospect)
    with pytest.raises(IncompatibleError, match=r"estimator\.subset=0\.5: .* set estimator\.subset=1$"):
        Trak(subset=0.5).plan(prospect)
    with pytest.raises(IncompatibleError, match=r"set estimator\.models=1 and estimator\.subset=1$"):
        Trak(models=2, subset=0.5).plan(prospect)


@pytest.mark.slow
def test_the_default_damping_orders_subsets_of_digits_better_than_none(tmp_path: Path) -> None:
    given = ["dataset=digits", "dataset.n_train=300", "dataset.n_test=50", "truth=none", "metric=lds", "quiet=true"]
    job = assemble(compose([*given, "estimator=trak", f"paths.outputs={tmp_path}"]))
    fitted, metric = trained_problem(job), job.metrics["lds"]
    scores = []
    for damping in (None, 1e-4):
        estimator = estimator_named("trak", {"damping": damping})
        found = estimator.estimate(job.run(fitted, estimator.requires, "trak", job.bank()))
        table = metric.evaluate(found, job.run(fitted, metric.requires, "lds", job.bank()))
        scores.append(float(table[table["metric"] == "lds"]["value"].iloc[0]))
    assert scores[0] > 0.7 and scores[0] > scores[1] + 0.2
