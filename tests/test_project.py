"""The files around the code agree with the code and with each other."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import yaml

from influx.problem import Data, Outcomes, Problem, Split
from influx.run import Run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PRIVATE = re.compile(
    r"/(?:work|home|root|Users|tmp|opt)/\w"  # places on somebody's machine
    r"|(?:pypi|pythonhosted|download\.pytorch)[.]org|(?:index|find)-(?:url|links)"  # package registries
    r"|[+]cu\d{2,}"  # local builds
)


def commands(language: str = "sh") -> list[str]:
    """The fenced blocks of the README in that language."""
    return [block.strip() for block in re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)]


def project_files() -> list[Path]:
    """Files that are or would be committed."""
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", CONTRIBUTING, re.M | re.S)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The estimator of CONTRIBUTING.md, imported from a file."""
    path = tmp_path / "label_agreement.py"
    path.write_text(code_blocks("python")[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("label_agreement", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_readme_opens_with_a_run_and_a_test_command_of_one_line_each() -> None:
    run, tests = commands()[:2]
    assert "\n" not in run and run.endswith("/influx run")
    assert "\n" not in tests and tests.endswith("-m pytest -q -n 2")


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line.strip() for line in script.splitlines()].count(commands()[1]) == 1


@pytest.mark.parametrize("script", [".ci/run", "scripts/check", "scripts/wheel"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_an_unknown_check_is_refused() -> None:
    done = subprocess.run(["scripts/check", "lnit"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "lint, types, tests and wheel, got 'lnit'" in done.stderr


def test_the_licence_is_mit_and_names_the_holder() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "the influx authors" in text
    assert PROJECT["license"] == "MIT" and PROJECT["license-files"] == ["LICENSE"]


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.import_module("influx").__version__ == PROJECT["version"]


def test_the_console_script_exists() -> None:
    module, function = PROJECT["scripts"]["influx"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_constraints_pin_every_direct_dependency_to_one_released_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    wanted = {
        re.split(r"[<>=\[]", name)[0].lower()
        for name in PROJECT["dependencies"] + [one for extra in extras.values() for one in extra]
    }
    assert set(pins) == wanted - {"influx"}
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in pins.values())


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in project_files()
        if (match := PRIVATE.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


@pytest.mark.fault(37, "every configuration file is in it; scripts/wheel runs it elsewhere")
def test_the_wheel_holds_the_package_every_config_and_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    names = set(zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))).namelist())
    configs = {f"influx/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "influx").rglob("*.py")}
    assert configs | modules | {"influx/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"influx", f"influx-{PROJECT['version']}.dist-info"}


def test_the_example_estimator_computes_its_formula(example: ModuleType) -> None:
    train = Split(x=np.zeros((3, 1), np.float32), y=np.array([0, 1, 1]), ids=np.arange(3))
    test = Split(x=np.zeros((2, 1), np.float32), y=np.array([1, 0]), ids=np.arange(2))
    data = Data(name="toy", task="classification", kind="tabular", train=train, test=test, classes=("a", "b"))
    loss = np.array([1.0, 2.0, 4.0])

    class Fitted:
        def outcomes(self, split: Split) -> Outcomes:
            assert split is train
            return Outcomes(loss, np.zeros(3, np.float32), np.zeros(3, np.float32))

    nothing = cast(Any, None)
    problem = Problem(data=data, learner=nothing, seed=0, config={})
    estimator = example.LabelAgreement(contrast=0.5)
    run = Run(problem=problem, fitted=Fitted(), bank=nothing, requires=estimator.requires)
    influence = estimator.estimate(run)
    assert influence.values.tolist() == [[-0.5, 1.0], [2.0, -1.0], [4.0, -2.0]]
    assert influence.scale == estimator.scale


def test_the_example_estimator_has_the_sections_and_the_yaml_it_asks_for(example: ModuleType) -> None:
    docstring = example.LabelAgreement.__doc__
    assert all(f"\n    {section}: " in docstring for section in ("Estimates", "Needs", "Cost", "Source"))
    values = yaml.safe_load(code_blocks("yaml")[0])
    assert values.pop("_target_") == "influx.estimators.baseline.label_agreement.LabelAgreement"
    assert values == dataclasses.asdict(example.LabelAgreement())
