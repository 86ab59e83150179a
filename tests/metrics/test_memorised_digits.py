"""What docs/generative.md says of memorised digits and of what the model generates."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import influx


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder: Path = tmp_path_factory.mktemp("outputs")
    chosen = ["experiment=memorised_digits", "estimator.groups=0", "baselines=[random]", "quiet=true"]
    result = influx.run([*chosen, f"paths.outputs={folder}"])
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("generated sample ") == 12 and page.count("nearest training instance ") >= 12
    return result.metrics.set_index(["estimator", "metric"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        ("memorised_auroc_mislabeled", 0.95, 1.0),
        ("memorised_ratio_mislabeled", 2.5, 5.0),
        ("memorised_auroc_duplicated", 0.5, 0.7),
        ("memorised_ratio_duplicated", 0.75, 1.0),
        ("memorised_auroc_rare", 0.45, 0.65),
        ("generated_nearest_place", 0.0, 0.08),
        ("generated_same_label", 0.7, 0.9),
        ("generated_copying", 0.5, 0.7),
        ("generated_authentic", 0.5, 0.8),
    ],
)
def test_vae_tracin_on_digits(metric: str, least: float, most: float, measured: pd.DataFrame) -> None:
    assert least <= measured.value["vae_tracin", metric] <= most


@pytest.mark.slow
def test_random_influence_finds_nothing(measured: pd.DataFrame) -> None:
    mine = measured.loc["random"]
    for metric, chance in (("generated_nearest_place", 0.5), ("generated_same_label", 0.1)):
        assert mine.ci_low[metric] < chance < mine.ci_high[metric]
    assert mine.ci_high["memorised_auroc_mislabeled"] < measured.ci_low["vae_tracin", "memorised_auroc_mislabeled"]
