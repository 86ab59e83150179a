"""D-TRAK: a score without a sign of the risk, and the output that a density has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.models.mlp import MLP
from influx.oracles import toys


def test_it_says_that_it_has_no_sign_of_the_risk(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    found = toy.estimate("dtrak", dim=6)
    assert found.scale == "rank" and found.report["sign"] == "association, not of the risk"
    assert found.report["relative_damping"] == pytest.approx(10)
    assert found.self_influence is not None and (found.self_influence >= 0).all()


def test_functions_of_outputs_differ_and_share_nothing_stored(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.table(), MLP(width=5))
    found = [toy.estimate("dtrak", dim=6, output=o).values for o in ("square", "l1", "loss", "margin")]
    assert all(not np.allclose(a, b) for i, a in enumerate(found) for b in found[:i])
    assert len(list((toy.folder / "projected").iterdir())) == 4
