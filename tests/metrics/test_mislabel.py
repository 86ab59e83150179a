from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import detection
from influx.metrics.detection import chance_ap, detect, moved, resampled, stratified_counts
from influx.metrics.mislabel import Mislabel
from influx.metrics.tidy import tables_of


@pytest.fixture
def flags() -> np.ndarray:
    return np.random.default_rng(0).random(80) < 0.2


@pytest.fixture
def suspicion(flags) -> np.ndarray:
    return np.round(flags + np.random.default_rng(1).normal(size=80), 1)  # rounding makes ties


def table(run, values, **fields):
    return Mislabel(n_boot=200).evaluate(Influence(values=values, **fields), run).set_index("metric")


def test_detection_is_that_of_scikit_learn(flags, suspicion):
    found = detect(suspicion, flags, np.ones((1, 80)))
    assert found.auroc[0] == pytest.approx(roc_auc_score(flags, suspicion))
    assert found.average_precision[0] == pytest.approx(average_precision_score(flags, suspicion))
    first = np.argsort(-suspicion, kind="stable")[: flags.sum()]
    assert found.recall[0] == pytest.approx(flags[first].mean())


def test_weighted_detection_is_detection_among_copies(flags, suspicion, monkeypatch):
    monkeypatch.setattr(detection, "BLOCK", 200)  # two resamples at a time
    counts = stratified_counts(flags, 5, np.random.default_rng(2))
    assert (counts[:, flags].sum(axis=1) == flags.sum()).all()
    found = detect(suspicion, flags, counts)
    for b, copies in enumerate(counts.astype(int)):
        rows = np.repeat(np.arange(80), copies)
        assert found.auroc[b] == pytest.approx(roc_auc_score(flags[rows], suspicion[rows]))
        assert found.average_precision[b] == pytest.approx(average_precision_score(flags[rows], suspicion[rows]))
        first = rows[np.argsort(-suspicion[rows], kind="stable")][: flags.sum()]
        assert found.recall[b] == pytest.approx(flags[first].mean())


def test_high_self_influence_and_low_summed_influence_are_suspect(flags, suspicion, make_run):
    values = np.outer(-suspicion, np.ones(4)) + np.random.default_rng(3).normal(size=(80, 4))
    run = make_run(flags={"mislabeled": flags})
    result = table(run, values, self_influence=suspicion)
    assert result.value["mislabel_auroc_self"] == pytest.approx(roc_auc_score(flags, suspicion))
    assert result.value["mislabel_ap_sum"] == pytest.approx(average_precision_score(flags, -values.sum(axis=1)))
    assert ((result.ci_low < result.value) & (result.value < result.ci_high)).all()
    assert (result.n == 80).all()


def test_the_inspection_curve_is_read_between_whole_instances(flags, suspicion):
    shares = np.array([0.0, 0.0125, 0.2, 0.21, 0.5, 1.0])  # of 80: 0, 1, 16, 16.8, 40, 80
    found = detect(suspicion, flags, np.ones((1, 80)), shares)
    caught = np.concatenate([[0], np.cumsum(flags[np.argsort(-suspicion, kind="stable")])]) / flags.sum()
    expected = [caught[0], caught[1], caught[16], 0.2 * caught[16] + 0.8 * caught[17], caught[40], 1]
    np.testing.assert_allclose(found.found[0], expected)


def test_the_area_is_that_under_the_inspection_curve(flags):
    scores = flags + np.random.default_rng(7).normal(size=80)  # no ties: the curve is one line of steps
    found = detect(scores, flags, np.ones((1, 80)), np.arange(81) / 80)
    assert found.area[0] == pytest.approx(np.trapezoid(found.found[0], dx=1 / 80))
    perfect = detect(flags.astype(float), flags, np.ones((1, 80)))
    assert perfect.area[0] == pytest.approx(1 - flags.mean() / 2)
    assert detect(np.zeros(80), flags, np.ones((1, 80))).area[0] == pytest.approx(0.5)


def test_the_curve_goes_along_and_agrees_with_the_rows(flags, suspicion, make_run):
    result = Mislabel(n_boot=200, share=0.15).evaluate(
        Influence(values=-np.outer(suspicion, np.ones(4)), self_influence=suspicion),
        make_run(flags={"mislabeled": flags}),
    )
    curve = tables_of(result)["inspection"]
    assert list(curve.columns) == ["series", "inspected", "found", "ci_low", "ci_high"]
    assert list(curve.series.unique()) == ["self-influence", "summed influence"] and len(curve) == 42
    assert ((curve.ci_low <= curve.found) & (curve.found <= curve.ci_high)).all()
    at = curve[np.isclose(curve.inspected, 0.15)].found.to_numpy()
    rows = result.set_index("metric").value
    assert at == pytest.approx(rows[["mislabel_found_self", "mislabel_found_sum"]].to_numpy())
    with pytest.raises(ConfigError, match=r"metric\.mislabel\.share"):
        Mislabel(share=1.0)


@pytest.mark.parametrize(("n", "flagged"), [(12, 1), (40, 3), (40, 30)])
def test_the_average_precision_of_random_rankings_is_what_is_said(n, flagged):
    rng, flags = np.random.default_rng(8), np.arange(n) < flagged
    drawn = [detect(rng.random(n), flags, np.ones((1, n))).average_precision[0] for _ in range(1500)]
    assert chance_ap(n, flagged) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 1500**0.5 + 1e-12)


def test_resamples_come_in_blocks_and_the_data_first(flags, suspicion, monkeypatch):
    whole = resampled(suspicion, flags, 300, np.random.default_rng(9))
    monkeypatch.setattr(detection, "BLOCK", 80 * 7)  # seven resamples at a time
    blocks = resampled(suspicion, flags, 300, np.random.default_rng(9))
    assert blocks.auroc.shape == (301,) and blocks.found.shape == (301, 0)
    assert blocks.auroc[0] == whole.auroc[0] == pytest.approx(roc_auc_score(flags, suspicion))
    assert blocks.auroc[1:].mean() == pytest.approx(whole.auroc[1:].mean(), abs=0.02)
    assert moved(blocks.average_precision)[1:].mean() == pytest.approx(blocks.average_precision[0], abs=1e-3)


def test_few_flips_have_no_interval(suspicion, make_run):
    few = np.arange(80) < 4
    result = table(make_run(flags={"mislabeled": few}), -np.outer(suspicion, np.ones(3)))
    row = result.loc["mislabel_ap_sum"]
    assert row.status == "ok" and np.isnan(row.ci_low) and "no interval from 4 mislabeled" in row.note


def test_auroc_intervals_cover_the_truth():
    rng = np.random.default_rng(4)
    flags = np.arange(120) < 30
    true, hits = 0.7602, 0  # P(N(1, 1) > N(0, 1)) = Φ(1 / √2)
    for _ in range(200):
        found = detect(flags + rng.normal(size=120), flags, stratified_counts(flags, 150, rng))
        low, high = np.quantile(found.auroc, [0.025, 0.975])
        hits += low <= true <= high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({}, "not applicable", "gives no self-influence"),
        ({"self_influence": np.arange(80.0), "self_influence_note": "cosine with itself"}, "not applicable", "cosine"),
        ({"self_influence": np.ones(80, dtype=np.float32)}, "degenerate", "the same score"),
        ({"self_influence": np.append(np.arange(79.0), np.nan)}, "degenerate", "1 of 80"),
    ],
)
def test_unusable_self_influence_says_why(flags, make_run, fields, status, reason):
    result = table(make_run(flags={"mislabeled": flags}), np.random.default_rng(5).normal(size=(80, 3)), **fields)
    own = result[result.index.str.endswith("_self")]
    assert (own.status == status).all()
    assert own.note.str.contains(reason).all()
    assert (result[result.index.str.endswith("_sum")].status == "ok").all()


@pytest.mark.parametrize("gap", [np.nan, [np.inf, -np.inf, 0]])
def test_rows_without_scores_make_the_sum_degenerate(flags, make_run, gap):
    values = np.random.default_rng(6).normal(size=(80, 3))
    values[:2] = gap
    result = table(make_run(flags={"mislabeled": flags}), values)
    assert result.status["mislabel_auroc_sum"] == "degenerate"
    assert "2 of 80" in result.note["mislabel_auroc_sum"]


@pytest.mark.parametrize(
    ("made", "reason"),
    [({}, "corruption=none"), ({"mislabeled": np.zeros(80, bool)}, "no training instance is mislabeled")],
)
def test_without_flips_there_is_nothing_to_find(make_run, made, reason):
    result = table(make_run(flags=made), np.ones((80, 3)))
    assert len(result) == 10
    assert (result.status == "not applicable").all()
    assert result.note.str.contains(reason).all()
