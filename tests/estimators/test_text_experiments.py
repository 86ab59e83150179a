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
    less = ["metric=[fact_tracing]", "~metric.tail_patch", "baselines=[random,bm25,gas]"]
    found = values(tmp_path, "experiment=text_language", *less)
    mrr = {name: found[name, "fact_mrr"] for name in ("random", "tracin_we", "gas", "bm25")}
    assert mrr["random"] < 0.05 < 0.08 < mrr["tracin_we"] < mrr["gas"] < mrr["bm25"]


def test_leave_one_out_of_texts_is_known_by_the_derivative_of_the_training(tmp_path: Path) -> None:
    less = ["truth.budget=20", "truth.ceiling_budget=12", "metric=[agreement,ceiling]"]
    common = ["experiment=text_docstrings", *less]
    found = values(tmp_path, *common, "baselines=[random,tracincp,tracin_last]")
    found |= values(tmp_path, *common, "estimator=magic", "estimator.self_influence=false", "baselines=[]")
    assert found["magic", "spearman"] > 0.9 and found["magic", "pooled_pearson"] > 0.9
    assert found["tracin_we", "spearman"] > 0.2 and found["tracincp", "spearman"] > 0.1
    assert abs(found["random", "spearman"]) < 0.2
    assert found["magic", "ceiling_spearman"] > 0.5  # across seeds
