"""TRAK: what projections leave unchanged, ensembles with their errors, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import stored
from influx.engines.projections import Whole
from influx.engines.rows import Rows
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.learners.linear.ridge import Ridge
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


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
        one = run.trained(number)
        slopes.append(1 - torch.sigmoid(torch.from_numpy(one.outcomes(one.train).margin)).double().numpy())
        parts.append(estimator.estimate(one).values / slopes[-1][:, None])
    q, values = np.stack(slopes), np.stack(parts)
    np.testing.assert_allclose(found.values, q.mean(0)[:, None] * values.mean(0), rtol=1e-5)
    left = [np.delete(q, k, 0).mean(0)[:, None] * np.delete(values, k, 0).mean(0) for k in range(4)]
    jackknife = np.sqrt(3 / 4 * ((np.stack(left) - np.mean(left, 0)) ** 2).sum(0))
    assert found.stderr is not None
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
        ({"checkpoints": -1}, "estimator.checkpoints must be at least 1, got -1"),
        ({"damping": -1.0}, "estimator.damping must not be negative"),
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


@pytest.mark.slow
def test_the_default_damping_orders_subsets_of_digits_better_than_none(tmp_path: Path) -> None:
    from influx.config import compose
    from influx.job import assemble
    from influx.trained import trained_problem

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
