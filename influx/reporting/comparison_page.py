"""A comparison as HTML: a table to sort and search, agreement against cost, differences, commands."""

from __future__ import annotations

import math
from collections.abc import Mapping

from influx.reporting import sections, series
from influx.reporting import text as words
from influx.reporting.comparison import Comparison, Entry, share_letter
from influx.reporting.comparison_table import front_note, in_words, told
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.text import clean

PAIRS = 600  # differences on the page; above, those to the reference alone
SHORTEST = 0.0005  # seconds are kept in thousandths, and a logarithmic axis has no 0


def comparison(c: Comparison, links: Mapping[str, str]) -> Markup:
    """The sections about all runs; ``links`` leads from a run's name to its part of the page."""
    parts = [
        tag("section", text("h2", "Comparison"), _careful(c), _rows(c, links), _below(c)),
        _front(c),
        _differences(c),
    ]
    return join(*parts)


def _careful(c: Comparison) -> Markup:
    if len(c.protocols) < 2:
        return Markup("")
    sentence = "These runs used different protocols: their numbers must not be compared with each other."
    items = [f"protocol {n}: {in_words(protocol)}" for n, protocol in enumerate(c.protocols, start=1)]
    return tag("div", text("p", sentence), sections.bullets(items), class_="warnings", role="note")


def _rows(c: Comparison, links: Mapping[str, str]) -> Markup:
    several = len(c.protocols) > 1
    headings = [("estimator", ""), ("Pareto front", "")]
    headings += [("protocol", "number")] if several else []
    every = list(c.columns)
    headings += [(c.columns[metric], "") for metric in every[:1]]
    if c.reference is not None:
        headings += [(f"minus {clean(c.entries[c.reference].name)}", ""), ("letters", "")]
    headings += [("seconds", "number"), ("peak MB", "number"), ("trainings", "number")]
    headings += [(c.columns[metric], "") for metric in every[1:]]
    rows = [_row(c, entry, links, several) for entry in c.entries]
    table = sections.table("Estimators, best first, with 95% confidence intervals", headings, rows, sortable=True)
    return tag("div", table, class_="dense")


def _row(c: Comparison, entry: Entry, links: Mapping[str, str], several: bool) -> Markup:
    name = escaped(clean(entry.name))
    if entry.kind == "run" and entry.run in links:
        name = tag("a", name, href=f"#{links[entry.run]}")
    cells = [tag("th", name, scope="row"), text("td", "yes" if entry.front else "", class_="front")]
    cells += [text("td", entry.protocol + 1, class_="number")] if several else []
    every = list(c.columns)
    cells += [sections.score_cell(entry.scores.get(metric)) for metric in every[:1]]
    cells += _difference(entry) if c.reference is not None else []
    cells += _costs(entry)
    cells += [sections.score_cell(entry.scores.get(metric)) for metric in every[1:]]
    return tag("tr", *cells, class_=None if entry.kind == "run" else entry.kind)


def _difference(entry: Entry) -> list[Markup]:
    found = entry.difference
    spread = words.interval(found.low, found.high, 3) if found else ""
    ci = Markup(" " + text("span", spread, class_="ci")) if spread else Markup("")
    value = escaped(f"{found.value:+.3f}" if found else "-")
    return [tag("td", value, ci), text("td", entry.letters, class_="letters")]


def _costs(entry: Entry) -> list[Markup]:
    if entry.kind == "ceiling":
        return [tag("td")] * 3
    charged = "~" if entry.unpaid and math.isfinite(entry.seconds) else ""
    numbers = (f"{charged}{words.seconds(entry.seconds)}", words.count(entry.peak_mb), words.count(entry.trainings))
    return [text("td", number, class_="number") for number in numbers]


def _below(c: Comparison) -> Markup:
    marks = [(f"({mark})", reason) for mark, reason in c.footnotes]
    lines = [("Pareto front", front_note(c).removeprefix("Pareto front: "))]
    lines += [("note", sentence) for sentence in c.notes]
    parts = [sections.definitions(marks) if marks else Markup(""), sections.definitions(lines)]
    if len(c.protocols) == 1:
        measured = sections.definitions(list(c.protocols[0].items()))
        parts.append(sections.details("Protocol: what every number was measured on", measured))
    return join(*parts)


def _front(c: Comparison) -> Markup:
    """One plot per protocol with at least two points."""
    figures = []
    for place in range(len(c.protocols)):
        inside = [entry for entry in c.entries if entry.protocol == place and entry.kind != "ceiling"]
        points = [point for entry in inside if (point := _point(c, entry)) is not None]
        if len(points) > 1:
            figures.append(_figure(c, points, place))
    if not figures:
        return Markup("")
    return tag("section", text("h2", "Agreement against cost"), tag("div", *figures, class_="wide"))


def _point(c: Comparison, entry: Entry) -> series.Point | None:
    score = entry.scores.get(c.metric)
    if score is None or score.word or not entry.seconds >= 0 or not math.isfinite(entry.seconds):
        return None
    return series.Point(
        name=clean(entry.name), seconds=max(entry.seconds, SHORTEST), score=score.value, low=score.low, high=score.high,
        kind=entry.kind, front=entry.front,
    )  # fmt: skip


def _figure(c: Comparison, points: list[series.Point], place: int) -> Markup:
    best = ", ".join(point.name for point in sorted(points, key=lambda p: p.seconds) if point.front)
    which = f" (protocol {place + 1})" if len(c.protocols) > 1 else ""
    ceiling = next((e.scores.get(c.metric) for e in c.entries if e.kind == "ceiling" and e.protocol == place), None)
    plot = series.front(
        points,
        ceiling=ceiling.value if ceiling else None,
        y_label=clean(c.columns[c.metric]),
        title=f"{c.metric} against seconds{which}",
        description=f"{len(points)} rows; on the Pareto front, from fast to slow: {best}.",
        key=f"pareto-{place + 1}",
    )
    caption = f"{front_note(c)}{which}: {best}. Whiskers are 95% confidence intervals."
    return tag("figure", plot, text("figcaption", caption))


def _differences(c: Comparison) -> Markup:
    if not c.pairs:
        return Markup("")
    pairs = sorted(c.pairs.items())
    if len(pairs) > PAIRS:
        pairs = [pair for pair in pairs if c.reference in pair[0]]
    rows = []
    for (i, j), found in pairs:
        left, right = c.entries[i], c.entries[j]
        apart = bool(left.letters and right.letters) and not share_letter(left.letters, right.letters)
        cells = [text("th", clean(left.name), scope="row"), text("td", clean(right.name))]
        cells += [text("td", told(found).split(" ", 1)[0], class_="number")]
        cells += [text("td", words.interval(found.low, found.high, 3), class_="ci")]
        cells += [text("td", "yes" if apart else "no"), text("td", found.n, class_="number")]
        rows.append(tag("tr", *cells))
    headings = [("this", ""), ("minus this", ""), (f"difference in {c.metric}", "number"), ("95% interval", "")]
    headings += [("beyond doubt for all pairs at once", ""), ("test instances", "number")]
    shown = "every two estimators" if len(pairs) == len(c.pairs) else f"{len(pairs)} of {len(c.pairs):,} pairs"
    caption = f"Paired differences of {shown}, over the same test instances"
    table = sections.table(caption, headings, rows, sortable=True)
    return tag("section", text("h2", "Differences"), sections.details(f"{len(pairs)} paired differences", table))


def commands(c: Comparison) -> Markup:
    """How every run is made again, and the comparison after them."""
    rows = [
        tag("tr", text("th", clean(name), scope="row"), tag("td", text("code", command or "not recorded")))
        for name, command in c.commands.items()
    ]
    table = sections.table("One command for each run", [("run", ""), ("command", "")], rows, sortable=True)
    return tag("section", text("h2", "Reproduce"), table)
