"""MNIST and Fashion-MNIST: 28 by 28 grey images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision

from influx.datasets.described import described
from influx.datasets.download import data_folder, fetch
from influx.datasets.idx import read_idx
from influx.datasets.images import Images, choose, image_data
from influx.datasets.settings import check_choice, check_flag, check_sizes
from influx.errors import DataError
from influx.problem import Data

SIZE = {"train": 60_000, "t10k": 10_000}  # images of the official files, by their prefix
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
FOLDERS = {"mnist": Path("MNIST", "raw"), "fashion_mnist": Path("FashionMNIST", "raw")}
SOURCES = {"mnist": torchvision.datasets.MNIST, "fashion_mnist": torchvision.datasets.FashionMNIST}
CLASSES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """MNIST or Fashion-MNIST (``which``) with its own split.

    x is (n, 1, 28, 28). ``path`` is the folder that holds ``MNIST/raw`` or ``FashionMNIST/raw``, or the IDX files
    themselves, gzipped or not; null is ``data``. Ids count training images from 0, and test images after them.
    Source: LeCun et al. 1998, Gradient-based learning; Xiao et al. 2017, arXiv:1708.07747.
    """

    which: str = "mnist"
    path: str | None = None
    download: bool = False
    n_train: int | None = None
    n_test: int | None = None
    standardize: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("dataset.which", self.which, tuple(TITLES))
        check_flag("dataset.download", self.download)
        check_flag("dataset.standardize", self.standardize)
        check_sizes(self.n_train, self.n_test)

    def describe(self) -> Data | None:
        """Sizes alone, where the files are not here."""
        if _find(data_folder(self.path), FOLDERS[self.which]) is not None:
            return None
        sizes = (self.n_train or SIZE["train"], self.n_test or SIZE["t10k"])
        return described(self.which, (1, 28, 28), *sizes, CLASSES[self.which], "classification")

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` chooses the subset."""
        title, below = TITLES[self.which], FOLDERS[self.which]
        root = data_folder(self.path)
        if self.download and _find(root, below) is None:
            source = SOURCES[self.which]
            for file, md5 in source.resources:
                fetch(title, root / below, [f"{mirror}{file}" for mirror in source.mirrors], file, md5)
        files = _find(root, below)
        if files is None:
            raise DataError(
                f"{title} was not found in {root} (looked for {_first_missing(root, below)}); set dataset.path to the "
                f"folder that holds it or dataset.download=true to fetch it"
            )
        train = _read(files, "train", 0)
        train, test = choose(
            train,
            _read(files, "t10k", len(train.y)),
            name=title,
            n_classes=10,
            n_train=self.n_train,
            n_test=self.n_test,
            seed=seed,
        )
        return image_data(train, test, name=self.which, classes=CLASSES[self.which], standardize=self.standardize)


def _names() -> list[str]:
    return [f"{part}-{what}-ubyte" for part in SIZE for what in ("images-idx3", "labels-idx1")]


def _present(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _find(root: Path, below: Path) -> dict[str, Path] | None:
    """The four files, by name without ``.gz``; None unless all are there."""
    for folder in (root / below, root):
        files = {name: path for name in _names() if (path := _present(folder, name))}
        if len(files) == len(_names()):
            return files
    return None


def _first_missing(root: Path, below: Path) -> Path:
    return next(below / name for name in _names() if _present(root / below, name) is None)


def _read(files: dict[str, Path], part: str, first_id: int) -> Images:
    image_file, label_file = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    pixels = read_idx(image_file, (28, 28), SIZE[part])
    y = read_idx(label_file, (), SIZE[part]).astype(np.int64)
    if len(y) != len(pixels):
        raise DataError(
            f"{image_file.name} holds {len(pixels)} images, but {label_file.name} {len(y)} labels; delete both and set "
            f"dataset.download=true"
        )
    if y.max() > 9:
        raise DataError(
            f"{label_file} has the label {y.max()}, above 9; delete it and set dataset.download=true to fetch it again"
        )
    return Images(pixels=pixels[:, None], y=y, ids=np.arange(first_id, first_id + len(y)))
