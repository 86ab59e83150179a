"""Bad input of every kind ends in one sentence that says what is wrong and what to do."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.datasets.cifar import Cifar
from influx.datasets.csv import Csv
from influx.datasets.image_folder import ImageFolder
from influx.datasets.mnist import Mnist
from influx.datasets.npz import Npz
from influx.datasets.parquet import Parquet
from influx.errors import ConfigError, DataError, UserError
from tests.datasets import formats

GOOD = "a,b,label\n" + "".join(f"{i},{i * i % 7},{'xy'[i % 2]}\n" for i in range(20))


def refused(load: Callable[[], object], *words: str) -> None:
    """One sentence, on one line, holding the words, that says what to do."""
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert isinstance(caught.value, DataError | ConfigError)
    assert "\n" not in message and ";" in message, message
    for word in words:
        assert word in message, message


def spoiled(row: int, text: str) -> str:
    lines = GOOD.splitlines()
    lines[row] = text
    return "\n".join(lines) + "\n"


CSV = {
    "empty file": ("", {}, ["is empty"]),
    "header only": ("a,b,label\n", {}, ["no rows"]),
    "misspelt label": (GOOD, {"label": "labell"}, ["no column 'labell'", "did you mean 'label'", "dataset.label"]),
    "missing number": (spoiled(3, "2,,x"), {}, ["column 'b'", "1 missing values", "row 3", "dataset.missing=mean"]),
    "missing label": (spoiled(4, "3,2,"), {}, ["label column 'label'", "row 4"]),
    "infinite": (spoiled(5, "inf,2,x"), {}, ["row 5 of column 'a' is inf"]),
    "too large for float32": (spoiled(5, "1e300,2,x"), {}, ["row 5, column 'a'", "float32"]),
    "one class": ("a,label\n1,x\n2,x\n3,x\n", {}, ["'x' only"]),
    "rare class": (spoiled(6, "5,1,z"), {}, ["class 'z'", "single instance"]),
    "text refused": ("t,label\nu,x\nv,y\nu,x\nv,y\n", {"categorical": "refuse"}, ["column 't'", "onehot"]),
    "typing error": (spoiled(7, "six,2,x"), {}, ["column 'a' is mostly numbers", "'six' in row 7"]),
    "repeated column": ("a,a,label\n1,2,x\n3,4,y\n", {}, ["'a' occurs more than once"]),
    "unnamed column": (",a,label\n0,2,x\n1,4,y\n", {}, ["column 1", "no name"]),
    "long line": (spoiled(8, "7,1,x,9"), {}, ["line 9", "4 fields", "header has 3"]),
    "short line": (spoiled(8, "7,x"), {}, ["line 9", "2 fields"]),
    "open quote": (spoiled(8, '7,"1,x'), {}, ["cannot be read as csv"]),
    "wrong separator": (GOOD.replace(",", ";"), {}, ["one column only", "dataset.separator"]),
    "no features": ("label,u\nx,1\ny,2\nx,1\ny,2\n", {"drop": ["u"]}, ["no columns besides the label"]),
    "unknown drop": (GOOD, {"drop": ["bb"]}, ["dataset.drop names 'bb'", "did you mean 'b'"]),
    "too many rows asked": (GOOD, {"n_train": 20}, ["dataset.n_train=20", "exceed the 20 instances"]),
    "all for testing": (GOOD, {"n_test": 20}, ["dataset.n_test=20 leaves nothing"]),
    "text regression": (GOOD, {"task": "regression"}, ["dataset.task=regression needs numbers"]),
    "many texts": (
        "t,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(300)),
        {},
        ["column 't'", "different texts", "dataset.max_categories=100"],
    ),
    "unknown test text": (
        "t,label\n" + "".join(f"t{i // 2},{i % 2}\n" for i in range(60)),
        {"n_train": 10},
        ["column 't' is", "in no training row"],
    ),
    "no training value": (
        "a,b,label\n" + "1,,x\n2,,y\n" * 9,
        {"missing": "mean"},
        ["all training values of column 'b'"],
    ),
}


@pytest.mark.parametrize("case", CSV)
def test_a_bad_csv_file_is_refused(case: str, tmp_path: Path) -> None:
    text, settings, words = CSV[case]
    (tmp_path / "t.csv").write_text(text)
    refused(lambda: Csv(path=str(tmp_path / "t.csv"), **settings).load(0), *words)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,label\n1,café\n".encode("latin-1"))
    refused(lambda: Csv(path=str(tmp_path / "t.csv")).load(0), "not UTF-8")


@pytest.mark.parametrize("dataset", [Csv, Parquet, Npz, ImageFolder])
def test_a_path_must_be_set_and_exist(dataset: type[Csv], tmp_path: Path) -> None:
    refused(lambda: dataset().load(0), "set dataset.path=")
    refused(lambda: dataset(path=str(tmp_path / "gone")).load(0), "does not exist", "dataset.path")


@pytest.mark.parametrize("dataset", [Csv, Parquet, Npz])
def test_a_folder_is_not_a_file(dataset: type[Csv], tmp_path: Path) -> None:
    refused(lambda: dataset(path=str(tmp_path)).load(0), "is a folder")


@pytest.mark.parametrize("value", [",,", "", 3])
def test_a_separator_is_one_character(value: object) -> None:
    refused(lambda: Csv(separator=value), "dataset.separator")  # type: ignore[arg-type]


PARQUET = {
    "dates": ({"when": pd.date_range("2020", periods=4), "label": list("xyxy")}, ["column 'when'", "Timestamp"]),
    "lists": ({"v": [[1], [2], [3], [4]], "label": list("xyxy")}, ["column 'v'", "ndarray"]),
    "gaps": ({"v": pd.array([1, None, 2, 3], "Int64"), "label": list("xyxy")}, ["column 'v'", "row 2"]),
    "constant target": ({"v": [1.0, 2, 3, 4], "label": [0.5] * 4}, ["'0.5' only"]),
    "infinite target": ({"v": [1.0, 2, 3, 4], "label": [0.5, 1, np.inf, 2]}, ["row 3", "inf"]),
}


@pytest.mark.parametrize("case", PARQUET)
def test_a_bad_parquet_table_is_refused(case: str, tmp_path: Path) -> None:
    columns, words = PARQUET[case]
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    refused(lambda: Parquet(path=str(tmp_path / "t.parquet"), test_fraction=0.5).load(0), *words)


@pytest.mark.parametrize("size", [0, 50, 700])
def test_a_truncated_parquet_file_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": np.arange(100.0), "label": np.arange(100) % 2}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: Parquet(path=str(path)).load(0), str(path), "damaged")


def test_damaged_text_inside_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"t": ["redd", "blue"] * 9, "label": [0, 1] * 9}).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"redd", b"re\xffd"))
    refused(lambda: Parquet(path=str(path)).load(0), "damaged")


X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
GIVEN = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
NPZ = {
    "no labels": ({"x": X}, ["y is missing"]),
    "misspelt": ({**{k: v for k, v in GIVEN.items() if k != "y_test"}, "ytest": Y}, ["did you mean 'ytest'"]),
    "unequal lengths": ({"x": X, "y": Y[:-1]}, ["20 rows", "19"]),
    "one-dimensional": ({"x": X[:, 0], "y": Y}, ["shape (20,)"]),
    "two-dimensional labels": ({"x": X, "y": X}, ["expected y", "shape (20, 2)"]),
    "complex": ({"x": X * 1j, "y": Y}, ["complex128"]),
    "not a number": ({"x": np.where(X == 7, np.nan, X), "y": Y}, ["row 4, column 'x1'"]),
    "other width": ({**GIVEN, "x_test": X[:, :1]}, ["(2,)", "(1,)"]),
    "other types": ({**GIVEN, "y_test": np.array(["a"] * 20)}, ["text"]),
    "unknown class": ({**GIVEN, "y_test": Y + 1}, ["class '2' of y_test", "never occurs in y_train"]),
    "objects": ({"x": X, "y": np.array([{}] * 20, object)}, ["pickled objects", "never loaded"]),
    "infinite label": ({"x": X, "y": np.where(Y == 1, np.nan, 0.5)}, ["row 2", "nan"]),
    "empty": ({"x": X[:0], "y": Y[:0]}, ["without a 0"]),
}


@pytest.mark.parametrize("case", NPZ)
def test_bad_arrays_are_refused(case: str, tmp_path: Path) -> None:
    arrays, words = NPZ[case]
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: Npz(path=str(tmp_path / "a.npz")).load(0), *words)


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_truncated_npz_file_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:size])
    refused(lambda: Npz(path=str(path)).load(0), str(path), "damaged")


def test_a_flipped_byte_in_npz_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    refused(lambda: Npz(path=str(path)).load(0), "damaged")


def test_a_bare_array_and_a_pickle_are_not_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    refused(lambda: Npz(path=str(tmp_path / "a.npy")).load(0), "one bare array")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"x": 1}))
    refused(lambda: Npz(path=str(tmp_path / "a.pkl")).load(0), "pickled")


def test_damaged_binary_cifar_is_named(tmp_path: Path) -> None:
    formats.write_cifar10_binary(tmp_path, 20, 10, 0)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(lambda: Cifar(path=str(tmp_path)).load(0), "data_batch_2.bin", "multiple of 3073")
    path.write_bytes(b"\x0b" + whole[1:])
    refused(lambda: Cifar(path=str(tmp_path)).load(0), "data_batch_2.bin has label 11")
    path.write_bytes(whole)
    (path.parent / "batches.meta.txt").write_text("one\ntwo\n")
    refused(lambda: Cifar(path=str(tmp_path)).load(0), "batches.meta.txt", "10 classes")


PIXELS = np.zeros((2, 3072), np.uint8)
BATCHES = {
    "no data": ({"labels": [0, 1]}, "no array 'data'"),
    "narrow": ({"labels": [0, 1], "data": PIXELS[:, :10]}, "no array 'data'"),
    "few labels": ({"labels": [0], "data": PIXELS}, "2 images but 1 labels"),
    "label too high": ({"labels": [0, 10], "data": PIXELS}, "label outside 0 to 9"),
    "label as text": ({"labels": ["a", "b"], "data": PIXELS}, "no list 'labels'"),
    "list": ([1, 2], "holds a list"),
    "floats": ({"labels": [0, 1], "data": PIXELS.astype(np.float32)}, "more than plain numbers"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_damaged_python_batch_of_cifar_is_named(case: str, tmp_path: Path) -> None:
    content, words = BATCHES[case]
    formats.write_cifar10_python(tmp_path, 10, 10, 0)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    refused(lambda: Cifar(path=str(tmp_path)).load(0), "test_batch", words)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_python_batch_is_refused(share: float, tmp_path: Path) -> None:
    formats.write_cifar10_python(tmp_path, 10, 10, 0)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_5"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(lambda: Cifar(path=str(tmp_path)).load(0), "data_batch_5", "dataset.download=true")


def test_flipped_bytes_of_a_pickle_never_end_in_anything_but_a_sentence(tmp_path: Path) -> None:
    formats.write_cifar10_python(tmp_path, 5, 10, 0)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 250, 150):  # the head: every instruction but the pixels
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            Cifar(path=str(tmp_path)).load(0)  # a flipped letter of a file name does no harm
        except DataError as error:
            assert "\n" not in str(error)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
IDX = {
    "magic": (IMAGES, struct.pack(">4I", 0x0D03, 20, 28, 28) + bytes(20 * 784), ["starts with the number 3331"]),
    "header": (IMAGES, b"\0\0\x08", ["ends within its header"]),
    "truncated": (IMAGES, struct.pack(">4I", 0x0803, 20, 28, 28) + bytes(784), ["784 bytes", "expected 15680"]),
    "too long": (LABELS, struct.pack(">2I", 0x0801, 20) + bytes(21), ["21 bytes"]),
    "size": (IMAGES, struct.pack(">4I", 0x0803, 20, 32, 32) + bytes(20 * 1024), ["(32, 32)"]),
    "count": (IMAGES, struct.pack(">4I", 0x0803, 4_000_000_000, 28, 28), ["promises 4000000000"]),
    "label": (LABELS, struct.pack(">2I", 0x0801, 20) + b"\x0a" * 20, ["label 10, above 9"]),
    "other count": (LABELS, struct.pack(">2I", 0x0801, 19) + bytes(19), ["20 images", "19 labels"]),
}


@pytest.mark.parametrize("case", IDX)
def test_a_damaged_mnist_file_is_named(case: str, tmp_path: Path) -> None:
    file, content, words = IDX[case]
    formats.write_mnist(tmp_path, 20, 10, 0, zipped=False)
    (tmp_path / "MNIST" / "raw" / file).write_bytes(content)
    refused(lambda: Mnist(path=str(tmp_path)).load(0), file, *words)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b"no gzip" + b, lambda b: b[:100] + b"x" * 9 + b[109:]]
)
def test_a_damaged_gzip_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    formats.write_mnist(tmp_path, 20, 10, 0)
    path = tmp_path / "MNIST" / "raw" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: Mnist(path=str(tmp_path)).load(0), path.name, "damaged")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    formats.write_mnist(tmp_path, 20, 10, 0)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">2I", 0x0801, 10) + bytes(5_000_000)))
    refused(lambda: Mnist(path=str(tmp_path)).load(0), "10001 bytes", "expected 10")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:90], lambda b: b[:-30], lambda b: b"text" + b])
def test_a_damaged_image_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    formats.write_image_folder(tmp_path, 3, 0)
    path = tmp_path / "dog" / "0001.png"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: ImageFolder(path=str(tmp_path), n_train=8, n_test=1).load(0), str(path), "replace or remove")


def test_a_folder_without_classes_or_images_is_refused(tmp_path: Path) -> None:
    refused(lambda: ImageFolder(path=str(tmp_path)).load(0), "two class folders", "found none")
    formats.write_image_folder(tmp_path, 3, 0)
    (tmp_path / "empty").mkdir()
    refused(lambda: ImageFolder(path=str(tmp_path)).load(0), "empty holds no png or jpg")


def test_images_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    formats.write_image_folder(tmp_path, 3, 0)
    formats.write_image_folder(tmp_path, 3, 0, classes=("owl",), size=14)
    refused(lambda: ImageFolder(path=str(tmp_path), image_size=None).load(0), "14 by 14", "dataset.image_size")


def test_a_class_of_the_test_folder_must_be_in_train(tmp_path: Path) -> None:
    formats.write_image_folder(tmp_path / "train", 3, 0)
    formats.write_image_folder(tmp_path / "test", 3, 0, classes=("cat", "owl"))
    refused(lambda: ImageFolder(path=str(tmp_path)).load(0), "'owl'")


def test_more_images_than_there_are_cannot_be_chosen(tmp_path: Path) -> None:
    formats.write_cifar10_python(tmp_path, 20, 10, 0)
    refused(lambda: Cifar(path=str(tmp_path), n_train=21).load(0), "dataset.n_train=21", "20 train instances")
