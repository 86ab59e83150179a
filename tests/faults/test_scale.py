"""Large results pass through little memory, and many runs leave nothing open."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from influx.api import run
from influx.manifest import measured
from influx.results import save_matrix
from influx.store import Folder
from tests.faults.conftest import TINY

N, M = 100_000, 200
BUDGET_MB = 60  # for a matrix of 160 MB
FD = Path("/proc/self/fd")


@pytest.mark.fault(44, "memory bounded while 100,000 rows are written")
def test_a_hundred_thousand_rows_are_written_in_little_memory(tmp_path: Path) -> None:
    large = np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.float64, shape=(N, M))
    large[::1000] = np.arange(M)
    large.flush()
    del large  # so that its pages count no longer
    with measured() as none:
        pass
    mapped = np.load(tmp_path / "large.npy", mmap_mode="r")
    with measured() as spent:
        save_matrix(Folder(tmp_path), "copy.npy", Released(mapped), "float32")  # type: ignore[arg-type]
    assert spent.peak_mb - none.peak_mb < BUDGET_MB, "the matrix was in memory as a whole"
    copy = np.load(tmp_path / "copy.npy", mmap_mode="r")
    assert copy.shape == (N, M) and copy.dtype == np.float32 and np.array_equal(copy[5000], np.arange(M))


class Released:
    """A mapped matrix whose pages are given back after each block, as a system short of memory would."""

    def __init__(self, mapped: np.ndarray) -> None:
        self.mapped, self.shape = mapped, mapped.shape

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, rows: slice) -> np.ndarray:
        block = np.array(self.mapped[rows])
        self.mapped.base.madvise(4)  # type: ignore[union-attr]  # MADV_DONTNEED
        return block


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def many(outputs: Path, first: int, count: int) -> None:
    left_out = ("name=", "truth.", "metric=", "training.epochs=")
    kept = [o for o in TINY if not o.startswith(left_out)]
    short = [*kept, "training.epochs=2", "truth=none", "metric=[]", "quiet=true", f"paths.outputs={outputs}"]
    for seed in range(first, first + count):
        run([*short, f"seed={seed}"])
    gc.collect()


@pytest.mark.fault(46, "open files stay as many over 3 more runs of one process")
@pytest.mark.skipif(not FD.is_dir(), reason="counts open files in /proc")
def test_runs_of_one_process_leave_no_file_open(tmp_path: Path) -> None:
    many(tmp_path, 0, 2)
    before = len(list(FD.iterdir()))
    many(tmp_path, 2, 3)
    assert len(list(FD.iterdir())) == before


@pytest.mark.slow
@pytest.mark.fault(46, "after 10 runs of one process, 40 more add less than 20 MB and no open file")
@pytest.mark.skipif(not FD.is_dir(), reason="reads /proc")
def test_memory_stays_flat_over_forty_runs(tmp_path: Path) -> None:
    many(tmp_path, 0, 10)
    before, files = resident_mb(), len(list(FD.iterdir()))
    many(tmp_path, 10, 40)
    assert resident_mb() - before < 20, "each run leaves more than half a megabyte behind"
    assert len(list(FD.iterdir())) == files
