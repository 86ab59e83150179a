"""One self-contained HTML page about one or several runs: one script of its own, no requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from influx.reporting import (
    agreement,
    calibration,
    comparison_page,
    curves,
    instances,
    metric_tables,
    sections,
    svg,
    word_shares,
)
from influx.reporting.comparison import Comparison, run_names
from influx.reporting.markup import Markup, join, tag, text
from influx.reporting.record import RunRecord
from influx.reporting.script import HASH, SCRIPT
from influx.reporting.style import CSS
from influx.reporting.text import clean
from influx.reporting.verdict import verdict_of
from influx.store import write_atomically

# Only inline styles, embedded images and the one script of that hash: a label that slipped through could load and run
# nothing.
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{HASH}'; base-uri 'none'; "
    "form-action 'none'"
)
FOLDED = 4  # runs of a page that are still shown in full; more are to be opened
MANY = 8  # runs of a page about which less is shown


def write(records: Sequence[RunRecord], path: Path, compared: Sequence[Comparison] = ()) -> str:
    """Write the page about ``records``, ``compared`` by protocol, whole or not at all; return its SHA-256.

    Raises:
        DataError: a run's images are damaged.
        UserError: the file cannot be written.
    """
    content = page(records, compared)
    return write_atomically(path, lambda temporary: _write(temporary, content))


def _write(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="\n")


def page(records: Sequence[RunRecord], compared: Sequence[Comparison] = ()) -> str:
    """The page as text; the same for the same records."""
    title = clean(records[0].name) if len(records) == 1 else f"{len(records)} runs"
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        text("title", f"influx: {title}"),
        tag("style", CSS),
    )
    several = len(records) > 1
    articles = [_article(record, f"run-{i}", len(records)) for i, record in enumerate(records, start=1)]
    top = _top(records, compared) if several else Markup("")
    end = comparison_page.commands(compared) if compared else Markup("")
    skip = text("a", "Skip to the content", href="#content", class_="skip")
    body = (skip, tag("main", join(top, *articles, end), id="content"))
    document = tag("html", tag("head", join(*head)), tag("body", *body, tag("script", Markup(SCRIPT))), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _top(records: Sequence[RunRecord], compared: Sequence[Comparison]) -> Markup:
    """What is said about all runs together."""
    if not compared:
        return _overview(records)
    links = {run: f"run-{i}" for i, run in enumerate(run_names(records), start=1)}
    found = comparison_page.comparisons(compared, links)
    return join(tag("header", text("h1", f"influx report: {len(records)} runs")), found, text("h2", "Runs"))


def _overview(records: Sequence[RunRecord]) -> Markup:
    """All runs in one table, each a link to its part of the page."""
    rows = []
    for i, record in enumerate(records, start=1):
        found = verdict_of(record)
        own = found.rows[0]
        key = next((k for k, heading in found.columns.items() if "Spearman" in heading), "")
        score = own.scores.get(key)
        link = text("a", clean(record.name), href=f"#run-{i}")
        cells = [text("td", record.choice(group)) for group in ("dataset", "model")]
        cells.append(text("td", f"{score.main} {score.interval}".strip() if score else "-"))
        cells += [text("td", own.seconds, class_="number"), text("td", record.protocol)]
        rows.append(tag("tr", tag("th", link, scope="row"), *cells))
    headings = [("run", ""), ("dataset", ""), ("model", ""), ("agreement (per-test Spearman)", "")]
    headings += [("seconds", "number"), ("protocol", "")]
    parts = [text("h1", f"influx report: {len(records)} runs"), sections.table("Runs", headings, rows)]
    if len({record.protocol for record in records}) > 1:
        told = "These runs used different protocols: their numbers must not be compared with each other."
        parts.append(tag("div", text("p", told), class_="warnings", role="note"))
    return tag("header", *parts)


def _article(record: RunRecord, key: str, runs: int) -> Markup:
    several = runs > 1
    name = text("h2", clean(record.name), class_="run") if several else text("h1", clean(record.name))
    chosen = [f"{group} {clean(found)}" for group in ("dataset", "model") if (found := record.choice(group))]
    n_train, n_test = record.influence.shape
    size = f"{n_train:,} training and {n_test:,} test instances"
    facts = " · ".join([*chosen, f"estimator {clean(record.estimator)}", size])
    status = clean(record.manifest.get("status", "unknown"))
    parts = (
        tag("header", name, text("p", f"{facts} · status {status}", class_="lead")),
        sections.warnings(record),
        sections.verdict(record),
        sections.perspective(record),
        _plots(record, key, runs),
        metric_tables.further(record, key),
        instances.neighbours(record, runs > MANY),
        word_shares.section(record),
        curves.influential(record, key),
        instances.memorised(record),
        sections.tables(record),
        sections.cost(record),
        sections.notes(record),
        sections.reproduce(record),
    )
    article = tag("article", join(*parts), id=key)
    if runs <= FOLDED:
        return article
    return sections.details(f"{clean(record.name)}: {clean(record.estimator)}", article)


def _plots(record: RunRecord, key: str, runs: int) -> Markup:
    """Scatter and histogram, or a sentence when there is nothing to compare with."""
    truth, estimate = agreement.sampled_pairs(record, agreement.POINTS if runs <= MANY else agreement.POINTS // 5)
    heading = text("h2", f"Estimate against {clean(record.truth_name)}")
    if not len(truth):
        return tag("section", heading, text("p", "No ground truth was computed.", class_="lead"))
    name, own = clean(record.truth_name), clean(record.estimator)
    cells = len(record.truth_rows) * record.influence.shape[1]
    shown = f"{len(truth):,} of {cells:,} pairs of a training and a test instance"
    cloud = svg.scatter(
        truth,
        estimate,
        labels=(f"{name}: change of test loss", f"{own}: estimate"),
        title=f"{own} against {name}",
        description=f"Scatter plot of {shown}; the same signs lie at the lower left and the upper right.",
        key=f"{key}-scatter",
    )
    figures = [tag("figure", cloud, text("figcaption", f"Each point is one pair; {shown} are drawn."))]
    figures += [_spearman(record, key), calibration.figure(record, key)]
    return tag("section", heading, tag("div", *figures, class_="plots"))


def _spearman(record: RunRecord, key: str) -> Markup:
    found, looked_at = agreement.spearman_per_test(record)
    told = f"Spearman correlation with {clean(record.truth_name)} of {len(found):,} test instances"
    if len(found) < looked_at:
        told += f"; undefined for {looked_at - len(found):,} more, whose values are constant"
    middle = f"; median {np.median(found):.2f} (dashed)" if len(found) else ""
    plot = svg.histogram(
        found,
        label="Spearman correlation of one test instance",
        title="Agreement per test instance",
        description=f"Histogram: {told}{middle}.",
        key=f"{key}-histogram",
    )
    return tag("figure", plot, text("figcaption", f"{told}{middle}."))
