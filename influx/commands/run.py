"""``influx run``: one run directly; multirun, ``--cfg`` and ``--help`` through Hydra."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from influx.config import compose, conf_dir, explain, register_schema, settings_from
from influx.errors import Busy, ConfigError, InfluxError, Interrupted

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from influx.commands.sweep import Sweep

HYDRA_FLAGS = (
    "-h",
    "--help",
    "--hydra-help",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-m",
    "--multirun",
    "-sc",
    "--shell-completion",
    "--resolve",
    "-p",
    "--package",
    "--experimental-rerun",
)


def run(arguments: list[str]) -> int:
    """Run the pipeline for the overrides in ``arguments``; the exit code."""
    if any(a.split("=")[0] in HYDRA_FLAGS for a in arguments):
        return through_hydra(arguments)
    overrides, config_dir = split(arguments)
    return one(overrides, config_dir)


def one(overrides: list[str], config_dir: Path | None) -> int:
    """One run, with its verdict printed."""
    settings = compose(overrides, config_dir)
    from influx.pipeline import execute

    folder = execute(settings)
    if not settings["quiet"]:
        show(folder)
    return 0


def show(folder: Path) -> None:
    """Print verdict, a few test instances and where everything lies."""
    from influx.reporting import progress, tables
    from influx.reporting.record import RunRecord

    console, record = progress.console(), RunRecord.load(folder)
    console.print(tables.verdict(record))
    console.print()
    console.print(tables.a_few(record))
    console.print()
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    console.print(f"one test instance: influx show {folder} --test {record.spread(1)[0]}", soft_wrap=True)


def split(arguments: list[str], command: str = "influx run") -> tuple[list[str], Path | None]:
    """Overrides and the value of ``--config-dir``.

    Raises:
        ConfigError: an option is unknown or has no value, or the folder does not exist.
    """
    overrides: list[str] = []
    config_dir: Path | None = None
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            found = value or next(rest, "")
            if not found:
                raise ConfigError("--config-dir must name a folder, got nothing; write --config-dir FOLDER")
            config_dir = Path(found)
        elif argument.startswith("-"):
            raise ConfigError(f"{argument} is not an option of {command}; see {command} --help")
        else:
            overrides.append(argument)
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir must name a folder, {config_dir} is none; check the path")
    return overrides, config_dir


def through_hydra(arguments: list[str]) -> int:
    """Let Hydra handle its own flags. Its multirun calls ``_job`` once per job."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from influx.commands.sweep import Sweep

    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed
    sweep = Sweep(arguments)

    def job(cfg: DictConfig) -> None:
        _job(cfg, sweep)

    before, sys.argv = sys.argv, ["influx", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, [a for a in arguments if not a.startswith("-")]) from error
    finally:
        sys.argv = before
    if sweep.failed:
        from influx.reporting.progress import error as say

        count = len(sweep.failed)
        jobs = f"{count} job{'' if count == 1 else 's'} failed"
        say(f"{jobs}: {', '.join(sweep.failed)}; run the same command to try again")
        return 5
    return 0


def _job(cfg: DictConfig, sweep: Sweep) -> None:
    """One job of a multirun; a failure is kept and the others go on."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from influx.reporting.progress import console
    from influx.reporting.progress import error as say

    with_hydra = cfg.copy()
    with open_dict(with_hydra):
        with_hydra.hydra = HydraConfig.get()
    overrides = tuple(HydraConfig.get().overrides.task)
    label = " ".join(overrides) or "defaults"
    outputs = Path(str(OmegaConf.select(cfg, "paths.outputs", default="outputs"))).expanduser()
    try:
        settings = settings_from(with_hydra, overrides)
        from influx.pipeline import execute

        folder = execute(settings)
    except (Busy, Interrupted) as error:
        sweep.record(outputs, label, "interrupted", error=str(error))
        raise
    except InfluxError as error:
        say(f"[{label}] {error}")
        sweep.record(outputs, label, "failed", error=str(error))
        return
    sweep.record(outputs, label, "done", folder)
    if not settings["quiet"]:
        console().print(f"[{label}]", markup=False, style="bold")
        show(folder)
