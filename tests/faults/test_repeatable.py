"""What must not change a bit: the hash seed, threads of libraries, language, place and the order of settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from influx.api import run
from tests.faults.conftest import ROOT, TINY, Program


@pytest.mark.slow
@pytest.mark.fault(29, "the same bytes")
def test_hash_seed_library_threads_language_and_folder_change_nothing(
    fresh: Program, expected: dict[str, str], tmp_path: Path
) -> None:
    environment = {"PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "2", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"}
    command = [sys.executable, "-m", "influx", "run", *reversed(TINY), "quiet=true", f"paths.outputs={fresh.outputs}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert fresh.digests() == expected


@pytest.mark.fault(28, "the same bytes each time")
def test_the_same_command_three_times_makes_the_same_bytes(fresh: Program, expected: dict[str, str]) -> None:
    for number in range(2):  # the third is the one that made ``expected``
        again = Program(fresh.outputs / str(number), fresh.capfd)
        assert again.again() == (0, "")
        assert again.digests() == expected


@pytest.mark.fault(31, "the same bytes in either order")
def test_runs_that_share_a_problem_do_not_depend_on_their_order(fresh: Program, expected: dict[str, str]) -> None:
    run([*TINY, "quiet=true", f"paths.outputs={fresh.outputs}", "estimator=gas", "name=other"])
    assert fresh.again() == (0, "")
    found = fresh.digests()
    assert {k: v for k, v in found.items() if not k.startswith("runs/other/")} == expected


@pytest.mark.slow
@pytest.mark.fault(29, "the same values to rounding")
@pytest.mark.parametrize("other", ["threads=2", "training.block=5"])
def test_threads_and_sizes_of_blocks_change_nothing_but_rounding(
    other: str, fresh: Program, finished_once: Path
) -> None:
    assert fresh.again(other) == (0, "")
    for name in ("influence.npy", "truth.npy"):
        here, there = (np.load(folder / "runs" / "tiny" / name) for folder in (finished_once, fresh.outputs))
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5 * np.abs(here).max())
