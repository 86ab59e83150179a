"""CIFAR-10 and CIFAR-100: 32 by 32 colour images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision

from influx.datasets.cifar_files import CIFAR10, CIFAR100, Part, Version, read_version
from influx.datasets.described import described
from influx.datasets.download import data_folder, fetch
from influx.datasets.images import Images, choose, image_data
from influx.datasets.settings import check_choice, check_flag, check_sizes
from influx.errors import DataError
from influx.problem import Data

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
VERSIONS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
N_CLASSES = {"cifar10": 10, "cifar100": 100}
N_TRAIN, N_TEST = 50_000, 10_000
SOURCES = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """CIFAR with its own split; ``which`` is cifar10 or cifar100 (fine labels).

    x is (n, 3, 32, 32). ``path`` is the folder with the unpacked archive, binary or Python version; null is
    ``data``. Ids count training images from 0 in the order of the batches, and test images after them.
    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    which: str = "cifar10"
    path: str | None = None
    download: bool = False
    n_train: int | None = None
    n_test: int | None = None
    standardize: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("dataset.which", self.which, tuple(VERSIONS))
        check_flag("dataset.download", self.download)
        check_flag("dataset.standardize", self.standardize)
        check_sizes(self.n_train, self.n_test)

    def describe(self) -> Data | None:
        """Sizes alone, where the files are not here."""
        if _find(data_folder(self.path), VERSIONS[self.which]) is not None:
            return None
        sizes, classes = (self.n_train or N_TRAIN, self.n_test or N_TEST), range(N_CLASSES[self.which])
        return described(self.which, (3, 32, 32), *sizes, tuple(str(c) for c in classes), "classification")

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` chooses the subset."""
        root, title, n_classes = data_folder(self.path), TITLES[self.which], N_CLASSES[self.which]
        found = _find(root, VERSIONS[self.which])
        if found is None and self.download:
            source = SOURCES[self.which]
            fetch(title, root, [source.url], source.filename, source.tgz_md5)
            found = _find(root, VERSIONS[self.which])
        if found is None:
            raise DataError(_missing(root, title, VERSIONS[self.which]))
        train, test, classes = read_version(*found, n_classes)
        some_train, some_test = choose(
            _images(train, 0),
            _images(test, len(train[1])),
            name=title,
            n_classes=n_classes,
            n_train=self.n_train,
            n_test=self.n_test,
            seed=seed,
        )
        return image_data(some_train, some_test, name=self.which, classes=classes, standardize=self.standardize)


def _images(part: Part, first_id: int) -> Images:
    pixels, y = part
    return Images(pixels=pixels, y=y, ids=np.arange(first_id, first_id + len(y)))


def _folders(root: Path, version: Version) -> tuple[Path, Path]:
    """The version's folder below ``root``, or ``root`` itself where the user names that folder."""
    return root / version.folder, root


def _find(root: Path, versions: tuple[Version, ...]) -> tuple[Path, Version] | None:
    for version in versions:
        for folder in _folders(root, version):
            if all((folder / file).is_file() for file in version.files):
                return folder, version
    return None


def _missing(root: Path, title: str, versions: tuple[Version, ...]) -> str:
    for version in versions:
        folder = root / version.folder
        if folder.is_dir():
            file = next(file for file in version.files if not (folder / file).is_file())
            return (
                f"{title} in {folder} is incomplete: {file} is missing; copy it there or set dataset.download=true "
                f"to fetch the dataset again"
            )
    looked = " and ".join(version.folder for version in versions)
    return (
        f"{title} was not found in {root} (looked for {looked}); set dataset.path to the folder that holds it or "
        f"dataset.download=true to fetch it"
    )
