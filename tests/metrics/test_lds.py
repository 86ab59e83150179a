from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from influx import results
from influx.errors import ConfigError
from influx.influence import Influence
from influx.metrics import predicted
from influx.metrics.lds import LinearDatamodelingScore, draw_masks
from influx.metrics.statistics import constant_columns
from influx.metrics.tidy import tables_of
from influx.problem import Design, Outcomes
from influx.store import Folder

SIZE = (30, 7)


class NoisyBank:
    """Additive models with noise that the test instances of a model partly share."""

    def __init__(self, effects: np.ndarray, rng: np.random.Generator) -> None:
        self.effects, self.rng = effects, rng

    def outcomes(self, design: Design, label: str = "") -> tuple[Outcomes, Outcomes]:
        helpful = design.weights.astype(float) @ self.effects
        helpful = helpful + 1.5 * self.rng.normal(size=(len(design), 1)) + 1.5 * self.rng.normal(size=helpful.shape)
        outcomes = Outcomes(loss=-helpful, margin=helpful.astype(np.float32), prediction=helpful.astype(np.float32))
        return outcomes, outcomes


@pytest.fixture
def effects() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SIZE)


def table(run, values, **fields):
    metric = LinearDatamodelingScore(n_boot=200, **fields)
    return metric.evaluate(Influence(values=values), run).set_index("metric")


@pytest.mark.parametrize("output", ["loss", "margin"])
def test_the_true_effects_of_additive_models_score_one(effects, make_run, make_bank, output):
    run = make_run(bank=make_bank(effects), size=SIZE)
    row = table(run, effects, subsets=40, output=output).loc["lds"]
    np.testing.assert_allclose([row.value, row.ci_low, row.ci_high], 1)


def test_wrong_signs_score_minus_one(effects, make_run, make_bank):
    assert table(make_run(bank=make_bank(effects), size=SIZE), -effects).value["lds"] == pytest.approx(-1)


def test_unrelated_scores_are_near_zero(effects, make_run, make_bank):
    other = np.random.default_rng(1).normal(size=SIZE)
    row = table(make_run(bank=make_bank(effects), size=SIZE), other, subsets=200).loc["lds"]
    assert abs(row.value) < 0.2
    assert row.ci_low < 0 < row.ci_high


def test_it_is_the_mean_spearman_over_subsets(effects, make_run, make_bank):
    bank = make_bank(effects, noise=2.0)
    row = table(make_run(bank=bank, size=SIZE), effects, subsets=50, seeds=2).loc["lds"]
    design = bank.designs[0]
    observed = -bank.outcomes(design)[1].loss.reshape(2, 50, -1).mean(axis=0)
    predicted = design.weights[:50].astype(float) @ effects
    expected = np.mean([stats.spearmanr(predicted[:, j], observed[:, j])[0] for j in range(7)])
    assert row.value == pytest.approx(expected)
    assert row.ci_low < row.value < row.ci_high


def test_the_design_has_fixed_sizes_and_a_seed_per_repetition():
    design = LinearDatamodelingScore(alpha=0.29, subsets=4, seeds=3).design(100, seed=5)
    assert design.weights.dtype == np.uint8
    assert (design.weights.sum(axis=1) == 29).all()
    assert design.init.tolist() == design.order.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(design.weights[:4], design.weights[4:8])
    assert design.loss_norm == "subset"


def test_more_subsets_keep_the_first_ones():
    np.testing.assert_array_equal(draw_masks(20, 10, 8, seed=1)[:3], draw_masks(20, 10, 3, seed=1))
    assert not np.array_equal(draw_masks(20, 10, 8, seed=1), draw_masks(20, 10, 8, seed=2))


def test_subsets_contain_each_instance_equally_often():
    share = draw_masks(20, 5, 4000, seed=3).mean(axis=0)
    np.testing.assert_allclose(share, 0.25, atol=0.035)  # five standard errors


def test_the_ceiling_is_split_half_reliability(effects, make_run, make_bank):
    bank = make_bank(effects, noise=3.0)
    row = table(make_run(bank=bank, size=SIZE), effects, subsets=60, seeds=2).loc["lds_ceiling"]
    first, second = -bank.outcomes(bank.designs[0])[1].loss.reshape(2, 60, -1)
    half = np.mean([stats.spearmanr(first[:, j], second[:, j])[0] for j in range(7)])
    assert row.value == pytest.approx(2 * half / (1 + half))
    assert row.ci_low < row.value < row.ci_high


def test_intervals_cover_the_expected_score_and_are_not_much_wider_than_needed(make_run):
    rows = []
    for repetition in range(100):
        rng = np.random.default_rng(repetition)
        effects = rng.normal(size=(20, 6))
        bank = NoisyBank(effects, rng)
        run = make_run(bank=bank, size=effects.shape, seed=repetition)
        metric = LinearDatamodelingScore(subsets=40, n_boot=100)
        rows.append(metric.evaluate(Influence(values=effects), run).loc[0, ["value", "ci_low", "ci_high"]])
    value, low, high = np.array(rows, dtype=float).T
    assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.90
    assert (high - low).mean() < 1.6 * 2 * 1.96 * value.std()


def test_one_seed_has_no_ceiling(effects, make_run, make_bank):
    row = table(make_run(bank=make_bank(effects), size=SIZE), effects).loc["lds_ceiling"]
    assert row.status == "not applicable"
    assert "metric.lds.seeds=1" in row.note


def test_missing_rows_leave_subsets_without_a_prediction(effects, make_run, make_bank):
    bank = make_bank(effects)
    values = effects.copy()
    values[:3] = np.nan
    row = table(make_run(bank=bank, size=SIZE), values).loc["lds"]
    assert row.status == "not applicable"
    assert "3 of 30 training instances have no score" in row.note
    assert not bank.designs  # nothing was trained for it


def test_values_that_are_not_finite_are_degenerate(effects, make_run, make_bank):
    values = effects.copy()
    values[3, 2] = np.inf
    row = table(make_run(bank=make_bank(effects), size=SIZE), values).loc["lds"]
    assert (row.status, row.n) == ("ok", 6) and "1 not finite" in row.note
    values[:, 1:] = np.inf
    row = table(make_run(bank=make_bank(effects), size=SIZE), values).loc["lds"]
    assert row.n == 1 and np.isfinite(row.value) and np.isnan(row.ci_low) and "single" in row.note
    values[:3] = np.inf
    row = table(make_run(bank=make_bank(effects), size=SIZE), values).loc["lds"]
    assert row.status == "degenerate" and "7 not finite" in row.note


@pytest.mark.fault(24, "degenerate with the reason, never a number")
def test_constant_scores_are_degenerate(effects, make_run, make_bank):
    row = table(make_run(bank=make_bank(effects), size=SIZE), np.full(SIZE, 0.1)).loc["lds"]
    assert row.status == "degenerate"
    assert "7 of 7 test instances degenerate" in row.note


def test_the_protocol_says_how_it_was_measured(effects, make_run, make_bank):
    row = table(make_run(bank=make_bank(effects), size=SIZE), effects, subsets=20).loc["lds"]
    for part in ("alpha=0.5", "K=20", "seeds=1", "loss_norm=subset", "output=loss", "subsets and test instances"):
        assert part in row.protocol


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("alpha", 1.0), ("subsets", 2), ("seeds", 0), ("loss_norm", "half"), ("output", "logit"), ("n_boot", 5)],
)
def test_settings_out_of_range_are_named(field, wrong):
    with pytest.raises(ConfigError, match=rf"metric\.lds\.{field} must be"):
        LinearDatamodelingScore(**{field: wrong})


@pytest.mark.fault(25, "one sentence that names alpha")
def test_an_empty_subset_is_refused():
    with pytest.raises(ConfigError, match=r"metric\.lds\.alpha=0\.01 leaves no instance of 30"):
        LinearDatamodelingScore(alpha=0.01).design(30, seed=0)


def saved(run, values, tmp_path, **fields):
    """The row of the score, and what was kept of it, through a file and in another order."""
    frame = LinearDatamodelingScore(n_boot=100, **fields).evaluate(Influence(values=values), run)
    tables_of(frame)[predicted.TABLE].sample(frac=1, random_state=0).to_parquet(tmp_path / "kept.parquet")
    return frame.loc[0], predicted.Predicted.read(pd.read_parquet(tmp_path / "kept.parquet"))


@pytest.mark.parametrize("output", ["loss", "margin"])
def test_the_score_follows_from_what_is_kept(effects, make_run, make_bank, tmp_path, output):
    run = make_run(bank=make_bank(effects, noise=2.0), size=SIZE)
    values = (effects + 1e5).astype(np.float32)  # sums that single precision would tie
    row, kept = saved(run, values, tmp_path, subsets=50, seeds=2, output=output)
    found = [stats.spearmanr(kept.predicted[:, j], kept.observed[:, j])[0] for j in range(7)]
    assert row.value == pytest.approx(np.mean(found), abs=1e-12) and row.note == ""
    assert kept.test_ids.tolist() == list(range(7)) and kept.predicted.shape == (50, 7)


def test_constant_scores_are_kept_as_constant_predictions(effects, make_run, make_bank, tmp_path):
    values = effects.astype(np.float32)
    values[:, 2], values[3, 4] = 0.1, np.inf
    values[::2, 2] = np.nextafter(values[1, 2], np.float32(1))  # rounding
    row, kept = saved(make_run(bank=make_bank(effects), size=SIZE), values, tmp_path)
    assert row.n == 5 and constant_columns(kept.predicted).tolist() == [j == 2 for j in range(7)]
    assert np.isfinite(kept.predicted).all(axis=0).tolist() == [j != 4 for j in range(7)]


def test_too_many_predictions_are_not_kept_and_the_note_says_so(effects, make_run, make_bank, monkeypatch):
    run = make_run(bank=make_bank(effects), size=SIZE)
    for most, told in ((70, ""), (69, "too many predictions to keep for paired differences (10 subsets x 7 test")):
        monkeypatch.setattr(predicted, "MOST", most)
        frame = LinearDatamodelingScore(n_boot=100, subsets=10).evaluate(Influence(values=effects), run)
        assert bool(tables_of(frame)) == (not told) and frame.loc[0, "note"].startswith(told)


def test_a_table_with_holes_is_refused(effects, make_run, make_bank):
    run = make_run(bank=make_bank(effects), size=SIZE)
    table = tables_of(LinearDatamodelingScore(n_boot=100).evaluate(Influence(values=effects), run))[predicted.TABLE]
    for wrong in (table[1:], table[:0], table.astype({"observed": str}), pd.concat([table, table[:1]])):
        with pytest.raises(ValueError, match=r"one row of numbers|duplicate"):
            predicted.Predicted.read(wrong)


def test_plans_know_how_large_the_file_is(tmp_path):
    rng = np.random.default_rng(0)
    tables = []
    for estimator in "ab":
        numbers = rng.normal(size=(2, 50, 200))
        kept = predicted.Predicted(predicted=numbers[0], observed=numbers[1], test_ids=np.arange(200)).tables()
        tables.append({name: table.assign(estimator=estimator) for name, table in kept.items()})
    [name] = results.save_metric_tables(Folder(tmp_path), tables)
    assert (tmp_path / name).stat().st_size == pytest.approx(predicted.FILE_BYTES * 2 * 50 * 200, rel=0.3)
