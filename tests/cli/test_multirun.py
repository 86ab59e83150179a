"""Several jobs at once, and a user's own parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from influx.commands.status import states
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


def test_a_failed_job_does_not_stop_the_others_and_ends_with_5(influx: Influx, tmp_path: Path) -> None:
    done = influx("run", "-m", *SMALL, "optimizer.lr=1e38,0.1", "quiet=true")
    assert done.code == 5 and "Traceback" not in done.err
    assert "1 job failed" in done.err and "lower optimizer.lr" in done.err
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
