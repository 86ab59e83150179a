"""Data drawn by the seed: learnable, prefix by prefix the same, and sizes without contents."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from influx.datasets.cifar import Cifar
from influx.datasets.synthetic import Synthetic
from influx.errors import ConfigError
from influx.learners.torch.inputs import to_tensors


def test_more_instances_leave_the_first_as_they_are() -> None:
    few, many = (Synthetic(n_train=n, n_test=5, shape=[3, 6, 5], classes=3).load(7) for n in (20, 50))
    assert np.array_equal(few.train.x, many.train.x[:20]) and np.array_equal(few.train.y, many.train.y[:20])
    assert np.array_equal(few.test.x, many.test.x)
    other = Synthetic(n_train=20, n_test=5, shape=[3, 6, 5], classes=3).load(8)
    assert not np.array_equal(few.train.x, other.train.x)


@pytest.mark.parametrize("shape", [[20], [3, 8, 8]])
def test_classes_are_apart_by_the_signal(shape: list[int]) -> None:
    train = Synthetic(n_train=4000, shape=shape, signal=2.0).load(0).train
    first, second = (train.x[train.y == c].reshape(-1, int(np.prod(shape))) for c in (0, 1))
    direction = first.mean(0) - second.mean(0)
    scores = [part @ direction for part in (first, second)]
    middle = (scores[0].mean() + scores[1].mean()) / 2
    error = ((scores[0] < middle).mean() + (scores[1] > middle).mean()) / 2
    distance = float(np.linalg.norm(direction))  # between two directions of length 2, drawn at random
    assert 1.5 < distance < 4 and error < 0.25 and abs(train.x.std() - 1) < 0.1


def test_a_target_is_predicted_by_one_direction_but_for_noise() -> None:
    train = Synthetic(n_train=4000, task="regression", signal=2.0).load(0).train
    solved = np.linalg.lstsq(train.x, train.y, rcond=None)[0]
    left = float(np.var(train.y - train.x @ solved))
    assert abs(left - 0.2) < 0.03 and abs(float(np.var(train.y)) - 1) < 0.1


def test_large_data_are_described_without_memory_and_small_ones_are_not() -> None:
    tracemalloc.start()
    data = Synthetic(n_train=100_000, n_test=1000, shape=[3, 224, 224], classes=1000).describe()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data is not None and data.train.x.shape == (100_000, 3, 224, 224) and peak < 10e6
    assert Synthetic().describe() is None
    assert data.fingerprint() != Synthetic(n_train=99_999, shape=[3, 224, 224], classes=1000).describe().fingerprint()  # type: ignore[union-attr]


def test_absent_files_are_described_by_their_sizes(tmp_path: object) -> None:
    data = Cifar(path=str(tmp_path)).describe()
    assert data is not None and (len(data.train), len(data.test), data.n_outputs) == (50_000, 10_000, 10)


@pytest.mark.parametrize(
    "settings", [{"shape": [3, 8]}, {"shape": [0]}, {"classes": 1}, {"signal": -1.0}, {"n_train": 0}, {"task": "rank"}]
)
def test_settings_that_make_no_data_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"dataset.{next(iter(settings))}"):
        Synthetic(**settings)  # type: ignore[arg-type]


def test_described_data_become_tensors_without_memory() -> None:
    data = Synthetic(n_train=1_000_000, shape=[3, 224, 224]).describe()
    assert data is not None
    x, y = to_tensors(data.train, torch.float64, "cpu")
    assert x.shape == data.train.x.shape and x.dtype == torch.float64 and not any(x.stride()) and len(y) == 1_000_000
