"""Trouble with the disk ends in one sentence, exit code 2, and nothing that was there is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from influx import store
from influx.errors import UserError
from tests.faults.conftest import Program, one, result_digests, vouch_for

WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "quota",
    errno.EACCES: "permission denied",
    errno.EROFS: "read-only",
    errno.EIO: "the disk reports an error",
    errno.ENOTCONN: "check the disk",
    errno.EXDEV: "spans two disks",
}
PLACES = [
    *((errno.ENOSPC, "replace", 5), (errno.ENOSPC, "fsync", 40)),
    *((errno.EACCES, "replace", 1), (errno.EROFS, "replace", 1), (errno.EACCES, "replace", 20)),
    *((code, "replace", 60) for code in WORDS),
]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes of any file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def failing(function: str, number: int, code: int) -> Iterator[None]:
    """From its ``number``-th call on, ``os.<function>`` fails."""
    original, calls = getattr(os, function), 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise OSError(code, os.strerror(code))
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, function, counted)
        yield


def refused(answer: tuple[int, str], *words: str) -> None:
    code, said = answer
    assert code == 2, said
    assert said.startswith("error: cannot write ") and said.count("\n") == 1, said
    assert all(word in said for word in words), said


def whole(outputs: Path) -> dict[Path, int]:
    """Checkpoints and blocks of the bank that are complete, with what tells whether they were written anew."""
    found = {}
    for sums in outputs.glob("problems/*/*/checksums.json"):
        for name in json.loads(sums.read_text()):
            found[sums.parent / name] = (sums.parent / name).stat().st_ino
    return found


@pytest.mark.parametrize(("code", "function", "number"), PLACES)
@pytest.mark.fault(10, "one sentence, exit code 2; nothing is lost, the same command goes on")
@pytest.mark.fault(11, "one sentence, exit code 2; nothing is lost, the same command goes on")
@pytest.mark.fault(12, "one sentence, exit code 2; nothing is lost, the same command goes on")
@pytest.mark.fault(15, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_what_the_system_refuses_is_said_and_the_run_goes_on_later(
    code: int, function: str, number: int, fresh: Program, expected: dict[str, str]
) -> None:
    with failing(function, number, code):
        refused(fresh.again(), WORDS[code], ";")
    assert not list(fresh.outputs.rglob(".*.tmp"))
    for path in fresh.outputs.glob("problems/*/checkpoints/*.safetensors"):
        load_file(path)  # refused where bytes are missing
    there = whole(fresh.outputs)
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected
    assert {path: path.stat().st_ino for path in there} == there, "what is whole is not made again"


@pytest.mark.parametrize("size", [600, 1000, 1700, 3000, 4500])
@pytest.mark.fault(10, "one sentence, exit code 2; nothing is lost, the same command goes on")
@pytest.mark.fault(12, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_file_that_does_not_fit_is_named_and_the_run_goes_on_later(
    size: int, fresh: Program, expected: dict[str, str]
) -> None:
    with largest_file(size):
        refused(fresh.again(), "size limit")
    there = whole(fresh.outputs)
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected
    assert {path: path.stat().st_ino for path in there} == there, "what is whole is not made again"


@pytest.mark.fault(10, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_full_disk_leaves_earlier_results_as_they_were(finished: Program) -> None:
    before = finished.digests()
    with largest_file(1000):
        refused(finished.again("name=other", "estimator=gas"), "size limit")
    after = finished.digests()
    assert {k: v for k, v in after.items() if not k.startswith("runs/other/")} == before


@pytest.mark.fault(10, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_log_that_cannot_grow_does_not_hide_the_error(finished: Program) -> None:
    log = finished.run_folder / "log.txt"
    log.write_text("x" * 2000)
    (finished.run_folder / "influence.npy").unlink()
    with largest_file(1000):
        refused(finished.again(), "size limit")
    assert log.stat().st_size == 2000


@pytest.mark.fault(11, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_file_in_the_way_of_the_outputs_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        refused(Program(tmp_path / place, capfd).again(), str(tmp_path / "file"), "paths.outputs")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_way_of_a_result_is_named(finished: Program) -> None:
    (finished.run_folder / "truth.npy").unlink()
    (finished.run_folder / "truth.npy").mkdir()
    refused(finished.again(), "truth.npy", "a folder is in the way")


@pytest.mark.fault(12, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_short_write_never_takes_the_files_name(tmp_path: Path) -> None:
    folder = store.Folder(tmp_path)
    folder.write_text("kept.txt", "old")

    def half(path: Path) -> None:
        path.write_text("ne")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(UserError, match="the disk reports an error"):
        folder.write("kept.txt", half)
    assert (tmp_path / "kept.txt").read_text() == "old" and store.Folder(tmp_path).has("kept.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checksums.json", "kept.txt"]


@pytest.mark.fault(12, "a count that is less than asked for: the rest is tried again, and its error said")
def test_a_write_that_takes_only_some_bytes_is_not_taken_for_whole(tmp_path: Path) -> None:
    folder = store.Folder(tmp_path)
    folder.write_text("kept.txt", "old")
    with largest_file(1000):
        descriptor = os.open(tmp_path / "short", os.O_WRONLY | os.O_CREAT)
        assert os.write(descriptor, b"x" * 2000) == 1000, "the system says no more than that"
        os.close(descriptor)
        with pytest.raises(UserError, match="size limit"):
            folder.write_text("kept.txt", "x" * 2000)
    assert (tmp_path / "kept.txt").read_text() == "old" and store.Folder(tmp_path).has("kept.txt")


@pytest.mark.parametrize(
    ("pattern", "late"),
    [
        ("problems/*/checkpoints/state_00000020.safetensors", ["problems/*/trajectory.npz", "problems/*/problem.json"]),
        ("problems/*/retrain/*.npz", ["runs/*/truth.npy"]),
        ("runs/*/influence.npy", ["runs/*/report.html"]),
    ],
)
@pytest.mark.fault(12, "bytes that were lost without an error, before they were counted: said when the file is read")
def test_bytes_lost_in_silence_are_noticed_by_whoever_reads_the_file(
    pattern: str, late: list[str], finished: Program
) -> None:
    path = one(finished.outputs, pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    vouch_for(path)
    for name in late:  # what makes the run read the file
        one(finished.outputs, name).unlink()
    code, said = finished.again()
    assert said.startswith({0: "warning: ", 2: "error: "}[code]) and said.count("\n") == 1, said
    assert str(path) in said


@pytest.mark.fault(15, "outputs on another disk than temporary files: nothing is renamed from one to the other")
def test_nothing_is_renamed_from_one_disk_to_another(
    expected: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    renamed: list[tuple[Path, Path]] = []

    def noted(original: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **more: Any) -> None:
            renamed.append((Path(source).parent, Path(target).parent))
            original(source, target, **more)

        return rename

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    with tempfile.TemporaryDirectory(dir=memory) as other:
        (tmp_path / "out").symlink_to(other)
        program = Program(tmp_path / "out", capfd)
        assert program.again() == (0, "")
        assert result_digests(Path(other)) == expected
        assert {path.name for path in Path(other).iterdir()} == {"problems", "runs"}
    assert len(renamed) > 60 and all(source == target for source, target in renamed)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.fault(16, "without locks: one sentence; with them the same command goes on")
def test_a_file_system_without_locks_is_refused(code: int, fresh: Program, expected: dict[str, str]) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", unsupported)
        answer, said = fresh.again()
    assert answer == 2 and said.startswith(f"error: cannot lock {fresh.run_folder}") and said.count("\n") == 1
    assert "paths.outputs" in said and not list(fresh.outputs.rglob("*.npy"))
    assert fresh.again() == (0, "") and fresh.digests() == expected


@pytest.mark.fault(16, "without hard links: no difference")
def test_hard_links_are_not_needed(fresh: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected


@pytest.mark.fault(16, "late files: made again with the same bytes; when they come they change nothing")
@pytest.mark.fault(13, "missing: made again with the same bytes")
def test_files_that_come_into_sight_late_are_made_again_with_the_same_bytes(
    finished: Program, expected: dict[str, str], tmp_path: Path
) -> None:
    late = [finished.run_folder / "influence.npy", next(finished.outputs.glob("problems/*/trajectory.npz"))]
    for path in late:
        path.rename(tmp_path / path.name)
    assert finished.again() == (0, "")
    assert finished.digests() == expected
    for path in late:
        (tmp_path / path.name).replace(path)
    assert finished.again() == (0, "")
    assert finished.digests() == expected


@pytest.mark.fault(12, "one sentence, exit code 2; nothing is lost, the same command goes on")
def test_a_file_that_cannot_be_read_is_named(
    finished: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(store, "file_hash", unreadable)
    code, said = finished.again()
    assert code == 2 and said.startswith("error: cannot read ") and said.count("\n") == 1
    monkeypatch.undo()
    assert finished.again() == (0, "")
    assert finished.digests() == expected
