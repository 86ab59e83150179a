import io
import sys
import time

import pytest
from rich.console import Console

from influx.progress import shown_by, task
from influx.reporting import progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_most_every_five_seconds() -> None:
    clock, lines = Clock(), []
    with progress.Lines(lines.append, clock=clock).task("retraining", 1000) as advance:
        for _ in range(100):
            clock.now += 0.2
            advance(10)
    assert lines[0] == "retraining: 30 of 1000 (3%), 19.4 s left"
    assert lines[1] == "retraining: 280 of 1000 (28%), 14.4 s left"
    assert len(lines) == 4


def test_lines_of_several_tasks_share_the_five_seconds() -> None:
    clock, lines = Clock(), []
    shown = progress.Lines(lines.append, clock=clock)
    for name in ("training", "retraining"):
        with shown.task(name, 4) as advance:
            clock.now += 2.0
            advance(4)
    assert lines == ["training: 4 of 4 (100%), 0.0 s left"]


def test_short_tasks_print_nothing() -> None:
    clock, lines = Clock(), []
    with progress.Lines(lines.append, clock=clock).task("training", 2) as advance:
        clock.now += 0.3
        advance(2)
    assert lines == []


def test_task_without_steps_does_not_divide_by_zero() -> None:
    clock, lines = Clock(), []
    with progress.Lines(lines.append, clock=clock).task("estimate", 0) as advance:
        clock.now += 1.0
        advance(1)
    assert lines == ["estimate: 1 of 0, 0.0 s left"]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(progress.factory(quiet=True)), task("training", 3) as advance:
        advance(3)
    progress.console(quiet=True).print("verdict")
    assert capsys.readouterr() == ("", "")


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_bar_shows_count_and_percentage_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    screen = terminal()
    with shown_by(progress.factory(console=screen)), task("re[train]ing", 8) as outer:
        with task("block", 2) as inner:
            time.sleep(0.05)
            inner(2)
        outer(2)
    text = screen.file.getvalue()
    assert "re[train]ing" in text and "block" in text and "2/8" in text and "25%" in text and "2/2" in text


def test_bar_of_a_short_task_never_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = terminal()
    with shown_by(progress.factory(console=screen)), task("training", 8) as advance:
        advance(8)
    assert screen.file.getvalue() == ""


def test_bars_stop_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHOW_AFTER", 0.0)
    bars = progress.Bars(terminal())
    with pytest.raises(ValueError, match="broken"), bars.task("training", 8):
        time.sleep(0.02)
        raise ValueError("broken")
    assert bars._progress is None and bars._open == 0


def test_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.error("expected a file at dataset.path, " + "x" * 200 + " [bold]came[/bold];\ngive one")
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("error: expected")
        and err.count("\n") == 1
        and "[bold]came[/bold]; give one" in err
    )


def test_warning_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.warn("the ceiling is low")
    assert capsys.readouterr() == ("", "warning: the ceiling is low\n")


def test_width_is_100_when_not_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert progress.console().width == 100
