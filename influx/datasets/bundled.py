"""The small tables that scikit-learn ships: no download, no file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sklearn.datasets

from influx.datasets.assemble import table_split
from influx.datasets.labels import Labels
from influx.datasets.settings import check_choice, check_flag, check_sizes
from influx.datasets.split import split_rows
from influx.problem import Data

LOADERS = {
    "breast_cancer": lambda: sklearn.datasets.load_breast_cancer(),
    "wine": lambda: sklearn.datasets.load_wine(),
    "iris": lambda: sklearn.datasets.load_iris(),
    "diabetes": lambda: sklearn.datasets.load_diabetes(scaled=False),
}


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """One of scikit-learn's tables; ``which`` is breast_cancer, wine, iris (classes) or diabetes (regression).

    x is (n, d) float32. Diabetes is read in its original units, so that standardisation sees training rows only
    (scikit-learn's own scaling uses all rows), and its target is standardised too.
    """

    which: str
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    standardize: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("dataset.which", self.which, tuple(LOADERS))
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_flag("dataset.standardize", self.standardize)

    def load(self, seed: int) -> Data:
        """The dataset, split by ``seed``."""
        bunch = LOADERS[self.which]()
        if self.which == "diabetes":
            labels = Labels(task="regression", y=bunch.target.astype(np.float64), classes=())
        else:
            classes = tuple(str(name) for name in bunch.target_names)
            labels = Labels(task="classification", y=bunch.target.astype(np.int64), classes=classes)
        rows = split_rows(
            labels.y if labels.task == "classification" else None,
            len(labels.y),
            name=self.which,
            classes=labels.classes,
            n_train=self.n_train,
            n_test=self.n_test,
            test_fraction=self.test_fraction,
            seed=seed,
        )
        return table_split(
            bunch.data,
            labels,
            rows,
            name=self.which,
            features=tuple(str(name) for name in bunch.feature_names),
            standardize=self.standardize,
        )
