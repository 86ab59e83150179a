"""The experiments of docs/anomalies.md, whole runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import influx

# experiment -> range of the AUROC by influence at seed 0; measured figures are in the docs
EXPECTED = {"anomaly_digits": (0.53, 0.73), "anomaly_breast_cancer": (0.87, 0.96), "anomaly_wine": (0.55, 0.76)}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPECTED)
def test_a_held_out_class_is_found_as_documented(experiment: str, tmp_path: Path) -> None:
    common = [f"experiment={experiment}", "baselines=[]", "quiet=true", f"paths.outputs={tmp_path}"]
    rows = influx.run(common).metrics.set_index("metric")
    least, most = EXPECTED[experiment]
    assert least < rows.value["anomaly_auroc_influence"] < most
    assert rows.ci_high["anomaly_gain_reconstruction"] < 0.05  # the model's own error is as good or better
    assert rows.value["anomaly_auroc_reconstruction"] > 0.83
    assert rows.value["anomaly_false_alarms"] < 0.15
    # the same by forward-mode passes, without a matrix
    alone = influx.run([*common, "estimator.distribution=false"])
    found = alone.metrics.set_index("metric").value["anomaly_auroc_influence"]
    assert found == pytest.approx(rows.value["anomaly_auroc_influence"], abs=2e-3)  # float32: near ties
    assert np.isnan(alone.influence).all()


@pytest.mark.slow
def test_images_of_noise_are_in_the_upper_tail(tmp_path: Path) -> None:
    told = ["experiment=anomaly_digits", "corruption=anomaly_noise", "estimator.tail=upper", "training.epochs=30"]
    result = influx.run([*told, "baselines=[]", "quiet=true", f"paths.outputs={tmp_path}"])
    rows = result.metrics.set_index("metric")
    assert rows.value["anomaly_auroc_influence"] > 0.85 and rows.value["anomaly_auroc_reconstruction"] > 0.99
