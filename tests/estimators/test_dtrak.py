"""D-TRAK: a score without a sign of the risk, and the output that a density has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import influx
from influx.config import load_choice
from influx.engines.outputs import check_errors, output_value
from influx.errors import ConfigError, IncompatibleError
from influx.estimators.projected.dtrak import DTrak
from influx.learners.torch.tasks import Density
from influx.models.autoregressive import Autoregressive
from influx.models.mlp import MLP
from influx.models.text_decoder import TextDecoder
from influx.models.vae import VAE
from influx.oracles import toys
from influx.problem import Data


def test_it_says_that_it_has_no_sign_of_the_risk(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    found = toy.estimate("dtrak", dim=6)
    assert load_choice("estimator", "dtrak")["sign"] == "unsigned"
    with pytest.raises(ConfigError, match=r"sign must be unsigned, got 'helpful"):
        DTrak(sign="helpful")  # type: ignore[arg-type]
    assert found.scale == "rank" and found.report["sign"] == "association, not of the risk"
    assert found.report["relative_damping"] == pytest.approx(10)
    assert found.self_influence is not None and (found.self_influence >= 0).all()


def test_functions_of_outputs_differ_and_share_nothing_stored(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    found = [toy.estimate("dtrak", dim=6, output=o).values for o in ("square", "l1", "loss", "margin", "weighted_mse")]
    assert all(not np.allclose(a, b) for i, a in enumerate(found) for b in found[:i])
    assert len(list((toy.folder / "projected").iterdir())) == 5


def test_weighted_errors_are_the_risk_where_it_is_made_of_errors(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table("regression"), MLP(width=5))
    risk, errors = (toy.estimate("dtrak", dim=6, output=o) for o in ("loss", "weighted_mse"))
    np.testing.assert_allclose(errors.values, risk.values, rtol=1e-6, atol=1e-9 * np.abs(risk.values).max())
    bounds = torch.tensor([[3.0], [-1.0]])
    assert torch.equal(output_value("weighted_mse", Density(), bounds, torch.zeros(2)), bounds[:, 0])


def test_outputs_are_checked() -> None:
    with pytest.raises(ConfigError, match="output must be one of margin"):
        DTrak(output="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "model", "refused"),
    [
        (toys.table("regression"), MLP(width=5), False),
        (replace(toys.table(), task="density"), Autoregressive(width=[4]), False),
        (replace(toys.table(), task="density"), VAE(width=[4]), False),
        (replace(toys.table(), task="density"), VAE(width=[4], likelihood="bernoulli"), True),
        (toys.tokens("density"), TextDecoder(), True),
    ],
)
def test_squared_errors_are_refused_where_the_risk_has_none(data: Data, model: Any, refused: bool) -> None:
    problem: Any = SimpleNamespace(data=data, learner=SimpleNamespace(model=model))
    check_errors("loss", problem)
    if not refused:
        check_errors("weighted_mse", problem)
        problem.learner.own_task = "a person's"
    with pytest.raises(IncompatibleError, match=r"weighted_mse asks for squared errors.* estimator\.output=loss"):
        check_errors("weighted_mse", problem)


@pytest.mark.parametrize("loss", [pytest.param("mse", marks=pytest.mark.slow), "cross_entropy"])
def test_sequences_of_ones_own_have_squared_errors_by_their_loss(loss: str) -> None:
    y = torch.randn(6, 4) if loss == "mse" else torch.randint(3, (6, 4))
    module = torch.nn.Sequential(torch.nn.Linear(2, 4 if loss == "mse" else 12), torch.nn.Unflatten(1, (4, -1)))
    given: tuple[Any, Any] = (torch.randn(6, 2), y.unsqueeze(-1) if loss == "mse" else y)
    asked = {"estimator": "dtrak", "dim": 4, "loss": loss}
    if loss == "mse":
        found, risk = (influx.attribute(module, given, given, output=o, **asked) for o in ("weighted_mse", "loss"))
        assert np.array_equal(found.influence, risk.influence) or np.allclose(found.influence, risk.influence)
        return
    with pytest.raises(IncompatibleError, match="output=weighted_mse asks for squared errors"):
        influx.attribute(module, given, given, output="weighted_mse", **asked)
