"""Trackers are told once, never at the cost of the run, and never a secret."""

from __future__ import annotations

import errno
import json
import signal
import threading
from collections.abc import Callable

import pytest

from influx import interrupts
from influx.config import compose
from influx.errors import ConfigError, Interrupted
from influx.trackers import tracking
from influx.trackers.told import HIDDEN, params_of
from tests.trackers.conftest import NUMBERS, ROWS, SECRET, Fake, Finished

Make = Callable[..., Finished]


def test_a_run_is_told_once_and_again_when_its_results_changed(finished: Make, fake: Fake) -> None:
    run = finished("mine")
    run.track()
    run.track()
    assert len(fake.told) == 1
    assert json.loads((run.folder / "trackers/mine.json").read_text())["id"] == "number"
    run.folder.write_json("metrics.json", ROWS[:1])
    run.track()
    assert len(fake.told) == 2 and "random/spearman" not in fake.told[1].metrics


def test_numbers_are_told_as_they_are_and_missing_ones_not_at_all(finished: Make, fake: Fake) -> None:
    finished("mine").track()
    [told] = fake.told
    assert dict(told.metrics) == NUMBERS
    assert told.params["dataset"] == "npz" and told.params["dataset.n_train"] == 40 and told.params["seed"] == 3
    assert told.params["model.width"] == "[8, 4]" and told.tags["problem"] == "abc"


@pytest.mark.fault(39, "a warning in the manifest; the run is done, the same command tells it again")
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("two\nlines"), SystemExit("died")]
)
def test_a_failure_is_a_warning_until_the_next_command_succeeds(
    finished: Make, fake: Fake, error: BaseException
) -> None:
    run, fake.raises = finished("mine"), error
    run.track()
    other, said = run.warnings
    assert other == "something else" and "\n" not in said
    assert said.startswith("tracker mine: the run is not logged") and str(error).split()[-1] in said
    assert run.manifest.status == "done" and not (run.folder / "trackers/mine.json").exists()
    fake.raises = None
    run.track()  # the fake looks into its folder: nothing of the first attempt is there
    assert run.warnings == ["something else"] and len(fake.told) == 1


@pytest.mark.fault(39, "a warning in the manifest; the run is done, others are told")
def test_one_tracker_fails_alone(finished: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = Fake(RuntimeError("no")), Fake()
    monkeypatch.setattr(tracking, "trackers_of", lambda settings: {"bad": bad, "good": good})
    run = finished("bad", "good")
    run.track()
    assert len(good.told) == 1 and [w[:11] for w in run.warnings[1:]] == ["tracker bad"]


def test_a_stop_is_no_failure_of_the_tracker(finished: Make, fake: Fake) -> None:
    run, fake.raises = finished("mine"), KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run.track()
    assert run.warnings == ["something else"] and not (run.folder / "trackers/mine.json").exists()


def test_another_setting_of_the_tracker_tells_again(finished: Make, fake: Fake) -> None:
    run = finished("mine")
    run.track()
    fake.project = "two"
    run.track()
    assert len(fake.told) == 2


def test_a_warning_of_a_tracker_goes_when_it_is_no_longer_asked_for(finished: Make, fake: Fake) -> None:
    run, fake.raises = finished("mine"), ValueError("no")
    run.track()
    assert len(run.warnings) == 2
    run.settings.values["trackers"] = []
    run.track()
    assert run.warnings == ["something else"]


@pytest.mark.fault(39, "a signal ends the wait for a tool that hangs; the run is done")
def test_a_tracker_that_hangs_can_be_stopped(finished: Make, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    run, fake.waits = finished("mine"), threading.Event()
    threading.Timer(0.1, lambda: monkeypatch.setattr(interrupts, "_received", signal.SIGTERM)).start()
    with pytest.raises(Interrupted):
        run.track()
    assert run.manifest.status == "done" and fake.told == []
    fake.waits.set()


def test_secrets_are_told_to_nobody(finished: Make, fake: Fake) -> None:
    finished("mine").track()
    assert SECRET not in str(fake.told) and not {"executor", "executor.setup", "trackers"} & fake.told[0].params.keys()
    assert fake.told[0].params["dataset.path"] == f"https://{HIDDEN}@host/a"
    plain = {"model": {"tokenizer": "a", "api_key": "b", "author": "c", "hub": {"token": "d"}, "hfToken": "e"}}
    plain |= {"headers": {"Authorization": "f"}, "private_key": "g", "pwd": "h", "users": [{"password": "i"}], "key": 1}
    shown = {name: value for name, value in params_of(plain, {}, ()).items() if value != HIDDEN}
    assert shown == {"model.tokenizer": "a", "model.author": "c", "key": 1}
    addresses = {"a": "postgresql://me:p/s@host/db", "b": "https://host/x?token=s&X-Amz-Signature=t"}
    assert params_of(addresses, {}, ()) == {"a": f"postgresql://{HIDDEN}@host/db", "b": f"https://host/x?{HIDDEN}"}


@pytest.mark.fault(39, "unknown: one sentence")
def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"trackers=tensorbord does not exist \(did you mean 'tensorboard'"):
        tracking.trackers_of(compose(["trackers=[tensorbord]"]))
