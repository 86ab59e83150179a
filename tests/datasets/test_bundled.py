"""The datasets that need no file: shapes, splits, standardisation."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets

from influx.datasets.bundled import Bundled
from influx.datasets.digits import Digits
from influx.errors import ConfigError, DataError
from influx.problem import Data

TABLES = {"breast_cancer": (569, 30, 2), "wine": (178, 13, 3), "iris": (150, 4, 3), "diabetes": (442, 10, 1)}


@pytest.mark.parametrize("which", TABLES)
def test_tables_have_their_known_size(which: str) -> None:
    n, d, outputs = TABLES[which]
    data = Bundled(which=which).load(0)
    assert (len(data.train) + len(data.test), data.train.x.shape[1], data.n_outputs) == (n, d, outputs)
    assert data.train.x.dtype == np.float32 and len(data.features) == d
    assert data.train.y.dtype == (np.float32 if which == "diabetes" else np.int64)


@pytest.mark.parametrize("which", TABLES)
def test_standardisation_is_that_of_training_rows_alone(which: str) -> None:
    data = Bundled(which=which).load(3)
    raw = Bundled(which=which, standardize=False).load(3)
    mean, std = raw.train.x.mean(0, dtype=np.float64), raw.train.x.std(0, dtype=np.float64)
    np.testing.assert_allclose(data.train.x, (raw.train.x - mean) / std, atol=2e-4)  # raw is rounded to float32
    np.testing.assert_allclose(data.test.x, (raw.test.x - mean) / std, atol=2e-4)
    assert np.abs(data.train.x.mean(0)).max() < 1e-5 < np.abs(data.test.x.mean(0)).max()


def test_diabetes_targets_are_standardised_and_the_note_undoes_it() -> None:
    data = Bundled(which="diabetes").load(0)
    assert data.train.y.mean() == pytest.approx(0, abs=1e-6) and data.train.y.std() == pytest.approx(1, abs=1e-6)
    note = next(note for note in data.notes if note.startswith("Target"))
    mean, std = float(note.split()[3].rstrip(",")), float(note.split()[-1].rstrip("."))
    original = sklearn.datasets.load_diabetes().target
    np.testing.assert_allclose(data.test.y * std + mean, original[data.test.ids], rtol=1e-4)


def test_digits_by_default_are_1000_and_397_flat_images() -> None:
    data = Digits().load(0)
    assert data.train.x.shape == (1000, 64) and data.test.x.shape == (397, 64) and data.kind == "tabular"
    assert data.classes == tuple("0123456789")
    bunch = sklearn.datasets.load_digits()
    np.testing.assert_array_equal(data.display["test"][:, 0] * 16, bunch.images[data.test.ids])
    np.testing.assert_array_equal(data.train.y, bunch.target[data.train.ids])


def test_digits_as_images_are_standardised_as_one_channel() -> None:
    data = Digits(shape="image").load(0)
    shown = data.display["train"].astype(np.float64)
    assert data.train.x.shape == (1000, 1, 8, 8) and data.kind == "image"
    np.testing.assert_allclose(data.train.x, (shown - shown.mean()) / shown.std(), atol=1e-5)


def test_a_constant_pixel_becomes_exactly_zero() -> None:
    data = Digits().load(0)
    constant = np.ptp(data.display["train"].reshape(1000, 64), axis=0) == 0
    assert constant.any() and (data.train.x[:, constant] == 0).all()


def same(a: Data, b: Data) -> bool:
    return a.fingerprint() == b.fingerprint()


def test_the_seed_alone_decides_the_split() -> None:
    assert same(Digits().load(5), Digits().load(5))
    assert not same(Digits().load(5), Digits().load(6))


def test_test_rows_do_not_depend_on_n_train() -> None:
    few, many = Digits(n_train=100).load(0), Digits(n_train=1200).load(0)
    np.testing.assert_array_equal(few.test.ids, many.test.ids)
    assert np.isin(few.train.ids, many.train.ids).all()


def test_ids_are_rows_of_the_source_and_increase() -> None:
    data = Bundled(which="iris", n_train=40, n_test=20, standardize=False).load(1)
    source = sklearn.datasets.load_iris().data.astype(np.float32)
    np.testing.assert_array_equal(data.train.x, source[data.train.ids])
    assert (np.diff(data.train.ids) > 0).all() and (np.diff(data.test.ids) > 0).all()
    assert not np.intersect1d(data.train.ids, data.test.ids).size


def test_classes_keep_their_shares() -> None:
    data = Bundled(which="breast_cancer", n_train=300, n_test=100).load(0)
    share = np.bincount(sklearn.datasets.load_breast_cancer().target) / 569
    np.testing.assert_allclose(np.bincount(data.train.y), 300 * share, atol=1.01)
    np.testing.assert_allclose(np.bincount(data.test.y), 100 * share, atol=1.01)


def test_each_class_has_a_training_instance_even_in_a_tiny_subset() -> None:
    assert sorted(Digits(n_train=10).load(0).train.y) == list(range(10))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_train": 1790, "n_test": 397}, "dataset.n_train=1790"),
        ({"n_test": 1797}, "dataset.n_test=1797"),
        ({"n_train": 5}, "too few for the 10 classes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Digits(**settings).load(0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_train": 0}, "dataset.n_train"),
        ({"n_test": "many"}, "dataset.n_test"),
        ({"n_train": True}, "dataset.n_train"),
        ({"test_fraction": 1.0}, "dataset.test_fraction"),
        ({"standardize": "yes"}, "dataset.standardize"),
        ({"shape": "imge"}, "did you mean 'image'"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Digits(**settings)  # type: ignore[arg-type]


def test_an_unknown_table_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'iris'"):
        Bundled(which="irsi")
