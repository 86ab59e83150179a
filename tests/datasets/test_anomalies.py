"""Anomalies among test instances: what is flagged is what changed or was held out, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.datasets.bundled import Bundled
from influx.datasets.cifar import Cifar
from influx.datasets.corruption.anomaly_class import AnomalyClass
from influx.datasets.corruption.anomaly_noise import AnomalyNoise
from influx.datasets.corruption.anomaly_swaps import AnomalySwaps
from influx.datasets.corruption.label_noise import LabelNoise
from influx.datasets.digits import Digits
from influx.datasets.scale import Scale
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data
from tests.datasets import formats

Corruption = AnomalyClass | AnomalyNoise | AnomalySwaps


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits(n_train=200, n_test=100).load(0)


@pytest.fixture(scope="module")
def wine() -> Data:
    return Bundled(which="wine").load(0)


def test_a_held_out_class_is_in_the_test_split_alone(digits: Data) -> None:
    noisy = LabelNoise(fraction=0.1).apply(digits, 0)
    data = AnomalyClass(target_class=4).apply(noisy, 0)
    kept = noisy.train.y != 4
    np.testing.assert_array_equal(data.train.ids, digits.train.ids[kept])
    np.testing.assert_array_equal(data.display["train"], digits.display["train"][kept])
    np.testing.assert_array_equal(data.flags["mislabeled"], noisy.flags["mislabeled"][kept])
    np.testing.assert_array_equal(data.test_flags["anomaly"], digits.test.y == 4)
    assert data.classes == digits.classes and "class '4'" in data.notes[-2]


@pytest.mark.parametrize("source", [Digits(n_train=200), Digits(n_train=200, shape="image"), Bundled(which="wine")])
def test_a_held_out_class_leaves_no_trace_in_the_scale(source: Digits | Bundled) -> None:
    raw, data = (AnomalyClass().apply(replace(source, standardize=s).load(0), 0) for s in (False, True))
    scale = Scale.fit(raw.train.x)  # as of a dataset that never had the class
    assert (raw.test.x[raw.test_flags["anomaly"]] != 0).any()
    for found, split in ((data.train, raw.train), (data.test, raw.test)):
        np.testing.assert_allclose(found.x, scale.apply(split.x), rtol=2e-4, atol=2e-4)
    assert sum("standardised with" in note for note in data.notes) == 2
    assert not any("standardised" in note for note in raw.notes)


def test_indicators_stay_as_they_are_without_the_class(wine: Data) -> None:
    x = np.column_stack([wine.train.x, wine.train.y == 1]).astype(np.float32)
    test = np.column_stack([wine.test.x, wine.test.y == 1]).astype(np.float32)
    both = replace(wine, train=replace(wine.train, x=x), test=replace(wine.test, x=test))
    data = AnomalyClass().apply(both, 0)
    np.testing.assert_array_equal(data.train.x[:, -1], data.train.y == 1)
    np.testing.assert_allclose(data.train.x[:, :-1].mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("shape", ["flat", "image"])
def test_noise_on_images_is_cut_to_their_range_and_scaled_as_they_were(shape: str) -> None:
    digits, raw = (Digits(n_train=200, n_test=100, shape=shape, standardize=s).load(0) for s in (True, False))
    data = AnomalyNoise(test_fraction=0.3, scale=0.4).apply(digits, 1)
    anomaly = data.test_flags["anomaly"]
    assert anomaly.sum() == 30
    np.testing.assert_array_equal(data.test.x[~anomaly], digits.test.x[~anomaly])
    np.testing.assert_array_equal(data.display["test"][~anomaly], digits.display["test"][~anomaly])
    np.testing.assert_array_equal(data.train.x, digits.train.x)
    shown = data.display["test"][anomaly]
    assert shown.min() == 0 and shown.max() == 1
    moved = (shown - digits.display["test"][anomaly])[(shown > 0) & (shown < 1)]
    # a normal of deviation 0.4, cut: mean 0 up to where the cut falls, and about as wide as what is left of it
    assert 0.2 < moved.std() < 0.4
    axes = 0 if shape == "flat" else (0, 2, 3)
    mean, std = (getattr(raw.train.x, name)(axes, keepdims=True, dtype=np.float64) for name in ("mean", "std"))
    std = np.where(np.ptp(raw.train.x, axis=axes, keepdims=True) == 0, 1, std)
    expected = (shown.reshape(-1, *raw.test.x.shape[1:]) - mean) / std
    np.testing.assert_allclose(data.test.x[anomaly], expected, atol=2e-4, rtol=1e-5)


def test_noise_on_tables_is_normal_in_deviations_of_training(wine: Data) -> None:
    data = AnomalyNoise(test_fraction=0.5, scale=2.0).apply(wine, 0)
    anomaly = data.test_flags["anomaly"]
    z = (data.test.x - wine.test.x)[anomaly] / wine.train.x.std(axis=0) / 2
    assert z.shape == (18, 13) and abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.15
    np.testing.assert_array_equal(data.test.x[~anomaly], wine.test.x[~anomaly])


def test_noise_beyond_the_range_of_numbers_is_refused_on_tables_and_cut_on_images(wine: Data, digits: Data) -> None:
    with pytest.raises(ConfigError, match=r"corruption\.scale=1e\+39 makes numbers beyond float32"):
        AnomalyNoise(scale=1e39).apply(wine, 0)
    data = AnomalyNoise(scale=1e308).apply(digits, 0)
    assert np.isfinite(data.test.x).all() and set(np.unique(data.display["test"][data.test_flags["anomaly"]])) == {0, 1}


def test_images_of_whole_numbers_stay_so(tmp_path: Path) -> None:
    formats.write_cifar10_binary(tmp_path, 50, 20, 0)
    cifar = Cifar(path=str(tmp_path)).load(0)
    for corruption in (AnomalyNoise(), AnomalySwaps()):
        data = corruption.apply(cifar, 0)
        anomaly = data.test_flags["anomaly"]
        assert data.display["test"].dtype == cifar.display["test"].dtype and 0 < anomaly.sum() < len(anomaly)
        np.testing.assert_array_equal(data.test.x[~anomaly], cifar.test.x[~anomaly])


@pytest.mark.parametrize("name", ["wine", "digits"])
def test_swaps_keep_every_feature_and_exchange_a_share_of_them(name: str, request: pytest.FixtureRequest) -> None:
    before: Data = request.getfixturevalue(name)
    data = AnomalySwaps(test_fraction=0.4, share=0.3).apply(before, 0)
    anomaly = data.test_flags["anomaly"]
    np.testing.assert_array_equal(np.sort(data.test.x, axis=0), np.sort(before.test.x, axis=0))
    np.testing.assert_array_equal(data.test.x[~anomaly], before.test.x[~anomaly])
    changed = (data.test.x != before.test.x).sum(axis=1)[anomaly]
    limit = round(0.3 * before.test.x.shape[1])
    assert len(changed) == 2 * (round(0.4 * len(before.test)) // 2) and changed.min() > 0
    assert changed.max() == limit if not before.display else changed.max() <= limit  # many pixels are black in both
    if before.display:
        moved = (data.display["test"] != before.display["test"]).reshape(len(data.test), -1)
        np.testing.assert_array_equal(moved, data.test.x != before.test.x)


def test_swapped_pixels_take_their_channels_along(tmp_path: Path) -> None:
    formats.write_cifar10_binary(tmp_path, 50, 20, 0)
    cifar = Cifar(path=str(tmp_path)).load(0)
    data = AnomalySwaps(test_fraction=0.5, share=0.25).apply(cifar, 0)
    moved = data.display["test"] != cifar.display["test"]
    anomaly = data.test_flags["anomaly"]
    assert moved.any(axis=1)[anomaly].reshape(anomaly.sum(), -1).sum(axis=1).max() <= 256  # of 1024 pixels
    pixel = np.argwhere(moved.any(axis=1))[0]
    taken = data.display["test"][pixel[0], :, pixel[1], pixel[2]]
    others = cifar.display["test"][:, :, pixel[1], pixel[2]]
    assert (others == taken).all(axis=1).any()


@pytest.mark.parametrize("corruption", [AnomalyNoise(), AnomalySwaps()], ids=repr)
def test_the_seed_decides_and_the_given_data_stay(corruption: Corruption, digits: Data) -> None:
    before = digits.fingerprint()
    a, b, other = (corruption.apply(digits, seed) for seed in (0, 0, 1))
    assert digits.fingerprint() == before and a.fingerprint() == b.fingerprint() != other.fingerprint()
    np.testing.assert_array_equal(a.train.x, digits.train.x)
    np.testing.assert_array_equal(a.test.y, digits.test.y)


def test_anomalies_of_two_corruptions_are_both_flagged(digits: Data) -> None:
    without = AnomalyClass().apply(digits, 0)
    both = AnomalyNoise().apply(without, 0)
    noisy = (both.test.x != without.test.x).any(axis=1)
    np.testing.assert_array_equal(both.test_flags["anomaly"], noisy | (digits.test.y == 0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AnomalyClass(target_class="x"), "no class 'x'"),
        (lambda: AnomalyNoise(scale=0), r"corruption\.scale must be a number above 0, got 0"),
        (lambda: AnomalyNoise(test_fraction=0.001), r"corruption\.test_fraction=0.001 selects none of 100 test"),
        (lambda: AnomalySwaps(share=0.001), r"corruption\.share=0.001 is 0 of 64 features"),
        (lambda: AnomalySwaps(test_fraction=0.01), "a pair is needed"),
        (lambda: AnomalySwaps(share=1.5), r"corruption\.share must be a number between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], Corruption], words: str, digits: Data) -> None:
    with pytest.raises(ConfigError, match=words):
        make().apply(digits, 0)


def test_other_kinds_of_data_are_refused(digits: Data) -> None:
    tokens = replace(digits, test=replace(digits.test, x=digits.test.x.astype(np.int64)))
    for corruption in (AnomalyNoise(), AnomalySwaps()):
        with pytest.raises(IncompatibleError, match="are whole numbers; set corruption=anomaly_class"):
            corruption.apply(tokens, 0)
    with pytest.raises(IncompatibleError, match="is a regression"):
        AnomalyClass().apply(Bundled(which="diabetes").load(0), 0)
    alone = replace(digits, test=digits.test.take(digits.test.y == 0))
    with pytest.raises(ConfigError, match="all test instances are of class '0'"):
        AnomalyClass().apply(alone, 0)
