"""Files of another version: refused in one sentence, and left as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from influx.cli import main
from influx.manifest import SCHEMA, _checksum, kept
from influx.store import file_hash
from tests.faults.conftest import Program

pytestmark = pytest.mark.fault(41, "refused in one sentence, left as it is")


def described_as(path: Path, **changes: Any) -> None:
    """Change a description as another version would have written it, with checksums that agree."""
    values = json.loads(path.read_text()) | changes
    if path.name == "manifest.json":
        values.pop("checksum")
        values["checksum"] = _checksum(values)
    path.write_text(json.dumps(values))
    sums = path.parent / "checksums.json"
    listed = json.loads(sums.read_text())
    if path.name in listed:
        sums.write_text(json.dumps(listed | {path.name: file_hash(path)}))


def test_what_is_written_says_its_schema(finished: Program) -> None:
    for path in (finished.run_folder / "manifest.json", finished.problem / "problem.json"):
        assert json.loads(path.read_text())["schema"] == SCHEMA


def test_a_run_of_another_schema_is_refused_and_kept(
    finished: Program, expected: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    described_as(finished.run_folder / "manifest.json", schema=SCHEMA + 1)
    code, said = finished.again()
    assert code == 2 and f"schema {SCHEMA + 1}" in said and said.count("\n") == 1
    assert finished.digests() == expected
    with pytest.raises(SystemExit) as left:
        main(["show", str(finished.run_folder)])
    assert left.value.code == 2 and "schema" in capfd.readouterr().err


def test_a_problem_of_another_schema_is_refused_and_kept(finished: Program) -> None:
    described_as(finished.problem / "problem.json", schema="old")
    before = (finished.problem / "problem.json").read_bytes()
    (finished.run_folder / "influence.npy").unlink()
    code, said = finished.again()
    assert code == 2 and "schema 'old'" in said and said.count("\n") == 1
    assert (finished.problem / "problem.json").read_bytes() == before


def test_a_manifest_of_wrong_types_with_a_right_checksum_is_set_aside(
    finished: Program, expected: dict[str, str]
) -> None:
    described_as(finished.run_folder / "manifest.json", stages=[1])
    code, said = finished.again()
    assert code == 0 and said.startswith("warning: ") and "Traceback" not in said
    assert finished.digests() == expected


@pytest.mark.parametrize(
    "changes", [{"stages": [1]}, {"stages": {"train": {"files": 3}}}, {"warnings": [[]]}, {"cost": "much"}]
)
def test_what_a_manifest_goes_on_with_has_types(changes: dict[str, Any]) -> None:
    good = {"stages": {"train": {"files": ["a"], "made_with": {}}}, "cost": {}, "warnings": ["w"]}
    assert kept(good) == good and kept(good | changes) is None


def test_a_run_from_before_schemas_had_numbers_is_read(finished: Program, expected: dict[str, str]) -> None:
    path = finished.run_folder / "manifest.json"
    values = json.loads(path.read_text())
    del values["schema"], values["checksum"]
    path.write_text(json.dumps(values | {"checksum": _checksum(values)}))
    assert finished.again() == (0, "")
    assert finished.digests() == expected
