"""A run of many rows, every stage, in a stated memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from influx.config import compose
from influx.pipeline import execute

ROWS, BYTES_A_ROW = 1_000_000, 700  # measured: 540


@pytest.mark.slow
@pytest.mark.fault(44, "memory bounded while a run of 1,000,000 rows goes through every stage")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of stages are Linux's")
def test_a_million_rows_stream_in_a_stated_memory(tmp_path: Path) -> None:
    peaks = []
    for n in (1000, ROWS):
        sizes = [f"dataset.n_train={n}", "dataset.n_test=10", "training.batch_size=1000", "training.epochs=2"]
        rest = ["truth=none", "metric=[]", "training.checkpoints=4", "quiet=true", f"paths.outputs={tmp_path}"]
        folder = execute(compose(["dataset=synthetic", *sizes, *rest, f"name=rows{n}"]))
        stages = json.loads((folder / "manifest.json").read_text())["stages"]
        peaks.append(max(stage["peak_mb"] for stage in stages.values()))
    assert (peaks[1] - peaks[0]) * 2**20 / ROWS < BYTES_A_ROW
