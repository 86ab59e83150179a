"""Corruptions change what they record, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.datasets.bundled import Bundled
from influx.datasets.cifar import Cifar
from influx.datasets.corruption.backdoor import Backdoor
from influx.datasets.corruption.duplicates import Duplicates
from influx.datasets.corruption.grouped_classes import GroupedClasses
from influx.datasets.corruption.label_noise import LabelNoise
from influx.datasets.corruption.mixed import Mixed
from influx.datasets.corruption.none import NoCorruption
from influx.datasets.corruption.poison import Poison
from influx.datasets.corruption.shortcut import Shortcut
from influx.datasets.digits import Digits
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data
from tests.datasets import formats

CORRUPTIONS = [
    *(LabelNoise(), Duplicates(), Backdoor(), Backdoor(test="all"), NoCorruption()),
    *(Shortcut(), GroupedClasses(), Mixed(), Poison()),
]


@pytest.fixture(scope="module")
def digits() -> Data:
    return Digits(n_train=400, n_test=100).load(0)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=repr)
def test_the_given_data_stay_as_they_are_and_the_seed_decides(corruption: LabelNoise, digits: Data) -> None:
    before = digits.fingerprint()
    a, b = corruption.apply(digits, 3), corruption.apply(digits, 3)
    assert digits.fingerprint() == before and not digits.flags
    assert a.fingerprint() == b.fingerprint()
    for name, values in a.flags.items():
        np.testing.assert_array_equal(values, b.flags[name])
    if not isinstance(corruption, NoCorruption):
        assert a.fingerprint() != corruption.apply(digits, 4).fingerprint()
        np.testing.assert_array_equal(a.train.ids, digits.train.ids)


def test_label_noise_changes_exactly_the_flagged_labels(digits: Data) -> None:
    data = LabelNoise(fraction=0.2).apply(digits, 0)
    changed = data.train.y != digits.train.y
    np.testing.assert_array_equal(changed, data.flags["mislabeled"])
    np.testing.assert_array_equal(data.flags["original_label"], digits.train.y)
    assert changed.sum() == 80 and data.flags["original_label"].dtype == np.int64
    np.testing.assert_array_equal(data.train.x, digits.train.x)
    np.testing.assert_array_equal(data.test.y, digits.test.y)


def test_wrong_labels_are_uniform_among_the_other_classes(digits: Data) -> None:
    shifts = np.zeros(10)
    for seed in range(20):
        data = LabelNoise(fraction=0.9).apply(digits, seed)
        moved = data.flags["mislabeled"]
        shifts += np.bincount((data.train.y - digits.train.y)[moved] % 10, minlength=10)
    assert shifts[0] == 0
    # 7,200 draws over 9 shifts: mean 800, deviation 26.7; 4.5 deviations.
    assert np.abs(shifts[1:] - 800).max() < 120


def test_label_noise_refuses_regression() -> None:
    with pytest.raises(IncompatibleError, match="diabetes is a regression"):
        LabelNoise().apply(Bundled(which="diabetes").load(0), 0)


@pytest.mark.parametrize("fraction", [0.1, 0.7])
def test_duplicates_equal_their_source(fraction: float, digits: Data) -> None:
    data = Duplicates(fraction=fraction).apply(digits, 0)
    copies, of = data.flags["duplicate"], data.flags["duplicate_of"]
    source = np.searchsorted(data.train.ids, of[copies])  # ids increase
    assert copies.sum() == round(400 * fraction) and (of[~copies] == -1).all() and not copies[source].any()
    np.testing.assert_array_equal(data.train.x[copies], digits.train.x[source])
    np.testing.assert_array_equal(data.train.y[copies], digits.train.y[source])
    np.testing.assert_array_equal(data.display["train"][copies], digits.display["train"][source])
    np.testing.assert_array_equal(data.train.x[~copies], digits.train.x[~copies])
    assert len(np.unique(source)) == len(source) or fraction > 0.5


def test_duplicates_carry_earlier_truth_along(digits: Data) -> None:
    noisy = LabelNoise().apply(digits, 0)
    data = Duplicates(fraction=0.3).apply(noisy, 0)
    np.testing.assert_array_equal(data.flags["mislabeled"], data.train.y != data.flags["original_label"])


def test_a_backdoor_marks_and_relabels_only_other_classes(digits: Data) -> None:
    data = Backdoor(fraction=0.25, target_class=7).apply(digits, 0)
    poisoned, original = data.flags["backdoor"], data.flags["original_label"]
    assert poisoned.sum() == round(0.25 * (digits.train.y != 7).sum())
    assert (original[poisoned] != 7).all() and (data.train.y[poisoned] == 7).all()
    np.testing.assert_array_equal(data.flags["mislabeled"], poisoned)
    np.testing.assert_array_equal(data.train.y[~poisoned], digits.train.y[~poisoned])
    np.testing.assert_array_equal(data.train.x[~poisoned], digits.train.x[~poisoned])
    np.testing.assert_array_equal(data.test.x, digits.test.x)


def patched(display: np.ndarray, rows: np.ndarray, value: float) -> np.ndarray:
    """The patch as a person would draw it: bottom left, 2 by 2, where some pixels of digits are constant."""
    display = display.copy()
    display[rows, :, -2:, :2] = value
    return display


@pytest.mark.parametrize("shape", ["flat", "image"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("value", [0.0, 0.6, 1.0])
def test_the_patch_is_scaled_as_the_image_was(shape: str, standardize: bool, value: float) -> None:
    clean = Digits(n_train=400, n_test=100, shape=shape, standardize=standardize).load(0)
    data = Backdoor(value=value, position="bottom_left", test="all").apply(clean, 0)
    shown = clean.display["train"].astype(np.float64)
    drawn = patched(shown, data.flags["backdoor"], value)
    drawn_test = patched(clean.display["test"].astype(np.float64), np.arange(100), value)
    axes = 0 if shape == "flat" else (0, 2, 3)
    mean, std = shown.mean(axes, keepdims=True), shown.std(axes, keepdims=True)
    std = np.where(np.ptp(shown, axis=axes, keepdims=True) == 0, 1, std)
    if not standardize:
        mean, std = 0 * mean, 0 * std + 1
    np.testing.assert_allclose(data.train.x.reshape(shown.shape), (drawn - mean) / std, atol=2e-5)
    np.testing.assert_allclose(data.test.x.reshape(drawn_test.shape), (drawn_test - mean) / std, atol=2e-4, rtol=1e-5)
    np.testing.assert_allclose(data.display["train"], drawn, atol=1e-6)


def test_the_patch_on_8_bit_images_is_what_loading_patched_images_gives(tmp_path: Path) -> None:
    x, *_ = formats.write_cifar10_binary(tmp_path, 50, 20, 0)
    clean = Cifar(path=str(tmp_path)).load(0)
    data = Backdoor(fraction=0.3, size=4, position="top_left", value=0.5).apply(clean, 0)
    drawn = x.copy()
    drawn[data.flags["backdoor"], :, :4, :4] = 128
    np.testing.assert_array_equal(data.display["train"], drawn)
    mean, std = (x / 255).mean((0, 2, 3), keepdims=True), (x / 255).std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train.x, (drawn / 255 - mean) / std, atol=1e-5)


def test_a_table_trigger_sets_columns_between_their_extremes() -> None:
    clean = Bundled(which="wine").load(0)
    data = Backdoor(features=["alcohol", "hue"], value=1.0, target_class="class_1", test="all").apply(clean, 0)
    columns = [clean.features.index("alcohol"), clean.features.index("hue")]
    highest = clean.train.x[:, columns].max(0)
    assert (data.train.x[np.ix_(data.flags["backdoor"], columns)] == highest).all()
    assert (data.test.x[:, columns] == highest).all()
    others = np.delete(np.arange(13), columns)
    np.testing.assert_array_equal(data.train.x[:, others], clean.train.x[:, others])
    np.testing.assert_array_equal(data.test.y, clean.test.y)


@pytest.mark.parametrize(
    ("corruption", "words"),
    [
        (Backdoor(target_class="11"), "no class '11'"),
        (Backdoor(size=9), "corruption.size=9"),
        (Backdoor(fraction=0.0001), "selects none"),
        (LabelNoise(fraction=0.0001), "corruption.fraction"),
        (Backdoor(features=["pixel_0_0"]), "corruption.features=null"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(corruption: Backdoor, words: str, digits: Data) -> None:
    with pytest.raises((ConfigError, IncompatibleError), match=words):
        corruption.apply(digits, 0)


def test_half_of_one_test_instance_names_the_setting(digits: Data) -> None:
    one = replace(digits, test=digits.test.take(slice(1)))
    with pytest.raises(ConfigError, match=r"corruption\.test=half selects none of 1 test instances"):
        Backdoor(test="half").apply(one, 0)


def test_a_trigger_on_a_table_needs_its_columns() -> None:
    wine = Bundled(which="wine").load(0)
    with pytest.raises(IncompatibleError, match=r"corruption\.features"):
        Backdoor().apply(wine, 0)
    with pytest.raises(ConfigError, match="did you mean 'hue'"):
        Backdoor(features=["hues"]).apply(wine, 0)
    with pytest.raises(IncompatibleError, match="regression"):
        Backdoor().apply(replace(wine, task="regression"), 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fraction": 0}, "fraction"),
        ({"fraction": "x"}, "fraction"),
        ({"position": "middle"}, "position"),
        ({"value": 2}, "value"),
        ({"size": 0}, "size"),
        ({"features": "hue"}, r"corruption\.features=\[hue\]"),
        ({"test": "some"}, "corruption.test"),
    ],
)
def test_settings_of_a_corruption_are_checked(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Backdoor(**settings)  # type: ignore[arg-type]
