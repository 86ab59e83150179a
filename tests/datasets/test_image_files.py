"""CIFAR, MNIST and image folders in their true form on disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from influx.datasets.cifar import Cifar
from influx.datasets.image_folder import ImageFolder
from influx.datasets.images import Images, channel_statistics, image_data
from influx.datasets.mnist import Mnist
from influx.datasets.pickled import read_pickled
from influx.errors import DataError
from influx.problem import Data
from tests.datasets import formats

WRITERS = {
    "cifar10 python": ("cifar10", formats.write_cifar10_python),
    "cifar10 binary": ("cifar10", formats.write_cifar10_binary),
    "cifar100 python": ("cifar100", formats.write_cifar100_python),
    "cifar100 binary": ("cifar100", formats.write_cifar100_binary),
}


def assert_holds(data: Data, arrays: formats.Arrays) -> None:
    """Pixels and labels are those written, ids count through, and x is standardised per training channel."""
    x, y, x_test, y_test = arrays
    np.testing.assert_array_equal(data.display["train"], x)
    np.testing.assert_array_equal(data.display["test"], x_test)
    np.testing.assert_array_equal(data.train.y, y)
    np.testing.assert_array_equal(data.test.y, y_test)
    np.testing.assert_array_equal(np.concatenate([data.train.ids, data.test.ids]), np.arange(len(y) + len(y_test)))
    mean = (x / 255).mean((0, 2, 3), keepdims=True)
    std = (x / 255).std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.test.x, (x_test / 255 - mean) / std, atol=1e-5)
    assert data.train.x.dtype == np.float32 and data.kind == "image"


@pytest.mark.parametrize("form", WRITERS)
def test_cifar_is_read_as_it_was_written(form: str, tmp_path: Path) -> None:
    which, write = WRITERS[form]
    arrays = write(tmp_path, 103, 40, 0)
    data = Cifar(which=which, path=str(tmp_path)).load(0)
    assert_holds(data, arrays)
    assert data.classes[:2] == (("airplane", "automobile") if which == "cifar10" else ("class000", "class001"))


def test_the_folder_itself_may_be_named(tmp_path: Path) -> None:
    arrays = formats.write_cifar10_binary(tmp_path, 20, 10, 0)
    assert_holds(Cifar(path=str(tmp_path / "cifar-10-batches-bin")).load(0), arrays)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("which", "name"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_is_read_as_it_was_written(which: str, name: str, zipped: bool, tmp_path: Path) -> None:
    arrays = formats.write_mnist(tmp_path, 30, 20, 0, name=name, zipped=zipped)
    data = Mnist(which=which, path=str(tmp_path)).load(0)
    assert_holds(data, arrays)
    assert data.train.x.shape == (30, 1, 28, 28) and len(data.classes) == 10


def test_a_subset_keeps_ids_and_is_stratified(tmp_path: Path) -> None:
    x, y, _, y_test = formats.write_cifar10_python(tmp_path, 100, 50, 0)
    data = Cifar(path=str(tmp_path), n_train=40, n_test=20).load(7)
    np.testing.assert_array_equal(data.display["train"], x[data.train.ids])
    np.testing.assert_array_equal(data.train.y, y[data.train.ids])
    np.testing.assert_array_equal(data.test.y, y_test[data.test.ids - 100])
    assert set(np.bincount(data.train.y)) == {4} and set(np.bincount(data.test.y)) == {2}
    assert data.fingerprint() == Cifar(path=str(tmp_path), n_train=40, n_test=20).load(7).fingerprint()


@pytest.mark.filterwarnings("ignore")  # some versions of numpy say that the true files use old names
def test_the_writer_of_python_2_pickles_writes_valid_ones(tmp_path: Path) -> None:
    formats.write_cifar10_python(tmp_path, 10, 10, 0)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    expected = pickle.loads(path.read_bytes(), encoding="latin1")
    read = read_pickled(path)
    np.testing.assert_array_equal(read.pop("data"), expected.pop("data"))
    assert read == expected


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_today_are_read_too(protocol: int, tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    value = {b"labels": [1, 2, 300, 70000], b"data": pixels, "names": ("a", None, True, {}, [], b"\xff")}
    (tmp_path / "p").write_bytes(pickle.dumps(value, protocol=protocol))
    read = read_pickled(tmp_path / "p")
    np.testing.assert_array_equal(read[b"data"], pixels)
    assert {k: v for k, v in read.items() if k != b"data"} == {k: v for k, v in value.items() if k != b"data"}


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.mark.fault(32, "refused in one sentence; nothing is executed")
def test_a_pickle_bomb_is_refused_without_running(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    formats.write_cifar10_python(tmp_path, 10, 10, 0)
    mark = tmp_path / "exploded"
    batch = pickle.dumps({"data": Bomb(mark), "labels": [0]}, protocol=2)
    pickle.loads(batch)
    assert mark.exists()  # the bomb works
    mark.unlink()
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(batch)
    words = r"data_batch_2 holds more than plain numbers and text \(the name .*unsafe"
    with pytest.raises(DataError, match=words) as refused:
        Cifar(path=str(tmp_path)).load(0)
    record_property("said", str(refused.value).replace(f"{tmp_path}/", ""))
    assert not mark.exists()


def test_channel_statistics_are_those_of_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 6, 5), np.uint8)
    mean, std = channel_statistics(pixels)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_is_only_centred() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 4, 4), np.uint8)
    pixels[:, 1] = 51
    part = Images(pixels=pixels, y=np.arange(20) % 2, ids=np.arange(20))
    other = Images(pixels=pixels + np.uint8(51), y=part.y, ids=part.ids + 20)
    data = image_data(part, other, name="t", classes=("a", "b"), standardize=True)
    assert np.abs(data.train.x[:, 1]).max() < 1e-7
    np.testing.assert_allclose(data.test.x[:, 1], 0.2, rtol=1e-6)


def test_an_image_folder_is_read_in_order_of_class_and_name(tmp_path: Path) -> None:
    pixels = formats.write_image_folder(tmp_path, 6, 0)
    data = ImageFolder(path=str(tmp_path), image_size=None).load(0)
    assert data.classes == ("cat", "dog", "fox")
    np.testing.assert_array_equal(data.display["train"], pixels[data.train.ids])
    np.testing.assert_array_equal(data.test.y, data.test.ids // 6)
    assert len(data.test) == 4


def test_given_train_and_test_folders_stay_apart(tmp_path: Path) -> None:
    train = formats.write_image_folder(tmp_path / "train", 5, 0)
    test = formats.write_image_folder(tmp_path / "test", 2, 1)
    data = ImageFolder(path=str(tmp_path), image_size=None, n_test=3).load(0)
    np.testing.assert_array_equal(data.display["train"], train)
    np.testing.assert_array_equal(data.display["test"], test[data.test.ids - 15])
    assert len(data.test) == 3 and data.test.ids.min() >= 15


def test_images_are_resized_and_made_grey_when_asked(tmp_path: Path) -> None:
    formats.write_image_folder(tmp_path, 3, 0)
    data = ImageFolder(path=str(tmp_path), image_size=8, grayscale=True).load(0)
    assert data.train.x.shape[1:] == (1, 8, 8)


def test_missing_data_is_one_sentence_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Cifar(path=str(tmp_path)).load(0)
    assert str(caught.value) == (
        f"CIFAR-10 was not found in {tmp_path} (looked for cifar-10-batches-py and cifar-10-batches-bin); set "
        f"dataset.path to the folder that holds it or dataset.download=true to fetch it"
    )


def test_the_default_folder_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="MNIST was not found in data"):
        Mnist().load(0)
    formats.write_mnist(Path("data"), 20, 10, 0)
    assert len(Mnist().load(0).train) == 20


@pytest.mark.parametrize("dataset", [Cifar, Mnist])
def test_a_download_without_network_is_one_sentence(
    dataset: type[Cifar] | type[Mnist], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error name resolution failed>")

    monkeypatch.setattr("influx.datasets.download.download_and_unpack", offline)
    with pytest.raises(DataError, match=r"could not be downloaded to .*name resolution failed.*check the network"):
        dataset(path=str(tmp_path), download=True).load(0)


def test_a_download_goes_where_it_is_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def serve(address: str, folder: str, filename: str, md5: str) -> None:
        asked.append((filename, md5))
        formats.write_cifar10_python(Path(folder), 20, 10, 0)

    monkeypatch.setattr("influx.datasets.download.download_and_unpack", serve)
    assert len(Cifar(path=str(tmp_path), download=True).load(0).train) == 20
    Cifar(path=str(tmp_path), download=True).load(0)
    assert asked == [("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")]  # once, with the official sum


def test_an_incomplete_folder_names_what_is_missing(tmp_path: Path) -> None:
    formats.write_cifar10_binary(tmp_path, 20, 10, 0)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"incomplete: data_batch_3\.bin is missing"):
        Cifar(path=str(tmp_path)).load(0)
