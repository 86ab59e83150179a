"""Images sorted into one folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from influx.datasets.images import Images, image_data
from influx.datasets.settings import check_count, check_flag, check_sizes, source_folder
from influx.datasets.split import Rows, split_rows, subset_rows
from influx.errors import DataError
from influx.problem import Data

SUFFIXES = (".png", ".jpg", ".jpeg")
# Pillow reports damage in all these ways, depending on the format and on the place.
DAMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class _Listing:
    """Files in the order of their ids, with class indices."""

    files: tuple[Path, ...]
    y: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """``path/<class>/*.png`` or ``*.jpg``; or ``path/train/<class>`` and ``path/test/<class>`` for a given split.

    x is (n, 3 or 1, image_size, image_size); images are resized to that square (bilinear), null takes them as
    they are. Ids count files in sorted order of class and name, training files first. Only chosen images are read.
    """

    path: str | None = None
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    standardize: bool = True
    image_size: int | None = 32
    grayscale: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_count("dataset.image_size", self.image_size)
        check_flag("dataset.standardize", self.standardize)
        check_flag("dataset.grayscale", self.grayscale)

    def load(self, seed: int) -> Data:
        """The images, split or subset by ``seed``."""
        root = source_folder(self.path, "images")
        given = (root / "train").is_dir() and (root / "test").is_dir()
        classes = _classes(root / "train" if given else root)
        if given:
            listing, (train, test) = self._given_split(root, classes, seed)
        else:
            listing = _list(root, classes)
            train, test = split_rows(
                listing.y,
                len(listing.y),
                name=str(root),
                classes=classes,
                n_train=self.n_train,
                n_test=self.n_test,
                test_fraction=self.test_fraction,
                seed=seed,
            )
        shape = self._shape(listing.files[int(train[0])])
        return image_data(
            self._read(listing, train, shape),
            self._read(listing, test, shape),
            name=root.name,
            classes=classes,
            standardize=self.standardize,
        )

    def _given_split(self, root: Path, classes: tuple[str, ...], seed: int) -> tuple[_Listing, tuple[Rows, Rows]]:
        for name in _classes(root / "test"):
            if name not in classes:
                raise DataError(f"class {name!r} is in {root / 'test'} but not in {root / 'train'}; add or remove it")
        parts = _list(root / "train", classes), _list(root / "test", classes, may_lack=True)
        wanted, k = (self.n_train, self.n_test), len(classes)
        train, test = (
            subset_rows(listing.y, len(listing.y), n, part=part, name=str(root), n_classes=k, seed=seed)
            for listing, n, part in zip(parts, wanted, ("train", "test"), strict=True)
        )
        files, y = parts[0].files + parts[1].files, np.concatenate([parts[0].y, parts[1].y])
        return _Listing(files, y), (train, len(parts[0].y) + test)

    def _shape(self, file: Path) -> tuple[int, int]:
        """Height and width that every image gets or must have."""
        if self.image_size is not None:
            return self.image_size, self.image_size
        height, width = self._pixels(file).shape[:2]
        return height, width

    def _read(self, listing: _Listing, rows: Rows, shape: tuple[int, int]) -> Images:
        pixels = np.empty((len(rows), 1 if self.grayscale else 3, *shape), np.uint8)
        for place, row in enumerate(rows):
            image = self._pixels(listing.files[row])
            if image.shape[:2] != shape:
                raise DataError(
                    f"{listing.files[row]} is {image.shape[1]} by {image.shape[0]} pixels, but others are "
                    f"{shape[1]} by {shape[0]}; set dataset.image_size to resize all"
                )
            pixels[place] = image.reshape(*shape, -1).transpose(2, 0, 1)
        return Images(pixels=pixels, y=listing.y[rows], ids=rows.astype(np.int64))

    def _pixels(self, file: Path) -> NDArray[np.uint8]:
        """One image, (height, width) or (height, width, 3)."""
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as opened:
                image: Image.Image = opened
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{file} has more than 8 bits per pixel (mode {image.mode}); save it as 8-bit")
                if image.mode == "P":  # a palette may carry transparency that only RGBA keeps
                    image = image.convert("RGBA")
                image = image.convert("L" if self.grayscale else "RGB")
                if self.image_size is not None:
                    image = image.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
                return np.asarray(image, np.uint8)
        except DAMAGE as error:
            raise DataError(f"{file} is not a readable png or jpg image ({error}); replace or remove it") from error


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        found = f"found {names[0]!r} only" if names else "found none"
        raise DataError(f"expected at least two class folders in {folder}, {found}; set dataset.path to their parent")
    return names


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _list(folder: Path, classes: tuple[str, ...], *, may_lack: bool = False) -> _Listing:
    """All images of the class folders; a given test split may lack a class."""
    files: list[Path] = []
    y: list[int] = []
    for index, name in enumerate(classes):
        inside = folder / name
        present = sorted(p for p in inside.iterdir() if _is_image(p)) if inside.is_dir() else []
        if not present and not may_lack:
            raise DataError(f"class folder {inside} holds no png or jpg image; add some or remove it")
        files += present
        y += [index] * len(present)
    if not files:
        raise DataError(f"{folder} holds no png or jpg image; add some")
    return _Listing(tuple(files), np.array(y, np.int64))
