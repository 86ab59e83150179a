"""What advise says of an estimator is what plan, finished runs and the documentation say of it."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from influx.commands import advise
from influx.commands.advice import VARIANTS, Adviser, overrides_of
from influx.commands.advice_figures import TABLES, Goal, Regime, figure
from influx.commands.advice_past import measurements
from influx.commands.advice_rules import RULES
from influx.commands.plan import described_machine, foresee
from influx.config import choices_of, compose, load_choice
from influx.errors import UserError
from influx.job import assemble
from tests.cli.conftest import ROOT, TINY, Influx

PROBLEM = TINY[:5]
MACHINE = described_machine("h100", None, None)  # its times are computed: equal to the last digit


def adviser(*overrides: str, goal: Goal = "loo", budget: float = 600, memory_mb: float = 1e6) -> Adviser:
    settings = compose([*PROBLEM, "paths.outputs=absent", *overrides])
    return Adviser(settings=settings, goal=goal, budget=budget, memory_mb=memory_mb, machine=MACHINE)


@pytest.fixture(scope="module")
def tiny() -> Adviser:
    return adviser()


def finished(outputs: Path, name: str, asked: Adviser, value: float, estimator: str = "gas", **changes: Any) -> None:
    """What a finished run leaves, as far as advice reads it."""
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    manifest = {
        "status": "done",
        "stages": {},
        "problem": {"id": asked.job.problem.id},
        "choices": dict(asked.settings.choices),
        "estimator": estimator,
        "truth": "loo",
        "cost": {estimator: {"seconds": 2.5, "trainings": 0, "trained_now": 0}},
    }
    settings = load_choice("estimator", estimator) | changes.pop("settings", {})
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    config = json.loads(json.dumps(dict(asked.settings.values))) | {"estimator": settings} | changes.pop("config", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "metrics.csv").open("w", newline="") as lines:
        table = csv.DictWriter(lines, ["estimator", "metric", "value", "status"])
        table.writeheader()
        for metric, number, status in (("spearman", value, "ok"), ("lds", 0, "degenerate")):
            table.writerow({"estimator": estimator, "metric": metric, "value": number, "status": status})


@pytest.mark.parametrize("name", ["if_exact", "downsampling", "tracincp", "hydra:removal"])
def test_cost_is_that_of_plan(tiny: Adviser, name: str) -> None:
    overrides = [*PROBLEM, "paths.outputs=absent", "truth=none", *overrides_of(name)]
    rows = {row["stage"]: row for row in foresee(overrides, None, "h100")["stages"]}
    found = tiny.advice(name)
    assert found.seconds == pytest.approx(rows["train"]["seconds"] + rows["estimate"]["seconds"], rel=1e-9)
    counted = re.match(r"([\d,]+) of [\d,]+ trainings", rows["estimate"]["work"])
    assert found.trainings == (int(counted[1].replace(",", "")) if counted else 0)
    assert found.verdict == "fits"


@pytest.mark.slow
def test_what_cannot_serve_is_what_a_run_refuses(tiny: Adviser) -> None:
    for name in choices_of("estimator")[::5]:
        try:
            assemble(compose([*PROBLEM, "truth=none", "metric=[]", "baselines=[]", f"estimator={name}"]))
            refused = ""
        except UserError as error:
            refused = str(error)
        found = tiny.advice(name)
        assert (found.verdict == "cannot serve") == bool(refused), name
        assert not refused or refused.startswith(found.why)


@pytest.mark.parametrize(("limits", "says"), [({"budget": 1e-9}, "the budget is"), ({"memory_mb": 1}, "GB, there are")])
def test_what_is_beyond_the_limits_is_too_dear(limits: dict[str, float], says: str) -> None:
    found = adviser(**limits).advice("tracincp")  # type: ignore[arg-type]
    assert found.verdict == "too dear" and says in found.why


def test_fitting_ones_come_first_then_by_what_is_expected_then_by_time(tiny: Adviser) -> None:
    names = ["trex", "random", "gas", "loo", "hydra", "magic", "hydra:removal"]
    found = sorted((tiny.advice(name) for name in names), key=lambda advice: advice.order)
    assert [advice.name for advice in found][:2] == ["loo", "hydra:removal"]
    assert [advice.name for advice in found][-3:] == ["gas", "random", "trex"]
    assert found[2].expected == found[3].expected and found[2].seconds <= found[3].seconds


def test_what_runs_measured_stands_before_the_documentation(tmp_path: Path, tiny: Adviser) -> None:
    asked = adviser(f"paths.outputs={tmp_path}")
    assert tiny.advice("gas").basis == "docs"
    finished(tmp_path, "of_kind", asked, 0.5, problem={"id": "another"})
    other = {"problem": {"id": "another"}, "config": {"optimizer": {"lr": 3.0}}}
    finished(tmp_path, "of_another_kind", asked, 0.9, **other)
    joint = dict(asked.settings.choices) | {"perspective": "joint"}
    finished(tmp_path, "of_another_perspective", asked, 0.9, choices=joint)
    found = adviser(f"paths.outputs={tmp_path}").advice("gas")
    assert (found.expected, found.basis) == (0.5, "1 run of its kind") and math.isnan(found.measured_seconds)
    finished(tmp_path, "low", asked, 0.1)
    finished(tmp_path, "high", asked, 0.2)
    finished(tmp_path, "failed", asked, 0.9, status="failed")
    finished(tmp_path, "of_another_truth", asked, 0.9, truth="pbrf")
    finished(tmp_path, "with_other_settings", asked, 0.9, settings={"weight": "calibrated"})
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "manifest.json").write_text("{")
    found = adviser(f"paths.outputs={tmp_path}").advice("gas")
    assert found.expected == pytest.approx(0.15) and found.basis == "2 runs of this problem"
    assert found.measured_seconds == 2.5 and found.sources[:2] == ("runs/high", "runs/low")


def test_settings_that_belong_to_a_figure_are_advised_unless_runs_know_better(tmp_path: Path, tiny: Adviser) -> None:
    found = tiny.advice("if_ekfac")
    assert found.overrides == ("estimator=if_ekfac", "estimator.damping=0.01") and found.settings["damping"] == 0.01
    assert found.expected == 0.67
    finished(tmp_path, "plain", tiny, 0.5, estimator="if_ekfac")
    known = adviser(f"paths.outputs={tmp_path}").advice("if_ekfac")
    assert known.overrides == ("estimator=if_ekfac",) and known.expected == 0.5


def test_trees_borrow_no_figure_of_nets_and_closed_forms_come_first() -> None:
    assert adviser("model=hist_gradient_boosting").advice("banzhaf").basis == "rules"
    assert adviser("model=hist_gradient_boosting", goal="mislabel").advice("banzhaf").basis.startswith("docs")
    solved = adviser("dataset=diabetes", "model=ridge")
    assert solved.advice("cooks_distance").expected > solved.advice("tmc_shapley").expected
    assert adviser(goal="topk").advice("gas").basis == "docs, rank correlation"


def test_a_number_that_is_none_is_not_taken_for_one(tmp_path: Path, tiny: Adviser) -> None:
    finished(tmp_path, "one", tiny, 0.4)
    [row] = measurements(tmp_path, tiny.job.problem.id, tiny.settings.values, "lds")
    assert math.isnan(row.value) and row.seconds == 2.5
    finished(tmp_path, "two", tiny, 0.4, cost={"gas": {"seconds": 0.1, "trainings": 9, "trained_now": 0}})
    rows = measurements(tmp_path, tiny.job.problem.id, tiny.settings.values, "loo")
    assert [math.isnan(row.seconds) for row in rows] == [False, True]  # the second read what others had trained


@pytest.mark.parametrize(
    ("overrides", "regime", "unlike", "convex"),
    [
        ([], "calm", "", False),
        (["optimizer.momentum=0.9", "optimizer.lr=0.05"], "momentum", "momentum 0.9", False),
        (["optimizer.momentum=0.9"], "hot", "momentum 0.9", False),
        (["optimizer=adam"], "momentum", "Adam", False),
        (["model.activation=relu", "training.clip_norm=1"], "kinked", "gradient clipping", False),
        (["model=linear"], "calm", "", True),
        (["model=logistic"], "minimum", "", True),
        (["model=hist_gradient_boosting"], "trees", "", False),
    ],
)
def test_the_nearest_training_is_recognised(overrides: list[str], regime: str, unlike: str, convex: bool) -> None:
    facts = adviser(*overrides).facts
    assert (facts.regime, facts.unlike_sgd, facts.convex) == (regime, unlike, convex)


def test_assumptions_that_do_not_hold_are_said_with_their_source() -> None:
    asked = adviser("optimizer.momentum=0.9", "optimizer.lr=0.05")
    found = asked.advice("tracincp")
    assert found.why == "takes the steps for plain SGD, they have momentum 0.9"
    assert "Pruthi et al. 2020; docs/leave_one_out.md" in found.sources
    assert asked.advice("magic").expected > 0.9 > found.expected
    kinked = adviser("model.activation=relu").advice("magic")
    assert "kinks" in kinked.why and kinked.expected < 0.5
    assert all(rule.source and rule.says and not rule.says.endswith(".") for rule in RULES)


def page(name: str, start: str = "", stop: str = "") -> list[list[str]]:
    """All rows of the tables on a page, or between two headings."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    text = text[text.index(start) : text.index(stop) if stop else len(text)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_figures_of_paths_are_those_of_the_page() -> None:
    rows = {row[0]: row[1:] for row in page("leave_one_out.md") if len(row) == 5 and row[1].count("·") == 3}
    regimes: tuple[Regime, ...] = ("calm", "momentum", "hot", "kinked")
    names = {"hydra (loo moved)": "hydra:removal", "sgd_influence (last epoch)": "sgd_influence:last"}
    assert len(rows) > 10
    for name, cells in rows.items():
        for regime, cell in zip(regimes, cells, strict=True):
            _, spearman, _, lds = (float(number) for number in cell.split("·"))
            documented: dict[Goal, float] = {"loo": spearman, "lds": lds}
            for goal, value in documented.items():
                found = figure(names.get(name, name), goal, regime, False)
                assert found is not None and found.value == value, (name, regime, goal)


def test_figures_of_subsets_are_those_of_the_page() -> None:
    rows = {row[0].strip("`"): row for row in page("subsets.md") if len(row) == 8 and row[0].startswith("`")}
    assert len(rows) > 10
    for name, row in rows.items():
        columns: dict[Goal, list[str]] = {"mislabel": row[1:3], "loo": row[3:4], "lds": row[4:5]}
        for goal, cells in columns.items():
            if name == "loo" and goal == "loo":
                continue  # its own truth
            value = max(float(cell.split()[0]) for cell in cells if cell != "-")
            found = figure(name, goal, "calm", False)
            assert found is not None and found.value == value, (name, goal)


def test_figures_of_influence_functions_are_those_of_the_page() -> None:
    name, before, flipped = "influence_functions.md", "## Before the minimum", "## Flipped labels"
    asked: list[tuple[list[list[str]], Regime, dict[Goal, int]]] = [
        (page(name, "## At a minimum", before), "minimum", {"loo": 2}),
        (page(name, before, flipped), "calm", {"loo": 2, "lds": 3, "pbrf": 5}),
    ]
    others = {"if_exact", "tracincp"}  # leave_one_out.md has them with the default damping and all instances
    for rows, regime, columns in asked:
        assert len(rows) > 8
        for row in rows[2:]:
            for estimator in re.findall(r"`(\w+)`", row[0]):
                for goal, column in columns.items():
                    found = figure(estimator, goal, regime, False)
                    if found is None or found.page == f"docs/{name}":
                        assert found is not None and found.value == float(row[column].split()[0]), (estimator, goal)
                    else:
                        assert estimator in others


def test_figures_of_trees_are_those_of_the_page() -> None:
    rows = [row for row in page("trees.md", "## All estimators") if row[:2] == ["digits", "lightgbm"]]
    found = {row[2]: row for row in rows if "," not in row[2]}
    assert len(found) == 5
    for name, row in found.items():
        columns: dict[Goal, str] = {"loo": row[3], "lds": row[5], "mislabel": row[6]}
        for goal, cell in columns.items():
            documented = figure(name, goal, "trees", False)
            assert (documented.value if documented else None) == (float(cell.split()[0]) if cell else None)


def test_every_figure_is_of_an_estimator_that_exists() -> None:
    known = {*choices_of("estimator"), *VARIANTS}
    for *_, names, values in TABLES:
        assert set(names.split()) <= known and len(names.split()) == len(values.split())
    for name, settings in VARIANTS.items():
        assert settings.keys() <= load_choice("estimator", name.partition(":")[0]).keys()


SOME = ["banzhaf", "gas", "hydra", "loo", "sgd_influence", "tmc_shapley", "trex"]


@pytest.mark.parametrize("names", [SOME, pytest.param(choices_of("estimator"), marks=pytest.mark.slow)], ids=len)
def test_json_holds_every_estimator_and_commands_that_run_takes(
    influx: Influx, tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("influx.commands.advice.choices_of", lambda group, folder: names)
    done = influx("advise", "--json", "--machine", "h100", "budget=1h", "goal=lds", *PROBLEM)
    said = json.loads(done.out, parse_constant=lambda name: pytest.fail(name))
    assert done.code == 0 and list(tmp_path.iterdir()) == []
    assert {row["estimator"] for row in said["estimators"]} == {*names, *VARIANTS}
    assert said["budget_seconds"] == 3600 and said["estimators"][0]["verdict"] == "fits"
    command = shlex.split(said["recommended"][0]["command"])
    assert command[:2] == ["influx", "run"] and command[2 : 2 + len(PROBLEM)] == list(PROBLEM)
    assert compose(command[2:]).choices["estimator"] == said["estimators"][0]["overrides"][0].removeprefix("estimator=")


def test_a_command_without_ground_truth_has_no_words_for_it(influx: Influx) -> None:
    judged = ["truth=loo", "truth.seeds=2", "metric=[lds]", "metric.lds.subsets=2000"]
    done = influx("advise", "--json", "--machine", "h100", "budget=1ms", *PROBLEM)
    assert done.code == 2
    done = influx("advise", "--json", "--machine", "h100", "budget=0.02s", *PROBLEM, *judged)
    for told in json.loads(done.out)["recommended"]:
        assert "to be mended" not in told["why"]
        compose(shlex.split(told["command"])[2:])


def test_the_screen_has_three_tables_and_a_command(
    influx: Influx, tiny: Adviser, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [tiny.advice(name) for name in ("loo", "trex", "gas")] + [adviser(budget=1e-9).advice("magic")]
    advise._show(found, tiny, [("influx run 'metric=[]'", "why")])
    shown = capsys.readouterr().out
    assert all(head in shown for head in ("fits (2)", "too dear (1)", "cannot serve (1)", "influx run 'metric=[]'"))
    advise._show(found[1:2], tiny, [])
    assert "nothing fits: raise budget=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["goal=lod"], "goal must be one of loo, lds, mislabel, topk, pbrf, got 'lod' (did you mean 'loo'?)"),
        (["budget=soon"], "budget must be a time such as 90s, 10m or 2h, got 'soon'"),
        (["budget=0"], "budget must be a time"),
        (["budget=" + "9" * 400], "budget is beyond all numbers"),
        (["memory=" + "9" * 400 + "G"], "memory is beyond all numbers"),
        (["memory=8"], "memory must be a size such as 500M or 8G, got '8'"),
        (["estimator=gas"], "which estimator to choose, estimator=gas was given; leave it out"),
        (["estimator.k=3"], "estimator.k=3 was given"),
        (["experiment=predicted_removal"], "experiment=predicted_removal sets some of an estimator of its own"),
        (["dataset=digit"], "did you mean 'digits'"),
        (["--nothing"], "--nothing is not an option of influx advise"),
        (["--machine", "abacus"], "abacus does not exist"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(influx: Influx, arguments: list[str], says: str) -> None:
    done = influx("advise", *arguments)
    assert done.code == 2 and says in done.err and len(done.err.splitlines()) == 1 and done.out == ""


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2.5h", 9000), ("7", 7)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert advise._seconds(text) == seconds
