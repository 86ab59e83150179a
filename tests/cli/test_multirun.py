"""Several jobs at once, and a user's own parts."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from influx import interrupts
from influx.commands.status import states
from influx.commands.sweep import Sweep
from influx.config import Settings
from influx.errors import Busy
from tests.cli.conftest import Influx

SMALL = ("dataset=iris", "dataset.n_train=30", "training.epochs=2", "truth=none", "metric=[]", "baselines=[]")
ESTIMATOR = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from influx.run import Card


@dataclass(frozen=True, kw_only=True)
class Constant:
    requires: ClassVar[frozenset] = frozenset()
    scale: ClassVar[str] = "rank"
    card: ClassVar[Card] = Card(
        family="mine", full="1", incremental="1", storage="0", assumptions="none", groups="no", paper="-"
    )
    value: float = 1.0

    def estimate(self, run):
        return run.influence(np.full((len(run.train), len(run.test)), self.value), scale="rank")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package with an estimator, and the folder with its configuration."""
    package, conf = tmp_path / "code" / "minepackage", tmp_path / "conf" / "estimator"
    package.mkdir(parents=True)
    conf.mkdir(parents=True)
    (package / "__init__.py").write_text(ESTIMATOR)
    (conf / "constant.yaml").write_text("# The same for all\n_target_: minepackage.Constant\nvalue: 2.5\n")
    monkeypatch.syspath_prepend(str(package.parent))
    yield conf.parent
    sys.modules.pop("minepackage", None)


def test_two_jobs_print_both_and_succeed(influx: Influx, tmp_path: Path) -> None:
    done = influx("run", "-m", *SMALL, "seed=0,1")
    assert done.code == 0
    assert "seed=0]" in done.out and "seed=1]" in done.out
    [sweep] = (tmp_path / "outputs" / "sweeps").iterdir()
    assert [(s.status, s.folder.resolve().parent.name) for s in states(sweep)] == [("done", "runs")] * 2


@pytest.mark.fault(8, "recorded as failed, the others go on, exit code 5")
def test_a_failed_job_does_not_stop_the_others_and_ends_with_5(influx: Influx, tmp_path: Path) -> None:
    done = influx("run", "-m", *SMALL, "optimizer.lr=1e38,0.1", "quiet=true")
    assert done.code == 5 and "Traceback" not in done.err
    assert "1 job failed: optimizer.lr=1e+38;" in done.err and "lower optimizer.lr" in done.err
    [sweep] = (tmp_path / "outputs" / "sweeps").iterdir()
    rows = json.loads(influx("status", sweep, "--json").out)
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "optimizer.lr=1e+38" in rows[0]["name"] and "lower optimizer.lr" in rows[0]["note"]


def test_an_unknown_choice_stops_a_multirun_before_any_job(influx: Influx, tmp_path: Path) -> None:
    done = influx("run", "-m", *SMALL, "estimator=random,tracin_cp")
    assert done.code == 2 and "did you mean 'tracincp'" in done.err
    assert not (tmp_path / "outputs").exists()


def test_an_own_estimator_of_a_trusted_package_runs(influx: Influx, mine: Path, tmp_path: Path) -> None:
    import numpy as np

    arguments = (*SMALL, "estimator=constant", "trust=[minepackage]", "name=own", "quiet=true")
    done = influx("run", "--config-dir", mine, *arguments)
    assert done.code == 0, done.err
    values = np.load(tmp_path / "outputs" / "runs" / "own" / "influence.npy", allow_pickle=False)
    assert (values == 2.5).all()


def test_an_own_estimator_is_refused_without_trust(influx: Influx, mine: Path, tmp_path: Path) -> None:
    done = influx("run", f"--config-dir={mine}", *SMALL, "estimator=constant")
    assert done.code == 2 and "trust=[minepackage]" in done.err
    assert not (tmp_path / "outputs").exists() and "minepackage" not in sys.modules


def test_planning_an_own_estimator_without_a_plan_counts_no_work(influx: Influx, mine: Path) -> None:
    done = influx("plan", "--json", "--config-dir", mine, *SMALL, "estimator=constant", "trust=[minepackage]")
    rows = {row["stage"]: row for row in json.loads(done.out)["stages"]}
    assert rows["estimate"]["seconds"] == 0 and rows["estimate"]["work"] == ""


def entries(tmp_path: Path) -> dict[str, str]:
    """Statuses in the files of the one sweep, by the seed of the job."""
    [sweep] = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = Sweep(sweep).entries()
    return {name.split("seed=")[1].split()[0]: job.status for name, job in jobs.items()}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sweep_after_the_current_unit(
    influx: Influx, tmp_path: Path, mine: Path, signum: int, code: int
) -> None:
    package = tmp_path / "code" / "minepackage" / "__init__.py"
    stop = f"        import os; os.kill(os.getpid(), {int(signum)})\n"
    package.write_text(ESTIMATOR.replace("        return run", stop + "        return run"))
    arguments = ("--config-dir", mine, *SMALL, "estimator=constant", "trust=[minepackage]", "quiet=true")
    done = influx("run", "-m", *arguments, "seed=0,1,2")
    assert done.code == code and done.err.startswith("error: stopped by SIG") and done.err.count("\n") == 1
    assert entries(tmp_path) == {"0": "interrupted", "1": "pending", "2": "pending"}


@pytest.mark.parametrize("error", [ValueError("no such row"), Busy("the run is in use by another process")])
@pytest.mark.fault(8, "recorded as failed, the others go on, exit code 5")
def test_what_happens_to_one_job_is_recorded_and_the_others_go_on(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    seen = []

    def execute(settings: Settings) -> Path:
        seen.append(entries(tmp_path))
        if settings["seed"] == 0:
            raise error
        return tmp_path / "outputs" / "runs" / "x"

    monkeypatch.setattr("influx.pipeline.execute", execute)
    done = influx("run", "-m", *SMALL, "quiet=true", "seed=0,1")
    failed = isinstance(error, ValueError)
    now = "failed" if failed else "interrupted"
    assert seen == [{"0": "running", "1": "pending"}, {"0": now, "1": "running"}]
    assert entries(tmp_path) == {"0": now, "1": "done"} and done.code == (5 if failed else 75)
    said, summary = done.err.splitlines()
    assert "seed=0" in said and str(error) in said and summary.startswith("error: 1 job ")


def test_a_signal_in_the_last_unit_of_a_job_starts_no_other(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(settings: Settings) -> Path:
        with interrupts.handled():
            os.kill(os.getpid(), signal.SIGINT)
        return tmp_path / "outputs" / "runs" / "x"

    monkeypatch.setattr("influx.pipeline.execute", execute)
    assert influx("run", "-m", *SMALL, "quiet=true", "seed=0,1").code == 130
    assert entries(tmp_path) == {"0": "done", "1": "pending"}


def test_a_sweep_writes_nothing_beside_its_outputs(
    influx: Influx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "multirun.yaml").write_text("mine")
    monkeypatch.setattr("influx.pipeline.execute", lambda settings: tmp_path / "elsewhere" / "runs" / "x")
    assert influx("run", *SMALL, "-m", "quiet=true", "seed=0,1", "paths.outputs=elsewhere").code == 0
    assert (tmp_path / "multirun.yaml").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"multirun.yaml", "elsewhere"}
    assert not list((tmp_path / "elsewhere").rglob("multirun.yaml"))


def test_a_config_folder_may_have_any_name(
    influx: Influx, tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mine.rename(tmp_path / "jörg's, a $b ${c} \\${d} {c}]\\")
    seen: list[Settings] = []
    monkeypatch.setattr("influx.pipeline.execute", lambda settings: seen.append(settings) or tmp_path)
    for more in ((), ("-m",)):
        done = influx("run", "--config-dir", folder, *more, *SMALL, "estimator=constant", "quiet=true")
        assert done.code == 0, done.err
    assert [settings["estimator"]["value"] for settings in seen] == [2.5, 2.5]


def test_baselines_may_be_ones_own(influx: Influx, mine: Path) -> None:
    small = [o for o in SMALL if not o.startswith("baselines")]
    done = influx("plan", "--json", "--config-dir", mine, *small, "baselines=[constant]", "trust=[minepackage]")
    assert done.code == 0, done.err
