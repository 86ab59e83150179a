"""What clean removes, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from influx.commands.clean import size_of
from tests.cli.conftest import Holder, Influx, make_old
from tests.cli.test_status import write


@pytest.fixture
def litter(tmp_path: Path) -> Path:
    """Outputs with runs in every state, leftovers, and two problems of which one is used."""
    outputs = tmp_path / "out"
    for status in ("done", "failed", "interrupted"):
        write(outputs / "runs" / status, status, problem={"id": "used"})
    write(outputs / "runs" / "killed", "running", problem={"id": "unused"})
    for name in ("used", "unused"):
        for part in ("checkpoints", "retrain"):
            (outputs / "problems" / name / part).mkdir(parents=True)
            (outputs / "problems" / name / part / "kept.npz").write_bytes(b"0" * 1000)
            (outputs / "problems" / name / part / "checksums.json").write_text(json.dumps({"kept.npz": "0" * 64}))
    bank = outputs / "problems" / "used" / "retrain"
    for name in (".block.npz.123.tmp", "block.npz.corrupt", "block.npz.corrupt.1"):
        (bank / name).write_bytes(b"0" * 1000)
    return outputs


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_failed_and_killed_runs_and_leftovers_go_and_nothing_else(influx: Influx, litter: Path) -> None:
    before = tree(litter)
    done = influx("clean", litter)
    gone = before - tree(litter)
    assert done.code == 0 and tree(litter) <= before
    bank = "problems/used/retrain"
    leftovers = {f"{bank}/.block.npz.123.tmp", f"{bank}/block.npz.corrupt", f"{bank}/block.npz.corrupt.1"}
    runs = {name for name in before if name.startswith(("runs/failed", "runs/killed"))}
    assert gone == leftovers | runs
    assert "removed 5 items" in done.out and f"removed {litter / 'runs' / 'failed'} (failed" in done.out


def test_a_dry_run_says_the_same_and_removes_nothing(influx: Influx, litter: Path) -> None:
    before = tree(litter)
    done = influx("clean", litter, "--dry-run", "--problems")
    assert tree(litter) == before
    assert "would remove 6 items" in done.out and "unused (used by no run, 0.0 MB)" in done.out


def test_unused_problems_go_only_when_asked(influx: Influx, litter: Path) -> None:
    influx("clean", litter)
    assert (litter / "problems" / "unused").is_dir()
    influx("clean", litter, "--problems")
    assert [p.name for p in (litter / "problems").iterdir()] == ["used"]


def test_old_runs_go_when_asked(influx: Influx, litter: Path) -> None:
    make_old(litter / "runs" / "done", 10)
    influx("clean", litter, "--older-than", 11)
    assert (litter / "runs" / "done").is_dir()
    influx("clean", litter, "--older-than", 9)
    assert not (litter / "runs" / "done").exists() and (litter / "runs" / "interrupted").is_dir()


def test_a_run_that_is_going_on_stays_with_its_problem_and_temporaries(
    influx: Influx, litter: Path, hold: Holder
) -> None:
    run = litter / "runs" / "killed"  # alive after all
    (run / ".influence.npy.9.tmp").touch()
    with hold(run):
        done = influx("clean", litter, "--problems", "--older-than", 0)
    assert (run / ".influence.npy.9.tmp").is_file() and (litter / "problems" / "unused").is_dir()
    assert f"kept {run} (in use by another process)" in done.out


def test_no_problem_goes_while_a_living_run_does_not_say_which_it_uses(
    influx: Influx, litter: Path, hold: Holder
) -> None:
    with hold(litter / "runs" / "starting"):
        done = influx("clean", litter, "--problems")
    assert (litter / "problems" / "unused").is_dir() and "does not say which problem it uses" in done.out


def test_a_problem_in_use_stays(influx: Influx, litter: Path, hold: Holder) -> None:
    with hold(litter / "problems" / "unused" / "retrain"):
        influx("clean", litter, "--problems")
    assert (litter / "problems" / "unused").is_dir()


def test_symbolic_links_are_not_followed(influx: Influx, litter: Path, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", "failed")
    (litter / "runs" / "link").symlink_to(elsewhere)
    (litter / "runs" / "failed" / "inside").symlink_to(elsewhere)
    done = influx("clean", litter)
    assert done.code == 0 and (elsewhere / "manifest.json").is_file() and (litter / "runs" / "link").is_symlink()


def test_linked_runs_are_refused(influx: Influx, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a", "failed")
    (tmp_path / "out" / "problems").mkdir(parents=True)
    (tmp_path / "out" / "runs").symlink_to(tmp_path / "elsewhere")
    done = influx("clean", tmp_path / "out")
    assert done.code == 2 and "symbolic link" in done.err and (tmp_path / "elsewhere" / "a").is_dir()


def test_a_folder_that_is_no_outputs_folder_is_refused(influx: Influx, tmp_path: Path) -> None:
    (tmp_path / "thesis.failed").mkdir()
    done = influx("clean", tmp_path)
    assert done.code == 2 and (tmp_path / "thesis.failed").is_dir()


def test_the_finished_run_survives_and_its_size_is_that_of_its_files(influx: Influx, own: Path) -> None:
    before = tree(own)
    assert influx("clean", own, "--problems").code == 0 and tree(own) == before
    manifest = own / "runs" / "tiny" / "manifest.json"
    values = json.loads(manifest.read_text()) | {"status": "failed"}
    manifest.write_text(json.dumps(values))
    size = sum(path.stat().st_size for path in (own / "runs" / "tiny").rglob("*") if path.is_file())
    assert size_of(own / "runs" / "tiny") == size
    assert f"({'failed'}, {size / 1e6:.1f} MB)" in influx("clean", own).out


FOREIGN: dict[str, dict[str, str]] = {
    "weights": {"best.pt": "w"},
    "a lock of its own": {"best.pt": "w", ".lock": ""},
    "a manifest of its own": {"best.pt": "w", "manifest.json": '{"status": "failed"}'},
    "checksums of its own": {"best.pt": "w", "checksums.json": '{"best.pt": "md5"}'},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_folders_of_other_programs_stay(influx: Influx, tmp_path: Path, files: dict[str, str]) -> None:
    for parent in ("runs", "problems"):
        (tmp_path / "p" / parent / "exp1").mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / "p" / parent / "exp1" / name).write_text(content)
    (tmp_path / "p" / "runs" / "exp1" / "model.corrupt").touch()
    (tmp_path / "p" / "runs" / "exp1" / ".x.1.tmp").touch()
    make_old(tmp_path / "p" / "runs" / "exp1", 10)
    before = tree(tmp_path / "p")
    done = influx("clean", tmp_path / "p", "--problems", "--older-than", 1)
    assert done.code == 0 and tree(tmp_path / "p") == before
    assert f"kept {tmp_path / 'p' / 'runs' / 'exp1'} (not made by influx)" in done.out


def test_a_run_killed_before_its_manifest_goes(influx: Influx, tmp_path: Path) -> None:
    run = tmp_path / "p" / "runs" / "early"
    run.mkdir(parents=True)
    for name in (".lock", "log.txt", "config.yaml", ".manifest.json.7.tmp"):
        (run / name).touch()
    assert influx("clean", tmp_path / "p").code == 0 and not run.exists()


def test_a_run_with_a_name_like_a_damaged_file_stays(influx: Influx, tmp_path: Path) -> None:
    run = write(tmp_path / "out" / "runs" / "labels.corrupt", "done")
    half = tmp_path / "out" / "runs" / ".gone.7.tmp"
    half.mkdir()
    assert influx("clean", tmp_path / "out").code == 0 and run.is_dir() and not half.exists()


def test_what_may_not_be_removed_is_said_in_one_sentence(
    influx: Influx, litter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    done = influx("clean", litter)
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"cannot clean {litter / 'runs' / 'failed'}: Permission denied" in done.err


def test_banks_on_other_data_stay_and_go_with_their_problem(influx: Influx, litter: Path, hold: Holder) -> None:
    for name in ("used", "unused"):
        bank = litter / "problems" / name / "altered" / "other" / "retrain"
        bank.mkdir(parents=True)
        (bank / "checksums.json").write_text(json.dumps({"kept.npz": "0" * 64}))
        (bank / ".block.npz.123.tmp").write_bytes(b"0")
        (bank / ".lock").touch()
    with hold(litter / "problems" / "unused" / "altered" / "other" / "retrain"):
        assert "unused (in use by another process)" in influx("clean", litter, "--problems").out
    assert (litter / "problems" / "unused" / "altered" / "other" / "retrain" / ".block.npz.123.tmp").exists()
    influx("clean", litter, "--problems")
    assert tree(litter / "problems" / "used" / "altered") == {
        "other",
        "other/retrain",
        "other/retrain/checksums.json",
        "other/retrain/.lock",
    }
    assert not (litter / "problems" / "unused").exists()
