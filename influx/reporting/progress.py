"""Progress, messages and errors: bars on a terminal, plain lines elsewhere. Only results go to stdout."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from influx.progress import Advance, Factory
from influx.reporting import text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WIDTH = 100  # columns when the output is no terminal
SHOW_AFTER = 0.5  # seconds; shorter tasks would only flicker
LINE_EVERY = 5.0  # seconds between plain lines


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    fixed = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH
    return Console(stderr=stderr, quiet=quiet, width=fixed, highlight=False)


def console(quiet: bool = False) -> Console:
    """Where results are printed: stdout; nothing at all when ``quiet``."""
    return _console(stderr=False, quiet=quiet)


def error(message: str) -> None:
    """Print ``error: message`` on stderr, in one line."""
    _say("error:", message, "bold red")


def warn(message: str) -> None:
    """Print ``warning: message`` on stderr, in one line."""
    _say("warning:", message, "yellow")


def note(message: str) -> None:
    """Print a message on stderr, in one line."""
    _console(stderr=True).print(Text(text.clean(message)), soft_wrap=True)


def _say(kind: str, message: str, style: str) -> None:
    line = Text.assemble((kind, style), " ", text.clean(message))
    _console(stderr=True).print(line, soft_wrap=True)


def factory(quiet: bool = False, console: Console | None = None) -> Factory:
    """How progress is shown here: bars, lines or nothing. Pass the result to ``influx.progress.shown_by``."""
    if quiet:
        return _nothing
    target = console or _console(stderr=True)
    if target.is_terminal and not target.is_dumb_terminal:
        return Bars(target).task
    return Lines(lambda line: target.print(Text(line), soft_wrap=True)).task


def _nothing(description: str, total: int) -> AbstractContextManager[Advance]:
    del description, total
    return nullcontext(lambda count: None)


@dataclass
class Lines:
    """Plain lines, at most one every five seconds over all tasks."""

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    last: float = field(default=float("-inf"))

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """One unit of work."""
        begun, done = self.clock(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            now = self.clock()
            if now - begun < SHOW_AFTER or now - self.last < LINE_EVERY or done <= 0:
                return
            self.last = now
            left = (now - begun) * max(0, total - done) / done
            share = f" ({100 * done // total}%)" if total else ""
            self.write(f"{description}: {done} of {total}{share}, {text.duration(left)} left")

        yield advance


class Bars:
    """One live display for all open tasks; each appears once it has lasted half a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._open = 0
        self._progress: Progress | None = None
        self._live = False

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """One unit of work."""
        progress, task_id = self._add(description, total)
        timer = threading.Timer(SHOW_AFTER, self._show, (progress, task_id))
        timer.daemon = True
        timer.start()
        try:
            yield lambda count: progress.update(task_id, advance=count)
        finally:
            timer.cancel()
            self._close()

    def _add(self, description: str, total: int) -> tuple[Progress, TaskID]:
        with self._lock:
            if self._progress is None:
                self._progress = _bar_display(self._console)
            self._open += 1
            # Markup is off in the description's column: names of data sets may hold brackets.
            return self._progress, self._progress.add_task(description, total=max(total, 1), visible=False)

    def _show(self, progress: Progress, task_id: TaskID) -> None:
        with self._lock:
            if self._progress is not progress:  # the task ended while the timer fired
                return
            if not self._live:
                progress.start()
                self._live = True
            progress.update(task_id, visible=True)

    def _close(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._progress is not None:
                if self._live:
                    self._progress.stop()
                self._progress, self._live = None, False


def _bar_display(console: Console) -> Progress:
    from rich import progress

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f}/s" if speed and speed >= 10 else f"{speed:.2g}/s" if speed else "", style="cyan")

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),
        Rate(),
        progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
    )
