"""GPUs dealt out to the workers of this machine; how many there are is made up."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from influx.config import compose
from influx.engines.executor import Place
from influx.engines.executors.processes import Crew, Processes
from influx.errors import ConfigError
from influx.instantiate import build
from influx.job import workplace
from tests.engines.spreading import doubled, exchange_with


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that say which GPUs they see, and end."""
    program = tmp_path / "shows"
    program.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >&2\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("seen", "told", "names"),
    [
        (4, None, ["0", "1", "2"]),
        (4, "4, 6,7,5", ["4", "6", "7"]),
        (3, "GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b", "GPU-c"]),
    ],
)
@pytest.mark.usefixtures("shown")
def test_every_worker_sees_one_gpu_and_a_new_one_gets_the_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int, told: str | None, names: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    exchange = exchange_with(tmp_path, doubled(["a"]), {})
    crew = Crew(Processes(workers=5, gpus=3), Place(path=tmp_path, settings={}))
    hired = [crew.hire(exchange) for _ in range(5)]
    assert [worker.device for worker in hired] == [*names, *names[:2]]
    for worker in hired:
        worker.process.wait()
        assert worker.log.read_text() == f"{worker.device}\n"
    crew.workers.remove(hired[2])
    hired[2].process.communicate()
    assert crew.hire(exchange).device == names[2]
    crew.close(False)


@pytest.mark.usefixtures("shown")
def test_without_dealing_every_worker_sees_all_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    worker = Crew(Processes(workers=2), Place(path=tmp_path, settings={})).hire(
        exchange_with(tmp_path, doubled(["a"]), {})
    )
    worker.process.communicate()
    assert worker.device is None and worker.log.read_text() == "2,3\n"


@pytest.mark.parametrize(("seen", "told"), [(2, None), (0, "")])
def test_more_gpus_than_there_are_cannot_be_dealt_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: int, told: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    crew = Crew(Processes(gpus=3), Place(path=tmp_path / "runs" / "workers", settings={}))
    with pytest.raises(ConfigError, match=rf"executor\.gpus must be at most the {seen} GPUs.*got 3; lower it"):
        list(crew.do(doubled(["a", "b"]), lambda number: None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_cards_that_the_training_would_not_use_are_not_dealt_out(device: str) -> None:
    settings = compose(["executor=processes", "executor.gpus=2", f"training.device={device}"])
    open_ = partial(build(settings["executor"], "executor", []).open, workplace(settings, "run"))
    if device != "cpu":
        assert open_().choice.gpus == 2
        return
    words = r"executor\.gpus=2 .*training\.device=cpu .*set training\.device=cuda, or leave"
    with pytest.raises(ConfigError, match=words):
        open_()


def test_workers_are_as_many_as_asked_for_or_as_gpus_or_as_leave_each_its_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    task = replace(doubled(["a"]), threads=5)
    counted = [choice.count(task) for choice in (Processes(workers=7, gpus=2), Processes(gpus=3), Processes())]
    assert counted == [7, 3, 2]
