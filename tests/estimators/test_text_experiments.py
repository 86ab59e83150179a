"""What docs/text.md says of the experiments with texts."""

from __future__ import annotations

from pathlib import Path

import pytest

import influx

pytestmark = pytest.mark.slow


def values(tmp_path: Path, *overrides: str) -> dict[tuple[str, str], float]:
    run = influx.run([*overrides, "quiet=true", f"paths.outputs={tmp_path}"])
    return {(row.estimator, row.metric): row.value for row in run.metrics.itertuples()}


def test_wrong_modules_are_found(tmp_path: Path) -> None:
    found = values(tmp_path, "experiment=mislabeled_text", "baselines=[random,tracin_last]")
    assert found["tracin_we", "mislabel_auroc_self"] > 0.7 and found["tracin_last", "mislabel_auroc_self"] > 0.75
    assert abs(found["random", "mislabel_auroc_self"] - 0.5) < 0.15


def test_restated_texts_are_found_by_influence_and_better_by_their_words(tmp_path: Path) -> None:
    found = values(
        tmp_path, "experiment=text_language", "baselines=[random,bm25,gas]", "metric=[fact_tracing,tail_patch]"
    )
    mrr = {name: found[name, "fact_mrr"] for name in ("random", "tracin_we", "gas", "bm25")}
    assert mrr["random"] < 0.05 < 0.08 < mrr["tracin_we"] < mrr["gas"] < mrr["bm25"]
