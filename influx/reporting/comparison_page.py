"""A comparison as HTML: a table to sort and search, agreement against cost, differences, commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from influx.reporting import sections, series
from influx.reporting import text as words
from influx.reporting.comparison import Comparison, Entry, share_letter
from influx.reporting.comparison_table import front_note, heading, told
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.text import clean

PAIRS = 600  # differences on the page; above, those to the reference alone
SHORTEST = 0.0005  # seconds are kept in thousandths, and a logarithmic axis has no 0


def comparisons(made: Sequence[Comparison], links: Mapping[str, str]) -> Markup:
    """The sections about all runs; ``links`` leads from a run's name to its part of the page."""
    if len(made) == 1:
        return _Part(made[0], links).markup()
    headings = [heading(c, n) for n, c in enumerate(made, start=1)]
    parts = [_careful(headings)]
    parts += [_Part(c, links, n, headings[n - 1]).markup() for n, c in enumerate(made, start=1)]
    return join(*parts)


def _careful(headings: Sequence[str]) -> Markup:
    sentence = "These runs used different protocols: their numbers must not be compared with each other."
    items = [tag("li", text("a", told, href=f"#protocol-{n}")) for n, told in enumerate(headings, start=1)]
    return tag("div", text("p", sentence), tag("ul", *items), class_="warnings", role="note")


@dataclass(frozen=True)
class _Part:
    """One comparison on the page; the ``number`` and ``title`` tell it from others."""

    c: Comparison
    links: Mapping[str, str]
    number: int = 1
    title: str = ""

    def markup(self) -> Markup:
        """Table, front and differences; below one heading where there are several comparisons."""
        table = join(self._rows(), self._below())
        if not self.title:
            return join(tag("section", text("h2", "Comparison"), table), self._front("h2"), self._differences("h2"))
        title = text("h2", self.title)
        key = f"protocol-{self.number}"
        return tag("section", title, table, self._front("h3"), self._differences("h3"), id=key)

    def _of(self, told: str) -> str:
        """A name of something that stands once in each comparison."""
        return f"{told} (protocol {self.number})" if self.title else told

    def _rows(self) -> Markup:
        c, every = self.c, list(self.c.columns)
        headings = [("estimator", ""), ("Pareto front", "")]
        headings += [(c.columns[metric], "") for metric in every[:1]]
        if c.against:
            headings += [(f"minus {clean(c.against)}", ""), ("letters", "")]
        headings += [("seconds", "number"), ("peak MB", "number"), ("trainings", "number")]
        headings += [(c.columns[metric], "") for metric in every[1:]]
        rows = [self._row(entry) for entry in c.entries]
        within = ", model by model" if c.several else ""
        caption = self._of(f"Estimators, best first{within}, with 95% confidence intervals")
        return tag("div", sections.table(caption, headings, rows, sortable=True), class_="dense")

    def _row(self, entry: Entry) -> Markup:
        name = escaped(clean(entry.name))
        if entry.kind == "run" and entry.run in self.links:
            name = tag("a", name, href=f"#{self.links[entry.run]}")
        cells = [tag("th", name, scope="row"), text("td", "yes" if entry.front else "", class_="front")]
        every = list(self.c.columns)
        cells += [sections.score_cell(entry.scores.get(metric)) for metric in every[:1]]
        cells += _difference(entry) if self.c.against else []
        cells += _costs(entry)
        cells += [sections.score_cell(entry.scores.get(metric)) for metric in every[1:]]
        return tag("tr", *cells, class_=None if entry.kind == "run" else entry.kind)

    def _below(self) -> Markup:
        c = self.c
        marks = [(f"({mark})", reason) for mark, reason in c.footnotes]
        lines = [("Pareto front", front_note(c).removeprefix("Pareto front: "))]
        lines += [("note", sentence) for sentence in c.notes]
        measured = sections.definitions(list(c.protocol.items()))
        return join(
            sections.definitions(marks) if marks else Markup(""),
            sections.definitions(lines),
            sections.details(self._of("Protocol: what every number was measured on"), measured),
        )

    def _front(self, level: str) -> Markup:
        """Agreement against cost, where there are at least two points."""
        c = self.c
        points = [point for entry in c.entries if entry.kind != "ceiling" and (point := _point(c, entry)) is not None]
        if len(points) < 2:
            return Markup("")
        best = ", ".join(point.name for point in sorted(points, key=lambda p: p.seconds) if point.front)
        known = [e.scores.get(c.metric) for e in c.entries if e.kind == "ceiling"]
        ceiling = known[0] if len(known) == 1 else None  # of one model
        plot = series.front(
            points,
            ceiling=ceiling.value if ceiling else None,
            y_label=clean(c.columns[c.metric]),
            title=self._of(f"{c.metric} against seconds"),
            description=f"{len(points)} rows; on the Pareto front, from fast to slow: {best}.",
            key=f"pareto-{self.number}",
        )
        caption = f"{front_note(c)}: {best}. Whiskers are 95% confidence intervals."
        figure = tag("figure", plot, text("figcaption", caption))
        return tag("section", text(level, "Agreement against cost"), tag("div", figure, class_="wide"))

    def _differences(self, level: str) -> Markup:
        c = self.c
        if not c.pairs:
            return Markup("")
        pairs = sorted(c.pairs.items())
        if len(pairs) > PAIRS:
            pairs = [pair for pair in pairs if set(c.references) & set(pair[0])]
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
        whole = len(pairs) == len(c.pairs)
        shown = "every two estimators" if whole else f"{len(pairs)} of {len(c.pairs):,} pairs, those with the reference"
        caption = self._of(f"Paired differences of {shown}, over the same test instances")
        table = sections.table(caption, headings, rows, sortable=True)
        opened = sections.details(self._of(f"{len(pairs)} paired differences"), table)
        return tag("section", text(level, "Differences"), opened)


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


def _point(c: Comparison, entry: Entry) -> series.Point | None:
    score = entry.scores.get(c.metric)
    if score is None or score.word or not entry.seconds >= 0 or not math.isfinite(entry.seconds):
        return None
    return series.Point(
        name=clean(entry.name), seconds=max(entry.seconds, SHORTEST), score=score.value, low=score.low, high=score.high,
        kind=entry.kind, front=entry.front, model=entry.model,
    )  # fmt: skip


def commands(made: Sequence[Comparison]) -> Markup:
    """How every run is made again, and the comparison after them."""
    rows = [
        tag("tr", text("th", clean(name), scope="row"), tag("td", text("code", command or "not recorded")))
        for c in made
        for name, command in c.commands.items()
    ]
    table = sections.table("One command for each run", [("run", ""), ("command", "")], rows, sortable=True)
    return tag("section", text("h2", "Reproduce"), table)
