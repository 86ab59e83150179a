"""A suite of one problem that takes a moment, and results made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from influx.bench import bench, trial
from influx.bench.measures import Entry, Results, Value
from influx.bench.suites import Suite, read
from influx.job import Job

IRIS = [
    "dataset=iris",
    "dataset.n_train=30",
    "dataset.n_test=6",
    "model.width=4",
    "training.epochs=2",
    "training.batch_size=10",
    "training.checkpoints=2",
    "truth.ceiling_budget=0",
    "metric=[agreement]",
    "metric.agreement.n_boot=100",
]
MACHINE = {"processor": "a", "cores": "2", "torch": "2", "influx": "1", "git": "x"}


def tiny(**trials: Any) -> Suite:
    """One estimator on two problems of one shape."""
    plain = {"estimators": {"tracincp": None}, "values": {"pearson": "higher", "slope": "one"}, **trials}
    problems = {"first": {"settings": IRIS, **plain}, "second": {"settings": [*IRIS, "seed=1"], **plain}}
    return read("tiny", {"summary": "a test", "problems": problems})


@pytest.fixture(scope="session", autouse=True)
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each problem is composed and trained once for all tests; estimates still start from nothing."""
    folder = tmp_path_factory.mktemp("prepared")

    @cache
    def known(*settings: str) -> Job:
        return trial.job_of(list(settings), folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "job_of", lambda settings, outputs: known(*settings))
        yield


@pytest.fixture(scope="session")
def clean(prepared: None) -> Results:
    """What the tiny suite gives when nothing is wrong."""
    return bench.run([tiny()])


Make = Callable[..., Results]


@pytest.fixture
def made() -> Make:
    """Results of one entry, with some of its numbers replaced."""

    def make(machine: dict[str, str] | None = None, protocol: str = "p", **numbers: Any) -> Results:
        value = {"value": 0.8, "low": 0.7, "high": 0.9, "better": "higher", "status": "ok", "protocol": "n"}
        value |= {key: numbers.pop(key) for key in list(numbers) if key in value}
        sums = {"values": (1.0, 1.0, *([1.0, -1.0] * 12))} | numbers.pop("prints", {})
        usual = {"processor": 0.1, "kernel": 0.01, "wall": 0.1, "memory": 50.0, "rounds": 3}
        entry = Entry(values={"spearman": Value(**value)}, prints=sums, **(usual | numbers))
        suites = {"s": {"protocol": protocol, "seconds": 1.0}}
        return Results(machine=machine or MACHINE, suites=suites, entries={"s/p/e": entry})

    return make
