"""Calibration against regression by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics.calibration import CEILING, NAMES, Calibration
from influx.metrics.tidy import tables_of

N, M = 30, 12


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    estimate = rng.normal(size=(N, M))
    return estimate, 0.4 * estimate + 0.2 + 0.1 * rng.normal(size=(N, M))


def frame_of(make_run: Any, estimate: np.ndarray, truth: np.ndarray | None, **fields: Any) -> pd.DataFrame:
    """What is said of the estimate; there is a single truth."""
    scale = fields.pop("scale", "loss")
    run = make_run(None if truth is None else Influence(values=truth), size=estimate.shape)
    frame = Calibration(n_boot=300, **fields).evaluate(Influence(values=estimate, scale=scale), run)
    ceiling = frame.iloc[-1]
    assert (ceiling.metric, ceiling.status) == (CEILING, "not applicable") and np.isnan(ceiling.value)
    assert ("truth.seeds=1" if truth is not None else "truth=none") in ceiling.note
    return frame.iloc[:-1]


def ceiling_of(make_run: Any, truth: Influence, estimate: np.ndarray | None = None) -> Any:
    estimate = truth.values if estimate is None else estimate
    run = make_run(truth, size=truth.values.shape)
    return Calibration(n_boot=200).evaluate(Influence(values=estimate), run).set_index("metric")


def test_the_ceiling_is_what_the_expected_truth_reaches(make_run: Any) -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(300, 40))
    seeds = expected + 1.5 * rng.normal(size=(3, 300, 40))
    truth = Influence(values=seeds.mean(axis=0), replicates=tuple(seeds))
    found = ceiling_of(make_run, truth, expected)
    pairs = [np.corrcoef(seeds[a].ravel(), seeds[b].ravel())[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))]
    r = np.mean(pairs)
    assert found.value[CEILING] == pytest.approx(3 * r / (1 + 2 * r))
    assert found.value[CEILING] == pytest.approx(found.value["calibration_r2"], abs=0.02)
    assert found.ci_low[CEILING] < found.value[CEILING] < found.ci_high[CEILING]
    assert "mean over 3 seeds" in found.note[CEILING]


def test_a_second_seed_for_the_ceiling_alone_does_not_raise_it(make_run: Any) -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=(40, 9)) + 0.5 * rng.normal(size=(2, 40, 9))
    seeds[1, 25:] = np.nan
    seeds[0, 3, 2] = np.inf
    truth = Influence(values=seeds[0], replicates=tuple(seeds), report={"seeds": 1})
    found = ceiling_of(make_run, truth).loc[CEILING]
    used = [np.delete(one[:25], 2, axis=1).ravel() for one in seeds]
    assert found.value == pytest.approx(np.corrcoef(*used)[0, 1]) and found.n == 8
    assert "25 of 40" in found.protocol and "rows and columns" in found.protocol and "1 of 9" in found.note
    flat = Influence(values=seeds[0], replicates=(np.ones((40, 9)), np.ones((40, 9))))
    assert ceiling_of(make_run, flat).status[CEILING] == "degenerate"


def test_line_and_skill_are_those_of_regression(make_run: Any, pairs: Any) -> None:
    estimate, truth = pairs
    found = frame_of(make_run, *pairs).set_index("metric")
    assert found.value["calibration_slope"] == pytest.approx(np.polyfit(estimate.ravel(), truth.ravel(), 1)[0])
    r2 = np.corrcoef(estimate.ravel(), truth.ravel())[0, 1] ** 2
    assert found.value["calibration_r2"] == pytest.approx(r2)
    skill = 1 - ((truth - estimate) ** 2).mean() / truth.var()
    assert found.value["calibration_skill"] == pytest.approx(skill) and skill < 0 < r2
    assert (found.ci_low < found.value).all() and (found.value < found.ci_high).all()
    assert found.ci_low["calibration_slope"] < 0.4 < found.ci_high["calibration_slope"]


def test_right_sizes_have_slope_and_skill_one_and_wrong_ones_have_not(make_run: Any, pairs: Any) -> None:
    truth = pairs[1]
    exact = frame_of(make_run, truth, truth).set_index("metric")
    for column in ("value", "ci_low", "ci_high"):
        assert exact[column].to_numpy() == pytest.approx([1, 1, 1])
    twice = frame_of(make_run, 2 * truth, truth).set_index("metric").value
    assert twice["calibration_slope"] == pytest.approx(0.5) and twice["calibration_r2"] == pytest.approx(1)
    assert twice["calibration_skill"] == pytest.approx(1 - (truth**2).mean() / truth.var())


def test_few_training_instances_widen_the_intervals(make_run: Any, pairs: Any) -> None:
    estimate, truth = pairs
    part = truth.copy()
    part[8:] = np.nan
    whole, partial = frame_of(make_run, estimate[:8], truth[:8]), frame_of(make_run, estimate, part)
    assert np.allclose(whole.value, partial.value)
    widths = [(frame.ci_high - frame.ci_low).to_numpy() for frame in (whole, partial)]
    assert (widths[1] > widths[0]).all()
    assert "rows and columns" in partial.protocol[0]
    assert tables_of(partial)["calibration"].ci_low.isna().all()


def test_the_curve_has_the_means_of_equal_groups_by_estimate(make_run: Any, pairs: Any) -> None:
    estimate, truth = pairs
    curve = tables_of(frame_of(make_run, estimate, truth, bins=4))["calibration"]
    order = np.argsort(estimate.ravel()).reshape(4, -1)
    assert curve.estimate.to_numpy() == pytest.approx(estimate.ravel()[order].mean(axis=1))
    assert curve.truth.to_numpy() == pytest.approx(truth.ravel()[order].mean(axis=1))
    assert (curve.ci_low < curve.truth).all() and (curve.truth < curve.ci_high).all()


def test_what_cannot_be_had_has_a_reason_instead_of_a_number(make_run: Any, pairs: Any) -> None:
    estimate, truth = pairs
    nearly = np.full((N, M), 0.1, np.float32)  # but for rounding
    nearly[0] = np.nextafter(nearly[0], np.float32(1))
    for frame, status, word in (
        (frame_of(make_run, estimate, truth, scale="rank"), "not applicable", "rank"),
        (frame_of(make_run, estimate, None), "not applicable", "truth=none"),
        (frame_of(make_run, np.ones((N, M)), truth), "degenerate", "constant"),
        (frame_of(make_run, nearly, truth), "degenerate", "constant"),
    ):
        assert frame.protocol.str.contains("pooled").all()
        assert frame.metric.tolist() == list(NAMES) and frame.value.isna().all()
        assert (frame.status == status).all() and frame.note.str.contains(word).all()
    broken = estimate.copy()
    broken[0, 0] = np.inf
    assert "1 of 12 test instances not finite" in frame_of(make_run, broken, truth).note[0]


@pytest.mark.parametrize("settings", [{"bins": 1}, {"n_boot": 5}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.calibration\.{next(iter(settings))}"):
        Calibration(**settings)
