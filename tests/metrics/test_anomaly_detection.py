"""Anomaly detection against scikit-learn's AUROC and plain computations of what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score

from influx.engines.outliers import isolation_forest, neighbour_distance, reconstruction_error
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.anomaly_detection import NAMES, AnomalyDetection
from influx.models.vae import VAE
from influx.oracles import toys
from influx.problem import Split
from influx.streams import stream

N, M, D = 50, 24, 3
RNG = np.random.default_rng(0)
ANOMALY = np.arange(M) % 3 == 0
TRAIN = Split(x=RNG.normal(size=(N, D)), y=np.zeros(N), ids=np.arange(N))
TEST = Split(x=RNG.normal(size=(M, D)) + ANOMALY[:, None], y=np.zeros(M), ids=np.arange(M))
LOSS = RNG.normal(size=M) + ANOMALY
VALUES = RNG.normal(size=(N, M)) + 0.1 * ANOMALY
METRIC = AnomalyDetection(trees=20, n_boot=100)


def run_of(flags: Any = None, **fields: Any) -> Any:
    data = SimpleNamespace(test_flags={"anomaly": ANOMALY} if flags is None else flags, task="density", kind="tabular")
    data.__dict__.update(fields)
    return SimpleNamespace(
        train=TRAIN,
        test=TEST,
        fitted=None,
        problem=SimpleNamespace(data=data),
        outcomes=lambda split: SimpleNamespace(loss=LOSS),
        rng=lambda purpose: stream(0, purpose),
    )


def judged(metric: Any = METRIC, run: Any = None, values: Any = VALUES, **fields: Any) -> pd.DataFrame:
    return metric.evaluate(Influence(values=values, **fields), run or run_of()).set_index("metric")


def test_scores_rank_test_instances() -> None:
    found = judged()
    assert list(found.index) == list(NAMES)
    distances = np.sort(np.linalg.norm(TEST.x[:, None] - TRAIN.x, axis=2), axis=1)[:, :5].mean(axis=1)
    seed = int(stream(0, "forest").integers(1 << 31))
    forest = -IsolationForest(n_estimators=20, random_state=seed).fit(TRAIN.x).score_samples(TEST.x)
    expected = {"influence": VALUES.mean(axis=0), "risk": LOSS, "forest": forest, "neighbours": distances}
    for name, score in expected.items():
        assert found.value[f"anomaly_auroc_{name}"] == pytest.approx(roc_auc_score(ANOMALY, score))
        assert found.value[f"anomaly_ap_{name}"] == pytest.approx(average_precision_score(ANOMALY, score))
        assert found.ci_low[f"anomaly_auroc_{name}"] < found.value[f"anomaly_auroc_{name}"]
    for name in ("risk", "forest", "neighbours"):
        gain = found.value["anomaly_auroc_influence"] - found.value[f"anomaly_auroc_{name}"]
        assert found.value[f"anomaly_gain_{name}"] == pytest.approx(gain)
    assert list(found.index[found.status == "not applicable"]) == [
        "anomaly_auroc_reconstruction",
        "anomaly_ap_reconstruction",
        "anomaly_gain_reconstruction",
        "anomaly_alarms",
        "anomaly_false_alarms",
    ]
    assert found.protocol[:4].str.contains("8 of 24 test instances are anomalies").all()


def test_differences_are_resampled_together() -> None:
    values = LOSS[None, :] + 1e-9 * RNG.normal(size=(N, M))
    found = judged(values=values)
    assert found.value["anomaly_gain_risk"] == found.ci_low["anomaly_gain_risk"] == 0
    assert found.ci_low["anomaly_auroc_risk"] < found.ci_high["anomaly_auroc_risk"]


def test_an_estimator_s_own_suspicion_and_p_values_come_first() -> None:
    suspicion, p = RNG.normal(size=M) + 2 * ANOMALY, RNG.uniform(size=M)
    p[:5] = 0.01
    table = pd.DataFrame({"test_id": TEST.ids, "suspicion": suspicion, "p_value": p})
    found = judged(values=np.full((N, M), np.nan), tables={"anomaly": table})
    assert found.value["anomaly_auroc_influence"] == pytest.approx(roc_auc_score(ANOMALY, suspicion))
    assert found.value["anomaly_alarms"] == pytest.approx((p[ANOMALY] <= 0.05).mean())
    assert found.value["anomaly_false_alarms"] == pytest.approx((p[~ANOMALY] <= 0.05).mean())
    assert list(found.n[-2:]) == [8, 16]


def test_instances_without_scores_are_left_out_of_the_mean() -> None:
    values = VALUES.copy()
    values[::2] = np.nan
    expected = roc_auc_score(ANOMALY, VALUES[1::2].mean(axis=0))
    assert judged(values=values).value["anomaly_auroc_influence"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "status", "reason"),
    [
        (np.full((N, M), np.nan), "not applicable", "no training instance has scores"),
        (np.ones((N, M)), "degenerate", "all test instances have the same score"),
        (np.where(np.arange(M) == 3, np.inf, VALUES), "degenerate", "1 of 24 test instances have no finite score"),
    ],
)
def test_what_has_no_order_is_no_number(values: Any, status: str, reason: str) -> None:
    found = judged(values=values)
    for name in ("anomaly_auroc_influence", "anomaly_ap_influence", "anomaly_gain_risk"):
        assert found.status[name] == status and reason in found.note[name] and np.isnan(found.value[name])
    assert found.status["anomaly_auroc_risk"] == "ok"


@pytest.mark.parametrize("tail", ["upper", "lower", "two-sided"])
def test_mean_influence_is_suspicious_in_the_tail_that_is_set(tail: Any) -> None:
    found = judged(replace(METRIC, tail=tail))
    mean = VALUES.mean(axis=0)
    score = {"upper": mean, "lower": -mean, "two-sided": np.abs(mean - np.median(mean))}[tail]
    assert found.value["anomaly_auroc_influence"] == pytest.approx(roc_auc_score(ANOMALY, score))
    for row in ("anomaly_auroc_influence", "anomaly_gain_risk"):
        assert f"mean influence on the test instance ({tail})" in found.protocol[row]
    own = pd.DataFrame({"suspicion": -mean})
    found = judged(replace(METRIC, tail=tail), tables={"anomaly": own}, report={"tail": "lower"})
    assert found.value["anomaly_auroc_influence"] == pytest.approx(roc_auc_score(ANOMALY, -mean))
    assert "the score of the estimator on the test instance (lower)" in found.protocol["anomaly_auroc_influence"]


@pytest.mark.parametrize(
    ("p", "least", "status", "reason"),
    [
        (0.5, 0.1, "not applicable", "no p-value can be below 0.1"),
        (0.5, 0.05, "ok", ""),
        (np.nan, 0.01, "degenerate", "1 of 24 test instances have no p-value"),
    ],
)
def test_alarms_that_cannot_be_are_no_zeros(p: float, least: float, status: str, reason: str) -> None:
    table = pd.DataFrame({"suspicion": LOSS, "p_value": np.where(np.arange(M) == 2, p, 0.5)})
    found = judged(tables={"anomaly": table}, report={"least_p_value": least})
    for name in ("anomaly_alarms", "anomaly_false_alarms"):
        assert found.status[name] == status and reason in str(found.note[name])
        assert np.isnan(found.value[name]) == (status != "ok")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({}, "set corruption=anomaly_class, anomaly_noise or anomaly_swaps"),
        ({"anomaly": np.zeros(M, bool)}, "no test instance is an anomaly"),
        ({"anomaly": np.ones(M, bool)}, "all test instances are anomalies"),
    ],
)
def test_without_anomalies_nothing_is_measured(flags: Any, reason: str) -> None:
    found = judged(run=run_of(flags))
    assert (found.status == "not applicable").all() and found.note.str.contains(reason).all()
    assert list(found.index) == list(NAMES)


def test_tokens_have_no_distances_and_labels_are_told_of() -> None:
    found = judged(run=run_of(kind="text", task="classification"))
    assert (found.status[["anomaly_auroc_forest", "anomaly_auroc_neighbours"]] == "not applicable").all()
    assert "know the test labels" in found.protocol["anomaly_auroc_influence"]
    few = judged(replace(METRIC, k=51))
    assert "k=51 is more than the 50" in few.note["anomaly_auroc_neighbours"]


def test_the_curve_is_the_share_found_among_those_inspected() -> None:
    frame = METRIC.evaluate(Influence(values=VALUES), run_of())
    curve = frame.attrs["tables"]["anomalies"]
    mine = curve[curve["series"] == "by risk"].set_index("inspected")
    order = np.argsort(-LOSS, kind="stable")
    assert mine["found"][0.5] == pytest.approx(ANOMALY[order][:12].sum() / 8)
    assert set(curve["series"]) == {"by influence", "by risk", "by forest", "by neighbours"}


def test_what_knows_no_influence_is_high_for_what_is_far_off() -> None:
    far = replace(TEST, x=TEST.x + np.where(np.arange(M) == 5, 9.0, 0.0)[:, None])
    assert neighbour_distance(TRAIN, far, 5).argmax() == 5
    assert isolation_forest(TRAIN, far, 20, stream(0, "x")).argmax() == 5


def test_the_reconstruction_error_is_that_of_the_decoder_at_the_mean(tmp_path: Path) -> None:
    data = replace(toys.table(n_test=5), task="density")
    toy = toys.train(tmp_path, data, VAE(width=[4], latent=2))
    found = reconstruction_error(toy.fitted, toy.test)
    module: Any = toy.module()
    x = torch.from_numpy(toy.test.x).double()
    with torch.no_grad():
        latent = module.encoder(x, x[:, :0])[:, :2]
        made = module.decoder(latent[:, None], x[:, :0])[:, 0].numpy()
    np.testing.assert_allclose(found, ((made - toy.test.x) ** 2).mean(axis=1), rtol=1e-12)
    assert reconstruction_error(SimpleNamespace(), toy.test) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"trees": 0}, {"k": 0}, {"alpha": 1.0}, {"n_boot": 10}])
def test_settings_are_checked(settings: Any) -> None:
    with pytest.raises(ConfigError, match=rf"anomaly_detection\.{next(iter(settings))}"):
        AnomalyDetection(**settings)
