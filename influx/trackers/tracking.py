"""When runs are told to trackers: once, after everything is done, and again only after a failure or a change."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from influx import interrupts
from influx.config import PRESENTATION, Settings, load_choice
from influx.errors import ConfigError, Interrupted, UserError
from influx.instantiate import build
from influx.manifest import Manifest
from influx.store import Folder, content_hash
from influx.trackers.told import Told, Tracker, metrics_of, params_of

FOLDER = "trackers"  # inside the run's folder
LISTENING = 0.2  # seconds between looks for a signal while a tracker works
log = logging.getLogger("influx")


def trackers_of(settings: Settings) -> dict[str, Tracker]:
    """The trackers that ``trackers=[…]`` names.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    found: dict[str, Tracker] = {}
    for name in settings["trackers"]:
        node = load_choice("tracker", name, settings.config_dir, "trackers")
        tracker: Tracker = build(node, f"trackers.{name}", list(settings["trust"]))
        if not _installed(tracker.package):
            raise ConfigError(
                f"trackers=[{name}] needs the package {tracker.package}, which is not installed; "
                f"pip install '{getattr(tracker, 'extra', tracker.package)}', or leave {name} out"
            )
        found[name] = tracker
    return found


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def track(settings: Settings, folder: Folder, manifest: Manifest) -> None:
    """Tell a finished run to each of its trackers that does not know it yet.

    A tracker begins with an empty folder every time, so that nothing is there twice; ``trackers/<name>.json`` says
    that it is complete, and its id of the run. What goes wrong becomes a warning in the manifest.
    """
    before = list(manifest.values["warnings"])
    manifest.values["warnings"] = [w for w in before if _asked_for(w, settings["trackers"])]
    if settings["trackers"]:
        _tell_all(settings, folder, manifest)
    if manifest.values["warnings"] != before:
        try:
            manifest.save("done")
        except UserError as error:  # the run is done, and its manifest says so
            log.warning("%s", error)


def _tell_all(settings: Settings, folder: Folder, manifest: Manifest) -> None:
    told = _told(settings, folder, manifest)
    listed = folder.checksums()
    for name, tracker in trackers_of(settings).items():
        earlier = [sentence for sentence in manifest.values["warnings"] if sentence.startswith(f"tracker {name}: ")]
        try:
            own = str(tracker) if dataclasses.is_dataclass(tracker) else ""
            state = content_hash([dict(told.params), listed.get("metrics.json"), own])
            _tell(name, tracker, told, folder.sub(FOLDER), state)
        except (KeyboardInterrupt, Interrupted, interrupts.Stopped):
            raise
        except BaseException as error:  # a copy for another tool is no reason to lose a run, not even its sys.exit
            shutil.rmtree(folder / FOLDER / name, ignore_errors=True)  # it may have filled the disk
            sentence = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("tracker %s: %s", name, sentence, exc_info=True)
            sentence = f"tracker {name}: the run is not logged ({sentence}); the same command tries again"
            manifest.values["warnings"] = [w for w in manifest.values["warnings"] if w not in earlier]
            manifest.warn(sentence)
        else:
            manifest.values["warnings"] = [w for w in manifest.values["warnings"] if w not in earlier]
        interrupts.check()


def _tell(name: str, tracker: Tracker, told: Told, folder: Folder, state: str) -> None:
    mark = f"{name}.json"
    if folder.has(mark) and folder.read_json(mark).get("state") == state:
        return
    folder.forget(mark)
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with quiet():
        found = _logged(tracker, told, place)
    folder.write_json(mark, {"state": state, "id": found})
    log.info("tracker %s: %s", name, place)


def _asked_for(warning: str, names: Sequence[str]) -> bool:
    about = re.match(r"tracker (\S+): the run is not logged", warning)
    return about is None or about[1] in names


def _logged(tracker: Tracker, told: Told, place: Path) -> str | None:
    """In a thread of its own: a signal ends the wait for a tool that hangs."""
    found: list[str | None] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(tracker.log(told, place))
        except BaseException as error:  # raised below, in the thread that can answer it
            failed.append(error)

    thread = threading.Thread(target=work, name="tracker", daemon=True)
    thread.start()
    while thread.is_alive():
        interrupts.check()
        thread.join(LISTENING)
    if failed:
        raise failed[0]
    return found[0]


def _told(settings: Settings, folder: Folder, manifest: Manifest) -> Told:
    values = manifest.values
    rows = folder.read_json("metrics.json") if folder.has("metrics.json") else []
    versions = values.get("versions", {})
    return Told(
        name=str(values.get("name", folder.path.name)),
        params=params_of(settings.values, settings.choices, PRESENTATION),
        metrics=metrics_of(rows, values.get("cost", {})),
        tags={"problem": str(values.get("problem", {}).get("id", "")), "truth": str(values.get("truth", ""))}
        | {f"version {name}": str(version) for name, version in versions.items()},
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Other tools' warnings are theirs, not the run's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that tools read, inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
