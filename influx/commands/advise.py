"""``influx advise``: which estimators fit a problem and a budget, and why. Runs nothing, writes nothing."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from influx.commands.advice_figures import REGIMES, Goal
from influx.commands.plan import described_machine
from influx.commands.run import parse
from influx.config import compose, load_choice
from influx.errors import ConfigError, UserError, did_you_mean

if TYPE_CHECKING:
    from influx.commands.advice import Advice, Adviser

HELP = """\
usage: influx advise [--json] [--config-dir FOLDER] [--machine NAME] [budget=10m] [goal=loo] [memory=8G] [overrides]

budget=TIME     for training and estimate: 90s, 10m, 2h, 1d (10m)
goal=GOAL       what the answer is for (loo):
                  loo       the effect of leaving single instances out
                  lds       the effect of leaving many out together (linear datamodeling score)
                  topk      the most helpful instances of a prediction
                  mislabel  instances with wrong labels
                  pbrf      the proximal Bregman response, which damped influence functions mean
memory=SIZE     that an estimate may hold: 500M, 8G (what there is)
--machine NAME  times of the machine that conf/machine/NAME.yaml describes instead of this one

overrides describe the problem, as for influx run: dataset=…, model=…, optimizer=…; estimator= is what is advised."""
MEASURES: dict[Goal, str] = {
    "loo": "rank correlation with leave-one-out",
    "lds": "linear datamodeling score",
    "topk": "share of the ten most helpful",
    "mislabel": "AUROC of finding wrong labels",
    "pbrf": "rank correlation with the proximal response",
}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"M": 1.0, "G": 1e3, "T": 1e6}
GOALS: tuple[Goal, ...] = get_args(Goal)
FITTING, WIDE = ("estimator", "expected", "from", "seconds"), 100  # columns of the table, and of the screen for more
CHEAPER = 0.1  # share of the time of the first recommendation that a second one may take


def advise(arguments: list[str]) -> int:
    """Print tables of what fits, what does not and why, or JSON; the exit code.

    Raises:
        UserError: the problem is one that ``influx run`` would refuse with any estimator, or an argument is wrong.
    """
    if "-h" in arguments or "--help" in arguments:
        print(HELP)
        return 0
    as_json = "--json" in arguments
    line = parse([a for a in arguments if a != "--json"], "influx advise", ("--config-dir", "--machine"))
    overrides = list(line.overrides)
    goal = _goal(_taken(overrides, "goal") or "loo")
    budget, memory = _seconds(_taken(overrides, "budget") or "10m"), _taken(overrides, "memory")
    chosen = next((o for o in overrides if re.match(r"[+~]*estimator\b", o)), None)
    if chosen is not None:
        raise ConfigError(f"influx advise says which estimator to choose, {chosen} was given; leave it out")
    settings = compose(overrides, line.config_dir)
    _refuse_own(overrides, line.config_dir)
    machine = line.options.get("--machine")
    from influx.commands.advice import Adviser, memory_here
    from influx.pipeline import threads

    there = None if machine is None else described_machine(machine, None, line.config_dir)
    holds = 1000 * there.memory_gb if there is not None else memory_here()
    with threads(settings["threads"]):
        adviser = Adviser(
            settings=settings,
            goal=goal,
            budget=budget,
            memory_mb=holds if memory is None else _megabytes(memory),
            machine=there,
        )
        found = adviser.all()
        commands = _commands(found, adviser, overrides, line.config_dir)
    if as_json:
        print(json.dumps(_plain(found, adviser, commands), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(found, adviser, commands)
    return 0


def _refuse_own(overrides: list[str], config_dir: Path | None) -> None:
    """Settings of an experiment may belong to an estimator of its own, and would be another's."""
    with_other = compose([*overrides, "estimator=random"], config_dir)["estimator"]
    if with_other != load_choice("estimator", "random", config_dir):
        own = next((o for o in overrides if o.lstrip("+").startswith("experiment=")), " ".join(overrides))
        raise ConfigError(
            f"influx advise says which estimator to choose, {own} sets some of an estimator of its own; leave it out"
        )


def _taken(overrides: list[str], name: str) -> str | None:
    """The value of ``name=value``, which is taken out: it is no setting of a run."""
    for place, override in enumerate(overrides):
        if override.startswith(f"{name}="):
            return overrides.pop(place).partition("=")[2]
    return None


def _goal(text: str) -> Goal:
    for goal in GOALS:
        if goal == text:
            return goal
    raise ConfigError(f"goal must be one of {', '.join(GOALS)}, got {text!r}{did_you_mean(text, GOALS)}; change it")


def _seconds(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text or not any(float(n) for n, _ in parts):
        raise ConfigError(f"budget must be a time such as 90s, 10m or 2h, got {text!r}; change it")
    seconds = sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
    if not math.isfinite(seconds):
        raise ConfigError("budget is beyond all numbers; lower it")
    return seconds


def _megabytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])B?", text)
    if found is None or not float(found[1]):
        raise ConfigError(f"memory must be a size such as 500M or 8G, got {text!r}; change it")
    size = float(found[1]) * SIZES[found[2]]
    if not math.isfinite(size):
        raise ConfigError("memory is beyond all numbers; lower it")
    return size


def _commands(
    found: Sequence[Advice], adviser: Adviser, overrides: list[str], config_dir: Path | None
) -> list[tuple[str, str]]:
    """Up to two commands with what they are for: the best that fits, and one that is much cheaper."""
    fitting = [advice for advice in found if advice.verdict == "fits"]
    if not fitting:
        return []
    best = fitting[0]
    named = [(best, f"best expected ({_figure(best)}) within the budget")]
    cheap = [a for a in fitting[1:] if a.seconds <= CHEAPER * best.seconds and "retrain" not in a.needs]
    if "retrain" in best.needs or best.seconds > 1:
        named += [(advice, f"much cheaper ({_figure(advice)})") for advice in cheap[:1]]
    made = []
    for advice, what in named:
        command, remark = _command(advice, adviser, overrides, config_dir)
        made.append((command, f"{what}{remark}"))
    return made


def _command(advice: Advice, adviser: Adviser, overrides: list[str], config_dir: Path | None) -> tuple[str, str]:
    """The command of an estimator, with ground truth and metrics if they fit the budget too."""
    from influx.commands.outlook import Outlook
    from influx.job import assemble
    from influx.reporting.text import duration

    option = ["--config-dir", str(config_dir)] if config_dir is not None else []
    asked = ["truth=pbrf"] if adviser.goal == "pbrf" and not any(o.startswith("truth=") for o in overrides) else []
    words = [*option, *overrides, *advice.overrides, *asked]
    try:
        whole = Outlook(assemble(compose(words[len(option) :], config_dir), sizes=True), adviser.machine)
        whole.__dict__.update({part: getattr(adviser.outlook, part) for part in ("rates", "pace", "shape")})
        seconds = sum(row["seconds"] for row in whole.stages())
        remark = f"; {duration(seconds)} with ground truth and metrics"
    except UserError:  # a metric or the truth does not fit: the estimate alone does
        seconds, remark = math.inf, ""
    if advice.state == "done":
        remark = "; done already"
    elif seconds > adviser.budget:
        judging = re.compile(r"[+~]*(truth|metric)\b")
        words = [*(word for word in words if not judging.match(word)), "truth=none", "metric=[]"]
        remark = f"; {duration(advice.seconds)} without ground truth, which would not fit"
        try:
            assemble(compose(words[len(option) :], config_dir), sizes=True)
        except UserError as error:
            remark = f"; to be mended before it runs: {error}"
    return shlex.join(["influx", "run", *words]), remark


def _figure(advice: Advice) -> str:
    return f"{advice.expected:.2f}, from {advice.basis}"


def _plain(found: Sequence[Advice], adviser: Adviser, commands: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Everything as JSON has it."""
    rows = [
        {
            "estimator": advice.name,
            "overrides": list(advice.overrides),
            "verdict": advice.verdict,
            "expected": _finite(advice.expected),
            "basis": advice.basis,
            "seconds": _finite(advice.seconds),
            "measured_seconds": _finite(advice.measured_seconds),
            "memory_mb": _finite(advice.memory_mb),
            "trainings": advice.trainings,
            "state": advice.state,
            "why": advice.why,
            "sources": list(advice.sources),
            "needs": list(advice.needs),
            "card": advice.card,
        }
        for advice in found
    ]
    facts = adviser.facts
    return {
        "goal": adviser.goal,
        "measure": MEASURES[adviser.goal],
        "budget_seconds": adviser.budget,
        "memory_mb": adviser.memory_mb,
        "problem": adviser.job.problem.id,
        "training": {"like": REGIMES[facts.regime], "unlike_sgd": facts.unlike_sgd, "convex": facts.convex},
        "estimators": rows,
        "recommended": [{"command": command, "why": why} for command, why in commands],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(found: Sequence[Advice], adviser: Adviser, commands: Sequence[tuple[str, str]]) -> None:
    """Three tables and the recommendation."""
    from influx.reporting import progress, tables
    from influx.reporting.text import duration

    console = progress.console()
    fitting = (*FITTING, "memory_mb", "trainings", "why") if console.width >= WIDE else (*FITTING, "why")
    shown = {
        "fits": fitting,
        "too dear": ("estimator", "expected", "from", "why"),
        "cannot serve": ("estimator", "why"),
    }
    for verdict, columns in shown.items():
        rows = [_row(advice) for advice in found if advice.verdict == verdict]
        if rows:
            console.print(f"{verdict} ({len(rows)})", style="bold", markup=False)
            console.print(tables.listing(rows, columns))
            console.print()
    data, facts = adviser.job.problem, adviser.facts
    also = f", {facts.unlike_sgd}" if facts.unlike_sgd else ""
    lines = [
        f"problem: {len(data.train):,} training and {len(data.test):,} test instances; training like "
        f"{REGIMES[facts.regime]}{also}",
        f"{adviser.goal}: {MEASURES[adviser.goal]}; from runs of the same problem or its kind, or docs (another small "
        "problem: it orders, it promises nothing), or rules where nobody measured",
        f"seconds: training and estimate, predicted; budget {duration(adviser.budget)}; "
        f"memory {adviser.memory_mb / 1000:.3g} GB; --json has the sources",
    ]
    lines += [f"{advice.name}: {' '.join(advice.overrides)}" for advice in found if len(advice.overrides) > 1]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    for command, why in commands:
        console.print(f"{command}\n    {why}", soft_wrap=True, markup=False)
    if not commands:
        console.print("nothing fits: raise budget= or memory=, or take fewer instances", markup=False, soft_wrap=True)


def _row(advice: Advice) -> dict[str, object]:
    return {
        "estimator": advice.name,
        "expected": round(advice.expected, 3),
        "from": advice.basis,
        "seconds": advice.seconds,
        "memory_mb": round(advice.memory_mb) if math.isfinite(advice.memory_mb) else None,
        "trainings": f"{advice.trainings:,}" if advice.trainings else "",
        "why": advice.why,
    }
