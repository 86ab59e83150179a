"""The wheel, built and installed by the script that continuous integration runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.conftest import ROOT


@pytest.mark.slow
@pytest.mark.fault(37, "installed in an environment of its own, it runs from another folder")
def test_the_installed_wheel_runs_from_another_folder() -> None:
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([ROOT / "scripts" / "wheel"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the wheel works\n")
