"""What lies among the files of workers cannot lead out of the run's folder, nor say what is imported."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from influx.engines.executor import Place
from influx.engines.executors.exchange import Exchange, bound_to, save_arrays, task_name
from influx.engines.executors.processes import Crew, Processes
from influx.errors import DataError, UserError
from influx.store import Folder
from influx.worker import Claiming
from tests.engines.test_executors import doubled, exchange_with
from tests.faults.conftest import Program


@pytest.mark.fault(34, "refused in one sentence; nothing is removed elsewhere")
@pytest.mark.parametrize("place", ["workers", "workers/0123456789ab", "workers/0123456789ab/errors"])
def test_a_link_among_the_workers_files_is_refused(
    place: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    elsewhere, exchange = tmp_path / "elsewhere", Exchange(tmp_path / "workers" / "0123456789ab")
    for name in ("ffffffffffff/mine.json", "notes/mine.json", "mine.json"):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_text("mine")
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).symlink_to(elsewhere)
    with pytest.raises(UserError, match="symbolic link") as refused:
        exchange.describe(doubled(["a"]), {})
    record_property("said", str(refused.value).replace(f"{tmp_path}/", ""))
    exchange.clear()
    assert len(list(elsewhere.rglob("mine.json"))) == 3


def test_only_what_workers_left_is_removed(tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    for name in ("ffffffffffff", "notes"):
        (workers / name).mkdir(parents=True)
    exchange = Exchange(workers / "0123456789ab")
    exchange.describe(doubled(["a"]), {})
    assert sorted(path.name for path in workers.iterdir()) == ["0123456789ab", "notes"]
    exchange.clear()
    assert [path.name for path in workers.iterdir()] == ["notes"]


@pytest.mark.fault(32, "a task that the run did not write is not taken")
def test_planted_tasks_are_not_taken(tmp_path: Path) -> None:
    task, settings = doubled(["a"]), {"values": {"trust": []}}
    exchange = exchange_with(tmp_path, task, {})
    folder = exchange.describe(task, settings)
    evil = folder.read_json("task.json") | {"settings": {"values": {"trust": ["evil"]}}}
    folder.write_json("task.json", evil)
    assert exchange.told(folder.path.name) is None, "its name is the hash of something else"
    assert exchange.describe(task, settings).path == folder.path and exchange.told(folder.path.name) is not None
    folder.write("arrays.npz", lambda path: save_arrays(path, {"x": np.ones(1)}))
    with pytest.raises(DataError, match="not what the run wrote"):
        exchange.arrays(folder.path.name, exchange.told(folder.path.name) or {})
    Folder(exchange.path / task_name(evil)).write("arrays.npz", lambda path: save_arrays(path, {}))
    Folder(exchange.path / task_name(evil)).write_json("task.json", evil)
    claiming = Claiming(Exchange(exchange.path, bound_to(settings | {"choices": {"executor": "slurm"}})), "7_0", 0.0)
    assert claiming.next() == (folder.path.name, 0) and claiming.next() is None


@pytest.mark.fault(32, "a module in the current folder is not imported")
def test_a_worker_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "argparse.py").write_text("import os\nos.mkdir('mark')\n")
    monkeypatch.chdir(tmp_path)
    exchange = exchange_with(tmp_path, doubled(["a"]), {})
    ran: list[list[str]] = []

    def only_help(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        ran.append([*command[: command.index("-m")], "-c", "import argparse"])
        return popen(ran[-1], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", only_help)
    worker = Crew(Processes(workers=2), Place(path=tmp_path, settings={})).hire(exchange)
    worker.stdin.close()
    assert worker.process.wait() == 0 and not (tmp_path / "mark").exists()
    worker.answers.close()


@pytest.mark.fault(34, "names that lead out are not looked at")
def test_names_in_a_list_of_checksums_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    listed = {"../mine": "0", str(tmp_path / "mine"): "0", "..": "0", "": "0", "a": "0"}
    (tmp_path / "run" / "checksums.json").write_text(json.dumps(listed))
    folder = Folder(tmp_path / "run")
    assert not folder.has("../mine") and list(folder.checksums()) == ["a"]
    folder.forget(*folder.checksums())
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.fault(34, "what is not ours stays; what workers of another executor left goes")
def test_a_run_that_is_done_removes_what_workers_left(finished: Program, tmp_path: Path) -> None:
    workers = finished.run_folder / "workers"
    (workers / "0123456789ab" / "results").mkdir(parents=True)
    assert finished.again()[0] == 0 and not workers.exists()
    (tmp_path / "elsewhere" / "0123456789ab").mkdir(parents=True)
    workers.symlink_to(tmp_path / "elsewhere")
    assert finished.again()[0] == 0 and (tmp_path / "elsewhere" / "0123456789ab").is_dir()


@pytest.mark.fault(34, "names that lead out are not looked at")
def test_names_in_the_description_of_a_problem_stay_in_its_folder(finished: Program, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "checksums.json").write_text('{"mine": "0"}')
    folder = Folder(min(finished.outputs.glob("problems/*")))
    told = folder.read_json("problem.json")
    folder.write_json(
        "problem.json", told | {"checksums": told["checksums"] | {os.path.relpath(tmp_path / "mine", folder.path): "0"}}
    )
    assert finished.again()[0] == 0
    assert (tmp_path / "mine").read_text() == "mine"
