"""The notebooks run, and attribute a model in less than ten lines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NEEDS = {
    "plain_pytorch": [],
    "lightning": ["lightning or pytorch_lightning"],
    "hugging_face": ["transformers", "accelerate"],
}


def code(name: str) -> list[str]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_is_known() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_a_notebook_holds_no_outputs_and_attributes_in_under_ten_lines(name: str) -> None:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells)
    attributing = [source for source in code(name) if "influx.attribute(" in source]
    assert attributing and all(len(source.splitlines()) < 10 for source in attributing)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    missing = [names for names in NEEDS[name] if not any(map(importlib.util.find_spec, names.split(" or ")))]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    (tmp_path / "cells.py").write_text("\n\n".join(code(name)), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
