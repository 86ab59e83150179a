"""Light commands start fast: little processor time, and none of the heavy libraries."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, spawn

HEAVY = ("torch", "torchvision", "pandas", "sklearn", "scipy", "pyarrow")
PROBE = """
import atexit, sys
from influx.cli import main
atexit.register(lambda: print("heavy:", [m for m in {heavy!r} if m in sys.modules], file=sys.stderr))
sys.argv[1:] = {arguments!r}
main(sys.argv[1:])
"""
LINES = [
    ("influx ", {"run", "plan", "advise", "list", "show", "compare", "report", "verify", "bench", "status", "clean"}),
    ("influx pl", {"plan"}),
    ("influx run esti", {"estimator=", "estimator."}),
    (
        "influx plan estimator=tracin_",
        {f"estimator=tracin_{n}" for n in ("ad", "adam", "ideal", "last", "momentum", "we")},
    ),
    ("influx run estimator=gas model.w", {"model.width="}),
    ("influx list est", {"estimators"}),
]


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list", "estimators"], ["run", "--cfg", "job"], ["status", "."], ["-sc", "query=bash"]],
    ids=" ".join,
)
@pytest.mark.fault(43, "no heavy library, fast")
def test_light_commands_start_fast_without_heavy_libraries(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    given = [str(tmp_path) if argument == "." else argument for argument in arguments]
    seconds, floor = [], []
    for _ in range(4):  # the first may have to compile, and neighbours on the machine slow others down
        before = processor_seconds()
        spawn("import hydra.utils, rich.table")
        floor.append(processor_seconds() - before)
        before = processor_seconds()
        done = spawn(PROBE.format(heavy=HEAVY, arguments=given), COMP_LINE="influx run esti", COMP_POINT="15")
        seconds.append(processor_seconds() - before)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy: []"
    assert min(seconds) < max(0.5, 2.5 * min(floor)), "0.5 s, or in proportion where the libraries alone take long"


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
@pytest.mark.fault(43, "no heavy library, fast")
def test_completion_offers_what_fits(line: str, expected: set[str]) -> None:
    code = "from influx.cli import main; main(['-sc', 'query=bash'])"
    done = spawn(code, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0 and set(done.stdout.split()) == expected


def test_the_installed_completion_completes_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "influx"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m influx "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(influx -sc install=bash)"
    complete -p influx | grep -q hydra_bash_completion || exit 3
    COMP_LINE="influx run esti" COMP_POINT=15 COMP_CWORD=2
    hydra_bash_completion
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["estimator.", "estimator="]
