"""Stops at any instant: by signal, by crash, by kill. The same command then ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from influx import cli, store
from influx.errors import ConfigError
from influx.learners.torch import learner
from tests.faults.conftest import ROOT, Program

KILLS = ROOT / "scripts" / "kills"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@contextmanager
def at_write(number: int, act: Callable[[], None], after: bool) -> Iterator[list[str]]:
    """Act before or after the file with that number takes its name. Yields the names so far."""
    names: list[str] = []
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        names.append(Path(target).name)
        if len(names) == number and not after:
            act()
        replace(source, target)
        if len(names) == number and after:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counted)
        yield names


def die() -> None:
    raise Killed


def writes(program: Program) -> int:
    """Number of files that take their names in a whole run."""
    with at_write(0, die, False) as names:
        assert program.again("paths.outputs=" + str(program.outputs) + "_counted")[0] == 0
    return len(names)


def status(program: Program) -> str:
    return str(json.loads((program.run_folder / "manifest.json").read_text())["status"])


def leftovers(program: Program) -> list[Path]:
    return list(program.outputs.rglob(".*.tmp"))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.fault(1, "the same command ends in the same bytes")
@pytest.mark.fault(20, "removed at the next start")
def test_a_kill_at_any_write_costs_no_result(
    after: bool, fresh: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = writes(fresh)
    assert total > 60
    for number in range(1 + after, total, 9):
        program = Program(fresh.outputs.with_name(f"out_{number}"), fresh.capfd)
        with monkeypatch.context() as patch, at_write(number, die, after) as names, pytest.raises(Killed):
            patch.setattr(store, "_discard", lambda temporary: None)  # a killed process tidies nothing
            program.again()
        assert after or leftovers(program)
        for path in leftovers(program):  # another process would have written under another number
            path.rename(path.with_name(path.name.replace(str(os.getpid()), "1")))
        code, said = program.again()
        assert (code, said) == (0, ""), names[-1]
        assert program.digests() == expected, names[-1]
        assert not leftovers(program)
        assert status(program) == "done"


@pytest.mark.fault(1, "the same command ends in the same bytes")
@pytest.mark.fault(30, "the same command ends in the same bytes")
def test_many_kills_of_one_run_cost_no_result(fresh: Program, expected: dict[str, str]) -> None:
    rng = random.Random(5)
    kills = 0
    for _ in range(100):
        with at_write(rng.randrange(1, 20), die, bool(rng.randrange(2))) as names:
            try:
                fresh.again()
            except Killed:
                kills += 1
        if len(names) == 0:
            break
    assert fresh.again() == (0, "")
    assert kills > 5
    assert fresh.digests() == expected


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "share", [0.05, 0.6, 0.93, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.3, 0.85))]
)
@pytest.mark.fault(2, "saved, exit code 143, resumable")
@pytest.mark.fault(3, "once: an orderly stop; twice: at once")
def test_a_signal_stops_the_run_in_order(
    signum: signal.Signals, share: float, fresh: Program, expected: dict[str, str]
) -> None:
    number = int(share * writes(fresh))
    with at_write(number, lambda: signal.raise_signal(signum), True) as names:
        code, said = fresh.again()
    assert code == CODES[signum], f"signal when {names[number - 1]} was written"
    assert said == f"error: stopped by {signum.name}; finished work is saved, run the same command to continue\n"
    assert len(names) - number <= 7, "it went on working"  # the file's checksum, a state of the training, the manifest
    assert status(fresh) == "interrupted"
    assert not leftovers(fresh)
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected
    assert status(fresh) == "done"


def test_signals_at_random_instants_cost_no_result(fresh: Program, expected: dict[str, str]) -> None:
    rng = random.Random(7)
    stopped = 0
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(rng.choice(list(CODES))))
    try:
        for attempt in range(8):
            signal.setitimer(signal.ITIMER_REAL, 0.08 + 0.05 * attempt * rng.random())
            code, _ = fresh.again()
            signal.setitimer(signal.ITIMER_REAL, 0)
            stopped += code in CODES.values()
            assert code in (0, *CODES.values())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped > 2
    assert fresh.again()[0] == 0
    assert fresh.digests() == expected


@pytest.mark.parametrize("signum", list(CODES))
@pytest.mark.parametrize("made", [ConfigError, AttributeError])
def test_what_a_library_makes_of_an_early_signal_is_a_stop(
    signum: signal.Signals, made: type[Exception], fresh: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: list[str]) -> int:
        try:
            signal.raise_signal(signum)
        except BaseException as stop:
            raise made("a node of the settings has no parent") from stop
        return 0

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    told = f"error: stopped by {signum.name}; finished work is saved, run the same command to continue\n"
    assert fresh.again() == (CODES[signum], told)


@pytest.mark.fault(3, "once: an orderly stop; twice: at once")
def test_a_second_interrupt_stops_at_once(fresh: Program, expected: dict[str, str]) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with at_write(30, twice, True) as names:
        code, said = fresh.again()
    assert code == 130 and said.startswith("error: stopped at once") and said.count("\n") == 1
    assert len(names) <= 31, "only the manifest is written after that"
    assert status(fresh) == "interrupted"
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected


def test_an_internal_error_is_told_in_one_line_and_the_run_goes_on_later(
    fresh: Program, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(learner, "outcomes_of", lambda *_: 1 / 0)
        code, said = fresh.again()
    assert code == 1 and said.startswith("error: internal error: ZeroDivisionError") and said.count("\n") == 1
    assert status(fresh) == "failed" and "Traceback" in fresh.log()
    assert fresh.again() == (0, "")
    assert fresh.digests() == expected
    assert "error" not in json.loads((fresh.run_folder / "manifest.json").read_text())


@pytest.mark.fault(2, "saved, exit code 143, resumable")
def test_a_terminated_process_leaves_with_143_within_two_seconds(fresh: Program) -> None:
    def allowed() -> float:
        return 2 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # shared processors give less of a second

    took: list[float] = []
    while len(took) < 4 and min(took, default=99.0) >= allowed():  # the fastest: others may want the disk too
        took.append(terminated(replace(fresh, outputs=fresh.outputs.with_name(f"out_{len(took)}"))))
    assert min(took) < allowed()


def terminated(program: Program) -> float:
    """Seconds that a long training takes to stop."""
    with program.start("training.epochs=200000", "training.checkpoints=2") as process:
        until = time.monotonic() + 240  # the machine may be busy
        while process.poll() is None and not list(program.outputs.glob("problems/*/checkpoints/state_*")):
            assert time.monotonic() < until
            time.sleep(0.02)
        os.sync()  # the process waits for the disk: not for what other tests have left to be written
        begun = time.monotonic()
        process.terminate()
        said = process.communicate(timeout=60)[1]
        took = time.monotonic() - begun
    assert process.returncode == 143, said
    assert said.splitlines()[-1].startswith("error: stopped by SIGTERM")
    assert status(program) == "interrupted"
    return took


def kills(count: int) -> None:
    done = subprocess.run([sys.executable, str(KILLS), str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} of {count} ended in the same bytes" in done.stdout


@pytest.mark.slow
@pytest.mark.fault(1, "the same command ends in the same bytes")
def test_three_kills_of_a_real_process_cost_no_result() -> None:
    kills(3)


@pytest.mark.slow
@pytest.mark.fault(1, "the same command ends in the same bytes")
def test_twenty_kills_of_a_real_process_cost_no_result() -> None:
    kills(20)


def test_the_script_of_kills_refuses_nonsense() -> None:
    done = subprocess.run([sys.executable, str(KILLS), "many"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: COUNT must be")
