"""Several processes at once: they wait for each other, or say that they do not."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from influx.errors import Busy
from influx.store import Folder
from tests.faults.conftest import Program, result_digests


@pytest.mark.fault(14, "a living process is waited for, or exit code 75")
def test_a_busy_run_is_refused_where_that_is_asked_for(finished: Program) -> None:
    with Folder(finished.run_folder).locked():
        code, said = finished.again("on_busy=exit")
    assert code == 75
    assert said.startswith("error: the run ") and said.count("\n") == 1
    assert str(finished.run_folder) in said and "on_busy=wait" in said


@pytest.mark.parametrize("place", ["run", "problem", "bank"])
def test_a_busy_folder_is_waited_for_and_the_screen_says_so(
    place: str, finished: Program, expected: dict[str, str]
) -> None:
    (finished.run_folder / "truth.npy").unlink()
    folders = {"run": finished.run_folder, "problem": finished.problem, "bank": finished.problem / "retrain"}
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with Folder(folders[place]).locked():
            held.set()
            release.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    threading.Timer(1.5, release.set).start()
    begun = time.monotonic()
    code, said = finished.again()
    other.join()
    assert code == 0 and time.monotonic() - begun >= 0.3
    assert said.startswith("warning: ") and "waiting for it" in said and said.count("\n") == 1
    assert finished.digests() == expected


def test_a_lock_without_waiting_raises(finished: Program) -> None:
    folder = Folder(finished.run_folder)
    with folder.locked(), pytest.raises(Busy, match="in use by another process"), folder.locked(wait=False):
        pass
    with folder.locked(wait=False):
        assert folder.has("influence.npy")


@pytest.mark.slow
@pytest.mark.fault(31, "the same bytes at once as one after the other")
def test_processes_at_once_end_in_the_same_bytes(fresh: Program, expected: dict[str, str]) -> None:
    """Two of one run, and one of another estimator on the same problem."""
    with ExitStack() as all_of_them:
        asked = [(), (), ("estimator=gas", "name=other")]
        processes = [all_of_them.enter_context(fresh.start(*more)) for more in asked]
        said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    both = result_digests(fresh.outputs)
    assert {k: v for k, v in both.items() if not k.startswith("runs/other/")} == expected
    assert sum(k.startswith("runs/other/") for k in both) == sum(k.startswith("runs/tiny/") for k in both)
    log = fresh.log()
    assert log.count("stage estimate") == 1 and log.count("nothing to do: the run is complete") == 1
