"""``influx plan``: what ``influx run`` would do and what it would cost. Runs nothing, writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.commands.run import split
from influx.config import compose, load_choice
from influx.errors import ConfigError

if TYPE_CHECKING:
    from influx.rates import Machine

HELP = """\
usage: influx plan [--json] [--config-dir FOLDER] [--machine NAME [--workers N]] [overrides as of influx run]

--machine NAME  times of the machine that conf/machine/NAME.yaml describes instead of this one
--workers N     so many of them: retrainings and gradient similarity are divided, one training is not"""


def plan(arguments: list[str]) -> int:
    """Print the table, or JSON with ``--json``; the exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(HELP)
        return 0
    as_json = "--json" in arguments
    rest = [a for a in arguments if a != "--json"]
    machine, workers = _option(rest, "--machine"), _option(rest, "--workers")
    overrides, config_dir = split(rest, "influx plan")
    planned = foresee(overrides, config_dir, machine, None if workers is None else _count(workers))
    if as_json:
        print(json.dumps(planned, indent=1, ensure_ascii=False))
        return 0
    from influx.reporting import progress, tables

    console = progress.console()
    console.print(tables.plan_table(planned["stages"]))
    console.print()
    notes = [f"note: {note}" for note in planned["notes"]]
    for line in (f"{planned['machine']}: {planned['rates']['sentence']}", *notes, f"run: {planned['folder']}"):
        console.print(line, soft_wrap=True, markup=False)
    return 0


def _option(arguments: list[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE``, which is taken out of the arguments."""
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            del arguments[place]
            return arguments.pop(place)
        if argument.startswith(f"{name}="):
            return arguments.pop(place).partition("=")[2]
    return None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--workers must be a whole number of at least 1, got {text!r}; change it")
    return int(text)


def described_machine(name: str, workers: int | None, config_dir: Path | None) -> Machine:
    """The machine of ``conf/machine/<name>.yaml``.

    Raises:
        ConfigError: there is no such file, or it lacks a value.
    """
    from influx.instantiate import build

    node = load_choice("machine", name, config_dir, "--machine")
    machine: Machine = build(node if workers is None else node | {"workers": workers}, "machine", [])
    return machine


def foresee(
    overrides: list[str], config_dir: Path | None = None, machine: str | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Stages with state, work, seconds, memory, disk and formula; the total; the rates, measured or of a machine.

    Data that are absent or large are planned from their sizes.

    Raises:
        UserError: as ``influx run`` would, before any work.
    """
    settings = compose(overrides, config_dir)
    if workers is not None and machine is None:
        raise ConfigError("--workers divides the work among machines that --machine names; add --machine")
    there = None if machine is None else described_machine(machine, workers, config_dir)
    from influx.commands.outlook import Outlook
    from influx.job import assemble
    from influx.pipeline import threads

    with threads(settings["threads"]):
        job = assemble(settings, sizes=True)
        outlook = Outlook(job, there)
        stages = [outlook.start(), *outlook.stages()]
        rates = outlook.rates
        said = {
            "flops": rates.flops,
            "numbers": rates.numbers,
            "compared": rates.compared,
            "training_seconds": outlook.pace.training,
            "model_seconds": outlook.pace.model,
            "sentence": f"{rates.sentence()}; {outlook.pace.note}",
        }
    return {
        "name": job.name,
        "folder": str(job.run_folder.path),
        "machine": "measured here" if there is None else f"{there.workers} x {machine}, not measured",
        "notes": list(job.problem.data.notes) if job.problem.data.described else [],
        "stages": stages,
        "rates": said,
    }
