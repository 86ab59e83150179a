"""A retraining bank that belongs to another problem, of the same size and with the same keys, never counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from influx.api import run
from tests.faults.conftest import TINY, Program, one, vouch_for


@pytest.fixture(scope="module")
def foreign_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The retraining bank of a problem of the same size under another seed."""
    outputs = tmp_path_factory.mktemp("foreign") / "out"
    run([*TINY, "seed=1", "quiet=true", f"paths.outputs={outputs}"])
    return one(outputs, "problems/*/retrain")


def foreign_block(bank: Path, foreign: Path) -> None:
    """One block, with the name and in the checksums of one of ours."""
    block = one(bank, "block_*.npz")
    shutil.copy(one(foreign, "block_*.npz"), block)
    vouch_for(block)


def foreign_folder(bank: Path, foreign: Path) -> None:
    """All of it, checksums included."""
    shutil.rmtree(bank)
    shutil.copytree(foreign, bank)


def nameless_block(bank: Path, foreign: Path) -> None:
    """One block that does not say to which problem it belongs."""
    block = one(bank, "block_*.npz")
    with np.load(one(foreign, "block_*.npz")) as arrays:
        np.savez(block, **{name: arrays[name] for name in arrays.files if name != "problem"})
    vouch_for(block)


@pytest.mark.parametrize("copied", [foreign_block, foreign_folder, nameless_block])
@pytest.mark.fault(13, "of another problem: set aside, made again with the same bytes")
def test_another_problems_bank_does_not_count(
    copied: Callable[[Path, Path], None], finished: Program, expected: dict[str, str], foreign_bank: Path
) -> None:
    bank = finished.problem / "retrain"
    copied(bank, foreign_bank)
    (finished.run_folder / "truth.npy").unlink()
    code, said = finished.again()
    assert code == 0 and str(bank) in said and "is not of this problem: set aside" in said
    assert finished.digests() == expected
