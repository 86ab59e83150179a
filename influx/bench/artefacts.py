"""The files of a benchmark: results.json, results.csv, summary.md, junit.xml, findings.json."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

from influx.bench.anchors import Anchor, table
from influx.bench.gates import Finding, failure
from influx.bench.measures import Entry, Kind, Results
from influx.store import Folder

TITLES = {0: "all gates passed", 1: "something stopped", 3: "quality regression", 4: "speed or memory regression"}
KINDS = get_args(Kind)  # the worst first
COLUMNS = (
    "suite", "problem", "estimator", "metric", "value", "ci_low", "ci_high", "status", "better", "ratio",
    "processor_seconds", "kernel_seconds", "wall_seconds", "peak_growth_mb", "trainings", "rounds", "protocol",
)  # fmt: skip


def write(folder: Folder, results: Results, findings: Sequence[Finding], code: int, anchors: Sequence[Anchor]) -> None:
    """Write all files.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder.write_text("results.json", results.text())
    folder.write_text("results.csv", rows(results))
    folder.write_json("findings.json", [asdict(finding) for finding in findings])
    folder.write_text("junit.xml", junit(results, findings))
    folder.write_text("summary.md", summary(results, findings, code, anchors))


def show(summary: str) -> str:
    """Append the summary where GitHub shows it; why that was not possible, or an empty string."""
    shown = os.environ.get("GITHUB_STEP_SUMMARY")
    if shown:
        try:
            with Path(shown).open("a", encoding="utf-8") as file:
                file.write(summary)
        except OSError as error:
            return f"cannot append to GITHUB_STEP_SUMMARY ({error.strerror or error}); unset it or correct it"
    return ""


def rows(results: Results) -> str:
    """One line per metric of an entry, and one where an entry has none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for key, entry in results.entries.items():
        suite, problem, estimator = key.split("/")
        own = {"suite": suite, "problem": problem, "estimator": estimator, "ratio": f"{entry.ratio:.6g}"}
        own |= {"processor_seconds": f"{entry.processor:.6g}", "kernel_seconds": f"{entry.kernel:.6g}"}
        own |= {"wall_seconds": f"{entry.wall:.6g}", "peak_growth_mb": f"{entry.memory:.1f}"}
        own |= {"trainings": str(entry.trainings), "rounds": str(entry.rounds)}
        if not entry.values:
            writer.writerow(own | {"status": entry.error or "no metric"})
        for name, value in entry.values.items():
            measured = {"metric": name, "value": f"{value.value:.7g}", "ci_low": f"{value.low:.7g}"}
            measured |= {"ci_high": f"{value.high:.7g}", "status": value.status, "better": value.better}
            writer.writerow(own | measured | {"protocol": value.protocol})
    return text.getvalue()


def junit(results: Results, findings: Sequence[Finding]) -> str:
    """One test case per entry and one per check; all that fails in it is told in one element."""
    root = ElementTree.Element("testsuites", name="influx bench")
    suites: dict[str, ElementTree.Element] = {}
    for where, name, failed in _cases(results, findings):
        suite = where.partition("/")[0]
        if suite not in suites:
            suites[suite] = ElementTree.SubElement(root, "testsuite", name=suite)
        entry = results.entries.get(name)
        seconds = entry.wall if entry is not None and math.isfinite(entry.wall) else 0.0
        case = ElementTree.SubElement(suites[suite], "testcase", classname=suite, name=name, time=f"{seconds:.3f}")
        if failed:
            worst = min(failed, key=lambda finding: KINDS.index(finding.kind)).kind
            message = _plain("; ".join(finding.message for finding in failed))
            ElementTree.SubElement(case, "error" if worst == "run" else "failure", type=worst, message=message)
    for element in suites.values():
        element.set("tests", str(len(element)))
        element.set("failures", str(len(element.findall("testcase/failure"))))
        element.set("errors", str(len(element.findall("testcase/error"))))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(results: Results, findings: Sequence[Finding]) -> Iterator[tuple[str, str, list[Finding]]]:
    """Place, name and failures of each test case; checks of one place are numbered as the suite has them."""
    numbers: Counter[str] = Counter()
    told = []
    for check in results.checks:
        numbers[check.where] += 1
        failed = [failure(check)] * (not check.passed)
        told += failed
        yield check.where, f"{check.where} #{numbers[check.where]}", failed
    others: dict[str, list[Finding]] = {key: [] for key in results.entries}
    for finding in findings:
        if finding.level == "fail" and finding not in told:
            others.setdefault(finding.where, []).append(finding)
    for where, failed in others.items():
        yield where, where, failed


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def summary(results: Results, findings: Sequence[Finding], code: int, anchors: Sequence[Anchor]) -> str:
    """Markdown: the verdict, what was found, a table per problem, published numbers."""
    named = ", ".join(f"{name} {suite['seconds']:.0f} s" for name, suite in results.suites.items())
    lines = [f"## influx bench: {TITLES[code]}", "", f"Suites: {named}."]
    lines += [f"Machine: {', '.join(f'{name} {value}' for name, value in results.machine.items())}.", ""]
    for level, title in (("fail", "Failures"), ("warn", "Warnings"), ("note", "Notes")):
        found = [finding for finding in findings if finding.level == level]
        if found:
            lines += [f"### {title}", "", *(f"- **{_cell(f.where)}** {_cell(f.message)}" for f in found), ""]
    held = sum(check.passed for check in results.checks)
    if results.checks:
        lines += [f"{held} of {len(results.checks)} orders, oracles and slopes hold.", ""]
        times = [check for check in results.checks if check.kind == "speed" and check.passed]
        lines += [*(f"- {_cell(check.where)}: {_cell(check.message)}" for check in times), *[""] * bool(times)]
    by_problem: dict[str, dict[str, Entry]] = {}
    for key, entry in results.entries.items():
        where, _, name = key.rpartition("/")
        by_problem.setdefault(where, {})[name] = entry
    for where, entries in by_problem.items():
        lines += [f"### {where}", "", *_table(entries), ""]
    return "\n".join([*lines, *table(anchors, results)]) + "\n"


def _table(entries: Mapping[str, Entry]) -> list[str]:
    metrics = list(dict.fromkeys(name for entry in entries.values() for name in entry.values))
    heads = ["estimator", *(f"{name} [95%]" for name in metrics), "kernels", "seconds", "MB", "trainings"]
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for name, entry in entries.items():
        if entry.error:
            lines.append(f"| {name} | {_cell(entry.error)} {'| ' * (len(heads) - 1)}|")
            continue
        cells = [_value(entry, metric) for metric in metrics]
        cost = [f"{entry.ratio:.3g}", f"{entry.wall:.3g}", f"{entry.memory:.0f}", str(entry.trainings)]
        lines.append(f"| {' | '.join([name, *cells, *cost])} |")
    return lines


def _value(entry: Entry, metric: str) -> str:
    value = entry.values.get(metric)
    if value is None:
        return ""
    if value.status != "ok":
        return value.status
    return f"{value.value:.3f}" + (f" [{value.low:.2f}, {value.high:.2f}]" if math.isfinite(value.low) else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
