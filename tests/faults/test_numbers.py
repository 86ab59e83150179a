"""Numbers that are not, problems too small to mean much: one sentence, or a result that says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.security.conftest import Command, influx

__all__ = ["influx"]


def npz(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(folder / "data.npz", x=x, y=y)
    return f"dataset.path={folder}/data.npz"


def table(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), np.arange(n) % 2


@pytest.mark.fault(21, "one sentence with the row and the column")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_named(value: float, influx: Command, tmp_path: Path) -> None:
    x, y = table(40)
    x[7, 1] = value
    said = influx.refused("dataset=npz", npz(tmp_path, x, y), "dataset.n_test=10", "dataset.n_train=20")
    assert "x1" in said and not influx.outputs.exists()


@pytest.mark.fault(21, "one sentence with the instances left out")
def test_a_retraining_that_diverges_names_what_it_left_out(influx: Command, tmp_path: Path) -> None:
    x = np.where(np.arange(8) % 2, 1.0, 0.0)[:, None]  # without a zero, the mean curvature of the rest is larger
    y = np.linspace(0.0, 1.0, 8)
    request = [
        *("dataset=npz", npz(tmp_path, x, y), "dataset.n_test=2", "dataset.n_train=6", "dataset.task=regression"),
        *("dataset.standardize=false", "model=linear", "model.bias=false", "training.batch_size=6"),
        *("training.epochs=2000", "optimizer.momentum=0", "optimizer.weight_decay=0", "estimator=loss"),
    ]
    assert influx.run(*request, "optimizer.lr=2.6")[0] == 0, "the model itself converges"
    said = influx.refused(*request, "optimizer.lr=2.6", "truth=loo", "truth.renormalise=true")
    assert "retrained without" in said and "[2]" in said and "optimizer.lr" in said


@pytest.mark.fault(25, "a run that ends; what is undefined is called degenerate with its reason")
def test_one_test_instance_and_one_of_each_class_are_enough(influx: Command) -> None:
    code, said = influx.run(
        *("dataset.n_train=3", "dataset.n_test=1", "truth=loo", "truth.ceiling_budget=0"),
        *("metric=[agreement]", "baselines=[random]", "estimator=tracincp", "name=small"),
    )
    assert code == 0, said
    rows = json.loads((influx.outputs / "runs" / "small" / "metrics.json").read_text())
    assert rows and all(row["status"] == "ok" or row["note"] for row in rows)
    assert np.isfinite(np.load(influx.outputs / "runs" / "small" / "influence.npy")).all()


@pytest.mark.fault(25, "one sentence: two different labels are needed")
def test_a_single_class_is_refused(influx: Command, tmp_path: Path) -> None:
    x, _ = table(40)
    said = influx.refused("dataset=npz", npz(tmp_path, x, np.zeros(40, int)), "dataset.n_test=10")
    assert "two different values" in said


@pytest.mark.fault(25, "one sentence that names alpha")
def test_a_subset_without_instances_is_refused(influx: Command) -> None:
    assert "alpha" in influx.refused("metric=[lds]", "metric.lds.alpha=0.001", "truth=none")


@pytest.mark.fault(26, "equal influence of equal instances; the earlier row comes first")
def test_duplicates_tie_and_the_earlier_comes_first(influx: Command, tmp_path: Path) -> None:
    x, y = table(20)
    path = npz(tmp_path, np.concatenate([x, x]), np.concatenate([y, y]))
    code, said = influx.run(
        *("dataset=npz", path, "dataset.n_test=4", "dataset.n_train=36", "training.batch_size=36", "name=ties"),
        *("estimator=tracincp", "top_k=36", "seed=3"),
    )
    assert code == 0, said
    import pandas as pd

    folder = influx.outputs / "runs" / "ties"
    values, ids = np.load(folder / "influence.npy"), pd.read_parquet(folder / "ids.parquet")
    train = ids[ids["axis"] == "train"]["id"].to_numpy()
    row = {instance: i for i, instance in enumerate(train)}
    pairs = [(row[i], row[i + 20]) for i in range(20) if i in row and i + 20 in row]
    assert len(pairs) > 5
    np.testing.assert_allclose(values[[a for a, _ in pairs]], values[[b for _, b in pairs]], rtol=2e-5, atol=1e-9)
    ranking = pd.read_csv(folder / "ranking.csv")
    for (_, _), part in ranking.groupby(["test_id", "role"]):
        ordered = part.sort_values("rank")
        same = ordered["influence"].to_numpy()[1:] == ordered["influence"].to_numpy()[:-1]
        later = np.array([row[i] for i in ordered["train_id"]])
        assert (later[1:][same] > later[:-1][same]).all()


@pytest.mark.fault(27, "one sentence that names the setting, or a measured error")
@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("output_dtype=float16", "output_dtype"),
        ("output_dtype=bfloat16", "output_dtype"),
        ("estimator.precision=float16", "estimator.precision"),
        ("estimator.precision=tf32", "estimator.precision"),
    ],
)
def test_half_precision_that_the_processor_lacks_is_refused(override: str, word: str, influx: Command) -> None:
    assert word in influx.refused("estimator=tracincp", override)
