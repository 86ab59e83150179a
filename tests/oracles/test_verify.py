"""``influx verify``: every estimator holds against its oracle, and a wrong one does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from influx.config import choices_of
from influx.errors import ConfigError
from influx.influence import Influence
from influx.oracles import trajectory
from influx.oracles.comparison import compare
from influx.oracles.toys import estimator_named
from influx.run import Run
from influx.verification import Check, oracle_of, verify

NAMES = choices_of("estimator")
SHIFT = {"random": 0.5}  # its oracle is statistical: a shift of half a standard deviation


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_holds_against_its_oracle(name: str) -> None:
    checks = verify(name)
    assert checks and {check.name for check in checks} == {name}
    assert [check for check in checks if not check.passed] == []
    assert len({check.oracle for check in checks}) == len(checks)


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_notices_a_shift(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cls = type(estimator_named(name))
    right = cls.estimate

    def wrong(self: object, run: Run) -> Influence:
        influence = right(self, run)  # type: ignore[arg-type]
        return replace(influence, values=influence.values + SHIFT.get(name, 1e-6 * np.nanmax(abs(influence.values))))

    monkeypatch.setattr(cls, "estimate", wrong)
    oracle = oracle_of(name)
    assert oracle is not None
    assert any(found.error > found.bound for found in oracle(tmp_path))


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"estimator=tracin_cp does not exist \(did you mean 'tracincp'\?\)"):
        verify("random", "tracin_cp")


def test_names_are_checked_once_and_in_order() -> None:
    assert list(dict.fromkeys(check.name for check in verify("random", "loss", "random"))) == ["random", "loss"]


def test_an_estimator_without_an_oracle_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(trajectory.ORACLES, "gas")
    (check,) = verify("gas")
    assert (check.oracle, check.error, check.passed) == ("no oracle", math.inf, False)


def test_nan_and_wrong_shapes_do_not_pass() -> None:
    assert not Check(name="a", oracle="b", error=math.nan, bound=1.0).passed
    assert compare("c", [1.0, 2.0], [1.0], 1.0).error == math.inf
    assert math.isnan(compare("d", [math.nan], [1.0], 1.0).error)


def test_errors_are_relative_to_the_largest_value_and_absolute_for_zeros() -> None:
    assert compare("a", [10.0, 1.0], [8.0, 1.0], 1.0).error == 0.25
    assert compare("a", [0.5], [0.0], 1.0).error == 0.5
