"""Where messages go: everything to the run's ``log.txt``, warnings to the screen as well."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from influx.errors import Interrupted
from influx.reporting.progress import warn
from influx.reporting.text import clean
from influx.store import Folder, explain, open_appending

log = logging.getLogger("influx")


class _Screen(logging.Handler):
    """Warnings as one line each; errors are printed by whoever catches them."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            warn(record.getMessage())


class _File(logging.FileHandler):
    """A log that a full disk cannot turn into an error of its own: that of the results is the one to report."""

    def _open(self) -> TextIOWrapper:
        return open_appending(Path(self.baseFilename))

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _Lines(logging.Formatter):
    """Messages hold names from data files: what would move or colour a terminal that shows the log becomes blank."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(clean(line) for line in super().format(record).split("\n"))


@contextmanager
def warnings_on_screen() -> Iterator[None]:
    """Show warnings on stderr inside the block."""
    handler = _Screen()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def to_file(folder: Folder) -> Iterator[None]:
    """Append messages, tracebacks included, to ``log.txt`` of the folder inside the block.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        handler = _File(folder / "log.txt", encoding="utf-8")
    except OSError as error:
        raise explain(error, folder / "log.txt") from error
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        log.info("%s", str(error) or "stopped at once by a second signal")
        raise
    except Exception:
        log.exception("the run failed")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
