"""Other versions of Python and of the libraries: those that are promised are tried, and results name what made them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml

from tests.faults.conftest import ROOT, Program

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [found for line in PROJECT["classifiers"] if (found := line.rpartition(":: ")[2]).startswith("3.")]
COMPILES = """
import pathlib, sys
for folder in sys.argv[1:]:
    for path in pathlib.Path(folder).rglob("*.py"):
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
print(*sys.version_info[:2], sep=".")
"""


def python_of(version: str) -> str | None:
    """An interpreter of that version."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    found = shutil.which(f"python{version}")
    works = found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode
    return found if works else None


@pytest.mark.fault(42, "what another version made is kept and used, and a warning names both versions")
def test_results_of_another_version_are_kept_and_named(
    finished: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from influx import pipeline

    now = pipeline.versions()
    monkeypatch.setattr(pipeline, "versions", lambda: now | {"torch": "9.8.7", "python": "3.99.0"})
    assert finished.again() == (0, "") and finished.digests() == expected  # it is complete: nothing to do
    page = finished.run_folder / "report.html"
    page.unlink()
    assert finished.again() == (0, "") and "now 9.8.7" in page.read_text()
    manifest = json.loads((finished.run_folder / "manifest.json").read_text())
    assert (manifest["versions"]["torch"], manifest["versions"]["python"]) == ("9.8.7", "3.99.0")
    told = f"made with torch {metadata.version('torch')} (now 9.8.7); overwrite=true makes it again"
    assert [w.split()[1] for w in manifest["warnings"] if told in w] == ["train", "truth", "estimate", "evaluate"]
    assert finished.digests() == expected
    assert finished.again("overwrite=true")[0] == 0
    made = json.loads((finished.run_folder / "manifest.json").read_text())["stages"]["estimate"]["made_with"]
    config = {"runs/tiny/config.yaml": ""}  # it says that it was made again
    assert made["torch"] == "9.8.7" and finished.digests() | config == expected | config


@pytest.mark.fault(42, "continuous integration runs on the oldest and on the newest of what is promised")
def test_continuous_integration_tries_the_oldest_and_the_newest() -> None:
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    if not workflow.is_file():
        pytest.skip("a copy without the workflows")
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    tried = [one for job in jobs for one in job.get("strategy", {}).get("matrix", {}).get("include", [])]
    assert {one["python"] for one in tried} >= {PYTHONS[0], PYTHONS[-1]}
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    (oldest,) = (found[1] for need in PROJECT["dependencies"] if (found := re.fullmatch(r"torch>=([\d.]+)", need)))
    assert {one["torch"] for one in tried} >= {f"torch=={oldest}.*", "torch"}


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.fault(42, "every promised Python that is here compiles all sources without a warning")
def test_every_promised_python_compiles_all_sources(version: str) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"no python{version} here")
    folders = [str(ROOT / name) for name in ("influx", "tests")]
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", COMPILES, *folders], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{version}\n", "")
