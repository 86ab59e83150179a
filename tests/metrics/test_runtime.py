"""Time of an estimate parted into build and query by a clock that estimators move themselves; files by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import influx
from influx.commands.comparisons import Asked as Question
from influx.commands.comparisons import comparisons_of
from influx.config import Settings, compose
from influx.errors import ConfigError, IncompatibleError, NumericalError
from influx.influence import Influence
from influx.job import Job, assemble
from influx.judged import Judged
from influx.metrics.runtime import BUILD, DISK, FULL, NAMES, PEAK, QUERY, Runtime
from influx.needs import Need
from influx.planning import Work
from influx.reads import note, noted
from influx.reporting.record import RunRecord
from influx.timed import Asked, asked_about, narrowed, work_asked_again
from influx.trained import trained_problem

N, M, FEW = 20, 8, 2
SMALL = [
    *("dataset=iris", f"dataset.n_train={N}", f"dataset.n_test={M}", "model.width=[4]", "training.epochs=2"),
    *("training.dtype=float64", "truth=none", "baselines=[]", "quiet=true", "training.checkpoints=2"),
    *("metric=runtime", "metric.runtime.repeats=2", "metric.runtime.n_boot=100"),
]


@cache
def settings_of(*overrides: str) -> Settings:
    return compose([*SMALL, *overrides])


def job_of(tmp_path: Path, *overrides: str) -> Job:
    settings = settings_of(*overrides)
    return assemble(replace(settings, values={**settings.values, "paths": {"outputs": str(tmp_path)}}))


@dataclass
class Clock:
    """Moves when told."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@dataclass(frozen=True)
class Sleeper:
    """Takes ``build`` seconds, once if ``kept``, and ``each`` for every test instance; reads ``files``."""

    clock: Clock
    build: float
    each: float
    kept: bool = False
    files: tuple[Path, ...] = ()
    noise: Iterator[float] | None = None
    asked: list[int] = field(default_factory=list)
    requires: frozenset[Any] = frozenset()
    about_all: str = ""

    def estimate(self, run: Any) -> Influence:
        self.clock.now += self.build * (not self.kept or not self.asked) + self.each * len(run.test)
        self.clock.now += next(self.noise) if self.noise else 0.0
        self.asked.append(len(run.test))
        for file in self.files:
            note(file)
        return run.influence(np.zeros((len(run.train), len(run.test))))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """Finished runs of two estimators on one problem."""
    outputs = tmp_path_factory.mktemp("runs")
    given = [*SMALL, f"paths.outputs={outputs}"]
    names = ("tracincp", "loo")
    return {name: RunRecord.load(influx.run([*given, f"estimator={name}", f"name={name}"]).folder) for name in names}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the problem is trained once for all estimators that are made up here."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("influx.manifest.time", found)
    return found


def measured(job: Job, estimator: Any, metric: Runtime, look: bool = False, **cost: Any) -> pd.DataFrame:
    """The metric's rows after the run's own estimate, which ``estimator`` makes now; ``cost`` replaces its record."""
    fitted = trained_problem(job)
    clock = getattr(estimator, "clock", Clock())
    start = clock.now
    own = estimator.estimate(job.run(fitted, estimator.requires, "own", job.bank()))
    known = {"seconds": clock.now - start, "peak_mb": 12.5, "executor": "local", "stored_before": 0} | cost
    judged = Judged(job=job, name="own", estimator=estimator, own=own, look=look, cost=known)
    run = replace(job.run(fitted, metric.requires, "runtime", job.bank()), judged=judged)
    found = metric.evaluate(own, run)
    assert list(found.metric) == list(NAMES)
    return found.set_index("metric")


@pytest.mark.parametrize("kept", [False, True])
def test_build_and_query_are_those_of_an_estimator_that_sleeps(clock: Clock, outputs: Path, kept: bool) -> None:
    sleeper = Sleeper(clock, build=3.0, each=0.25, kept=kept)
    found = measured(job_of(outputs), sleeper, Runtime(repeats=3, n_boot=100))
    assert found.value[FULL] == pytest.approx(3 + 0.25 * M)
    assert found.value[BUILD] == pytest.approx(3) and found.value[QUERY] == pytest.approx(250)
    assert found.loc[BUILD, ["ci_low", "ci_high"]].tolist() == pytest.approx([3, 3])
    assert found.value[PEAK] == 12.5 and (found.status.drop(DISK) == "ok").all()
    assert sleeper.asked == [M, FEW, *[FEW, M] * 3]
    assert found.n.to_dict() == {FULL: 1, BUILD: 3, QUERY: 3, PEAK: 1, DISK: 0}
    for name in (FULL, BUILD, QUERY, PEAK, DISK):
        assert f"{N} training and {M} test instances" in found.protocol[name]
    assert "thread" in found.protocol[QUERY] and f"about {FEW} and {M}" in found.protocol[QUERY]


def test_time_that_does_not_grow_with_test_instances_is_no_number(clock: Clock, outputs: Path) -> None:
    found = measured(job_of(outputs), Sleeper(clock, build=2.0, each=0.0), Runtime(n_boot=100))
    assert found.status[QUERY] == "degenerate" and np.isnan(found.value[QUERY])
    assert "does not grow with test instances beyond its noise, at most 0 ms" in found.note[QUERY]
    assert found.value[BUILD] == found.value[FULL] == 2 and "no time per test instance" in found.note[BUILD]


def test_a_slope_within_the_noise_is_no_number(clock: Clock, outputs: Path) -> None:
    noise = iter([0.0, 0.0, *[0.0, 0.5] * 2, *[0.5, 0.0] * 2, 0.0, 0.1])  # slopes: two of 0.5, two of -0.5, one of 0.1
    found = measured(job_of(outputs), Sleeper(clock, 2.0, 0.0, noise=noise), Runtime(n_boot=200))
    assert found.status[QUERY] == "degenerate"
    assert f"at most {1e3 * 0.5 / (M - FEW):.3g} ms" in found.note[QUERY]
    low, high = found.loc[BUILD, ["ci_low", "ci_high"]]
    assert (low, high) == pytest.approx((2 - M * 0.5 / (M - FEW), 2)) and found.value[BUILD] == 2


def test_queries_as_long_as_the_own_estimate_leave_no_build(clock: Clock, outputs: Path) -> None:
    found = measured(job_of(outputs), Sleeper(clock, 0.0, 0.25), Runtime(repeats=2, n_boot=100), seconds=1.9)
    assert found.status[BUILD] == "degenerate" and np.isnan(found.value[BUILD])
    assert "queries alone take as long" in found.note[BUILD] and found.value[QUERY] == pytest.approx(250)


def test_one_repeat_has_no_interval(clock: Clock, outputs: Path) -> None:
    found = measured(job_of(outputs), Sleeper(clock, 3.0, 0.25), Runtime(repeats=1, n_boot=100))
    assert found.value[BUILD] == pytest.approx(3) and found[["ci_low", "ci_high"]].isna().all(axis=None)
    assert "no interval from one repeat" in found.note[QUERY]


def test_trainings_read_from_the_bank_are_told(clock: Clock, outputs: Path) -> None:
    cost = {"trainings": 40, "trained_now": 30}
    found = measured(job_of(outputs), Sleeper(clock, 3.0, 0.25), Runtime(repeats=2, n_boot=100), **cost)
    assert found.note[FULL] == "without 10 of 40 trainings, which the run read from the bank"


@pytest.mark.parametrize("given", [{"requires": frozenset({Need.RETRAIN})}, {"about_all": "it trains for each"}])
def test_what_cannot_be_asked_about_a_part_has_no_build_and_query(
    clock: Clock, outputs: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    (tmp_path / "a").write_bytes(bytes(1500))
    sleeper = Sleeper(clock, build=3.0, each=0.25, files=(tmp_path / "a",), **given)
    job = job_of(outputs)
    found = measured(job, sleeper, Runtime(repeats=2, n_boot=100))
    assert (found.status[[BUILD, QUERY]] == "not applicable").all() and (found.status[[FULL, PEAK, DISK]] == "ok").all()
    why = given.get("about_all", "outcomes of retrained models come from the bank")
    assert why in found.note[QUERY] and why in found.note[BUILD]
    assert sleeper.asked == [M, M] and found.value[FULL] == 5 and found.value[DISK] == 1500 / 1e6
    with pytest.raises(IncompatibleError, match=why):
        asked_about(job, "own", sleeper, np.arange(FEW), 1)


@pytest.mark.parametrize("name", ["simfluence", "averaged"])
def test_recorded_trainings_of_a_part_of_the_test_instances_are_not_made(tmp_path: Path, name: str) -> None:
    settings = {"simfluence": [], "averaged": ["estimator.of=simfluence", "estimator.count=2"]}[name]
    job = job_of(tmp_path, f"estimator={name}", *settings)
    with pytest.raises(IncompatibleError, match="losses of all test instances along trainings"):
        asked_about(job, name, job.estimator, np.arange(FEW), 1)
    assert not [*tmp_path.rglob("traces")]
    assert [work.formula.split()[-3:] for work in work_asked_again(job)] == [["8", "test", "instances"]]


def test_time_that_leaves_out_what_was_stored_before_is_no_number(clock: Clock, outputs: Path) -> None:
    job, metric = job_of(outputs), Runtime(repeats=2, n_boot=100)
    found = measured(job, Sleeper(clock, 3.0, 0.25), metric, stored_before=2)
    assert (found.status[[FULL, BUILD]] == "not applicable").all() and found.value[QUERY] == pytest.approx(250)
    for name in (FULL, BUILD):
        assert "read 2 files" in found.note[name] and "paths.outputs" in found.note[name]
    found = measured(job, Sleeper(clock, 3.0, 0.25), metric, stored_before=None)  # a run of an earlier version
    assert found.value[FULL] == 5 and found.value[BUILD] == pytest.approx(3)
    assert all("stored before is not recorded" in found.note[name] for name in (FULL, BUILD))


def test_a_run_says_how_much_of_its_estimate_was_stored_before(tmp_path: Path) -> None:
    def stored_before(name: str, *given: str) -> int:
        few = ["metric=[]", "estimator=trak", "estimator.dim=4", f"paths.outputs={tmp_path}"]
        made = influx.run([*SMALL[:9], *few, f"name={name}", *given])
        return int(RunRecord.load(made.folder).section("cost")["trak"]["stored_before"])

    assert stored_before("first") == 0
    shards = [*tmp_path.rglob("projected/*/*.npy")]
    assert shards and stored_before("other", "estimator.damping=0.5") == len(shards)


@pytest.mark.parametrize(
    ("model", "estimator", "file"),
    [
        ("ridge", "cooks_distance", "linear.npz"),
        pytest.param("gradient_boosting", "leaf_influence", "trees.npz", marks=pytest.mark.slow),
    ],
)
def test_a_model_counts_where_it_is_looked_at(tmp_path: Path, model: str, estimator: str, file: str) -> None:
    data = "diabetes" if model == "ridge" else "iris"
    given = [*("truth=none", "baselines=[]", "quiet=true", "metric=[]"), "dataset.n_train=20", "dataset.n_test=8"]
    names = ("random", estimator)
    for name in names:
        job = assemble(
            compose([f"dataset={data}", f"model={model}", *given, f"estimator={name}", f"paths.outputs={tmp_path}"])
        )
        trained_problem(job)
        read = asked_about(job, name, job.estimator, np.arange(FEW), 1).files
        assert {path.name for path in read} == (set() if name == "random" else {file})


def test_what_nobody_knows_is_not_applicable(clock: Clock, outputs: Path) -> None:
    job, metric = job_of(outputs), Runtime(repeats=2, n_boot=100)
    found = measured(job, Sleeper(clock, 3.0, 0.25), metric, seconds=None, peak_mb="much")
    assert found.status.to_dict() == {
        **dict.fromkeys(NAMES, "not applicable"),
        QUERY: "ok",
    }
    assert "not recorded" in found.note[BUILD] and "reads no file" in found.note[DISK]
    found = measured(job, Sleeper(clock, 3.0, 0.25), metric, executor="processes")
    assert found.status[BUILD] == "not applicable" and "executor=processes" in found.note[BUILD]
    assert found.status[FULL] == found.status[QUERY] == "ok"


def test_a_single_test_instance_has_no_slope(clock: Clock, outputs: Path) -> None:
    sleeper = Sleeper(clock, 3.0, 0.25)
    found = measured(job_of(outputs, "dataset.n_test=1"), sleeper, Runtime(n_boot=100))
    assert (found.status[[BUILD, QUERY]] == "not applicable").all() and found.value[FULL] == 3.25
    assert found.note[QUERY].endswith("raise dataset.n_test") and sleeper.asked == [1, 1]


@pytest.mark.parametrize(
    ("error", "status"), [(IncompatibleError("all or none"), "not applicable"), (NumericalError("inf"), "degenerate")]
)
def test_an_estimator_that_refuses_fewer_test_instances_says_why(error: Exception, status: str, outputs: Path) -> None:
    def refuse(tests: Any) -> Asked:
        raise error

    job = job_of(outputs)
    again = SimpleNamespace(
        about=refuse, job=job, estimator=job.estimator, look=False, cost={"seconds": 2.0, "peak_mb": 3.0}
    )
    run = replace(job.run(trained_problem(job), frozenset(), "runtime", job.bank()), judged=again)
    found = Runtime(n_boot=100).evaluate(Influence(values=np.zeros((N, M))), run).set_index("metric")
    assert list(found.index) == list(NAMES) and found.value[FULL] == 2 and found.value[PEAK] == 3
    assert (found.status[[BUILD, QUERY, DISK]] == status).all() and found.note[QUERY] == f"asked again: {error}"


def test_files_of_a_known_size_are_counted_once(clock: Clock, outputs: Path, tmp_path: Path) -> None:
    files = (tmp_path / "a", tmp_path / "b")
    for file, size in zip(files, (1500, 2500), strict=True):
        file.write_bytes(bytes(size))
    job = job_of(outputs)
    found = measured(job, Sleeper(clock, 1.0, 0.1, files=files), Runtime(repeats=2, n_boot=100))
    assert found.value[DISK] == 4000 / 1e6 and "keeps no files of its influence" in found.note[DISK]


def test_listening_ends_with_the_block() -> None:
    with noted() as outer:
        note(Path("a"))
        with noted() as inner:
            note(Path("b"))
        note(Path("c"))
    note(Path("d"))
    assert inner.read == {Path("b")} and outer.read == {Path("a"), Path("b"), Path("c")}


@pytest.mark.parametrize(("name", "trainings"), [("tracincp", 1), ("averaged", 2)])
def test_a_part_of_the_test_instances_gets_the_columns_it_had(tmp_path: Path, name: str, trainings: int) -> None:
    count = [f"estimator.count={trainings}"] * (trainings > 1)
    job, tests = job_of(tmp_path, f"estimator={name}", *count), np.array([1, 4, 6])
    requires, fitted, bank = job.estimator.requires, trained_problem(job), job.bank()
    whole = job.estimator.estimate(job.run(fitted, requires, name, bank))
    problem, again = narrowed(job.problem, tests), job.bank()
    other = replace(job, problem=problem).run(fitted, requires, name, again.of(problem))
    found = job.estimator.estimate(replace(other, origin=again))
    np.testing.assert_allclose(found.values, whole.values[:, tests], rtol=1e-9)
    assert not [*tmp_path.rglob("altered")] and len([*(tmp_path / "problems").iterdir()]) == trainings


@pytest.mark.parametrize(
    ("estimator", "pattern"),
    [
        ("tracincp", "checkpoints/step_*[!0].safetensors"),
        ("loo", "retrain/block_*.npz"),
    ],
)
def test_a_run_counts_what_it_read_and_wrote(runs: dict[str, RunRecord], estimator: str, pattern: str) -> None:
    run = runs[estimator]
    (problem,) = (run.folder.parents[1] / "problems").iterdir()
    read = [*problem.glob(pattern)]
    others = ("config", "log", "manifest", "metric", "ranking", "report", "checksums", ".lock", "truth")
    wrote = [path for path in run.folder.iterdir() if path.is_file() and not path.name.startswith(others)]
    found = run.metrics.set_index("metric")
    assert read and found.value[DISK] == sum(file.stat().st_size for file in [*read, *wrote]) / 1e6
    cost = run.section("cost")[estimator]
    assert (found.value[FULL], found.value[PEAK]) == (cost["seconds"], cost["peak_mb"])


def test_plans_count_the_estimates(outputs: Path) -> None:
    job = job_of(outputs, "estimator=tracincp")
    works = work_asked_again(job)
    one = job.work(job.estimator, "tracincp")
    few = replace(job, problem=narrowed(job.problem, np.arange(FEW))).work(job.estimator, "tracincp")
    assert [work.gradients for work in works] == [2 * one.gradients, 3 * few.gradients]
    assert [work.flops for work in works] == [2 * one.flops, 3 * few.flops]
    assert one.gradients == 2 * (N + M) and few.gradients == 2 * (N + FEW)
    assert all(not work.trainings and work.more_trainings == 0 for work in works)
    assert isinstance(Runtime().plan(job), Work)  # type: ignore[arg-type]


def test_compare_puts_the_fastest_first(runs: dict[str, RunRecord]) -> None:
    records = []
    for name, value in (("tracincp", 5.0), ("loo", 2.0)):
        table = runs[name].metrics.copy()
        table.loc[table.metric == FULL, "value"] = value
        records.append(replace(runs[name], metrics=table))
    (made,) = comparisons_of(records, Question(metrics=(FULL,)))
    assert made.lower_is_better and [entry.name for entry in made.entries] == ["loo", "tracincp"]


def test_no_run_measures_it_unasked() -> None:
    assert "runtime" not in compose(["dataset=iris"]).values["metric"]


@pytest.mark.parametrize("settings", [{"part": 0.0}, {"part": 1.0}, {"repeats": 0}, {"n_boot": 9}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"metric.runtime.{next(iter(settings))}"):
        Runtime(**settings)
