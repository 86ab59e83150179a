"""A finished run to attack, and bombs: things that leave a mark when they are executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from influx.cli import main
from tests.faults.conftest import expected, finished, finished_once, fresh, noted

__all__ = ["expected", "finished", "finished_once", "fresh"]
SMALL = (
    *("dataset=iris", "dataset.n_train=30", "dataset.n_test=15", "model.width=4", "training.epochs=2"),
    *("truth=none", "metric=[]", "baselines=[]", "quiet=true"),
)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@dataclass(frozen=True)
class Command:
    """Commands in this process, and the mark that no attack may leave."""

    mark: Path
    outputs: Path
    capfd: pytest.CaptureFixture[str]
    record: Callable[[str, object], None]  # for the table of faults

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was said."""
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        said = "".join(self.capfd.readouterr())
        assert isinstance(left.value.code, int)
        self.record("said", noted(left.value.code, said, self.outputs.parent))
        assert not self.mark.exists(), "the attack went through"
        return left.value.code, said

    def run(self, *overrides: str) -> tuple[int, str]:
        """A small run."""
        replaced = {o.partition("=")[0] for o in overrides}
        if "model" in replaced:
            replaced.add("model.width")
        kept = [o for o in SMALL if o.partition("=")[0] not in replaced]
        return self("run", *kept, *overrides, f"paths.outputs={self.outputs}")

    def refused(self, *overrides: str) -> str:
        """The one line with which a small run is refused."""
        code, said = self.run(*overrides)
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, (code, said)
        return said


@pytest.fixture
def influx(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> Command:
    """See ``Command``; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # restored afterwards: multirun sets it
    return Command(tmp_path / "mark", tmp_path / "out", capfd, record_property)


def bomb(mark: Path) -> bytes:
    """A pickle that makes a folder."""
    return pickle.dumps(Bomb(mark))
