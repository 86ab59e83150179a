"""``influx run``: one run directly; multirun, ``--cfg`` and ``--help`` through Hydra."""

from __future__ import annotations

import io
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from influx import interrupts
from influx.config import compose, conf_dir, explained, quoted, register_schema, settings_from
from influx.errors import Busy, ConfigError, InfluxError, Interrupted, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from influx.commands.sweep import Sweep

SHORT = {
    "-h": "--help",
    "-c": "--cfg",
    "-i": "--info",
    "-m": "--multirun",
    "-p": "--package",
    "-cd": "--config-dir",
    "-sc": "--shell-completion",
}
SWITCHES = ("--help", "--hydra-help", "--multirun", "--shell-completion", "--resolve")
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
VALUES = {"--package": "GROUP", "--experimental-rerun": "FILE", "--config-dir": "FOLDER"}
ALONE = ("--multirun", "--cfg", "--info", "--shell-completion")


@dataclass(frozen=True)
class Line:
    """A command line: options by their long names (with an empty value where they take none), and overrides."""

    options: Mapping[str, str]
    overrides: list[str]

    @property
    def config_dir(self) -> Path | None:
        """The folder with the user's own choices.

        Raises:
            ConfigError: it does not exist.
        """
        given = self.options.get("--config-dir")
        if given is not None and not Path(given).is_dir():
            raise ConfigError(f"--config-dir must name a folder, {given} is none; check the path")
        return Path(given) if given is not None else None

    def for_hydra(self) -> list[str]:
        """Options before overrides: Hydra's parser cannot read them mixed."""
        return [*(f"{k}={v}" if v else k for k, v in self.options.items()), *self.overrides]


def run(arguments: list[str]) -> int:
    """Run the pipeline for the overrides in ``arguments``; the exit code."""
    line = parse(arguments)
    if set(line.options) - {"--config-dir"}:
        return through_hydra(arguments)
    return one(line.overrides, line.config_dir)


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
    console.print(tables.perspective(record))
    console.print(tables.a_few(record))
    console.print()
    again = f"influx show {shlex.quote(str(folder))} --test {record.spread(1)[0]}"
    for text in (f"report: {folder / 'report.html'}", f"one test instance: {again}"):
        console.print(text, soft_wrap=True, markup=False)


def split(arguments: list[str], command: str = "influx run") -> tuple[list[str], Path | None]:
    """Overrides and the value of ``--config-dir``, the only option.

    Raises:
        ConfigError: an option is unknown or has no value, or the folder does not exist.
    """
    line = parse(arguments, command, ("--config-dir",))
    return line.overrides, line.config_dir


def parse(
    arguments: list[str], command: str = "influx run", allowed: tuple[str, ...] = (*SWITCHES, *CHOICES, *VALUES)
) -> Line:
    """Options with their values, and overrides, in any order.

    Raises:
        ConfigError: an option is unknown, lacks its value, has one that it does not know, or excludes another.
    """
    options: dict[str, str] = {}
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        given, equals, value = argument.partition("=")
        name = SHORT.get(given, given)
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name not in allowed or (name in SWITCHES and equals):
            raise ConfigError(f"{argument} is not an option of {command}; see {command} --help")
        else:
            options[name] = "" if name in SWITCHES else _value(name, value, rest)
    _check_together(options)
    return Line(options, overrides)


def _value(name: str, value: str, rest: list[str]) -> str:
    """What an option was given after ``=`` or as the next argument, which is taken from ``rest``."""
    known = CHOICES.get(name)
    if name == "--info" and not value and (not rest or rest[0] not in CHOICES[name]):
        return "all"
    missing = not rest or rest[0].startswith("-") or (name == "--package" and "=" in rest[0])
    if not value and not missing:
        value = rest.pop(0)
    if known is not None and value not in known:
        got = repr(value) if value else "nothing"
        raise ConfigError(
            f"{name} takes {', '.join(known)}, got {got}{did_you_mean(value, known)}; write {name} {known[0]}"
        )
    if not value:
        what = "name a folder" if name == "--config-dir" else "be followed by its value"
        raise ConfigError(f"{name} must {what}, got nothing; write {name} {VALUES[name]}")
    if name == "--experimental-rerun" and not Path(value).is_file():
        raise ConfigError(f"{name} must name a file with a pickled job, {value} is none; check the path")
    return value


def _check_together(options: Mapping[str, str]) -> None:
    several = [name for name in ALONE if name in options]
    if len(several) > 1:
        raise ConfigError(f"{several[0]} and {several[1]} were both given, one is expected; leave one out")
    for name, needed in {"--resolve": ("--cfg", "--help"), "--package": ("--cfg",)}.items():
        if name in options and not any(other in options for other in needed):
            raise ConfigError(f"{name} goes with --cfg, which was not given; write --cfg job {name} …")


def through_hydra(arguments: list[str]) -> int:
    """Let Hydra handle its own flags. Its multirun calls ``_job`` once per job."""
    import hydra

    from influx.commands.sweep import Sweep

    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed
    line = parse(arguments)
    sweep = Sweep(arguments, line.overrides, line.config_dir)

    def job(cfg: DictConfig) -> None:
        _job(cfg, sweep)

    with explained(line.overrides, line.config_dir), _called(line):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    return _verdict(sweep)


@contextmanager
def _called(line: Line) -> Iterator[None]:
    """What Hydra reads and does outside jobs is arranged inside the block."""
    before, sys.argv = sys.argv, ["influx", *line.for_hydra()]
    with ExitStack() as stack:
        stack.callback(setattr, sys, "argv", before)
        if "--multirun" in line.options:
            stack.enter_context(interrupts.handled())
            if not any(o.lstrip("+").startswith(("hydra.sweep.dir=", "hydra/launcher=")) for o in line.overrides):
                # Hydra always writes a multirun.yaml, which nobody reads: manifest.json says it all
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="influx-"))
                sys.argv.append(f"hydra.sweep.dir={quoted(folder)}")
        said = stack.enter_context(redirect_stderr(io.StringIO())) if "--package" in line.options else None
        try:
            yield
        except interrupts.Stopped as stopped:
            raise stopped.reason from None
        except SystemExit as left:
            if said is None or not left.code:
                raise
            raise ConfigError(f"--package: {said.getvalue().strip()}; see influx run --cfg job") from None


def _verdict(sweep: Sweep) -> int:
    """The exit code of a sweep, with a line that says which jobs are missing."""
    from influx.reporting.progress import error as say

    for code, names, what in ((5, sweep.failed, "failed"), (75, sweep.busy, "found its run in use")):
        if names:
            jobs = f"{len(names)} job{'' if len(names) == 1 else 's'} {what}"
            say(f"{jobs}: {', '.join(names)}; run the same command to try again")
            return code
    return 0


def _job(cfg: DictConfig, sweep: Sweep) -> None:
    """One job of a multirun; a failure is kept and the others go on."""
    from hydra.core.hydra_config import HydraConfig

    from influx.commands.sweep import label, planned_jobs

    hydra, outputs = HydraConfig.get(), _outputs(cfg)
    name = label(hydra.overrides.task)
    try:
        interrupts.check()
        with sweep.running(outputs, name, lambda: planned_jobs(hydra, sweep.overrides)):
            _recorded(cfg, sweep, outputs, name)
    except Exception as error:  # Hydra would keep it, start the next job and print a line of its own
        raise interrupts.Stopped(error) from error


def _recorded(cfg: DictConfig, sweep: Sweep, outputs: Path, name: str) -> None:
    from influx.reporting.progress import console
    from influx.reporting.progress import error as say

    try:
        folder, quiet = _execute(cfg, sweep.config_dir)
    except (Interrupted, KeyboardInterrupt) as error:
        sweep.record(outputs, name, "interrupted", error=str(error) or "stopped at once")
        raise
    except Busy as error:
        say(f"[{name}] {error}")
        sweep.busy.append(name)
        sweep.record(outputs, name, "interrupted", error=str(error))
    except Exception as error:
        if os.environ.get("INFLUX_DEBUG") == "1":
            traceback.print_exc()
        known = isinstance(error, InfluxError)
        reason = str(error) if known else f"{type(error).__name__}: {error}; INFLUX_DEBUG=1 shows where"
        say(f"[{name}] {reason}")
        sweep.failed.append(name)
        sweep.record(outputs, name, "failed", error=reason)
    else:
        sweep.record(outputs, name, "done", folder)
        if not quiet:
            console().print(f"[{name}]", markup=False, style="bold")
            show(folder)


def _execute(cfg: DictConfig, config_dir: Path | None) -> tuple[Path, bool]:
    """The folder of the run that a composed config asks for, and whether it wants no output."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    with_hydra = cfg.copy()
    with open_dict(with_hydra):
        with_hydra.hydra = HydraConfig.get()
    overrides = tuple(HydraConfig.get().overrides.task)
    with explained(list(overrides), config_dir):
        settings = settings_from(with_hydra, overrides, config_dir)
    from influx.pipeline import execute

    return execute(settings), bool(settings["quiet"])


def _outputs(cfg: DictConfig) -> Path:
    """Where the sweep's manifest goes, also when the job itself will be refused."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        given = OmegaConf.select(cfg, "paths.outputs")
    except OmegaConfBaseException:
        given = None
    return Path(given if isinstance(given, str) and given else "outputs").expanduser()
