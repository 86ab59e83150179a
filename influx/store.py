"""Files that are either whole or absent.

Every file is written under a temporary name, flushed to the disk and renamed; its SHA-256 then enters
``checksums.json`` of its folder. A file counts as present only when it is listed there and its bytes agree:
whatever a kill or a bad disk leaves behind is set aside (``*.corrupt``) or overwritten, never used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from influx.errors import Busy, DataError, UserError

CHECKSUMS = "checksums.json"
log = logging.getLogger("influx")


def content_hash(value: Any, length: int = 12) -> str:
    """Hash of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder."""
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> str:
    """Let ``write`` fill a temporary file, flush it and rename it to ``path``; return its SHA-256.

    Raises:
        UserError: the disk is full or the folder may not be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
            digest = hashlib.file_digest(f, "sha256").hexdigest()
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise explain(error, path) from error
    except BaseException:
        _discard(temporary)
        raise
    return digest


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # the error that led here is the one to report; leftovers go at the next start
        temporary.unlink()


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, path: Path) -> UserError:
    """One clear sentence for a file that cannot be written."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or set paths.outputs to another disk",
        errno.EFBIG: "the file would exceed the size limit of this shell (ulimit -f); raise it",
        errno.EDQUOT: "the disk quota is used up; free some space or set paths.outputs elsewhere",
        errno.EACCES: "permission denied; set paths.outputs to a folder you may write to",
        errno.EPERM: "permission denied; set paths.outputs to a folder you may write to",
        errno.EROFS: "the file system is read-only; set paths.outputs to a folder you may write to",
        errno.ENOTDIR: "a file is in the way; set paths.outputs to a folder",
        errno.EEXIST: "a file is in the way; set paths.outputs to a folder",
        errno.EISDIR: "a folder is in the way; remove it or set paths.outputs elsewhere",
        errno.EIO: "the disk reports an error; check it or set paths.outputs to another disk",
        errno.ENAMETOOLONG: "the path is too long; set a shorter name or paths.outputs",
        errno.ENOENT: "its folder was removed meanwhile; run the same command again",
        errno.EXDEV: "its folder spans two disks; set paths.outputs to a folder on one disk",
        errno.ELOOP: "a symbolic link is in the way; remove it or set paths.outputs elsewhere",
    }
    other = f"{error.strerror or error}; check the disk or set paths.outputs elsewhere"
    return UserError(f"cannot write {path}: {remedies.get(error.errno or 0, other)}")


def open_appending(path: Path) -> TextIOWrapper:
    """A text file to append to. A symbolic link is not followed: it could lead to a file that is not ours.

    Raises:
        OSError: it cannot be opened; ``ELOOP`` for a symbolic link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "a+", encoding="utf-8")


def lock(handle: IO[str], operation: int, path: Path) -> None:
    """``flock`` with a clear sentence where the file system has no locks.

    Raises:
        BlockingIOError: another process holds it and ``operation`` does not wait.
        UserError: there are no locks here.
    """
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error.strerror or error}; set paths.outputs to a file system with locks "
            "(network disks need to be mounted with flock)"
        ) from error


class Folder:
    """A folder whose files carry checksums. ``read_only`` leaves damaged files where they are."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._verified: set[str] = set()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def sub(self, name: str) -> Folder:
        """A folder below this one, with its own checksums."""
        return Folder(self.path / name, self.read_only)

    def checksums(self) -> dict[str, str]:
        """File name → SHA-256 of everything that was written completely."""
        path = self.path / CHECKSUMS
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            self._set_aside(path)
            return {}
        except OSError as error:
            raise _unreadable(error, path) from error
        if not isinstance(listed, dict):
            self._set_aside(path)
            return {}
        return {str(k): str(v) for k, v in listed.items() if is_plain(k)}

    def _refuse_link(self) -> None:
        """Names stay below the outputs: a link in place of the folder would lead elsewhere."""
        if os.path.islink(self.path):  # False too where the path cannot be looked up: writing says why
            raise UserError(
                f"cannot write to {self.path}: it is a symbolic link; remove it or set paths.outputs elsewhere"
            )

    def _set_aside(self, path: Path) -> None:
        if not self.read_only:
            set_aside(path)

    def has(self, name: str) -> bool:
        """True when the file is complete and undamaged; a damaged one is set aside. Reads it once per object."""
        if name in self._verified:
            return True
        expected, path = self.checksums().get(name), self.path / name
        if expected is None or not path.is_file():  # renamed, but killed before it was listed: written again alike
            return False
        try:
            found = file_hash(path)
        except FileNotFoundError:  # removed meanwhile
            return False
        except OSError as error:
            raise _unreadable(error, path) from error
        if found != expected:
            self._set_aside(path)
            return False
        self._verified.add(name)
        return True

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Write one file atomically and list its checksum."""
        self._refuse_link()
        digest = write_atomically(self.path / name, write)
        self._list({name: digest})
        self._verified.add(name)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file atomically and list its checksum."""
        return self.write(name, lambda path: write_text(path, text))

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON with sorted keys, atomically, and list its checksum."""
        return self.write_text(name, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")

    def read_json(self, name: str) -> Any:
        """Read JSON that ``has`` has accepted."""
        return json.loads((self.path / name).read_text())

    def forget(self, *names: str) -> None:
        """Remove files and their checksums (missing ones are fine)."""
        listed = self.checksums()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            listed.pop(name, None)
            self._verified.discard(name)
        if self.path.is_dir():
            self._replace(listed)

    def sweep_temporaries(self) -> None:
        """Remove what killed writers left behind. Call only while holding the lock."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def _list(self, new: dict[str, str]) -> None:
        self._replace(self.checksums() | new)

    def _replace(self, listed: dict[str, str]) -> None:
        text = json.dumps(listed, indent=1, sort_keys=True) + "\n"
        write_atomically(self.path / CHECKSUMS, lambda path: write_text(path, text))

    @contextmanager
    def locked(self, wait: bool = True, what: str = "run") -> Iterator[None]:
        """Hold the folder for one process. The kernel drops the lock when the process dies.

        Raises:
            Busy: ``wait`` is false and another process holds it.
            UserError: the folder cannot be made, is a symbolic link or cannot be locked.
        """
        from influx import interrupts

        self._refuse_link()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open_appending(self.path / ".lock")
        except OSError as error:
            raise explain(error, self.path) from error
        told = False
        with handle:
            while True:
                try:
                    lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, self.path)
                    break
                except BlockingIOError:
                    if not wait:
                        raise Busy(
                            f"the {what} {self.path} is in use by another process; wait for it or set on_busy=wait"
                        ) from None
                    if not told:
                        log.warning("the %s %s is in use by another process: waiting for it", what, self.path)
                        told = True
                    interrupts.check()
                    time.sleep(0.1)
            if is_still(handle, self.path / ".lock"):
                yield
                return
        with self.locked(wait, what):  # who held the lock has removed it
            yield


def is_still(handle: IO[str], path: Path) -> bool:
    """Whether an open file is the one that lies at ``path`` now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    return False


def write_text(path: Path, text: str) -> None:
    """Plain UTF-8 with Unix line ends, for use with ``write_atomically``."""
    path.write_text(text, encoding="utf-8", newline="\n")


def set_aside(path: Path, why: str = "is damaged") -> Path:
    """Rename a file that is of no use to ``*.corrupt`` (numbered when that exists) and return the new path."""
    target, number = path.with_name(path.name + ".corrupt"), 1
    while target.exists():
        target, number = path.with_name(f"{path.name}.corrupt.{number}"), number + 1
    try:
        os.replace(path, target)
    except OSError as error:
        raise explain(error, target) from error
    log.warning("%s %s: set aside as %s, will be made again", path, why, target.name)
    return target


def _unreadable(error: OSError, path: Path) -> DataError:
    return DataError(f"cannot read {path}: {error.strerror or error}; check its permissions and the disk")
