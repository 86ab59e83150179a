"""A ground truth that is computed and not retrained is made once for all runs on a problem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import influx
from influx.estimators.influence_functions.pbrf import ProximalBregmanResponse
from influx.run import Run

SMALL = ["dataset=iris", "dataset.n_train=24", "dataset.n_test=6", "model.width=3", "training.epochs=3", "quiet=true"]
SMALL += ["baselines=[]", "metric=[agreement]", "truth=pbrf", "truth.damping=0.1"]


def test_it_is_read_by_the_next_estimator_and_made_anew_when_damaged_or_asked_for_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float | None] = []
    estimate = ProximalBregmanResponse.estimate

    def counted(self: ProximalBregmanResponse, run: Run) -> object:
        made.append(self.damping)
        return estimate(self, run)

    monkeypatch.setattr(ProximalBregmanResponse, "estimate", counted)
    outputs = f"paths.outputs={tmp_path}"
    first = influx.run([*SMALL, outputs, "estimator=if_exact"])
    second = influx.run([*SMALL, outputs, "estimator=if_cg"])
    assert made == [0.1]
    assert first.truth is not None and second.truth is not None
    assert first.truth.tobytes() == second.truth.tobytes() and np.isfinite(second.truth).all()
    assert second.record.section("cost")["truth"] == first.record.section("cost")["truth"]
    influx.run([*SMALL, outputs, "estimator=if_cg", "truth.damping=0.2"])
    assert made == [0.1, 0.2]
    for path in tmp_path.glob("problems/*/truth/*.npz"):
        path.write_bytes(path.read_bytes()[:-7])
    third = influx.run([*SMALL, outputs, "estimator=renorm_if"])
    assert made == [0.1, 0.2, 0.1] and third.truth is not None
    assert first.truth.tobytes() == third.truth.tobytes()
