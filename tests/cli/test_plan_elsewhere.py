"""Plans of problems that are not here, for machines that are not here."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.commands.plan import described_machine, foresee
from influx.commands.spreading import WORKER_SECONDS
from influx.config import choices_of
from influx.errors import ConfigError
from influx.estimators.retraining import loo
from influx.planning import Work
from tests.cli.conftest import TINY, Influx

SMALL = ["model=cnn", "model.channels=[4]", "model.hidden=8", "truth=none", "metric=[]", "baselines=[]"]
ABSENT = ["dataset=cifar10", *SMALL]


def stages(overrides: list[str], machine: str = "h100", workers: int | None = None) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in foresee(overrides, None, machine, workers)["stages"]}


@pytest.mark.parametrize("name", choices_of("machine"))
def test_a_machine_is_a_file_of_speeds(name: str) -> None:
    machine = described_machine(name, 3, None)
    assert machine.workers == 3
    assert machine.rates("bfloat16").flops > machine.rates("tf32").flops > machine.rates().flops
    work = Work(flops=2 * machine.float32, numbers=machine.numbers)
    assert machine.rates().seconds(work) == pytest.approx(3)


def test_a_plan_needs_sizes_and_no_data(influx: Influx, tmp_path: Path) -> None:
    done = influx("plan", *ABSENT, "--machine", "h100", "dataset.n_test=100", f"dataset.path={tmp_path}")
    assert done.code == 0 and "50000 + 100" in " ".join(done.out.split())
    assert "not measured" in done.out and "sizes of cifar10 alone" in done.out
    assert not any(tmp_path.rglob("problems"))


def test_a_problem_larger_than_memory_is_planned_in_little_and_marked() -> None:
    sizes = ["dataset=synthetic", "dataset.n_train=1281167", "dataset.shape=[3,224,224]", "dataset.classes=1000"]
    start = time.process_time()
    rows = stages([*sizes, *SMALL, "training.epochs=90", "training.batch_size=256"])
    assert time.process_time() - start < 20
    assert rows["train"]["state"] == "exceeds memory" and rows["train"]["memory_mb"] > 770_000
    assert "115305030 visits" in rows["train"]["formula"]


def test_workers_divide_retrainings_and_similarity_but_no_training() -> None:
    asked = [*(a for a in ABSENT if a != "truth=none"), "truth=loo", "truth.budget=320", "truth.ceiling_budget=0"]
    one, many = stages(asked), stages(asked, workers=4)
    assert many["train"]["seconds"] == one["train"]["seconds"]
    assert many["truth"]["seconds"] - WORKER_SECONDS < one["truth"]["seconds"] / 2.8
    assert many["estimate"]["seconds"] < one["estimate"]["seconds"] / 1.5


def test_there_are_no_more_workers_than_shares_and_what_they_leave_takes_disk() -> None:
    asked = [*ABSENT, "dataset.n_train=5000", "dataset.n_test=2000", "training.checkpoints=4", "estimator=tracincp"]
    one, some, many = (stages(asked, workers=workers)["estimate"] for workers in (1, 12, 1000))
    assert "12 shares of 2,000 rows" in many["formula"] and some["seconds"] == many["seconds"]
    assert many["seconds"] > WORKER_SECONDS + one["seconds"] / 12
    assert many["disk_mb"] - one["disk_mb"] == pytest.approx(4 * 5000 * 2000 * 4 / 1e6)
    projected = [stages([*asked, "estimator=tracinrp"], workers=workers)["estimate"]["disk_mb"] for workers in (1, 2)]
    assert projected[1] - projected[0] == pytest.approx(2 * 4 * 5000 * 2000 * 4 / 1e6)
    spread = stages([*asked, "executor=processes"])["estimate"]
    assert spread["disk_mb"] == many["disk_mb"] and "12 one after another" in spread["formula"]


def test_workers_share_what_projected_estimators_store_and_train() -> None:
    asked = [*ABSENT, "dataset.n_train=5000", "dataset.n_test=200", "estimator=trak"]
    asked += ["estimator.models=5", "estimator.dim=64"]
    one, some = (stages(asked, workers=workers)["estimate"] for workers in (1, 5))
    assert "25 pieces, 5 one after another" in some["formula"] and some["disk_mb"] == one["disk_mb"]
    assert one["seconds"] / 5 < some["seconds"] - WORKER_SECONDS < one["seconds"] / 2  # the regressions are not shared


def test_trainings_listed_in_part_are_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*TINY[:5], "truth.ceiling_budget=4", "metric=[]", "baselines=[]"]
    whole = stages(asked)["truth"]
    monkeypatch.setattr(loo, "LOOKED_UP_BYTES", 400)  # ten of the 41 trainings
    part = stages(asked)["truth"]
    counts = [[int(word) for word in row["work"].split() if word.isdigit()] for row in (whole, part)]
    assert counts[0] == counts[1] and counts[0][1] == 46
    assert np.isclose(whole["seconds"], part["seconds"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--machine", "h10"], "--machine"), (["--workers", "2"], "--machine"), (["--workers=0"], "--workers")],
)
def test_a_machine_that_does_not_exist_is_one_sentence(influx: Influx, arguments: list[str], named: str) -> None:
    done = influx("plan", *TINY, *arguments)
    assert done.code == 2 and named in done.err and "Traceback" not in done.err


def test_a_machine_that_takes_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"machine\.layer_step must be positive"):
        replace(described_machine("h100", None, None), layer_step=0.0)


def test_a_machine_without_a_speed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "mine.yaml").write_text("_target_: influx.rates.Machine\nfloat32: 0.0\ntf32: 1.0\n")
    with pytest.raises(ConfigError, match=r"machine\.\w+ must be given"):
        described_machine("mine", None, tmp_path)
