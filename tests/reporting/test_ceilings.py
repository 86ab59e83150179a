"""Which ceiling a number has, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from influx.influence import Influence
from influx.metrics.ceiling import NAMES, Ceiling
from influx.reporting import ceilings
from tests.metrics.conftest import make_run as make_run
from tests.reporting.conftest import metric_row


def measured(run: Any) -> dict[str, dict[str, Any]]:
    found = Ceiling(n_boot=100).evaluate(Influence(values=np.zeros((1, 1))), run)
    return {row["metric"]: {"estimator": "a"} | row for row in found.to_dict("records")}


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("agreement", [-0.3, 0.0, 0.8])
def test_the_ceiling_of_a_truth_goes_by_its_number_of_seeds(make_run: Any, seeds: int, agreement: float) -> None:
    rng = np.random.default_rng(0)
    common, noise = rng.normal(size=(40, 6)), 0.3 * rng.normal(size=(2, 40, 6))
    both = np.stack([common, agreement * common]) + noise
    truth = Influence(values=both[:seeds].mean(axis=0), replicates=tuple(both), report={"seeds": seeds})
    known = measured(make_run(truth))
    assert set(known) == set(NAMES)
    table = [metric_row("a", "spearman", 0.3), metric_row("a", "pearson", 0.2), *known.values()]
    spearman, pearson, *rest = ceilings.beside(table)
    expected = known[ceilings.ONE_SEED if seeds == 1 else ceilings.OF_MEAN]
    assert spearman is not None and spearman.row["value"] == expected["value"] and not any(rest)
    assert ceilings.about(spearman).startswith("truth of one seed" if seeds == 1 else "reliability of a mean")
    assert (pearson is None) == (seeds > 1)  # no ceiling of a mean is known
    assert ("Spearman mean" in ceilings.line(table)) == (seeds > 1)


def test_what_may_exceed_a_ceiling_is_said_once_of_those_it_is_true_of() -> None:
    names = ("lds_ceiling", "group_reliability_random", "group_reliability_alike")
    table = [metric_row("a", name, 0.6 + i / 10) for i, name in enumerate(names)]
    table.append(metric_row("a", "calibration_ceiling", 0.6))  # equal numbers are told too
    line = ceilings.line(table)
    assert line.count(ceilings.ABOUT_RELIABILITY) == 1 and "square root" in ceilings.ABOUT_RELIABILITY
    own, other = line.split(ceilings.ABOUT_RELIABILITY)
    for told in ("LDS 0.600", "Group reliability random 0.700", "Group reliability alike 0.800"):
        assert told in own
    assert f"R² of calibration 0.600 [0.550, 0.650] ({ceilings.ABOUT_CALIBRATION})" in other
    for metric in ("lds", "group_rank_random", "group_rank_alike"):
        found = ceilings.shared_ceiling(metric, table)
        assert found is not None and ceilings.about(found) == ceilings.ABOUT_RELIABILITY


def test_an_estimate_without_noise_reaches_the_square_root_of_a_reliability(make_run: Any) -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(2000, 4))
    seeds = signal + rng.normal(size=(2, 2000, 4))
    run = make_run(Influence(values=seeds.mean(axis=0), replicates=tuple(seeds)))
    ceiling = measured(run)[ceilings.OF_MEAN]["value"]
    reached = np.mean([np.corrcoef(signal[:, j], seeds.mean(axis=0)[:, j])[0, 1] for j in range(4)])
    assert ceiling == pytest.approx(2 / 3, abs=0.03) and reached == pytest.approx(np.sqrt(ceiling), abs=0.02)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mislabel_auroc_self", "1 at best"),
        ("same_subclass_share", "1 at best"),
        ("stability_spearman", "1 at best"),
        ("topk_opponents", "1 at best"),
        ("memorised_gain_risk_rare", ""),  # a difference
        ("mislabel_area_sum", ""),  # 1 - ρ/2, which docs say
        ("randomisation", ""),  # the less, the better
        ("lds_ceiling", ""),
        ("qld", ""),
    ],
)
def test_metrics_that_a_perfect_answer_brings_to_one_say_so(metric: str, expected: str) -> None:
    assert ceilings.best(metric) == expected
