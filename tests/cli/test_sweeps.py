"""Sweeps: what is kept of jobs, what is launched again, and what is said of jobs whose launcher is gone."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from influx.commands.alive import living
from influx.commands.status import states
from influx.commands.sweep import LAUNCHER, Entry, Stamp, Sweep
from influx.commands.sweep_plan import going_on
from influx.config import conf_dir
from influx.errors import Busy, ConfigError
from tests.cli.conftest import Holder, Influx, spawn
from tests.cli.sweeps import SMALL, squeue, sweep_of, told

HERE = socket.gethostname()


@pytest.mark.fault(9, "status tells the truth without the launcher")
def test_a_running_job_is_killed_once_nobody_holds_its_lock(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, a=Entry(status="running", host=HERE))
    lock = sweep.lock("a")
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert told(tmp_path) == {"a": "running"}
        process.kill()
    assert told(tmp_path) == {"a": "killed"}
    assert lock.exists()  # looking changes nothing


def test_a_job_elsewhere_lives_as_long_as_its_heart_beats(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, a=Entry(status="running", host="elsewhere"))
    assert told(tmp_path) == {"a": "running"}
    then = time.time() - 3600
    os.utime(sweep.file("a"), (then, then))
    assert told(tmp_path) == {"a": "killed"}


def test_slurm_is_asked_once_for_all_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "echo '7 0 8 RUNNING'; echo '7 1 9 PENDING'; echo '7 4 7 PENDING'")
    sweep_of(
        tmp_path / "s",
        running=Entry(status="running", host="node", slurm="7_0"),
        queued=Entry(slurm="7_1"),
        lost=Entry(slurm="7_2"),
        killed=Entry(status="running", host="node", slurm="7_3"),
        requeued=Entry(status="interrupted", host="node", slurm="7_4"),
        done=Entry(status="done", slurm="7_5"),
    )
    expected = {"running": "running", "queued": "queued", "lost": "killed", "killed": "killed"}
    assert told(tmp_path / "s") == expected | {"requeued": "queued", "done": "done"}
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_without_an_answer_of_slurm_nothing_is_called_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    sweep_of(tmp_path / "s", a=Entry(slurm="7_1"), b=Entry(status="running", host="node", slurm="7_2"))
    assert told(tmp_path / "s") == {"a": "pending", "b": "running"}


@pytest.mark.fault(45, "less than a second of a processor, the start of the command included")
def test_ten_thousand_jobs_take_less_than_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_quickly(path: Path, write: Callable[[Path], None]) -> None:
        path.parent.mkdir(exist_ok=True)
        write(path)

    monkeypatch.setattr("influx.commands.sweep.write_atomically", write_quickly)
    at_work = {f"seed={i} optimizer.lr=0.1": Entry(status="done", seconds=1.0) for i in range(200)}
    sweep_of(tmp_path, **at_work, **{f"seed={i} optimizer.lr=0.1": Entry() for i in range(200, 10_000)})
    found = told(tmp_path)
    assert [list(found.values()).count(status) for status in ("done", "pending")] == [200, 9800]
    code = f"import sys; from influx.cli import main; main(['status', {str(tmp_path)!r}])"
    code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    used = []
    for _ in range(4):  # the first may have to compile
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = spawn(code).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(used) < 1, "the command as a whole, start and screen included"
    assert "200 done, 9800 pending" in said and "9900 more" in said and said.endswith("False\n")


def test_a_job_folded_while_status_looks_stays_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, viewer = sweep_of(tmp_path, a=Entry(status="done"), b=Entry(status="done")), Sweep(tmp_path)
    launcher.begin({}, [], [])
    assert [entry.status for entry in viewer.entries().values()] == ["done", "done"]
    read = viewer._written

    def folded_before() -> dict[str, tuple[Stamp, str, Entry]]:
        launcher.fold({}, launcher.entries())
        return read()

    # as the manifest of the first look would say: pending
    launcher._kept = {job: Entry() for job in ("a", "b")}
    launcher._save({})
    monkeypatch.setattr(viewer, "_written", folded_before)
    assert [entry.status for entry in viewer.entries().values()] == ["done", "done"]
    assert not list(tmp_path.rglob("jobs/*.json"))


def test_a_twin_of_a_running_job_is_refused_and_takes_no_lock_away(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, a=Entry(status="running", host=HERE))
    with living(sweep.file("a"), sweep.lock("a")):
        with pytest.raises(Busy, match="same job"), living(sweep.file("a"), sweep.lock("a")):
            pytest.fail("two at once")
        assert told(tmp_path) == {"a": "running"}
        sweep.lock("a").unlink()
        sweep.lock("a").touch()  # another's by now
    assert sweep.lock("a").exists()


def test_what_a_damaged_entry_says_is_unknown() -> None:
    assert Entry.read({"status": "gone", "pid": float("nan")}) == Entry(status="unknown")


def test_a_requeued_job_that_starts_here_again_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "echo '7 0 8 RUNNING'")
    sweep_of(tmp_path / "s", a=Entry(status="running", host=HERE, slurm="7_0"))
    assert told(tmp_path / "s") == {"a": "running"}


def test_running_jobs_are_not_run_afresh(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    command = ("run", "-m", *SMALL, "seed=0,1", "quiet=true", "sweep.name=mine")
    assert influx(*command).code == 0
    sweep = Sweep(tmp_path / "outputs" / "sweeps" / "mine")
    job = next(iter(sweep.entries()))
    with living(sweep.file(job), sweep.lock(job)):
        sweep.record(job, Entry(status="running", host=HERE))
        done = influx(*command, "overwrite=true")
    assert done.code == 75 and "still run" in done.err and "overwrite" in done.err and ran == [0, 1]


def test_the_order_of_overrides_makes_no_other_job(influx: Influx, ran: list[int]) -> None:
    command = ("run", "-m", *SMALL, "quiet=true")
    assert influx(*command, "seed=0,1", "optimizer.lr=0.1").code == 0
    assert influx(*command, "optimizer.lr=0.1", "seed=0,1").code == 0 and ran == [0, 1]


def test_other_settings_with_overwrite_make_all_jobs_pending(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    command = ("run", "-m", *SMALL, "quiet=true", "sweep.name=mine")
    assert influx(*command, "seed=0,1").code == 0
    assert influx(*command, "seed=0", "optimizer.momentum=0.5", "overwrite=true").code == 0 and ran == [0, 1, 0]
    states_now = told(tmp_path / "outputs" / "sweeps" / "mine")
    assert sorted(states_now.values()) == ["done", "pending", "pending"]


def test_settings_and_files_of_earlier_commands_are_kept(tmp_path: Path) -> None:
    first = {"swept": ["seed"], "settings": {"lr": 1, "decay": 0}, "files": {"optimizer=a": "x"}}
    Sweep(tmp_path).begin(first, ["a"], [])
    second = {"swept": ["lr"], "settings": {"decay": 0, "seed": 0}, "files": {}}
    head, afresh = going_on(tmp_path, second, False)
    assert head["settings"] == {"lr": 1, "decay": 0, "seed": 0} and head["files"] == first["files"] and not afresh
    Sweep(tmp_path).begin(head, [], [])
    with pytest.raises(ConfigError, match="lr: 1 then, 2 now"):
        going_on(tmp_path, {"swept": [], "settings": {"lr": 2, "decay": 0, "seed": 0}, "files": {}}, False)


def test_a_damaged_manifest_is_set_aside(
    influx: Influx, ran: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ("run", "-m", *SMALL, "seed=0", "quiet=true", "sweep.name=mine")
    assert influx(*command).code == 0
    manifest = tmp_path / "outputs" / "sweeps" / "mine" / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    [state] = states(manifest.parent)
    assert state.status == "unknown" and "damaged; the same command goes on" in state.note
    assert influx(*command).code == 0 and "set aside as manifest.json.corrupt" in caplog.text and ran == [0, 0]


def test_a_refused_sweep_leaves_the_users_empty_folder(influx: Influx, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    assert influx("run", "-m", "seed=1,1", "sweep.name=mine").code == 2
    assert folder.is_dir() and not list(folder.iterdir())


def test_done_jobs_are_not_launched_and_failed_ones_run_again(influx: Influx, ran: list[int]) -> None:
    command = ("run", "-m", *SMALL, "seed=0,1", "optimizer.lr=0.1,5", "quiet=true")
    assert influx(*command).code == 5 and ran == [0, 0, 1, 1]
    ran.clear()
    assert influx(*command).code == 5 and ran == [0, 1]
    ran.clear()
    assert influx(*command, "overwrite=true").code == 5 and ran == [0, 0, 1, 1]


def test_jobs_that_are_done_are_not_composed_again(
    influx: Influx, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    original, composed = ConfigLoaderImpl.load_sweep_config, set()

    def load(loader: Any, master_config: Any, sweep_overrides: list[str]) -> Any:
        composed.update(o for o in sweep_overrides if o.startswith("seed="))
        return original(loader, master_config, sweep_overrides)

    command = ("run", "-m", *SMALL, "sweep.name=mine", "quiet=true")
    assert influx(*command, "seed=0,1").code == 0
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", load)
    assert influx(*command, "seed=0,1,2").code == 0
    assert composed == {"seed=2"} and ran == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.fault(18, "states in order")
def test_a_clock_that_runs_backwards_keeps_states_in_order(
    influx: Influx, ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000, 0, -3600))
    backwards = SimpleNamespace(now=lambda zone: datetime.fromtimestamp(next(now), zone))
    monkeypatch.setattr("influx.commands.sweep.datetime", backwards)
    command = ("run", "-m", *SMALL, "seed=0,1,2", "optimizer.lr=0.1", "quiet=true", "sweep.name=mine")
    assert influx(*command).code == 0
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    assert list(told(folder).values()) == ["done"] * 3
    assert influx(*command).code == 0 and ran == [0, 1, 2]
    then = time.time() + 7200  # the other machine's clock is ahead
    sweep_of(tmp_path / "s", a=Entry(status="running", host="elsewhere"))
    os.utime(Sweep(tmp_path / "s").file("a"), (then, then))
    assert told(tmp_path / "s") == {"a": "running"}


def test_a_job_whose_run_was_removed_runs_again(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    assert influx("run", "-m", *SMALL, "seed=0,1", "quiet=true").code == 0
    (tmp_path / "outputs" / "runs" / "1").rmdir()
    assert influx("run", "-m", *SMALL, "seed=0,1", "quiet=true").code == 0 and ran == [0, 1, 1]


@pytest.mark.fault(40, "refused with what differs; nothing is changed")
def test_a_named_sweep_is_extended_and_refuses_other_settings(influx: Influx, ran: list[int]) -> None:
    command = ("run", "-m", *SMALL, "sweep.name=mine", "quiet=true")
    assert influx(*command, "seed=0,1").code == 0
    assert influx(*command, "seed=0,1,2", "threads=1").code == 0 and ran == [0, 1, 2]
    done = influx(*command, "seed=0,1", "optimizer.momentum=0.5")
    assert done.code == 2 and "optimizer.momentum: 0.0 then, 0.5 now" in done.err and "sweep.name" in done.err
    assert influx(*command, "seed=0,1", "optimizer.momentum=0.5,0.6").code == 0 and len(ran) == 7


def test_a_changed_file_of_the_user_is_drift(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "optimizer"
    conf.mkdir(parents=True)
    text = (conf_dir() / "optimizer" / "sgd.yaml").read_text()
    command = ("run", "-m", "--config-dir", conf.parent, *SMALL, "seed=0", "quiet=true", "optimizer=mine,adam")
    (conf / "mine.yaml").write_text(text)
    assert influx(*command).code == 0
    (conf / "mine.yaml").write_text(text.replace("lr: 0.1", "lr: 0.2"))
    done = influx(*command)
    assert done.code == 2 and "the file of optimizer=mine was changed" in done.err and ran == [0, 0]


def test_after_a_failure_no_more_jobs_start_on_request(influx: Influx, ran: list[int], tmp_path: Path) -> None:
    command = ("run", "-m", *SMALL, "seed=0", "optimizer.lr=5,0.1,0.2", "quiet=true", "sweep.on_error=stop")
    done = influx(*command)
    assert done.code == 5 and ran == [0]
    [sweep] = (tmp_path / "outputs" / "sweeps").iterdir()
    assert list(told(sweep).values()) == ["failed", "pending", "pending"]
    assert influx(*command[:-1], "sweep.on_error=continue").code == 5 and ran == [0] * 4


def test_a_sweep_has_one_launcher(influx: Influx, ran: list[int], tmp_path: Path, hold: Holder) -> None:
    command = ("run", "-m", *SMALL, "seed=0,1", "quiet=true", "sweep.name=mine", "on_busy=exit")
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    with hold(folder):
        assert influx(*command).code == 75
    (folder / LAUNCHER).write_text("elsewhere\n")
    done = influx(*command)
    assert done.code == 75 and "elsewhere" in done.err and "5 minutes" in done.err and ran == []
    (folder / LAUNCHER).write_text("elsewhere\n")
    os.utime(folder / LAUNCHER, (time.time() - 299.5,) * 2)
    assert influx(*command[:-1], "on_busy=wait").code == 0 and ran == [0, 1]
