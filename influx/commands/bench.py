"""``influx bench``: run suites, hold them against a baseline, say what got worse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from influx.errors import ConfigError, UserError

if TYPE_CHECKING:
    from influx.bench.gates import Finding
    from influx.bench.measures import Results


def bench(names: Sequence[str], baseline: Path | None, update: bool, output: Path) -> int:
    """Run the named suites (none: all), write their files below ``output``; the exit code.

    Raises:
        ConfigError: a suite does not exist, or the baseline is of another protocol.
        DataError: the baseline cannot be read.
        UserError: a file cannot be written.
    """
    from influx.bench.suites import load, suite_names

    suites = [load(name) for name in dict.fromkeys(names or suite_names())]
    then = _baseline(baseline, update)
    _may_write(baseline, output)
    from influx import progress
    from influx.bench import anchors, artefacts, gates

    if then is not None and not update:
        gates.refuse_other({suite.name: suite.protocol for suite in suites}, then)
    if then is not None and update:
        _may_mix([suite.name for suite in suites], then, str(baseline))
    from influx.bench.bench import run
    from influx.reporting.progress import console, factory
    from influx.store import Folder

    with progress.shown_by(factory()):
        now = run(suites, then, anew=update)
    findings = list(gates.on_their_own(now))
    code = gates.exit_code(findings)
    compared = list(gates.against(now, _updatable(then, now) if update else then)) if then else []
    if then and not update:
        compared += gates.uncompared(now, then)
    if update and baseline is not None:
        if code:
            compared.append(_note("the baseline stays as it was: what fails without any baseline is no baseline"))
        else:
            _update(baseline, now, then)
            compared = [gates.Finding(level="note", kind=f.kind, where=f.where, message=f.message) for f in compared]
            compared.append(_note(f"{baseline.name} {'updated' if then else 'made'}: {len(now.entries)} entries"))
    findings += compared
    code = gates.exit_code(findings)
    artefacts.write(Folder(output), now, findings, code, anchors.load())
    _show(now, findings, code, output)
    unseen = artefacts.show((output / "summary.md").read_text(encoding="utf-8"))
    if unseen:
        console().print(f"warning: {unseen}", markup=False, soft_wrap=True)
    return code


def _baseline(path: Path | None, update: bool) -> Results | None:
    """The baseline to compare with; None without one, or where it is still to be made."""
    from influx.bench.baseline import load

    if path is None:
        if update:
            raise ConfigError("--update-baseline needs the file to write; name it by --compare FILE")
        return None
    return None if update and not path.exists() else load(path)


def _may_write(baseline: Path | None, output: Path) -> None:
    """Refuse at the start what would fail after minutes."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    if (output / "manifest.json").exists():
        raise UserError(f"--output {output} is a run; name another folder")
    if baseline is not None and (baseline.is_dir() or not baseline.absolute().parent.is_dir()):
        raise UserError(f"--compare {baseline} must be a file in a folder that exists; correct it")


def _may_mix(names: Sequence[str], then: Results, path: str) -> None:
    """Refuse to update some suites of a baseline whose others would stay from another machine.

    Raises:
        ConfigError: they would.
    """
    from influx.bench.machine import differences, machine

    elsewhere = differences(then.machine, machine()) if then.suites.keys() - set(names) else []
    if elsewhere:
        raise ConfigError(
            f"{path} has suites from another machine ({'; '.join(elsewhere)}); leave out --suite to update all of them"
        )


def _updatable(then: Results, now: Results) -> Results:
    """The part of a baseline that this one replaces: suites that were the same then."""
    from dataclasses import replace

    same = {n: s for n, s in then.suites.items() if n in now.suites and s["protocol"] == now.suites[n]["protocol"]}
    entries = {key: entry for key, entry in then.entries.items() if key.partition("/")[0] in same}
    return replace(then, suites={**{n: now.suites[n] for n in now.suites}, **same}, entries=entries)


def _update(path: Path, now: Results, then: Results | None) -> None:
    """Write the baseline; suites that did not run keep what they had."""
    from dataclasses import replace

    from influx.bench.measures import save

    kept = [name for name in then.suites if name not in now.suites] if then else []
    if then is None or not kept:
        save(now, path)
        return
    entries = {key: entry for key, entry in then.entries.items() if key.partition("/")[0] in kept}
    checks = [check for check in then.checks if check.where.partition("/")[0] in kept]
    suites = {name: then.suites[name] for name in kept}
    save(replace(now, suites=suites | now.suites, entries=entries | now.entries, checks=[*checks, *now.checks]), path)


def _note(message: str) -> Finding:
    from influx.bench.gates import Finding

    return Finding(level="note", kind="run", where="baseline", message=message)


def _show(now: Results, findings: Sequence[Finding], code: int, output: Path) -> None:
    from influx.bench.artefacts import TITLES
    from influx.reporting import progress, tables

    console = progress.console()
    rows = []
    for name, suite in now.suites.items():
        own = [finding for finding in findings if finding.where.partition("/")[0] == name]
        rows.append(
            {
                "suite": name,
                "entries": sum(key.partition("/")[0] == name for key in now.entries),
                "checks": sum(check.where.partition("/")[0] == name for check in now.checks),
                "failures": sum(finding.level == "fail" for finding in own),
                "warnings": sum(finding.level == "warn" for finding in own),
                "seconds": float(suite["seconds"]),
            }
        )
    console.print(tables.listing(rows, list(rows[0])))
    console.print()
    for finding in findings:
        line = f"{finding.kind} {finding.level}: {finding}" if finding.level != "note" else f"note: {finding}"
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"{TITLES[code]}; {output}/summary.md", markup=False, soft_wrap=True)
