"""What Simfluence reports and refuses; its numbers are held against normal equations by its oracle."""

from __future__ import annotations

import numpy as np
import pytest

from influx.engines.simulator import Array, Curriculum, Simulator
from influx.errors import ConfigError, NumericalError
from influx.learners.torch.optimizers import SGD
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=3), SGD(lr=0.1), epochs=4, batch_size=3)


def test_simulated_trainings_are_near_those_held_out(toy: Toy) -> None:
    found = toy.estimate("simfluence", runs=12, ridge=1e-3)
    assert found.report["r2_path"] > 0.8 and found.report["mae_held_out"] < 0.05
    assert found.report["residual"] < 1e-10 and found.report["steps_per_unknown"] == 10 * 12 / 18


def test_instances_of_another_class_harm_and_those_of_the_same_help(toy: Toy) -> None:
    values = toy.estimate("simfluence", runs=24).values
    same = toy.train.y[:, None] == toy.test.y[None, :]
    assert values[same].mean() > 0 > values[~same].mean()


def test_resampled_runs_give_an_error(toy: Toy) -> None:
    found = toy.estimate("simfluence", bootstrap=6)
    assert found.stderr is not None and (found.stderr > 0).all()
    assert np.array_equal(found.values, toy.estimate("simfluence").values)
    assert found.report["stderr_degrees"] == 5 and "stderr_degrees" not in toy.estimate("simfluence").report
    assert toy.estimate("simfluence", runs=5, bootstrap=6).report["stderr_degrees"] == 2
    more = toy.estimate("simfluence", runs=42, bootstrap=6)
    assert more.stderr is not None and more.stderr.mean() < found.stderr.mean()


def test_too_few_recorded_steps_are_told(toy: Toy) -> None:
    estimator = estimator_named("simfluence", {"runs": 3})
    run = toy.run(estimator, "simfluence")
    estimator.estimate(run)
    assert any("estimator.runs to 4 or more" in warning for warning in run.warnings)


@pytest.mark.parametrize(("settings", "told"), [({"runs": 3, "ridge": 1e3}, "r2_final"), ({}, "relative residual")])
def test_a_bad_fit_is_told(toy: Toy, settings: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for iterations, expected in ((200, told == "r2_final"), (2, True)):
        monkeypatch.setattr("influx.engines.simulator.ITERATIONS", iterations)
        estimator = estimator_named("simfluence", settings)
        run = toy.run(estimator, "simfluence")
        estimator.estimate(run)
        assert any(told in warning for warning in run.warnings) == expected


def test_columns_are_fitted_in_blocks(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = toy.estimate("simfluence", bootstrap=2)
    monkeypatch.setattr("influx.estimators.retraining.simfluence.BLOCK_BYTES", 1)
    parts = toy.estimate("simfluence", bootstrap=2)
    assert np.allclose(whole.values, parts.values, atol=1e-10) and np.allclose(whole.stderr, parts.stderr, atol=1e-10)
    assert parts.tables["simfluence"]["test_id"].tolist() == toy.test.ids.tolist()


def test_errors_of_first_order_effects_are_their_own(toy: Toy) -> None:
    found = toy.estimate("simfluence", effect="first_order", bootstrap=3)
    assert found.stderr is not None and (found.stderr > 0).all()
    whole = toy.estimate("simfluence", bootstrap=3)
    assert not np.allclose(found.values, whole.values, rtol=0.1)
    assert whole.stderr is not None and not np.allclose(found.stderr, whole.stderr, rtol=0.1)


@pytest.mark.parametrize("settings", [{"ridge": 0.0}, {"held_out": 12}, {"bootstrap": 1}, {"effect": "second"}])
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"estimator(=simfluence)?\.{next(iter(settings))}"):
        estimator_named("simfluence", settings)


@pytest.mark.parametrize("settings", [{}, {"bootstrap": 2}])
def test_first_order_effects_need_no_simulation(
    toy: Toy, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where simulated losses of one test instance grow without bound, it alone is not judged."""
    asked = {"effect": "first_order"} | settings
    whole, columns = toy.estimate("simfluence", **asked), Simulator.columns

    def growing(self: Simulator, curriculum: Curriculum) -> tuple[Array, Array]:
        a, b = columns(self, curriculum)
        return np.where(np.arange(a.shape[1]) == 1, 1e60, a), b

    monkeypatch.setattr(Simulator, "columns", growing)
    estimator = estimator_named("simfluence", asked)
    run = toy.run(estimator, "simfluence")
    found = estimator.estimate(run)
    assert np.array_equal(found.values, whole.values)
    assert [w.split(":")[0] for w in run.warnings if "without bound" in w] == [
        "simulated losses of 1 of 4 test instances grow without bound"
    ]
    made, wanted = found.tables["simfluence"].drop(columns="test_id"), whole.tables["simfluence"]
    assert made.iloc[1].isna().all() and made.drop(1).equals(wanted.drop(columns="test_id").drop(1))
    with pytest.raises(NumericalError, match="grow without bound"):
        toy.estimate("simfluence")
