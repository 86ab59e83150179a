"""A comparison on the terminal: as many columns as the screen is wide, the rest below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from influx.reporting import text
from influx.reporting.comparison import Comparison, Difference, Entry
from influx.reporting.grid import Definitions, Grid
from influx.reporting.tables import natural_width, stack

FRONT = "*"
FEW = 15  # pairs that are all printed
SECONDS, MEMORY, TRAININGS = "seconds", "peak MB", "trainings"
CAREFUL = "rows of different protocols do not answer the same question"


@dataclass(frozen=True)
class ComparisonTable:
    """The widest layout that fits: every interval, the sorted metric's alone, or scores and costs apart.

    One ``of_several`` leaves out the differences of all pairs, and ``said`` is said elsewhere.
    """

    comparison: Comparison
    of_several: bool = False
    said: Sequence[tuple[str, str]] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        c, every = self.comparison, list(self.comparison.columns)

        def fits(part: Grid) -> bool:
            return natural_width(console, options, [part]) <= options.max_width

        whole = [_grid(c, every, spread=True, cost=True, stacked=stacked) for stacked in (False, True)]
        whole += [_grid(c, every, spread=False, cost=True, stacked=True)]
        for part in whole:
            if fits(part):
                yield part
                break
        else:
            yield from _apart(c, fits)
        yield Text()
        if not self.of_several and 1 < len(c.pairs) <= FEW:  # one pair is in the table already
            yield from _differences(c)
        if c.footnotes:
            yield Definitions([(f"({mark})", reason) for mark, reason in c.footnotes])
            yield Text()
        yield Definitions([line for line in _lines(c) if line not in self.said])


def _apart(c: Comparison, fits: Callable[[Grid], bool]) -> Iterator[Grid | Text]:
    """The sorted metric first, with costs where they fit; the others in as few tables as the screen allows."""
    every = list(c.columns)
    first = _grid(c, every[:1], spread=True, cost=True, stacked=True)
    together = fits(first)
    yield first if together else _grid(c, every[:1], spread=True, cost=False, stacked=True)
    left, cost = every[1:], not together
    while left or cost:
        count = len(left)
        while count > 1 and not fits(_grid(c, left[:count], spread=False, cost=cost, stacked=True)):
            count -= 1
        yield Text()
        yield _grid(c, left[:count], spread=False, cost=cost, stacked=True)
        left, cost = left[count:], False


def comparison_table(made: Sequence[Comparison]) -> RenderableType:
    """Rows, differences, and what to read them with; one table after another where protocols differ."""
    if len(made) == 1:
        return Group(ComparisonTable(made[0]))
    every = [_lines(c) for c in made]
    said = [line for line in every[0] if all(line in lines for lines in every)]
    parts: list[RenderableType] = []
    for number, c in enumerate(made, start=1):
        parts += [Text(heading(c, number), style="bold"), Text(), ComparisonTable(c, True, said), Text()]
    return Group(*parts, Definitions([*said, ("careful", CAREFUL)]))


def heading(c: Comparison, number: int) -> str:
    """What stands above one of several comparisons."""
    return text.clean(f"Protocol {number}: {c.title}" if c.title else f"Protocol {number}")


def _grid(c: Comparison, columns: Sequence[str], *, spread: bool, cost: bool, stacked: bool) -> Grid:
    """One table. Differences stand beside the sorted metric, ``spread`` gives all metrics an interval."""
    headings = ["estimator"]
    for metric in columns:
        headings.append(stack(c.columns[metric], stacked))
        if metric == c.metric and c.against:
            than = c.against
            headings += [stack(f"minus {than if len(than) < 24 else 'the reference'}", stacked), "letters"]
    names = {SECONDS: "seconds", MEMORY: "peak\nMB" if stacked else "peak MB", TRAININGS: "trainings"}
    headings += list(names.values()) if cost else []
    rows = []
    for entry in c.entries:
        if entry.kind == "ceiling" and not any(metric in entry.scores for metric in columns):
            continue
        cells = [_name(entry)]
        for metric in columns:
            cells.append(_score(entry, metric, spread or metric == c.metric, stacked))
            if metric == c.metric and c.against:
                cells += [_difference(entry.difference, stacked), Text(entry.letters)]
        cells += _costs(entry) if cost else []
        rows.append(cells)
    return Grid(headings, rows, frozenset(names.values()), frozenset({"estimator"}))


def _name(entry: Entry) -> Text:
    style = {"run": "bold", "baseline": "dim", "ceiling": "italic"}[entry.kind]
    shown = Text(text.clean(entry.name), style=style)
    return shown.append(f" {FRONT}", style="green") if entry.front else shown


def _score(entry: Entry, metric: str, spread: bool, stacked: bool) -> Text:
    score = entry.scores.get(metric)
    if score is None:
        return Text("-", style="dim")
    if score.word:
        return Text(score.main.replace("applicable (", "applicable\n(") if stacked else score.main, style="yellow")
    parts = (score.main, score.interval if spread else "")
    return Text(("\n" if stacked else " ").join(part for part in parts if part))


def _difference(found: Difference | None, stacked: bool) -> Text:
    if found is None:
        return Text("-", style="dim")
    return Text(told(found).replace(" ", "\n", 1) if stacked else told(found))


def told(found: Difference) -> str:
    """A difference with its interval."""
    return f"{found.value:+.3f} {text.interval(found.low, found.high, 3)}".strip()


def _costs(entry: Entry) -> list[Text]:
    seconds = text.seconds(entry.seconds)
    charged = entry.unpaid and math.isfinite(entry.seconds)
    return [
        Text(f"~{seconds}" if charged else seconds if entry.kind != "ceiling" else ""),
        Text(text.count(entry.peak_mb) if entry.kind != "ceiling" else ""),
        Text(text.count(entry.trainings) if entry.kind != "ceiling" else ""),
    ]


def _differences(c: Comparison) -> RenderResult:
    rows = [
        [Text(text.clean(c.entries[i].name)), Text(text.clean(c.entries[j].name)), Text(told(found))]
        for (i, j), found in sorted(c.pairs.items())
    ]
    yield Grid(["this", "minus this", f"difference in {c.metric}"], rows)
    yield Text()


def _lines(c: Comparison) -> list[tuple[str, str]]:
    """What the table is to be read with. Protocols of the other metrics are in the report and with --json."""
    lines = [(FRONT, front_note(c))] if any(entry.front for entry in c.entries) else []
    lines += [(name, found) for name, found in c.protocol.items() if name not in c.columns or name == c.metric]
    return [*lines, *(("note", sentence) for sentence in c.notes)]


def front_note(c: Comparison) -> str:
    """What the mark of the Pareto front means."""
    better = "low" if c.lower_is_better else "high"
    whose = " of its model" if c.several else ""
    return f"Pareto front: no other row{whose} has {c.metric} as {better} in as little time"
