"""What estimators that sum over checkpoints share: precision, spread over checkpoints, curves, ranges of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from influx.engines import precision
from influx.engines.gradients import Gradients
from influx.errors import ConfigError
from influx.influence import Influence
from influx.models.cnn import CNN
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named
from influx.problem import Checkpoint

NAMES = ["tracincp", "tracin_last", "gas", "gas_layerwise", "tracinrp"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.table(), MLP(width=5), dtype="float32")


def estimated(toy: Toy, name: str, **settings: Any) -> tuple[Influence, list[str]]:
    estimator = estimator_named(name, settings)
    run = toy.run(estimator, name)
    return estimator.estimate(run), run.warnings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fault(27, "its error is measured and reported")
def test_bfloat16_reports_the_error_that_it_makes(name: str, toy: Toy) -> None:
    low, full = (
        toy.estimate(name, precision=p, checkpoints=1, weight="uniform", jackknife=False) for p in ("bfloat16", "model")
    )
    off = np.abs(low.values - full.values).max() / np.abs(full.values).max()
    assert low.report["precision_error"] == pytest.approx(off, rel=1e-4) and 1e-5 < off < 0.05
    assert 0.9 < low.report["precision_rank_correlation"] <= 1
    assert "precision_error" not in full.report and full.values.dtype == low.values.dtype == np.float64


def test_a_large_error_of_precision_is_warned_about(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("precision" in warning for warning in estimated(toy, "tracincp", precision="bfloat16")[1])
    monkeypatch.setattr(precision, "LARGE", 1e-6)
    (warning,) = [w for w in estimated(toy, "tracincp", precision="bfloat16")[1] if "precision" in w]
    assert "precision=bfloat16 changes the first checkpoint's products by up to" in warning


def test_lower_precision_leaves_later_gradients_alone(toy: Toy) -> None:
    before = toy.estimate("tracincp").values
    toy.estimate("tracincp", precision="bfloat16")
    assert np.array_equal(toy.estimate("tracincp").values, before)


def test_tf32_is_refused_off_cuda(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"precision=tf32 is for float32 models on cuda, this one is float32 on cpu"):
        toy.estimate("tracincp", precision="tf32")


def test_tf32_holds_inside_and_is_undone_afterwards() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with (
        pytest.raises(ZeroDivisionError),
        precision.computing("tf32", torch.device("cuda"), torch.float32),
    ):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        raise ZeroDivisionError
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_the_error_is_relative_to_the_largest_value_and_ranks_are_per_column() -> None:
    exact = np.array([[1.0, -4.0], [2.0, 0.0], [3.0, 4.0]])
    found = np.array([[1.0, -4.0], [3.1, 0.0], [3.0, 4.0]])
    measured = precision.error(found, exact)
    assert measured == {
        "precision_error": pytest.approx(1.1 / 4),
        "precision_rank_correlation": pytest.approx((0.5 + 1) / 2),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_jackknife_says_what_it_measures(name: str, toy: Toy) -> None:
    influence = toy.estimate(name, jackknife=True)
    assert influence.stderr is not None and (influence.stderr > 0).any()
    assert influence.report["stderr"] == "spread over checkpoints (leave one checkpoint out), not over trainings"
    assert (toy.estimate(name).stderr is None) == (name != "tracinrp")


def test_the_jackknife_needs_two_checkpoints(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"estimator.jackknife .* needs 2, got 1"):
        toy.estimate("tracincp", jackknife=True, checkpoints=1)


@pytest.mark.parametrize("name", NAMES)
def test_curves_add_up_to_the_influence(name: str, toy: Toy) -> None:
    influence = toy.estimate(name)
    table = influence.tables["curves"]
    means = table[table["test_id"].isna()].groupby("train_id")[["influence", "self_influence"]].sum()
    np.testing.assert_allclose(means["influence"], influence.values.mean(1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(means["self_influence"], influence.self_influence, rtol=1e-5)
    assert table["test_id"].dropna().unique().tolist() == toy.test.ids[:3].tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"curve_tests": -1}, "estimator.curve_tests must not be negative, got -1"),
        ({"choose": "loss_drop"}, "estimator.checkpoints=null keeps all"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        estimator_named(name, settings)


def test_too_many_checkpoints_are_refused_with_the_number_there_is(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"checkpoints=9 but 3 usable checkpoints are saved"):
        toy.estimate("tracincp", checkpoints=9, choose="loss_drop")


def test_a_bias_before_a_norm_that_subtracts_means_has_no_direction(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.images(), CNN(channels=[4], hidden=5, norm="group"))
    checkpoint: Checkpoint = toy.fitted.checkpoints[0]
    at = Gradients(toy.fitted, toy.train, toy.test).at(checkpoint)
    bias = dict(zip(at.parameters, next(at.blocks(toy.train))[1].tensors(), strict=True))["0.bias"]
    assert 0 < float(bias.squares().max()) < 1e-30  # rounding
    own = toy.estimate("gas_layerwise", weight="uniform", checkpoints=1).self_influence
    assert own is not None and own.tolist() == [len(at.parameters) - 1] * len(toy.train)
