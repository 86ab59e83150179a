"""Membership attacks against loops over models and instances."""

from __future__ import annotations

import numpy as np
import pytest

from influx.errors import ConfigError
from influx.metrics.membership_attacks import lira, separation, told
from influx.metrics.membership_inference import MembershipInference


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


@pytest.mark.parametrize("settings", [{"models": 4}, {"targets": 0}, {"rate": 1.0}, {"share": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"metric\.membership_inference\.{next(iter(settings))}"):
        MembershipInference(**settings)  # type: ignore[arg-type]
