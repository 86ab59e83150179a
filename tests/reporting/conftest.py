"""A small finished run of 6x6 images, with a label that tries to be a script."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.reporting.record import RunRecord

N_TRAIN, N_TEST = 40, 12
CLASSES = ("cat", "<script>alert(1)</script>", "dog & 'fox'")
CONFIG = "dataset:\n  name: toy <b>images</b>\nmodel:\n  _target_: influx.models.mlp.Mlp\nseed: 0\n"


def metric_row(estimator: str, metric: str, value: float | str, **more: object) -> dict[str, object]:
    low, high = (value - 0.05, value + 0.05) if isinstance(value, float) else ("", "")
    row = {"estimator": estimator, "metric": metric, "value": value, "ci_low": low, "ci_high": high}
    return row | {"n": N_TEST, "status": "ok", "protocol": "loo, weight in place", "note": ""} | more


def metric_rows() -> list[dict[str, object]]:
    rows = []
    scores = {"tracincp": 0.712, "loss": 0.134, "gradient_norm": 0.265, "feature_similarity": 0.398}
    for name, value in scores.items():
        rows.append(metric_row(name, "spearman", value))
        rows.append(metric_row(name, "spearman_median", value - 0.2))
        rows.append(metric_row(name, "pooled_pearson", value + 0.011))
        rows.append(metric_row(name, "lds", value / 2, protocol="lds, subsets of half the data"))
        rows.append(metric_row(name, "topk_proponents", 0.5, protocol="k=10, ties by id"))
        rows.append(metric_row(name, "topk_opponents", 0.4))
    constant = "the scores of <i>random</i> are constant"
    rows.append(metric_row("random", "spearman", "", status="degenerate", note=constant))
    rows.append(metric_row("random", "lds", "", status="not applicable", note="no bank of subsets"))
    rows.append(metric_row("tracincp", "ceiling_spearman", 0.874))
    rows.append(metric_row("tracincp", "mislabel_auroc_self", 0.931))
    rows.append(metric_row("loss", "mislabel_auroc_self", 0.902))
    return rows


def manifest() -> dict[str, object]:
    stages = {"train": (1.25, 210, True), "truth": (9.5, 480, False), "estimate": (0.31, 250, False)}
    return {
        "estimator": "tracincp",
        "status": "done",
        "truth": "loo",
        "stages": {k: {"seconds": s, "peak_mb": m, "cached": c} for k, (s, m, c) in stages.items()},
        "cost": {
            "truth": {"seconds": 9.5, "peak_mb": 480, "trainings": 35},
            "tracincp": {"seconds": 0.31, "peak_mb": 250, "trainings": 1},
            "random": {"seconds": 0.001, "peak_mb": 200, "trainings": 0},
        },
        "warnings": ["the noise ceiling is <low>"],
        "notes": ["standardised on the training split"],
        "command": ["influx", "run", "estimator=tracincp", "dataset.path=my data.csv"],
        "protocol": "weight in place, denominators stay, seed 0",
        "versions": {"influx": "0.1.0", "torch": "2.8.0"},
        "problem": {"id": "abc123", "folder": "../../problems/abc123"},
    }


def write_run(outputs: Path, name: str = "toy", images: bool = True, truth: bool = True) -> Path:
    rng = np.random.default_rng(0)
    folder, problem = outputs / "runs" / name, outputs / "problems" / "abc123"
    folder.mkdir(parents=True)
    problem.mkdir(parents=True, exist_ok=True)
    effect = rng.normal(size=(N_TRAIN, N_TEST)).astype(np.float32) * 0.01
    estimate = effect + rng.normal(size=effect.shape).astype(np.float32) * 0.006
    np.save(folder / "influence.npy", estimate)
    if truth:
        effect[-5:] = np.nan  # five instances beyond the budget
        np.save(folder / "truth.npy", effect)
    ids = [("train", i, 100 + i, CLASSES[i % 3]) for i in range(N_TRAIN)]
    ids += [("test", j, 500 + j, CLASSES[j % 3]) for j in range(N_TEST)]
    pd.DataFrame(ids, columns=["axis", "position", "id", "label"]).to_parquet(folder / "ids.parquet")
    ranking(estimate).to_parquet(folder / "ranking.parquet")
    own = pd.DataFrame({"train_id": np.arange(100, 140), "influence": np.linspace(1, 0, 40), "rank": range(1, 41)})
    own.to_csv(folder / "self_influence.csv", index=False)
    pd.DataFrame(metric_rows()).to_csv(folder / "metrics.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest()))
    (folder / "config.yaml").write_text(CONFIG)
    if images:
        pictures = {k: rng.integers(0, 256, (n, 1, 6, 6), dtype=np.uint8) for k, n in (("train", 40), ("test", 12))}
        np.savez(problem / "display.npz", **pictures)
    return folder


def ranking(estimate: np.ndarray, top: int = 4) -> pd.DataFrame:
    rows = []
    for j in range(N_TEST):
        for role, order in (("proponent", np.argsort(-estimate[:, j])), ("opponent", np.argsort(estimate[:, j]))):
            rows += [(500 + j, r, role, 100 + i, float(estimate[i, j])) for r, i in enumerate(order[:top], start=1)]
    return pd.DataFrame(rows, columns=["test_id", "rank", "role", "train_id", "influence"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "outputs")


@pytest.fixture
def record(folder: Path) -> RunRecord:
    return RunRecord.load(folder)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunRecord]:
    """Another run, in its own outputs folder: ``make_run(name, images=..., truth=...)``."""
    return lambda name, **options: RunRecord.load(write_run(tmp_path / f"outputs of {name}", name, **options))
