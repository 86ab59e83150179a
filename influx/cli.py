"""The command line: argv → command. Nothing heavy is imported before the command is known to need it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from influx import __version__
from influx.errors import ConfigError, InfluxError, Interrupted, UserError, did_you_mean
from influx.interrupts import Stopped

HELP = """\
usage: influx COMMAND [arguments]

Which training data a prediction comes from, and how far to believe the answer.

  run      [overrides]           train, retrain for ground truth, estimate influence, compare, report
  plan     [overrides]           what run would do and what it would cost; runs nothing
  advise   [goal=G] [budget=T] [overrides]   which estimators fit the problem and the budget, and why
  list     KIND [--json]         estimators, datasets, models, optimizers or metrics
  show     RUN [--test ID] [--top K]   verdict of a run; proponents and opponents of one test instance
  compare  RUN ... [--metric M]    finished runs or a sweep side by side, with paired differences and the Pareto front
  report   RUN ... [--output FILE] one HTML page about finished runs, which needs no network
  verify   [NAME ...]            hold estimators against their oracles on toy problems
  bench    [--suite S] [--compare FILE] [--update-baseline]   regression benchmark with quality and speed gates
  status   DIR                   state of a run, a sweep or a folder of them
  clean    [--dry-run] [...]     remove failed or old outputs

overrides are Hydra's: influx run dataset=digits estimator=gas seed=1, influx run -m seed=0,1,2,
influx run --cfg job prints all settings, influx run --help explains them.

exit codes: 0 done, 1 internal error, 2 bad config, data or usage, 3 quality regression,
4 speed or memory regression, 5 sweep finished with failed jobs, 75 interrupted or busy (resumable),
130 SIGINT, 143 SIGTERM. INFLUX_DEBUG=1 prints tracebacks.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``influx`` script; leaves through ``SystemExit`` with the documented codes."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):  # until the pipeline takes over
            signal.signal(signum, _stop)
    _received.clear()
    try:
        code = _dispatch(arguments)
    except Stopped as stopped:
        code = _stopped(stopped.reason)
    except KeyboardInterrupt:
        _say_error("stopped at once; finished work is saved, run the same command to continue")
        code = 130
    except BrokenPipeError:  # the reader of our output went away: not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if _received:  # what a library made of the stop while it cleaned up
            code = _stopped(Interrupted(_received[0]))
        elif isinstance(error, InfluxError):
            _say_error(str(error))
            code = error.exit_code
        else:
            _say_error(f"internal error: {type(error).__name__}: {error}; INFLUX_DEBUG=1 shows where")
            code = 1
    sys.exit(code)


_received: list[int] = []  # signals before the pipeline took over


def _stop(signum: int, frame: FrameType | None) -> None:
    del frame
    _received.append(signum)
    raise Stopped(Interrupted(signum))  # libraries that read settings wrap every Exception in one of their own


def _stopped(reason: Exception) -> int:
    _say_error(str(reason))
    return reason.exit_code if isinstance(reason, InfluxError) else 1


def _say_error(message: str) -> None:
    if os.environ.get("INFLUX_DEBUG") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    from influx.reporting.progress import error

    error(message)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"influx {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):  # Hydra's completion script calls the bare program
        from influx.commands.completion import completion

        return completion(arguments, COMMANDS)
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ConfigError(f"{name} is not a command{did_you_mean(name, COMMANDS)}; see influx --help")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed meanwhile; change to one that exists and try again") from None
    return COMMANDS[name](rest)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")


def _run(arguments: list[str]) -> int:
    from influx.commands.run import run

    return run(arguments)


def _plan(arguments: list[str]) -> int:
    from influx.commands.plan import plan

    return plan(arguments)


def _advise(arguments: list[str]) -> int:
    from influx.commands.advise import advise

    return advise(arguments)


def _list(arguments: list[str]) -> int:
    from influx import catalogue

    parser = _Parser(prog="influx list", description="What there is to choose from.")
    parser.add_argument("kind", help=", ".join(catalogue.KINDS))
    parser.add_argument("--json", action="store_true", help="machine-readable")
    chosen = parser.parse_args(arguments)
    rows = catalogue.rows(chosen.kind)
    if chosen.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from influx.reporting import progress, tables

    progress.console().print(tables.listing(rows, list(rows[0]) if rows else ["name"]))
    return 0


def _show(arguments: list[str]) -> int:
    parser = _Parser(prog="influx show", description="Verdict of a run, or one test instance of it.")
    parser.add_argument("run", type=Path, help="a folder below outputs/runs")
    parser.add_argument("--test", type=int, help="id of a test instance (ids.parquet)")
    parser.add_argument("--top", type=int, default=10, help="how many proponents and opponents")
    chosen = parser.parse_args(arguments)
    if chosen.top < 1:
        raise ConfigError(f"--top must be at least 1, got {chosen.top}; raise it")
    from influx.reporting import progress, tables
    from influx.reporting.record import RunRecord

    record = RunRecord.load(chosen.run)
    shown = tables.verdict(record) if chosen.test is None else tables.neighbours(record, chosen.test, chosen.top)
    progress.console().print(shown)
    return 0


def _compare(arguments: list[str]) -> int:
    parser = _Parser(prog="influx compare", description="Finished runs side by side.")
    parser.add_argument("runs", type=Path, nargs="+", help="runs, sweeps or folders of them")
    _add_choices(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="machine-readable")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="one line per row")
    parser.set_defaults(form="table")
    chosen = parser.parse_args(arguments)
    from influx.commands.compare import compare

    return compare(
        chosen.runs,
        chosen.metric,
        against=chosen.against,
        lower_is_better=chosen.lower_is_better,
        force=chosen.force,
        form=chosen.form,
    )


def _report(arguments: list[str]) -> int:
    parser = _Parser(prog="influx report", description="One HTML page about finished runs.")
    parser.add_argument("runs", type=Path, nargs="+", help="runs, sweeps or folders of them")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the file to write")
    _add_choices(parser)
    chosen = parser.parse_args(arguments)
    from influx.commands.report import report

    return report(
        chosen.runs,
        chosen.output,
        chosen.metric,
        against=chosen.against,
        lower_is_better=chosen.lower_is_better,
        force=chosen.force,
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric", action="append", default=[], metavar="M", help="show and sort by this one; may be repeated"
    )
    parser.add_argument("--lower-is-better", action="store_true", help="of the first metric")
    parser.add_argument(
        "--against", default="", metavar="NAME", help="the row that others are compared with (the best)"
    )
    parser.add_argument("--force", action="store_true", help="a table for each protocol where they differ")


def _verify(arguments: list[str]) -> int:
    parser = _Parser(prog="influx verify", description="Hold estimators against their oracles on toy problems.")
    parser.add_argument("names", nargs="*", help="estimators; none means all")
    chosen = parser.parse_args(arguments)
    from influx.reporting import progress, tables
    from influx.verification import verify

    checks = verify(*chosen.names)
    progress.console().print(tables.verify_table(checks))
    return 0 if all(check.passed for check in checks) else 3


def _bench(arguments: list[str]) -> int:
    parser = _Parser(
        prog="influx bench",
        description="Regression benchmark. Exit codes: 0 all gates passed, 1 something stopped, 2 wrong settings or "
        "baseline, 3 quality, 4 speed or memory.",
    )
    parser.add_argument("--suite", action="append", default=[], metavar="S", help="only this one; may be repeated")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="baseline or results.json to hold results against")
    parser.add_argument("--update-baseline", action="store_true", help="write FILE anew and print what changes")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"), help="folder of the results")
    chosen = parser.parse_args(arguments)
    from influx.commands.bench import bench

    return bench(chosen.suite, chosen.compare, chosen.update_baseline, chosen.output)


def _status(arguments: list[str]) -> int:
    parser = _Parser(prog="influx status", description="State of a run, a sweep or a folder of them.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"))
    parser.add_argument("--json", action="store_true", help="machine-readable")
    chosen = parser.parse_args(arguments)
    from influx.commands.status import status

    return status(chosen.folder, chosen.json)


def _clean(arguments: list[str]) -> int:
    parser = _Parser(prog="influx clean", description="Remove failed or old outputs. Without a choice: failed runs.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="the outputs folder")
    parser.add_argument("--older-than", metavar="DAYS", type=float, help="also runs not touched for this many days")
    parser.add_argument("--problems", action="store_true", help="also trained problems that no run uses any more")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    chosen = parser.parse_args(arguments)
    from influx.commands.clean import clean

    return clean(chosen.folder, chosen.older_than, chosen.problems, chosen.dry_run)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "plan": _plan,
    "advise": _advise,
    "list": _list,
    "show": _show,
    "compare": _compare,
    "report": _report,
    "verify": _verify,
    "bench": _bench,
    "status": _status,
    "clean": _clean,
}
