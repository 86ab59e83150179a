"""A ``_target_`` that cannot serve is refused in one sentence that names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from influx.config import GROUPS
from influx.errors import ConfigError
from influx.instantiate import OPTIONAL, build

MODULE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Half:
    requires = frozenset()
    sigma: float

@dataclass(frozen=True)
class Whole:
    sigma: float
    requires = frozenset()
    def estimate(self, run): ...

@dataclass(frozen=True)
class Odd:
    requires = frozenset()
    sigma: Nowhere = 1.0
    def estimate(self, run): ...
"""


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refusal(target: str | None, path: str = "estimator", *trust: str) -> str:
    with pytest.raises(ConfigError) as refused:
        build({"_target_": target}, path, list(trust))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("group", [*sorted({*GROUPS} - {*OPTIONAL, "paths"}), "baselines.x", "metric.x"])
def test_null_is_refused_where_something_is_needed(group: str) -> None:
    assert f"{group}._target_ must name a class, got null" in refusal(None, group)


@pytest.mark.parametrize("group", OPTIONAL)
def test_null_stands_for_nothing_where_that_is_a_choice(group: str) -> None:
    assert build({"_target_": None}, group, []) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines; correct the module"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import absent_dependency_x", "No module named 'absent_dependency_x'; install what it needs"),
    ],
)
def test_a_module_that_raises_is_named_with_its_error(code: str, words: str, trusted: Path) -> None:
    name = f"raising_{abs(hash(code))}"
    (trusted / f"{name}.py").write_text(code)
    said = refusal(f"{name}.Mine", "estimator", name)
    assert f"module {name} raises" in said and words in said


def test_a_module_that_is_not_found_says_how_to_provide_it() -> None:
    assert "install the package or put its folder on PYTHONPATH" in refusal("absent_x.Mine", "estimator", "absent_x")
    assert "has no attribute 'Tracin'" in refusal("influx.needs.Tracin")


def test_a_class_of_another_kind_is_refused(trusted: Path) -> None:
    (trusted / "kinds_mine.py").write_text(MODULE)
    assert "lacks estimate" in refusal("kinds_mine.Half", "estimator", "kinds_mine")
    assert "lacks estimate" in refusal("kinds_mine.Half", "baselines.x", "kinds_mine")
    assert "lacks evaluate" in refusal("kinds_mine.Whole", "metric.x", "kinds_mine")
    assert "lacks load" in refusal("influx.models.mlp.MLP", "dataset")


def test_a_class_that_cannot_be_made_from_settings_is_refused(trusted: Path) -> None:
    (trusted / "made_mine.py").write_text(MODULE)
    assert "estimator.sigma must be given" in refusal("made_mine.Whole", "estimator", "made_mine")
    assert "NameError" in refusal("made_mine.Odd", "estimator", "made_mine")
