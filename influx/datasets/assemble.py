"""From float features and labels of both splits to ``Data``: standardise, check, name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.labels import Labels
from influx.datasets.scale import BY_TRAINING, Scale, as_float32
from influx.datasets.split import Rows
from influx.errors import DataError
from influx.problem import Data, DataKind, Split


def table_split(
    x: NDArray[Any],
    labels: Labels,
    rows: tuple[Rows, Rows],
    *,
    name: str,
    kind: DataKind = "tabular",
    features: tuple[str, ...] = (),
    standardize: bool,
    keep: NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
    display: dict[str, NDArray[Any]] | None = None,
) -> Data:
    """Both splits of one table or image array, standardised by the training rows.

    Args:
        x: (n, d) or (n, c, h, w) finite numbers of the whole source; a row's id is its position.
        labels: of all n rows.
        rows: training and test rows.
        name: of the dataset.
        kind: ``tabular`` or ``image``.
        features: names of the d columns.
        standardize: whether to; also the targets of a regression.
        keep: (d,) columns to leave as they are, such as indicators.
        notes: what was done before.
        display: unstandardised images for people.

    Raises:
        DataError: a value is outside the range of float32.
    """
    train, test = rows
    x_train, x_test, done = x[train], x[test], list(notes)
    check_finite(as_float32(x_train), train, name, features)
    check_finite(as_float32(x_test), test, name, features)
    if standardize:
        scale = Scale.fit(x_train)
        if keep is not None:
            scale = Scale(np.where(keep, 0.0, scale.mean), np.where(keep, 1.0, scale.std))
        x_train, x_test = scale.apply(x_train), scale.apply(x_test)
        done.append(f"Features {BY_TRAINING}.")
    y_train, y_test = labels.y[train], labels.y[test]
    if labels.task == "regression":
        y_train, y_test, note = targets(y_train, y_test, standardize=standardize, name=name)
        done += note
    return Data(
        name=name,
        task=labels.task,
        kind=kind,
        train=Split(x=as_float32(x_train), y=y_train, ids=train.astype(np.int64)),
        test=Split(x=as_float32(x_test), y=y_test, ids=test.astype(np.int64)),
        classes=labels.classes,
        features=features,
        display=display or {},
        notes=(*labels.notes, *done),
    )


def targets(
    train: NDArray[Any], test: NDArray[Any], *, standardize: bool, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """float32 targets of both splits, standardised by the training targets, and the note that says how."""
    notes = []
    if train.min() == train.max():
        raise DataError(f"all training targets of {name} are {train[0]}; raise dataset.n_train or choose another label")
    if standardize:
        scale = Scale.fit(train)
        train, test = scale.apply(train), scale.apply(test)
        notes.append(f"Target standardised: minus {float(scale.mean[0]):.6g}, divided by {float(scale.std[0]):.6g}.")
    train, test = as_float32(train), as_float32(test)
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise DataError(f"some targets of {name} are too large for float32; rescale the label")
    return train, test, notes


def check_finite(x: NDArray[np.float32], ids: Rows, name: str, features: tuple[str, ...]) -> None:
    """Refuse a value that is not a finite float32, naming its row and column."""
    if np.isfinite(x).all():
        return
    place = np.argwhere(~np.isfinite(x))[0]
    column = repr(features[place[1]]) if features else str(tuple(int(i) for i in place[1:]))
    raise DataError(
        f"the value in row {ids[place[0]] + 1}, column {column} of {name} is not a finite number of float32 range; "
        f"correct or rescale it"
    )
