"""Settings that the choices of a sweep have and the default choice has not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from influx.commands.sweep_plan import for_hydra
from tests.cli.conftest import Influx

SMALL = ("dataset=iris", "dataset.n_train=40", "dataset.n_test=10", "training.epochs=2", "training.checkpoints=2")


def test_settings_of_swept_groups_are_sweeps_of_one_value() -> None:
    given = ["estimator=a,b", "estimator.rank=1,2", "estimator.groups=x y", "estimator.of=", "model.width=[3,4]"]
    assert for_hydra(given, ("estimator", "estimator.rank")) == [
        "estimator=a,b",
        "estimator.rank=1,2",
        "estimator.groups=choice(x y)",
        "estimator.of=choice('')",
        "model.width=[3,4]",
    ]
    assert for_hydra(given, ("model", "estimator.rank"))[2:] == [*given[2:4], "model.width=choice([3,4])"]
    assert for_hydra(["experiment=a,b", "metric.lds.k=3", "seed=1"], ("experiment",))[1:] == [
        "metric.lds.k=choice(3)",
        "seed=1",
    ]


@pytest.mark.slow
def test_such_settings_reach_every_job(influx: Influx, tmp_path: Path) -> None:
    line = ["-m", "estimator=if_cg,if_exact", "estimator.damping=0.25", *SMALL, "truth=none", "metric=[]", "quiet=true"]
    assert influx("run", *line).code == 0  # the default estimator has no damping
    runs = sorted((tmp_path / "outputs" / "runs").glob("*/config.yaml"))
    assert [yaml.safe_load(path.read_text())["estimator"]["damping"] for path in runs] == [0.25, 0.25]
    unknown = influx("run", *[part.replace("damping", "dampin") for part in line])
    assert unknown.code == 2 and "dampin" in unknown.err
