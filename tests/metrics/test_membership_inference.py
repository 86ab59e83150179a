"""Membership attacks against loops over models and instances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.engines import subsets
from influx.errors import ConfigError
from influx.influence import Influence
from influx.learners.linear.logistic import Logistic
from influx.metrics.membership_attacks import lira, separation, told
from influx.metrics.membership_inference import MembershipInference
from influx.metrics.tidy import tables_of
from influx.oracles import toys
from influx.problem import Design
from tests.metrics.retrained import run_of


def setting(k: int = 12, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inside = np.array([rng.permutation(k) < k // 2 for _ in range(n)]).T
    return rng.normal(size=(k, n)) + 2 * inside, inside


def test_the_likelihood_ratio_is_that_of_normal_densities_without_the_target() -> None:
    from scipy.stats import norm

    margins, inside = setting()
    found = lira(margins, inside, np.arange(3))
    for t in range(3):
        others = [k for k in range(12) if k != t]
        means, spreads = [], []
        for side in (inside, ~inside):
            groups = [[margins[k, i] for k in others if side[k, i]] for i in range(9)]
            means.append([np.mean(g) for g in groups])
            squares = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups)
            spreads.append(np.sqrt(squares / sum(len(g) - 1 for g in groups)))
        for i in range(9):
            ratio = norm.logpdf(margins[t, i], means[0][i], spreads[0]) - norm.logpdf(
                margins[t, i], means[1][i], spreads[1]
            )
            assert found[t, i] == pytest.approx(ratio)


def test_separation_is_the_difference_of_means_in_deviations() -> None:
    margins, inside = setting()
    for i, value in enumerate(separation(margins, inside)):
        a, b = margins[inside[:, i], i], margins[~inside[:, i], i]
        assert value == pytest.approx((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))


def test_auroc_and_true_positives_with_ties_and_repeated_instances() -> None:
    rng = np.random.default_rng(1)
    scores, member = rng.integers(0, 6, (3, 20)).astype(float), rng.random((3, 20)) < 0.5
    counts = np.vstack([np.ones(20), np.bincount(rng.integers(20, size=20), minlength=20)])
    found = told(scores, member, counts, 0.3)
    for b, count in enumerate(counts.astype(int)):
        s, m = (np.repeat(a, count, axis=1).ravel() for a in (scores, member))
        pairs = s[m][:, None] - s[~m]
        assert found.auroc[b] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
        best = max([0.0, *((s[m] >= t).mean() for t in np.unique(s) if (s[~m] >= t).mean() <= 0.3)])
        assert found.tpr[b] == pytest.approx(best)


def test_rows_are_those_of_models_trained_on_halves_of_their_own(tmp_path: Path) -> None:
    n, k = 14, 24
    clean, wrong = toys.table(n_train=n, n_test=6), np.arange(14) < 3
    toy = toys.learned(tmp_path, replace(clean, flags={"mislabeled": wrong}), Logistic(weight_decay=0.1))
    metric = MembershipInference(models=k, targets=2, rate=0.2, n_boot=100)
    run, own = run_of(toy, metric, "membership_inference"), np.random.default_rng(0).normal(size=n)
    frame = metric.evaluate(Influence(values=np.zeros((n, 6)), self_influence=own), run)
    rows = frame.set_index("metric")
    masks = subsets.fixed_size(toy.train.ids, 7, k, run.drawn("membership/7"))
    shared = subsets.fixed_size(toy.train.ids, 7, k, run.drawn("fixed/7"))
    assert not (masks == shared).all()  # downsampling's models would judge what was made of them
    numbers = np.zeros(k, np.int64)
    design = Design(weights=masks.astype(float), init=numbers, order=numbers, loss_norm="subset")
    loss, margin = (getattr(toy.problem.learner.retrain(toy.problem.data, 0, design)[0], w) for w in ("loss", "margin"))
    inside = masks.astype(bool)
    members, others = -loss[:2][inside[:2]], -loss[:2][~inside[:2]]
    assert rows.value["membership_auroc_loss"] == pytest.approx((members[:, None] > others).mean())
    table = tables_of(frame)["membership"].set_index("train_id").separation
    np.testing.assert_allclose(table[toy.train.ids], separation(margin, inside), rtol=1e-4)
    assert "too few" in rows.note["membership_tpr_loss"] and "too few" not in rows.note["membership_auroc_loss"]
    known = -toy.fitted.outcomes(toy.train).loss[~wrong]
    pairs = known[:, None] > -toy.fitted.outcomes(toy.test).loss
    assert rows.value["membership_auroc_own"] == pytest.approx(pairs.mean())
    assert "3 that the corruption changed left out" in rows.protocol["membership_auroc_own"]


@pytest.mark.parametrize("settings", [{"models": 4}, {"targets": 0}, {"rate": 1.0}, {"share": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.membership_inference\.{next(iter(settings))}"):
        MembershipInference(**settings)  # type: ignore[arg-type]
