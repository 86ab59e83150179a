"""Exit codes, the style of errors, list and show."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from influx import catalogue
from influx.config import choices_of
from tests.cli.conftest import TINY, Holder, Influx

COLUMNS = {"name", "summary", *catalogue.CARD, "scale", "needs"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_ends_well(influx: Influx, arguments: list[str]) -> None:
    from influx.cli import COMMANDS

    done = influx(*arguments)
    assert done.code == 0 and done.err == ""
    assert all(re.search(rf"^  {name} ", done.out, re.M) for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "rnu is not a command (did you mean 'run'?)"),
        (["run", "--nope"], "--nope is not an option of influx run"),
        (["plan", "-m"], "-m is not an option of influx plan"),
        (["run", "estimator=tracin_cp"], "(did you mean 'tracincp'?)"),
        (["run", "training.epoch=3"], "training.epoch is not a setting (did you mean 'epochs'?)"),
        (["plan", "training.epochs=many"], "training.epochs must be a whole number"),
        (["run", "datset=iris"], "datset is not a setting (did you mean 'dataset'?)"),
        (["run", "training.epochs=0"], "training.epochs must be at least 1"),
        (["run", "--config-dir", "nowhere"], "--config-dir must name a folder"),
        (["run", "--config-dir"], "--config-dir must name a folder, got nothing"),
        (["run", "--cfg", "foo"], "--cfg takes job, hydra, all, got 'foo'"),
        (["run", "--cfg"], "--cfg takes job, hydra, all, got nothing"),
        (["run", "--cfg", "job", "-p", "seed=1"], "--package must be followed by its value"),
        (["run", "--cfg", "job", "-p", "nope"], "package 'nope' not found"),
        (["run", "-p", "model"], "--package goes with --cfg"),
        (["run", "--cfg", "job", "seed=1,2"], "seed must have one value, got 1,2; write influx run -m seed=1,2"),
        (["run", "--cfg", "job", "+experiment=mislabeled_digits"], "write experiment=… without +"),
        (["run", "-m", "--cfg", "job", "seed=1,2"], "--multirun and --cfg were both given"),
        (["run", "--experimental-rerun", "nowhere"], "--experimental-rerun reads a pickled job"),
        (["run", "hydra/job_logging=nope"], "hydra/job_logging=nope does not exist; see influx run --info plugins"),
        (["list", "estimator"], "(did you mean 'estimators'?)"),
        (["-sc"], "-sc takes install=bash"),
        (["list"], "the following arguments are required: kind"),
        (["show", "nowhere"], "nowhere"),
        (["show", ".", "--top", "0"], "--top must be at least 1"),
        (["verify", "tracin_cp"], "(did you mean 'tracincp'?)"),
        (["status", "nowhere"], "status takes a folder, nowhere is none"),
        (["clean", "nowhere"], "clean takes an outputs folder"),
        (["clean", ".", "--older-than", "soon"], "argument --older-than: invalid float value"),
    ],
)
def test_bad_usage_is_one_line_with_a_remedy_and_exit_2(influx: Influx, arguments: list[str], said: str) -> None:
    done = influx(*arguments)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("error: ") and said in done.err
    assert done.err.count("\n") == 1 and "Traceback" not in done.err


def test_the_traceback_is_shown_on_request(influx: Influx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLUX_DEBUG", "1")
    done = influx("status", "nowhere")
    assert done.code == 2 and done.err.startswith("Traceback") and "\nerror: status takes" in done.err


def test_an_internal_error_ends_with_1_and_says_how_to_see_more(
    influx: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("influx.cli").cli.COMMANDS, "list", lambda arguments: 1 // 0)
    done = influx("list")
    assert done.code == 1 and done.err.startswith("error: internal error: ZeroDivisionError")
    assert "INFLUX_DEBUG=1" in done.err and "Traceback" not in done.err


def test_a_run_that_another_process_holds_ends_with_75(influx: Influx, tmp_path: Path, hold: Holder) -> None:
    with hold(tmp_path / "outputs" / "runs" / "tiny"):
        done = influx("run", *TINY, "name=tiny", "on_busy=exit")
    assert done.code == 75 and "in use by another process" in done.err


@pytest.mark.parametrize("kind", list(catalogue.KINDS))
def test_list_as_json_has_one_row_per_choice(influx: Influx, kind: str) -> None:
    rows = json.loads(influx("list", kind, "--json").out)
    assert [row["name"] for row in rows] == choices_of(catalogue.KINDS[kind])
    assert all(row["summary"] for row in rows)


def test_every_estimator_has_all_columns(influx: Influx) -> None:
    for row in json.loads(influx("list", "estimators", "--json").out):
        assert set(row) == COLUMNS
        assert all(row[column] for column in COLUMNS - {"needs"}) and isinstance(row["needs"], list)


def test_list_prints_every_name(influx: Influx) -> None:
    done = influx("list", "datasets")
    assert done.code == 0 and all(name in done.out for name in choices_of("dataset"))


def test_show_prints_the_verdict_of_a_finished_run(influx: Influx, outputs: Path) -> None:
    done = influx("show", outputs / "runs" / "tiny")
    assert done.code == 0 and "tiny  (done)" in done.out
    assert "tracincp" in done.out and "random" in done.out and "positive influence" in done.out


def test_show_lists_as_many_neighbours_as_asked(influx: Influx, outputs: Path) -> None:
    import pandas as pd

    ranking = pd.read_parquet(outputs / "runs" / "tiny" / "ranking.parquet")
    test_id = int(ranking["test_id"].iloc[0])
    done = influx("show", outputs / "runs" / "tiny", "--test", test_id, "--top", 2)
    best = ranking[(ranking["test_id"] == test_id) & (ranking["role"] == "proponent")]["train_id"].iloc[:2]
    shown = re.findall(r"^proponent\s+\d+\s+(\d+)", done.out, re.M)
    assert [int(one) for one in shown] == best.tolist()
    assert len(re.findall(r"^opponent", done.out, re.M)) == 2


def test_the_same_command_again_answers_at_once(influx: Influx, own: Path) -> None:
    before = (own / "runs" / "tiny" / "manifest.json").read_bytes()
    done = influx("run", *TINY, f"paths.outputs={own}", "name=tiny", "quiet=true")
    assert done.code == 0 and done.out == ""
    assert (own / "runs" / "tiny" / "manifest.json").read_bytes() == before


def test_options_may_stand_between_overrides(influx: Influx) -> None:
    done = influx("run", "dataset=iris", "--cfg", "job", "seed=3", "-p", "optimizer")
    assert done.code == 0 and "momentum:" in done.out and "dataset" not in done.out


def test_the_summary_of_a_run_prints_paths_as_they_are(
    influx: Influx, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from influx.commands.run import show

    folder = tmp_path / "a [bold]b" / "[" / "x]"
    shutil.copytree(outputs, folder)
    capsys.readouterr()
    show(folder / "runs" / "tiny")
    out = capsys.readouterr().out
    assert f"report: {folder}/runs/tiny/report.html" in out and f"influx show '{folder}/runs/tiny' --test" in out
