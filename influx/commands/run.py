"""``influx run``: one run directly, sweeps in ``multirun``, ``--cfg`` and ``--help`` through Hydra."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from influx.commands.foreign import refuse_foreign_parts
from influx.config import compose, conf_dir, explained, register_schema
from influx.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig


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
VALUES = {"--package": "GROUP", "--config-dir": "FOLDER"}
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
    if "--multirun" in line.options and not {"--help", "--hydra-help"} & set(line.options):
        from influx.commands.multirun import multirun

        return multirun(line)
    if set(line.options) - {"--config-dir"}:
        return through_hydra(arguments)
    _refuse_launcher(line.overrides)
    return one(line.overrides, line.config_dir)


def _refuse_launcher(overrides: list[str]) -> None:
    """A launcher works on sweeps; Hydra would ignore it in silence."""
    from influx.commands.sweep_plan import OF_LAUNCHERS

    for override in overrides:
        if override.lstrip("+~").startswith(OF_LAUNCHERS):
            raise ConfigError(f"{override} works with -m alone; write influx run -m {shlex.join(overrides)}")


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
        elif name == "--experimental-rerun":
            raise ConfigError(f"{name} reads a pickled job, which could run any code; repeat the command instead")
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
    return value


def _check_together(options: Mapping[str, str]) -> None:
    several = [name for name in ALONE if name in options]
    if len(several) > 1:
        raise ConfigError(f"{several[0]} and {several[1]} were both given, one is expected; leave one out")
    for name, needed in {"--resolve": ("--cfg", "--help"), "--package": ("--cfg",)}.items():
        if name in options and not any(other in options for other in needed):
            raise ConfigError(f"{name} goes with --cfg, which was not given; write --cfg job {name} …")


def through_hydra(arguments: list[str]) -> int:
    """Let Hydra handle its own flags."""
    import hydra

    register_schema()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of being printed
    line = parse(arguments)
    refuse_foreign_parts(line.overrides, line.config_dir)
    with explained(line.overrides, line.config_dir), _called(line):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_nothing)()
    return 0


def _nothing(cfg: DictConfig) -> None:
    """What Hydra would run; its flags run nothing."""


@contextmanager
def _called(line: Line) -> Iterator[None]:
    """What Hydra reads from the command line is arranged inside the block."""
    before, sys.argv = sys.argv, ["influx", *line.for_hydra()]
    with ExitStack() as stack:
        stack.callback(setattr, sys, "argv", before)
        said = stack.enter_context(redirect_stderr(io.StringIO())) if "--package" in line.options else None
        try:
            yield
        except SystemExit as left:
            if said is None or not left.code:
                raise
            raise ConfigError(f"--package: {said.getvalue().strip()}; see influx run --cfg job") from None
