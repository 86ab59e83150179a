"""States of runs, read from manifests and locks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from influx.commands.status import states
from influx.errors import DataError
from influx.manifest import read
from influx.store import Folder
from tests.cli.conftest import Holder, Influx


def write(folder: Path, status: str, stages: tuple[str, ...] = (), **more: object) -> Path:
    """A run's folder as a process with that state leaves it."""
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    values = {"status": status, "stages": {name: {"files": []} for name in stages}, "updated": "2030-01-01", **more}
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def test_a_finished_run_is_done_and_not_resumable(influx: Influx, outputs: Path) -> None:
    [row] = json.loads(influx("status", outputs / "runs" / "tiny", "--json").out)
    assert (row["name"], row["status"], row["stage"]) == ("tiny", "done", "report")
    assert row["resumable"] is False and row["updated"]


def test_every_folder_above_a_run_shows_it(outputs: Path) -> None:
    [problem] = (outputs / "problems").iterdir()
    for folder in (outputs, outputs / "runs", outputs / "runs" / "tiny", problem):
        assert [(s.folder.name, s.status) for s in states(folder)] == [("tiny", "done")]


def test_a_failed_run_says_why_and_where(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", "failed", ("train", "truth"), error="the loss is inf; lower optimizer.lr")
    [state] = states(tmp_path)
    assert (state.status, state.stage, state.resumable) == ("failed", "truth", True)
    assert state.note == "the loss is inf; lower optimizer.lr"


def test_a_running_run_is_killed_once_nobody_holds_it(tmp_path: Path, hold: Holder) -> None:
    run = write(tmp_path / "runs" / "a", "running", ("train",))
    with hold(run):
        assert [s.status for s in states(tmp_path)] == ["running"]
    [state] = states(tmp_path)
    assert state.status == "killed" and state.resumable and "the same command goes on" in state.note


def test_an_interrupted_run_is_resumable(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", "interrupted", ("train",))
    assert [(s.status, s.resumable) for s in states(tmp_path)] == [("interrupted", True)]


def test_a_manifest_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    run = write(tmp_path / "runs" / "a", "done")
    for name in ("manifest.json", "checksums.json"):
        (run / name).write_text('{"a": ' * 100_000)
    assert [s.status for s in states(tmp_path)] == ["unknown"]
    assert Folder(run).checksums() == {} and (run / "checksums.json.corrupt").is_file()
    assert read(run) == {} and (run / "manifest.json.corrupt").is_file()


def test_a_run_without_or_with_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    for name in ("empty", "torn"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    torn = tmp_path / "runs" / "torn" / "manifest.json"
    torn.write_text('{"status": "do')
    assert {s.folder.name: s.status for s in states(tmp_path)} == {"empty": "killed", "torn": "unknown"}
    assert torn.read_text() == '{"status": "do'  # looking changes nothing


def test_a_problem_shows_the_runs_that_use_it(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", "done", problem={"id": "p1"})
    write(tmp_path / "runs" / "b", "done", problem={"id": "p2"})
    (tmp_path / "problems" / "p1" / "checkpoints").mkdir(parents=True)
    assert [s.folder.name for s in states(tmp_path / "problems" / "p1")] == ["a"]


def test_any_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is none of these"):
        states(tmp_path)


def test_a_thousand_runs_take_less_than_a_second(tmp_path: Path) -> None:
    import time

    for number in range(1000):
        write(tmp_path / "runs" / f"r{number}", "running" if number % 2 else "done", ("train",))
    before = time.process_time()
    found = states(tmp_path)
    assert time.process_time() - before < 1
    assert [sum(s.status == kind for s in found) for kind in ("done", "killed")] == [500, 500]
