"""From texts with labels to ``Data``: split, tokenize, name. What files and docstrings share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from influx.datasets.labels import read_labels
from influx.datasets.split import Rows, split_rows, subset_rows
from influx.datasets.tokens import TokenSettings, tokenized
from influx.errors import DataError
from influx.problem import Data, Split

TASKS = ("classification", "language")


def text_data(
    texts: Sequence[str],
    labels: Sequence[str],
    settings: TokenSettings,
    *,
    name: str,
    where: str,
    task: str,
    n_train: int | None,
    n_test: int | None,
    test_fraction: float,
    seed: int,
    n_given: int | None = None,
    notes: tuple[str, ...] = (),
) -> Data:
    """Tokens (n, length) int64 and classes; a row's id is its position in the source.

    Args:
        texts: none of them empty.
        labels: one per text.
        settings: of the tokenizer.
        name: of the dataset.
        where: what messages call the source.
        task: classification, or language for a model of the texts, which learns from no label.
        n_train: training texts, null for all that are not test texts.
        n_test: likewise.
        test_fraction: share of test texts where ``n_test`` is null.
        seed: of the split.
        n_given: how many texts, the first ones, are for training where the source has its own split.
        notes: what was done before.

    Raises:
        DataError: too few texts or classes.
    """
    named = np.array(labels)
    if task == "classification":
        found = read_labels(named, "classification", f"labels of {where}")
        y, classes = found.y, found.classes
    else:
        different, y = np.unique(named, return_inverse=True)
        classes = tuple(map(str, different))
    strata = y if task == "classification" else None
    sizes = {"n_train": n_train, "n_test": n_test}
    if n_given is None:
        rows = split_rows(strata, len(y), name=where, classes=classes, **sizes, test_fraction=test_fraction, seed=seed)
    else:
        rows = _given_split(strata, len(y), n_given, where, classes, n_train, n_test, seed)
    train_texts, test_texts = ([texts[i] for i in part] for part in rows)
    tokens = tokenized(train_texts, test_texts, settings)
    parts = (
        Split(x=x, y=y[part].astype(np.int64), ids=part.astype(np.int64))
        for x, part in zip((tokens.train, tokens.test), rows, strict=True)
    )
    train, test = parts
    return Data(
        name=name,
        task="classification" if task == "classification" else "density",
        kind="text",
        train=train,
        test=test,
        classes=classes,
        display=tokens.display,
        vocabulary=tokens.vocabulary,
        tokenizer=tokens.tokenizer,
        notes=(*notes, *tokens.notes),
    )


def _given_split(
    y: NDArray[np.int64] | None,
    n: int,
    n_given: int,
    where: str,
    classes: tuple[str, ...],
    n_train: int | None,
    n_test: int | None,
    seed: int,
) -> tuple[Rows, Rows]:
    first, second = (None, None) if y is None else (y[:n_given], y[n_given:])
    if first is not None:
        counts = np.bincount(first, minlength=len(classes))
        if counts.min() == 0:
            raise DataError(
                f"class {classes[int(counts.argmin())]!r} of {where} has test texts only; add training texts "
                "or remove it"
            )
    k = len(classes)
    train = subset_rows(first, n_given, n_train, part="train", name=where, n_classes=k, seed=seed)
    test = subset_rows(second, n - n_given, n_test, part="test", name=where, n_classes=k, seed=seed)
    return train, n_given + test
