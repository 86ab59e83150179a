"""``influx run -m``: a sweep. Hydra says which jobs there are and who runs them; what became of them is kept here."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx import interrupts
from influx.commands.alive import LOST, Seen, launched_elsewhere, living
from influx.commands.foreign import refuse_foreign_parts
from influx.commands.outputs import LOCK, MANIFEST, read_manifest
from influx.commands.sweep import LAUNCHER, LOGS, Sweep, this_process
from influx.commands.sweep_plan import NAMED, OF_LAUNCHERS, Plan, for_hydra, going_on, planned
from influx.commands.task import Task, named
from influx.config import conf_dir, explained, quoted, register_schema
from influx.errors import Busy, ConfigError, Interrupted
from influx.resolvers import without_environment
from influx.store import Folder, set_aside, write_atomically, write_text

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from influx.commands.launch import Guard
    from influx.commands.run import Line

log = logging.getLogger(__name__)

SHOWN = 40  # rows of the table at the end


def multirun(line: Line) -> int:
    """Run all jobs of a sweep that are not done; the exit code.

    Raises:
        ConfigError: a setting is unusable, or the sweep has that name and another configuration.
        Busy: another process launches the jobs of the same sweep.
        Interrupted: a signal asked to stop.
    """
    register_schema()
    safe = explained(line.overrides, line.config_dir)
    with warnings.catch_warnings(), without_environment(), safe, interrupts.handled():
        # our files of launchers are meant to be checked against the plug-ins' own
        warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")
        guard, quiet = _swept(line)
    return conclude(guard, quiet)


def _swept(line: Line) -> tuple[Guard, bool]:
    """Run the jobs; who launched them, and whether the screen is to stay empty."""
    refuse_foreign_parts(line.overrides, line.config_dir)
    with _hydra() as hydra:
        plan = planned(line.overrides, line.config_dir, hydra)
        sweep = Sweep(plan.folder)
        with _alone(sweep, plan.settings["on_busy"] == "wait"):
            manifest = sweep.folder / MANIFEST
            if manifest.exists() and not read_manifest(sweep.folder):
                set_aside(manifest)
            kept = going_on(sweep.folder, plan.head(), bool(plan.settings["overwrite"]))
            sweep.go()
            return _run(hydra, plan, sweep, line, *kept), bool(plan.settings["quiet"])


@contextmanager
def _alone(sweep: Sweep, wait: bool) -> Iterator[None]:
    """Hold the sweep for one launcher at a time, also where locks do not reach."""
    told = False
    while elsewhere := launched_elsewhere(sweep.folder):
        gone = f"{LOST / 60:.0f} minutes after its last sign of life it counts as gone"
        if not wait:
            raise Busy(
                f"the sweep {sweep.folder} is launched from {elsewhere}; wait for it, set on_busy=wait, or stop it "
                f"there ({gone})"
            )
        if not told:
            log.warning("the sweep %s is launched from %s: waiting for it (%s)", sweep.folder, elsewhere, gone)
            told = True
        interrupts.check()
        time.sleep(1.0)
    new = [p for p in (sweep.folder / LOCK, sweep.folder, *sweep.folder.parents) if not p.exists()]
    with Folder(sweep.folder).locked(wait, "sweep"):
        path = sweep.folder / LAUNCHER
        write_atomically(path, lambda at: write_text(at, f"{this_process()['host']}\n"))
        try:
            with living(path):
                yield
        finally:
            path.unlink(missing_ok=True)
            if not (sweep.folder / MANIFEST).exists():  # refused before there was a job
                _leave_nothing(new)


def _leave_nothing(new: list[Path]) -> None:
    """Remove a sweep's lock and the folders around it, as far as they are new; who waits for the lock makes its own."""
    with suppress(OSError):
        for path in new:
            path.unlink() if path.name == LOCK else path.rmdir()


@contextmanager
def _hydra() -> Iterator[Hydra]:
    """Hydra over the configuration of influx."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="influx", version_base="1.3"):
            found = GlobalHydra.instance().hydra
            assert found is not None
            yield found
    finally:
        GlobalHydra.instance().hydra = before


def _run(hydra: Hydra, plan: Plan, sweep: Sweep, line: Line, head: dict[str, Any], forget: bool) -> Guard:
    """Let Hydra's sweeper find the jobs and its launcher run what is left of them."""
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    plugins, guards = Plugins.instance(), []
    original, original_sweeper = plugins.instantiate_launcher, plugins.instantiate_sweeper
    task = Task(
        folder=sweep.folder,
        left_out=plan.left_out,
        config_dir=line.config_dir.resolve() if line.config_dir else None,
        stop=plan.settings["sweep"]["on_error"] == "stop",
    )

    def instantiate_launcher(hydra_context: Any, task_function: Any, config: Any) -> Any:
        from influx.commands.launch import Guard

        inner = original(hydra_context=hydra_context, task_function=task_function, config=config)
        _place(task, inner)
        # what each job is composed with: it launches nothing itself
        given = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
        assert isinstance(given, list)
        config.hydra.overrides.hydra = [o for o in given if not str(o).lstrip("+~").startswith(OF_LAUNCHERS)]
        afresh, quiet = bool(plan.settings["overwrite"]), bool(plan.settings["quiet"])
        guards.append(Guard(inner, sweep, task, head, afresh, quiet, forget))
        return guards[-1]

    def instantiate_sweeper(**given: Any) -> Any:
        sweeper: Any = original_sweeper(**given)
        check = getattr(sweeper, "validate_batch_is_legal", None)
        if check is not None and not (forget or plan.settings["overwrite"]):  # it composes every job
            done = {job for job, entry in sweep.entries().items() if entry.status == "done"}

            def left(batch: Any) -> None:
                check([overrides for overrides in batch if named(overrides, task.left_out) not in done])

            sweeper.validate_batch_is_legal = left
        return sweeper

    with tempfile.TemporaryDirectory(prefix="influx-") as scratch:
        line = replace(line, overrides=for_hydra(line.overrides, plan.swept))
        extra = _places(hydra, line, sweep, scratch)
        plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
        plugins.instantiate_sweeper = instantiate_sweeper  # type: ignore[method-assign]
        try:
            hydra.multirun("config", task, [*line.overrides, *extra])
        except (interrupts.Stopped, Interrupted) as stopped:
            for guard in guards:
                table(guard, bool(plan.settings["quiet"]))
            if isinstance(stopped, interrupts.Stopped):
                raise stopped.reason from None
            raise
        finally:
            del plugins.instantiate_launcher, plugins.instantiate_sweeper  # the class's own are seen again
            for guard in guards:
                guard.fold()
    return guards[0]


def _places(hydra: Hydra, line: Line, sweep: Sweep, scratch: str) -> list[str]:
    """Overrides for where Hydra finds the user's choices and writes; a cluster's files stay, the others are of no use.

    Raises:
        ConfigError: the launcher is not installed.
    """
    from hydra.types import RunMode

    extra = [f"hydra.searchpath=[{quoted(f'file://{line.config_dir.resolve()}')}]"] if line.config_dir else []
    cfg = hydra.compose_config("config", [*line.overrides, *extra], RunMode.MULTIRUN)
    for kind in ("launcher", "sweeper"):
        target = str((cfg.hydra.get(kind) or {}).get("_target_", ""))
        if target.startswith("hydra_plugins.") and not _installed(".".join(target.split(".")[:2])):
            name, package = cfg.hydra.runtime.choices.get(f"hydra/{kind}"), target.split(".")[1].replace("_", "-")
            raise ConfigError(
                f"hydra/{kind}={name} is not installed; pip install {package}, or leave hydra/{kind}= out"
            )
    _refuse_other_places(line.overrides, cfg, sweep.folder.parents[1])
    if not any(o.lstrip("+~").startswith("hydra.sweep.dir=") for o in line.overrides):
        where = sweep.folder / LOGS if "submitit" in str(cfg.hydra.launcher.get("_target_")) else scratch
        extra.append(f"hydra.sweep.dir={quoted(str(where))}")
    return extra


def _refuse_other_places(overrides: list[str], cfg: Any, outputs: Path) -> None:
    """Hydra writes below the outputs.

    Raises:
        ConfigError: it is told to write elsewhere, by the command or by a file of the user's.
    """
    from omegaconf import OmegaConf

    given = [o.lstrip("+").partition("=")[0] for o in overrides]
    for key, value in (("hydra.sweep.dir", cfg.hydra.sweep.dir), ("hydra.run.dir", cfg.hydra.run.dir)):
        if key in given and not Path(str(value)).expanduser().resolve().is_relative_to(outputs.resolve()):
            raise ConfigError(f"{key} must be below paths.outputs ({outputs}), got {value}; leave it out")
    kept = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    if not isinstance(kept, dict) or kept.get("subdir") != ".":
        raise ConfigError("hydra.sweep.subdir cannot be set, every job has a folder of its own; leave it out")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _place(task: Task, launcher: Any) -> None:
    """In what process jobs run, and with how many threads."""
    from influx.commands.launch import cores

    module = type(launcher).__module__
    if module.startswith("hydra._internal."):
        return
    task.place = "submitted" if "submitit" in module else "worker"
    if task.place == "submitted":
        task.threads = int(getattr(launcher, "params", {}).get("cpus_per_task") or 0) or None
    else:
        workers = int(getattr(launcher, "joblib", {}).get("n_jobs") or 1)
        task.threads = max(1, cores() // (workers if workers > 0 else max(1, cores() + 1 + workers)))


def conclude(guard: Guard, quiet: bool) -> int:
    """Print the table of all jobs, and say what is missing; the exit code."""
    from influx.reporting import progress

    found = table(guard, quiet)
    groups = {
        "failed": [job for job, state in found.items() if state.status in ("failed", "killed")],
        "interrupted": [job for job, state in found.items() if state.status in ("interrupted", "running", "queued")],
        "not started": [job for job, state in found.items() if state.status in ("pending", "unknown")],
    }
    for code, (what, jobs) in zip((5, 75, 5), groups.items(), strict=True):
        if jobs:
            names = ", ".join(guard.short[job] for job in jobs[:NAMED]) + (" …" if len(jobs) > NAMED else "")
            many = f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}"
            progress.error(f"{many} {what}: {names}; run the same command to try again")
            return code
    return 0


def table(guard: Guard, quiet: bool) -> dict[str, Seen]:
    """Print how all jobs stand; what is printed."""
    from influx.reporting import progress, tables

    found = guard.outcome()
    if not quiet and found:
        order = sorted(found, key=lambda job: found[job].status == "done")
        rows = [_row(guard.short[job], found[job], guard.sweep.folder) for job in order[:SHOWN]]
        used = [
            c for c in ("job", "status", "seconds", "verdict", "run") if any(row[c] not in ("", None) for row in rows)
        ]
        progress.console().print(tables.listing(rows, used))
        rest = f"{len(found) - SHOWN} more: " if len(found) > SHOWN else ""
        logs = f"; logs: {guard.sweep.folder / LOGS}" if guard.task.place == "submitted" else ""
        progress.console().print(f"{rest}influx status {guard.sweep.folder}{logs}", markup=False, soft_wrap=True)
    return found


def _row(name: str, state: Seen, folder: Path) -> dict[str, Any]:
    entry = state.entry
    run = os.path.relpath(folder / entry.run) if entry.run else state.note or entry.error
    return {"job": name, "status": state.status, "seconds": entry.seconds, "verdict": entry.verdict, "run": run}
