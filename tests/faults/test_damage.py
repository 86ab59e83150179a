"""A damaged file is named, set aside and made again with the same bytes; nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.conftest import Program, one, vouch_for

Damage = Callable[[Path], None]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES: list[Damage] = [truncated, emptied, flipped]
FILES = (
    "problems/*/checkpoints/step_00000010.safetensors",
    "problems/*/checkpoints/state_00000010.safetensors",
    "problems/*/checkpoints/step_00000020.safetensors",
    "problems/*/trajectory.npz",
    "problems/*/instances.parquet",
    "problems/*/problem.json",
    "runs/*/influence.npy",
    "runs/*/truth.npy",
    "runs/*/ids.parquet",
    "runs/*/self_influence.csv",
    "runs/*/metrics.csv",
    "runs/*/ranking.parquet",
    "runs/*/report.html",
    "runs/*/manifest.json",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.fault(13, "named, set aside, made again with the same bytes")
def test_a_damaged_result_is_named_set_aside_and_made_again(
    pattern: str, damage: Damage, finished: Program, expected: dict[str, str]
) -> None:
    path = one(finished.outputs, pattern)
    damage(path)
    code, said = finished.again()
    assert code == 0
    assert said.startswith("warning: ") and said.count("\n") == 1
    assert str(path) in said and f"{path.name}.corrupt" in said
    assert path.with_name(path.name + ".corrupt").is_file()
    assert finished.digests() == expected
    assert finished.again() == (0, ""), "once repaired, there is nothing more to say"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault(13, "named, set aside, made again with the same bytes")
def test_damaged_checksums_cost_work_but_no_result(damage: Damage, finished: Program, expected: dict[str, str]) -> None:
    for path in list(finished.outputs.rglob("checksums.json")):
        damage(path)
    code, said = finished.again()
    assert code == 0 and "checksums.json.corrupt" in said
    assert finished.digests() == expected


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.fault(13, "named, set aside, made again with the same bytes")
def test_a_damaged_block_of_the_bank_is_trained_again(
    damage: Damage, finished: Program, expected: dict[str, str]
) -> None:
    block = one(finished.outputs, "problems/*/retrain/*.npz")
    damage(block)
    (finished.run_folder / "truth.npy").unlink()
    code, said = finished.again()
    assert code == 0 and str(block) in said
    assert finished.digests() == expected


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_named_run_whose_configuration_is_damaged_is_made_again(
    damage: Damage, finished: Program, expected: dict[str, str]
) -> None:
    damage(finished.run_folder / "config.yaml")
    os.utime(finished.run_folder / "influence.npy", (0, 0))
    code, said = finished.again()
    assert code == 0 and "config.yaml.corrupt" in said
    assert finished.digests() == expected
    assert (finished.run_folder / "influence.npy").stat().st_mtime > 0


@pytest.mark.fault(13, "named, set aside, made again with the same bytes")
def test_a_checkpoint_of_another_model_copied_over_is_replaced(finished: Program, expected: dict[str, str]) -> None:
    path = one(finished.outputs, "problems/*/checkpoints/step_00000020.safetensors")
    save_file({"wrong": torch.zeros(3)}, path)
    code, said = finished.again()
    assert code == 0 and str(path) in said
    assert finished.digests() == expected


def estimate_anew(program: Program) -> tuple[int, str]:
    """Let the run read the trained problem again."""
    (program.run_folder / "influence.npy").unlink()
    return program.again()


def another(path: Path) -> None:
    """Tensors of another model."""
    save_file({"wrong": torch.zeros(3)}, path)


def reshaped(path: Path) -> None:
    """The right names, one of the tensors in a wrong shape."""
    tensors = load_file(path)
    name = min(name for name in tensors if not name.startswith("history."))
    save_file(tensors | {name: torch.zeros(tensors[name].numel() + 1)}, path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("step_00000010", another, "belongs to another model"),
        ("step_00000010", reshaped, "belongs to another model (size mismatch"),
        ("state_00000020", another, "belongs to another optimizer"),
    ],
)
@pytest.mark.fault(13, "of another model or shape: refused in one sentence")
def test_a_vouched_for_checkpoint_of_another_model_is_refused(
    name: str, change: Damage, words: str, finished: Program
) -> None:
    path = one(finished.outputs, f"problems/*/checkpoints/{name}.safetensors")
    change(path)
    vouch_for(path)
    (finished.problem / "trajectory.npz").unlink()
    (finished.problem / "problem.json").unlink()
    code, said = estimate_anew(finished)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert words in said and str(path) in said


@pytest.mark.fault(13, "of another model or shape: refused in one sentence")
def test_an_optimizer_state_of_another_shape_is_refused(fresh: Program) -> None:
    assert fresh.again("optimizer.momentum=0.5") == (0, "")
    path = one(fresh.outputs, "problems/*/checkpoints/state_00000020.safetensors")
    reshaped(path)
    vouch_for(path)
    (fresh.problem / "trajectory.npz").unlink()
    (fresh.problem / "problem.json").unlink()
    code, said = fresh.again("optimizer.momentum=0.5")
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert "belongs to another model" in said and "has shape" in said and str(path) in said


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mknod, (str(self.marker),)


@pytest.mark.fault(32, "a bomb that is unpickled leaves its mark")
def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.fault(32, "refused in one sentence; nothing is executed")
def test_a_pickled_checkpoint_is_never_unpickled(finished: Program, tmp_path: Path) -> None:
    path = one(finished.outputs, "problems/*/checkpoints/step_00000010.safetensors")
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    vouch_for(path)
    code, said = estimate_anew(finished)
    assert code == 2 or "corrupt" in said
    assert not (tmp_path / "marker").exists()


@pytest.mark.fault(32, "set aside and made again; nothing is executed")
def test_pickled_keys_in_the_bank_are_never_unpickled(
    finished: Program, expected: dict[str, str], tmp_path: Path
) -> None:
    block = one(finished.outputs, "problems/*/retrain/*.npz")
    with np.load(block) as arrays:
        content = dict(arrays)
    content["keys"] = np.array([Bomb(tmp_path / "marker")], dtype=object)
    np.savez(block, **content)
    vouch_for(block)
    (finished.run_folder / "truth.npy").unlink()
    code, said = finished.again()
    assert code == 0 and f"{block.name}.corrupt" in said
    assert not (tmp_path / "marker").exists()
    assert finished.digests() == expected


@pytest.mark.fault(32, "set aside and made again; nothing is executed")
def test_pickled_losses_in_the_bank_are_never_unpickled(
    finished: Program, expected: dict[str, str], tmp_path: Path
) -> None:
    block = one(finished.outputs, "problems/*/retrain/*.npz")
    with np.load(block) as arrays:
        content = dict(arrays)
    content["test_loss"] = np.array([Bomb(tmp_path / "marker")], dtype=object)
    np.savez(block, **content)
    vouch_for(block)
    (finished.run_folder / "truth.npy").unlink()
    code, said = finished.again()
    assert code == 0 and f"{block.name}.corrupt" in said
    assert not (tmp_path / "marker").exists()
    assert finished.digests() == expected


@pytest.mark.fault(32, "set aside and made again; nothing is executed")
def test_a_pickled_matrix_is_never_unpickled(finished: Program, expected: dict[str, str], tmp_path: Path) -> None:
    path = finished.run_folder / "influence.npy"
    np.save(path, np.array([Bomb(tmp_path / "marker")], dtype=object), allow_pickle=True)
    code, said = finished.again()
    assert code == 0 and "influence.npy.corrupt" in said
    assert not (tmp_path / "marker").exists()
    assert finished.digests() == expected


def test_foreign_files_are_left_alone_and_not_read(finished: Program, expected: dict[str, str]) -> None:
    foreign = [finished.run_folder / "notes.txt", finished.problem / "retrain" / "block_foreign.npz"]
    foreign.append(finished.problem / "checkpoints" / "mine.safetensors")
    for path in foreign:
        path.write_bytes(b"mine")
    (finished.run_folder / "truth.npy").unlink()
    assert finished.again() == (0, "")
    assert all(path.read_bytes() == b"mine" for path in foreign)
    for path in foreign:
        path.unlink()
    assert finished.digests() == expected


def test_states_between_checkpoints_do_not_outlive_the_training(finished: Program, expected: dict[str, str]) -> None:
    checkpoints = finished.problem / "checkpoints"
    for name in ("step_00000007", "state_00000007", "step_00000009"):  # as a stop and then a kill would leave them
        shutil.copy(checkpoints / "step_00000010.safetensors", checkpoints / f"{name}.safetensors")
    (finished.problem / "trajectory.npz").unlink()
    assert finished.again()[0] == 0
    assert finished.digests() == expected


def test_two_damages_of_one_file_leave_two_files_aside(finished: Program, expected: dict[str, str]) -> None:
    path = finished.run_folder / "influence.npy"
    for _ in range(2):
        flipped(path)
        assert finished.again()[0] == 0
    assert {p.name for p in finished.run_folder.glob("*.corrupt*")} == {
        "influence.npy.corrupt",
        "influence.npy.corrupt.1",
    }
    assert finished.digests() == expected


def stored(folder: Path) -> dict[str, bytes]:
    """Every result of a run."""
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
@pytest.mark.parametrize("other", ["seed=1", "top_k=3", "estimator=loss"])
@pytest.mark.fault(40, "refused with what differs; nothing is changed")
def test_a_named_run_without_its_configuration_is_not_given_to_another(
    damage: Damage, other: str, finished: Program
) -> None:
    damage(finished.run_folder / "config.yaml")
    before = stored(finished.run_folder)
    code, said = finished.again(other)
    assert code == 2 and "made with other settings" in said and other.split("=")[0] in said
    assert stored(finished.run_folder) == before


def test_a_named_run_that_nobody_can_vouch_for_is_kept_until_told(finished: Program, expected: dict[str, str]) -> None:
    for name in ("config.yaml", "manifest.json"):
        truncated(finished.run_folder / name)
    before = stored(finished.run_folder)
    for _ in range(2):  # the first attempt sets both aside
        code, said = finished.again()
        assert code == 2 and "overwrite=true" in said and stored(finished.run_folder) == before
    assert finished.again("overwrite=true")[0] == 0
    assert finished.digests() | {"runs/tiny/config.yaml": ""} == expected | {"runs/tiny/config.yaml": ""}
