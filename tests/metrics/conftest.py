"""A run without engines: what metrics read, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from influx.influence import Influence
from influx.problem import Design, Outcomes
from influx.streams import stream


@dataclass
class FakeBank:
    """Models whose minus loss on test instance j is Σ_{i∈S} effects[i, j] + noise drawn per model."""

    effects: NDArray[Any]
    noise: float = 0.0
    designs: list[Design] = field(default_factory=list)

    def outcomes(self, design: Design, label: str = "") -> tuple[Outcomes, Outcomes]:
        self.designs.append(design)
        helpful = design.weights.astype(float) @ self.effects
        helpful = helpful + self.noise * stream(len(design), "noise").normal(size=helpful.shape)
        test = Outcomes(loss=-helpful, margin=(2 * helpful).astype(np.float32), prediction=helpful.astype(np.float32))
        return test, test


@dataclass(frozen=True)
class FakeSplit:
    """So many instances."""

    size: int

    def __len__(self) -> int:
        return self.size

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.arange(self.size)


MakeRun = Callable[..., Any]


@pytest.fixture
def make_run() -> MakeRun:
    def make(
        truth: Influence | None = None, *, bank: Any = None, flags: Any = None, size: Any = (1, 1), seed: int = 0
    ) -> Any:
        return SimpleNamespace(
            truth=truth,
            retrain=bank,
            train=FakeSplit(size[0] if truth is None else len(truth.values)),
            test=FakeSplit(size[1]),
            problem=SimpleNamespace(seed=seed, learner=None, data=SimpleNamespace(flags=flags or {})),
            rng=lambda purpose: stream(seed, purpose),
        )

    return make


@pytest.fixture
def value() -> Callable[[pd.DataFrame, str], float]:
    return lambda table, metric: float(table.set_index("metric").value[metric])


@pytest.fixture
def make_bank() -> type[FakeBank]:
    return FakeBank
