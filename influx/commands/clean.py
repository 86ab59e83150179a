"""``influx clean``: remove failed or old runs, leftovers of killed writers, and problems that no run uses."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from influx.commands.outputs import LOCK, folders, held, is_outputs, made_by_influx, state_of
from influx.errors import ConfigError, DataError, UserError

REMOVED = ("failed", "killed")  # states whose runs go without being asked for
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # of a writer, or a folder on its way out
LEFTOVER = re.compile(rf"{TEMPORARY.pattern}|.+\.corrupt(\.\d+)?")
FOREIGN = "not made by influx"
DAY = 86400.0


def clean(folder: Path, older_than_days: float | None, problems: bool, dry_run: bool) -> int:
    """Remove and say what; the exit code.

    Raises:
        ConfigError: the age is negative.
        DataError: the folder is not an outputs folder.
        UserError: something cannot be read or removed; what went before is said.
    """
    if older_than_days is not None and not older_than_days >= 0:
        raise ConfigError(f"--older-than must be a number of days from 0 on, got {older_than_days}; change it")
    if not folder.is_dir() or not is_outputs(folder):
        raise DataError(
            f"clean takes an outputs folder (with runs or problems in it), {folder} is none; check the path"
        )
    for name in ("runs", "problems"):
        if (folder / name).is_symlink():
            raise DataError(f"clean does not follow symbolic links, {folder / name} is one; name its target's parent")
    broom = Broom(dry_run=dry_run)
    try:
        kept = broom.runs(folder / "runs", older_than_days)
        if problems:
            broom.problems(folder / "problems", kept)
        broom.leftovers(folder)
    except OSError as error:
        raise UserError(
            f"cannot clean {error.filename or folder}: {error.strerror or error}; check its permissions and the disk"
        ) from error
    finally:
        broom.say()
    return 0


@dataclass
class Broom:
    """Removes what nobody holds, and counts."""

    dry_run: bool
    removed: list[tuple[Path, str, int]] = field(default_factory=list)  # what, why, bytes
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def runs(self, parent: Path, older_than_days: float | None) -> set[str | None]:
        """Remove failed, killed and old runs; ids of the problems that the others use, None for one not known."""
        kept: set[str | None] = set()
        for run in folders(parent):
            with held(run) as free:
                state = state_of(run, mine=True) if free else None
                if state is None:
                    self.skipped.append((run, "in use by another process"))
                    kept.add(_problem_in_use(run))
                    continue
                if not made_by_influx(run):
                    self.skipped.append((run, FOREIGN))
                    kept |= {None} if (run / LOCK).exists() else set()  # perhaps a damaged run: it may use any problem
                    continue
                why = state.status if state.status in REMOVED else _age(run, older_than_days)
                if why:
                    self._remove(run, why)
                else:
                    kept.add(state.problem or None)
        return kept

    def problems(self, parent: Path, used: set[str | None]) -> None:
        """Remove problems that are not in ``used``; none at all while a run does not say which it uses."""
        for problem in folders(parent):
            if problem.name in used:
                continue
            if not any(made_by_influx(part) for part in (problem, problem / "checkpoints", problem / "retrain")):
                self.skipped.append((problem, FOREIGN))
                continue
            if None in used:
                self.skipped.append((problem, "a run that is kept does not say which problem it uses"))
                continue
            with ExitStack() as stack:
                if all([stack.enter_context(held(part)) for part in (problem, problem / "retrain", *altered(problem))]):
                    self._remove(problem, "used by no run")
                else:
                    self.skipped.append((problem, "in use by another process"))

    def leftovers(self, outputs: Path) -> None:
        """Remove temporary and damaged files of runs and problems that nobody works on."""
        for parent in (outputs / "runs", outputs / "problems"):
            for path in _matching(parent, TEMPORARY):
                if path.is_dir():  # influx keeps no files here
                    self._remove(path, "left by a killed process")
            for item in folders(parent):
                for part in (item, *folders(item), *altered(item)):
                    self._leftovers_in(item, part)

    def _leftovers_in(self, item: Path, part: Path) -> None:
        with ExitStack() as stack:
            free = all([stack.enter_context(held(holder)) for holder in {item, part}])
            if not free or not made_by_influx(part):
                return
            for path in _matching(part, LEFTOVER):
                if path.is_file():
                    killed = TEMPORARY.fullmatch(path.name)
                    self._remove(path, "left by a killed process" if killed else "damaged")

    def _remove(self, path: Path, why: str) -> None:
        """Rename out of sight, then delete: a kill in between leaves nothing that looks whole."""
        if any(path.is_relative_to(gone) for gone, _, _ in self.removed):
            return
        size = size_of(path)
        if not self.dry_run:
            if path.is_dir() and not path.is_symlink():
                target = path if path.name.endswith(".tmp") else path.with_name(f".{path.name}.{os.getpid()}.tmp")
                path.rename(target)
                shutil.rmtree(target)
            else:
                path.unlink()
        self.removed.append((path, why, size))

    def say(self) -> None:
        """What went, what stayed, and the sum."""
        from influx.reporting import progress

        console = progress.console()

        def line(text: str) -> None:
            console.print(text, soft_wrap=True, markup=False)

        verb = "would remove" if self.dry_run else "removed"
        for path, why, size in self.removed:
            line(f"{verb} {path} ({why}, {size / 1e6:.1f} MB)")
        for path, why in self.skipped:
            line(f"kept {path} ({why})")
        line(f"{verb} {len(self.removed)} items, {sum(size for *_, size in self.removed) / 1e6:.1f} MB")


def altered(problem: Path) -> list[Path]:
    """Folders of a problem's banks on other data, which stay and go with it."""
    return [
        bank
        for part in folders(problem)
        if part.name == "altered"
        for other in folders(part)
        for bank in folders(other)
    ]


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder, links not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum((Path(root) / name).lstat().st_size for root, _, names in os.walk(path) for name in names)


def _age(run: Path, limit: float | None) -> str:
    """Why a run is old enough to go, or nothing. Its age is that of its newest file."""
    if limit is None:
        return ""
    newest = max((p.lstat().st_mtime for p in (run, *run.iterdir())), default=0.0)
    days = (time.time() - newest) / DAY
    return f"{days:.1f} days old" if days > limit else ""


def _problem_in_use(run: Path) -> str | None:
    return state_of(run).problem or None


def _matching(parent: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Leftovers directly in a folder."""
    if parent.is_dir():
        yield from sorted(p for p in parent.iterdir() if pattern.fullmatch(p.name) and not p.is_symlink())
