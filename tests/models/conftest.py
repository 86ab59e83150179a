"""Small datasets of each kind, made of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from influx.problem import Data, Split

MakeData = Callable[..., Data]


@pytest.fixture
def make_data() -> MakeData:
    def make(shape: tuple[int, ...], *, classes: int = 3, kind: Any = None, task: Any = "classification") -> Data:
        rng = np.random.default_rng(0)
        kind = kind or ("image" if len(shape) == 3 else "tabular")
        x = rng.integers(0, 9, (6, *shape)) if kind == "text" else rng.normal(size=(6, *shape)).astype(np.float32)
        y = np.arange(6) % classes if task == "classification" else rng.normal(size=6).astype(np.float32)
        split = Split(x=x, y=y, ids=np.arange(6))
        names = tuple(map(str, range(classes))) if task == "classification" else ()
        return Data(name="noise", task=task, kind=kind, train=split, test=split, classes=names)

    return make
