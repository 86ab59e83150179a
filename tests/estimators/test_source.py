"""What SOURCE refuses and says; its numbers are held against dense matrices by its oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.optimizers import SGD, Adam
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.toys import Toy, estimator_named


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


def test_self_influence_can_be_left_out(toy: Toy) -> None:
    found = toy.estimate("source", self_influence=False)
    assert found.self_influence is None and "self_influence=true" in found.self_influence_note
    assert np.array_equal(found.values, toy.estimate("source").values)


def test_other_optimizers_and_missing_checkpoints_are_refused(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"estimator\.segments=9"):
        toy.estimate("source", segments=9)
    adam = toys.train(tmp_path, toys.table(), MLP(width=3), Adam(lr=0.01))
    with pytest.raises(IncompatibleError, match="estimator=source is about SGD"):
        adam.estimate("source")


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
        ({"filter": "box"}, r"filter must be exp or discrete"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        estimator_named("source", settings)
