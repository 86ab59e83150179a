"""The job that continuous integration runs: its file, its commands, and the commit that it compares with."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from influx.cli import COMMANDS

FILE = Path(__file__).parents[2] / ".github" / "workflows" / "bench.yml"
DAY = 24 * 3600


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    job: dict[str, Any] = yaml.safe_load(FILE.read_text())["jobs"]["bench"]
    assert job["timeout-minutes"] and job["env"]["OMP_NUM_THREADS"] == "1"
    return list(job["steps"])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Commits of 20, 10 and 1 days ago and a branch from the middle one; their names."""
    folder = tmp_path_factory.mktemp("work") / "head"
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    commits = {}
    for name, days, start in (("old", 20, None), ("middle", 10, None), ("new", 1, None), ("change", 0, "middle")):
        if start:
            git(folder, "checkout", "-q", "-b", "branch", commits[start])
        git(folder, "commit", "-q", "--allow-empty", "-m", name, at=time.time() - days * DAY)
        commits[name] = git(folder, "rev-parse", "HEAD")
    git(folder, "update-ref", "refs/remotes/origin/main", commits["new"])
    return folder, commits


def git(folder: Path, *arguments: str, at: float = 0.0) -> str:
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": f"{int(at)} +0000" for role in ("AUTHOR", "COMMITTER")}
    environment = os.environ | who | (when if at else {}) | {"GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_script_can_be_read_by_the_shell_and_every_option_exists(
    steps: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        COMMANDS["bench"](["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    used = set()
    for step in steps:
        script = step.get("run", "")
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        for line in script.splitlines():
            used |= set(re.findall(r"--[a-z-]+", line)) if "influx bench" in line or "--suite" in line else set()
    assert {"--compare", "--update-baseline", "--suite", "--output"} <= used <= known


@pytest.mark.parametrize(
    ("head", "given", "pulled", "default", "base"),
    [
        ("change", "old", "middle", "origin/main", "old"),
        ("change", "", "new", "origin/main", "new"),
        ("change", "", "", "origin/main", "middle"),
        ("new", "", "", "origin/main", "middle"),
        ("new", "", "", "origin/", "middle"),  # a schedule may not know its repository
        ("old", "", "", "origin/main", "old"),
    ],
)
def test_the_commit_to_compare_with(
    steps: list[dict[str, Any]],
    repository: tuple[Path, dict[str, str]],
    head: str,
    given: str,
    pulled: str,
    default: str,
    base: str,
) -> None:
    folder, commits = repository
    script = next(step["run"] for step in steps if step.get("name") == "the commit to compare with")
    git(folder, "checkout", "-q", "--detach", commits[head])
    told = {"GIVEN": commits.get(given, ""), "PULLED": commits.get(pulled, ""), "DEFAULT": default}
    environment = os.environ | told | {"GITHUB_STEP_SUMMARY": str(folder.parent / "summary")}
    subprocess.run(["bash", "-e"], input=script, cwd=folder, env=environment, text=True, check=True)
    try:
        assert git(folder.parent / "base", "rev-parse", "HEAD") == commits[base]
    finally:
        git(folder, "worktree", "remove", "--force", "../base")
