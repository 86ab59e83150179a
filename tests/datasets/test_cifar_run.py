"""The whole way from CIFAR-10's files to a verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import influx
from tests.datasets import formats


def test_resnet9_on_cifar10_reaches_the_verdict(tmp_path: Path) -> None:
    formats.write_cifar10_python(tmp_path, 40, 20, 0)
    result = influx.run(
        [
            "dataset=cifar10",
            f"dataset.path={tmp_path}",
            "model=resnet9",
            "model.width=0.125",
            "training.epochs=1",
            "training.batch_size=10",
            "training.checkpoints=2",
            "truth.budget=3",
            "truth.ceiling_budget=0",
            "metric=[agreement]",
            "baselines=[random]",
            f"paths.outputs={tmp_path}/outputs",
            "quiet=true",
        ]
    )
    assert result.influence.shape == (40, 20)
    assert np.isfinite(result.truth).all(axis=1).sum() == 3
    assert set(result.metrics["estimator"]) == {"tracincp", "random"}
