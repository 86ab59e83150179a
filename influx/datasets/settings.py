"""Checks of a dataset's and a corruption's settings; each failure is one sentence that names the setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from influx.errors import ConfigError, DataError, did_you_mean


def check_count(setting: str, value: object) -> None:
    """Accept a whole number of at least 1, or None for everything."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return
    raise ConfigError(f"{setting} must be a whole number of at least 1 or null, got {value!r}; correct {setting}")


def check_share(setting: str, value: object) -> None:
    """Accept a number strictly between 0 and 1."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return
    raise ConfigError(f"{setting} must be a number between 0 and 1, both excluded, got {value!r}; correct {setting}")


def check_choice(setting: str, value: object, choices: Sequence[str]) -> None:
    """Accept one of the listed words."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ConfigError(f"{setting} must be one of {', '.join(choices)}, got {value!r}{hint}; correct {setting}")


def check_flag(setting: str, value: object) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{setting} must be true or false, got {value!r}; correct {setting}")


def check_sizes(n_train: object, n_test: object, test_fraction: object = 0.5) -> None:
    """The settings that every dataset shares."""
    check_count("dataset.n_train", n_train)
    check_count("dataset.n_test", n_test)
    check_share("dataset.test_fraction", test_fraction)


def names(setting: str, value: object) -> tuple[str, ...]:
    """A list of names, as a tuple; None is an empty list."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{setting} must be a list of names, got {value!r}; write {setting}=[{value}]")
    return tuple(str(name) for name in value)


def source_file(path: str | None, what: str) -> Path:
    """The file that ``dataset.path`` names.

    Raises:
        ConfigError: the setting is empty.
        DataError: there is no such file.
    """
    found = _existing(path, what)
    if not found.is_file():
        raise DataError(f"expected a {what} file, but {found} is a folder; set dataset.path to the file")
    return found


def source_folder(path: str | None, what: str) -> Path:
    """The folder that ``dataset.path`` names; raises like ``source_file``."""
    found = _existing(path, what)
    if not found.is_dir():
        raise DataError(f"expected a folder of {what}, but {found} is a file; set dataset.path to the folder")
    return found


def _existing(path: str | None, what: str) -> Path:
    if path is None or not str(path).strip():
        raise ConfigError(f"no {what} was named; set dataset.path=...")
    found = looked_up(path, what)
    if not found.exists():
        raise DataError(f"{found} does not exist; set dataset.path to an existing {what}")
    return found


def looked_up(path: object, what: str, setting: str = "dataset.path") -> Path:
    """The path of a ``setting`` with the user's home in place of ``~``, whether it exists or not.

    Raises:
        DataError: the file system refuses to look it up.
    """
    found = Path(str(path))  # a name of digits arrives as a number
    try:
        found = found.expanduser()
        found.exists()
    except (OSError, RuntimeError) as error:  # too long, not permitted, the home of a user who is not there
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{setting}={found} cannot be looked up ({reason}); set {setting} to an existing {what}"
        ) from error
    return found
