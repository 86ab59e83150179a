"""scikit-learn's handwritten digits: 1,797 images of 8 by 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from influx.datasets.assemble import table_split
from influx.datasets.labels import Labels
from influx.datasets.settings import check_choice, check_flag, check_sizes
from influx.datasets.split import split_rows
from influx.problem import Data

BRIGHTEST = 16.0  # pixels count the inked dots of a 4 by 4 block


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Ten digits, shipped with scikit-learn, stratified split.

    ``shape=flat`` gives x (n, 64), standardised per pixel; ``shape=image`` gives (n, 1, 8, 8), standardised as
    one channel. ``display`` holds the images in [0, 1] either way.
    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.
    """

    n_train: int | None = 1000
    n_test: int | None = 397
    test_fraction: float = 0.2
    standardize: bool = True
    shape: str = "flat"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_flag("dataset.standardize", self.standardize)
        check_choice("dataset.shape", self.shape, ("flat", "image"))

    def load(self, seed: int) -> Data:
        """The dataset, split by ``seed``."""
        bunch = load_digits()
        classes = tuple(str(name) for name in bunch.target_names)
        y = bunch.target.astype(np.int64)
        images = (bunch.images[:, None] / BRIGHTEST).astype(np.float32)  # (n, 1, 8, 8), exact: multiples of 1/16
        rows = split_rows(
            y,
            len(y),
            name="digits",
            classes=classes,
            n_train=self.n_train,
            n_test=self.n_test,
            test_fraction=self.test_fraction,
            seed=seed,
        )
        flat = self.shape == "flat"
        return table_split(
            images.reshape(len(y), -1) if flat else images,
            Labels(task="classification", y=y, classes=classes),
            rows,
            name="digits",
            kind="tabular" if flat else "image",
            features=tuple(bunch.feature_names) if flat else (),
            standardize=self.standardize,
            display={"train": images[rows[0]], "test": images[rows[1]]},
        )
