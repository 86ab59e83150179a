"""Odd places, odd clocks, and folders that go away while a run works in them."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from influx import manifest
from influx.api import run
from influx.cli import main
from influx.commands.outputs import STAGES
from influx.commands.status import states
from tests.faults.conftest import TINY, Program

ODD = ("with space", "Größe 数据", "[list] {map} 'quote' \"double\" #1 & $HOME; *?", "x" * 200)


@pytest.mark.fault(17, "any name of a folder serves")
@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(
    name: str, finished: Program, expected: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    place = Program(finished.outputs.with_name(name), capfd)
    finished.outputs.rename(place.outputs)
    (place.run_folder / "report.html").unlink()
    run([*TINY, "quiet=true", "paths.outputs=" + quoted(str(place.outputs))])
    assert (place.run_folder / "report.html").is_file() and place.digests() == expected


def quoted(text: str) -> str:
    """As the override grammar wants a text with anything in it."""
    return "'" + text.replace("'", "\\'") + "'"


@pytest.mark.fault(17, "one sentence: the path is too long")
def test_a_path_that_is_too_long_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / ("x" * 300), tmp_path.joinpath(*["y" * 100] * 45)):
        code, said = Program(place, capfd).again()
        assert code == 2 and "the path is too long" in said and said.count("\n") == 1


@pytest.mark.fault(17, "a linked outputs folder is used through the link")
def test_the_outputs_folder_may_be_a_link(
    finished: Program, expected: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    link = finished.outputs.with_name("link")
    link.symlink_to(finished.outputs)
    through = Program(link, capfd)
    (through.run_folder / "influence.npy").unlink()
    assert through.again() == (0, "")
    assert finished.digests() == expected and link.is_symlink()


@pytest.mark.fault(17, "one sentence: change to another folder")
def test_a_current_folder_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (["run", *TINY], ["status"], ["clean"]):
        with pytest.raises(SystemExit) as left:
            main(command)
        said = capfd.readouterr().err
        assert left.value.code == 2 and said.startswith("error: the current folder was removed"), said
        assert said.count("\n") == 1


@pytest.mark.fault(18, "the same bytes; states in order")
def test_a_clock_that_runs_backwards_changes_no_result(
    fresh: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(manifest, "datetime", SimpleNamespace(now=lambda zone: datetime.fromtimestamp(next(now), zone)))
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected
    assert re.findall(r"stage (\w+)$", fresh.log(), re.MULTILINE) == list(STAGES)
    assert [(state.status, state.stage) for state in states(fresh.outputs)] == [("done", STAGES[-1])]
    assert fresh.again() == (0, ""), "files from the future are as good as others"


@pytest.mark.fault(18, "two folders, each with its own whole run")
def test_two_runs_of_one_second_have_two_folders(fresh: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    monkeypatch.setattr(manifest, "datetime", SimpleNamespace(now=lambda zone: datetime.fromtimestamp(1e9, zone)))
    short = [*(o for o in TINY if o != "name=tiny" and not o.startswith("truth.")), "truth=none", "metric=[]"]
    common = [*short, "quiet=true", f"paths.outputs={fresh.outputs}"]
    both = [run([*common, f"estimator={name}"]).folder for name in ("gas", "loss")]
    assert both[0] != both[1]
    assert [state.status for state in states(fresh.outputs)] == ["done", "done"]
    first, second = (np.load(folder / "influence.npy") for folder in both)
    assert first.shape == second.shape and not np.array_equal(first, second)


@contextmanager
def removing(folder: Path, number: int) -> Iterator[None]:
    """The folder is removed when the file with that number has taken its name."""
    replace, count = os.replace, 0

    def counted(source: Path, target: Path) -> None:
        nonlocal count
        replace(source, target)
        count += 1
        if count == number:
            shutil.rmtree(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counted)
        yield


@pytest.mark.fault(19, "one sentence, or the run ends well; the same command then makes everything")
@pytest.mark.parametrize("number", [10, 55])
@pytest.mark.parametrize("place", ["runs/tiny", "problems", "."])
def test_a_folder_removed_midway_is_said_and_made_again(
    place: str, number: int, fresh: Program, expected: dict[str, str]
) -> None:
    with removing(fresh.outputs / place, number):
        code, said = fresh.again()
    assert (code, said) == (0, "") or (code == 2 and said.startswith("error: ") and said.count("\n") == 1)
    assert "again" in said or code == 0
    (fresh.run_folder / "report.html").unlink(missing_ok=True)
    assert fresh.again() == (0, "")
    found = fresh.digests()
    if code == 0 and place == "problems":  # the run ended without what it no longer needed
        found, expected = ({k: v for k, v in part.items() if k.startswith("runs/")} for part in (found, expected))
    assert found == expected


@pytest.mark.fault(14, "a lock file of a dead process does not hold anybody up")
@pytest.mark.parametrize("content", [b"", b"4242 otherhost\n", b"\xff\x00\xfe garbage"])
def test_a_lock_file_left_behind_or_damaged_holds_nobody_up(
    content: bytes, finished: Program, expected: dict[str, str]
) -> None:
    for folder in (finished.run_folder, finished.problem, finished.problem / "retrain"):
        (folder / ".lock").write_bytes(content)
    (finished.run_folder / "truth.npy").unlink()
    assert finished.again("on_busy=exit") == (0, "")
    assert finished.digests() == expected
