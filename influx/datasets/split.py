"""Which rows train and which test: stratified for classes, plain random for regression.

Rows are shuffled within each class once per seed; test rows are taken from the front and training rows from
the back. So the test rows do not depend on ``n_train``, and a row keeps its id whatever is chosen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError
from influx.streams import stream

Rows = NDArray[np.int64]


def split_rows(
    y: NDArray[np.int64] | None,
    n: int,
    *,
    name: str,
    classes: tuple[str, ...],
    n_train: int | None,
    n_test: int | None,
    test_fraction: float,
    seed: int,
) -> tuple[Rows, Rows]:
    """Training and test rows of a source without a split of its own, each in increasing order.

    Args:
        y: class indices (n,), or None for regression.
        n: number of rows.
        name: what the messages call the source.
        classes: the text of each class; all occur in ``y``.
        n_train: training rows; None takes all that are not test rows.
        n_test: test rows; None takes ``test_fraction`` of all.
        test_fraction: share of test rows where ``n_test`` is None.
        seed: the run's seed.

    Raises:
        DataError: more rows are asked for than there are, or a class cannot be in both splits.
    """
    n_train, n_test = _sizes(n, name, n_train, n_test, test_fraction)
    order = stream(seed, "dataset/split").permutation(n)
    if y is None:
        return np.sort(order[n - n_train :]), np.sort(order[:n_test])
    counts = np.bincount(y, minlength=len(classes))
    _check_classes(counts, name, classes, n_train, n_test)
    test = apportion(counts - 1, n_test)  # at least one instance of each class is left for training
    train = 1 + apportion(counts - test - 1, n_train - len(classes))
    by_class = [order[y[order] == c] for c in range(len(classes))]
    test_rows = [rows[:k] for rows, k in zip(by_class, test, strict=True)]
    train_rows = [rows[len(rows) - k :] for rows, k in zip(by_class, train, strict=True)]
    return np.sort(np.concatenate(train_rows)), np.sort(np.concatenate(test_rows))


def subset_rows(
    y: NDArray[np.int64] | None, n: int, wanted: int | None, *, part: str, name: str, n_classes: int, seed: int
) -> Rows:
    """Rows of one part (``train`` or ``test``) of a source that has its own split, in increasing order.

    Stratified where ``y`` are class indices; every class keeps at least one training row.

    Raises:
        DataError: more rows are wanted than there are, or fewer training rows than classes.
    """
    if wanted is None:
        return np.arange(n)
    if wanted > n:
        raise DataError(f"dataset.n_{part}={wanted} is more than the {n} {part} instances of {name}; lower it")
    order = stream(seed, f"dataset/subset/{part}").permutation(n)
    if y is None:
        return np.sort(order[:wanted])
    counts = np.bincount(y, minlength=n_classes)
    if part == "train":
        _check_room(wanted, n_classes, name)
        chosen = 1 + apportion(counts - 1, wanted - n_classes)
    else:
        chosen = apportion(counts, wanted)
    return np.sort(np.concatenate([order[y[order] == c][:k] for c, k in enumerate(chosen)]))


def apportion(counts: NDArray[Any], total: int) -> NDArray[np.int64]:
    """Divide ``total`` in proportion to ``counts``: largest remainder, never more than a count.

    Integer arithmetic, so that the result is the same on every platform; ties go to the earlier class.
    """
    whole = int(counts.sum())
    if whole == 0:
        return np.zeros(len(counts), np.int64)
    share, remainder = np.divmod(counts.astype(np.int64) * total, whole)
    missing = total - int(share.sum())
    share[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return np.asarray(share, np.int64)


def _sizes(n: int, name: str, n_train: int | None, n_test: int | None, test_fraction: float) -> tuple[int, int]:
    if n < 2:
        raise DataError(f"{name} has {n} instances, and training and testing need one each; provide more")
    if n_test is None:
        n_test = min(max(1, round(n * test_fraction)), n - 1)
    if n_test >= n:
        raise DataError(f"dataset.n_test={n_test} leaves nothing of the {n} instances of {name} to train on; lower it")
    if n_train is None:
        n_train = n - n_test
    if n_train + n_test > n:
        raise DataError(
            f"dataset.n_train={n_train} and n_test={n_test} (set, or from dataset.test_fraction) exceed the {n} "
            f"instances of {name}; lower one of them"
        )
    return n_train, n_test


def _check_classes(counts: Rows, name: str, classes: tuple[str, ...], n_train: int, n_test: int) -> None:
    if counts.min() < 2:
        rare = classes[int(counts.argmin())]
        raise DataError(
            f"class {rare!r} of {name} has a single instance and cannot be in both train and test; "
            f"remove it, merge it with another class, or add instances"
        )
    _check_room(n_train, len(classes), name)
    if n_test > int((counts - 1).sum()):
        raise DataError(
            f"dataset.n_test={n_test} leaves some of the {len(classes)} classes of {name} without a training "
            f"instance; lower it to {int((counts - 1).sum())} or less"
        )


def _check_room(n_train: int, n_classes: int, name: str) -> None:
    if n_train < n_classes:
        raise DataError(
            f"dataset.n_train={n_train} is too few for the {n_classes} classes of {name}; "
            f"set dataset.n_train to {n_classes} or more"
        )
