"""D-TRAK: a score without a sign of the risk, and the output that a density has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from influx.config import load_choice
from influx.engines.outputs import output_value
from influx.errors import ConfigError
from influx.estimators.projected.dtrak import DTrak
from influx.learners.torch.tasks import Density
from influx.models.mlp import MLP
from influx.oracles import toys


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
