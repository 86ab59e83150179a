"""Tables for the terminal. All fit 80 columns, and stay plain when the output is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

from influx.reporting import text
from influx.reporting.grid import Definitions, Grid
from influx.reporting.signs import is_unsigned, roles
from influx.reporting.verdict import Row, Verdict, verdict_of, words

if TYPE_CHECKING:
    from influx.reporting.passages import Passage
    from influx.reporting.record import Neighbour, RunRecord

NAME = frozenset({"estimator"})
SHARED = "*"
LABEL = 14  # characters of a label where several share a line
STYLES = {"done": "green", "yes": "green", "running": "cyan", "failed": "red", "no": "red", "interrupted": "yellow"}


class Check(Protocol):
    """One estimator against one oracle; ``error`` is what was measured, ``bound`` what is allowed."""

    @property
    def name(self) -> str:
        """The estimator."""

    @property
    def oracle(self) -> str:
        """What it is compared with."""

    @property
    def error(self) -> float:
        """The measured error."""

    @property
    def bound(self) -> float:
        """The largest error allowed."""

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound."""


@dataclass(frozen=True)
class VerdictTable:
    """The widest of three layouts that fits: one line per row, intervals below, or scores and costs apart."""

    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        v = self.verdict
        layouts = [[_scores(v, stacked=False, cost=True)], [_scores(v, stacked=True, cost=True)]]
        apart: list[Grid | Text] = [_scores(v, stacked=True, cost=False), Text(), _costs(v)]
        fitting = (parts for parts in layouts if natural_width(console, options, parts) <= options.max_width)
        chosen: list[RenderableType] = [*next(fitting, apart if v.columns else [_costs(v)])]
        yield from chosen
        if v.detection:
            yield Text()
            yield from _detections(v, lambda part: natural_width(console, options, [part]) <= options.max_width)
        if v.bounded:
            yield Text()
            told = [vars(b) | {"ceiling": f"{b.ceiling.value} {b.ceiling.interval}".strip()} for b in v.bounded]
            yield listing(told, ("metric", "value", "interval", "ceiling"))
        if v.footnotes:
            yield Text()
            yield Definitions([(f"({mark})", reason) for mark, reason in v.footnotes])
        yield Text()
        yield Definitions(v.lines)


def natural_width(console: Console, options: ConsoleOptions, parts: Iterable[Grid]) -> int:
    """Columns that the widest of ``parts`` takes when nothing limits it."""
    wide = options.update(width=10_000)
    return max(Measurement.get(console, wide, part).maximum for part in parts)


def verdict(record: RunRecord) -> RenderableType:
    """Estimator and baselines side by side, with ceiling, coverage, sign and protocol below."""
    head = Text.assemble((text.clean(record.name), "bold"), f"  ({text.clean(record.manifest.get('status', '?'))})")
    warnings = [Text(f"\nwarning: {text.clean(w)}", style="yellow") for w in record.sentences("warnings")]
    return Group(head, Text(), VerdictTable(verdict_of(record)), *warnings)


def _scores(v: Verdict, *, stacked: bool, cost: bool) -> Grid:
    headings = {key: stack(heading, stacked) for key, heading in v.columns.items()}
    names = ["estimator", *headings.values()]
    rows = []
    for row in v.rows:
        cells = [_name(row), *(_score(row, key, stacked) for key in headings)]
        rows.append([*cells, Text(row.seconds), Text(row.peak_mb), Text(row.trainings)] if cost else cells)
    right = ["seconds", "peak\nMB" if stacked else "peak MB", "trainings"]
    return Grid([*names, *right] if cost else names, rows, frozenset(right), NAME)


def stack(heading: str, stacked: bool) -> str:
    """Break long headings so that a column is as narrow as its numbers."""
    if heading.startswith("agreement with "):
        truth, rest = heading.removeprefix("agreement with ").split(" (", 1)
        rest = rest.replace(" ", "\n") if stacked else rest
        return f"agreement{chr(10) if stacked else ' '}with {truth}\n({rest}"
    return heading.replace(" ", "\n") if stacked else heading


def _score(row: Row, key: str, stacked: bool) -> Text:
    score = row.scores.get(key)
    if score is None:
        return Text("-", style="dim")
    if score.word:
        return Text(score.main.replace("applicable (", "applicable\n(") if stacked else score.main, style="yellow")
    # An overlap's interval stays on the page and in metrics.csv: here it would cost a column's width.
    spread = "" if words(key) & {"overlap", "topk"} else score.interval
    return Text(("\n" if stacked else " ").join(part for part in (score.main, spread) if part))


def _name(row: Row) -> Text:
    return Text(text.clean(row.name), style="dim" if row.baseline else "bold")


def _costs(v: Verdict) -> Grid:
    rows = [[_name(r), Text(r.seconds), Text(r.peak_mb), Text(r.trainings)] for r in v.rows]
    right = ("seconds", "peak MB", "trainings")
    return Grid(["estimator", *right], rows, frozenset(right), NAME)


def _detections(v: Verdict, fits: Callable[[Grid], bool]) -> Iterator[Grid | Text]:
    """One table, or as few as the screen allows."""
    left = list(v.detection)
    whole = _detection(v, left, stacked=False)
    if fits(whole):
        yield whole
        return
    while left:
        count = len(left)
        while count > 1 and not fits(_detection(v, left[:count], stacked=True)):
            count -= 1
        yield _detection(v, left[:count], stacked=True)
        left = left[count:]
        if left:
            yield Text()


def _detection(v: Verdict, columns: Sequence[str], *, stacked: bool) -> Grid:
    shown = [row for row in v.detection_rows if any(key in row.scores for key in columns)]
    rows = [[_name(row), *(_score(row, key, stacked) for key in columns)] for row in shown]
    headings = [stack(v.detection[key], stacked) for key in columns]
    return Grid(["detection", *headings], rows, whole=frozenset({"detection"}))


def neighbours(record: RunRecord, test_id: int, top: int) -> RenderableType:
    """Proponents and opponents of one test instance.

    Raises:
        ConfigError: there is no such test instance.
    """
    rows, texts = [], record.passages
    own = texts.passage("test", record.column(test_id)) if texts is not None else None
    for role, called in roles(record).items():
        for near in record.neighbours(test_id, role, top):
            cells = [called, str(near.rank), str(near.train_id), near.label, text.signed(near.influence)]
            cells += [text.signed(near.truth)] if record.truth is not None else []
            rows.append([Text(text.clean(cell)) for cell in cells])
            if texts is not None and own is not None:
                rows[-1].append(_passage(texts.passage("train", near.position), own.words))
    columns = ["role", "rank", "train id", "label", "influence"]
    columns += [record.truth_name] if record.truth is not None else []
    title = f"test instance {test_id}, label {text.clean(record.label('test', test_id))}"
    right = frozenset({"rank", "train id", "influence", record.truth_name})
    if own is None:
        return Grid(columns, rows, right, title=title)
    told = Text(f"{SHARED} is around words that the test text has too: ", style="dim")
    whole = frozenset(columns) - {"label"}
    return Group(Grid([*columns, "text"], rows, right, whole, title=title), Text(), told, _passage(own))


def _passage(passage: Passage, shared: frozenset[int] = frozenset()) -> Text:
    """A text, with the words of ``shared`` bold and between signs, which a file and a plain terminal show too."""
    parts = [(f"{SHARED}{part}{SHARED}", "bold") if mark else part for part, mark in passage.marked(shared)]
    return Text.assemble(*parts)


def a_few(record: RunRecord, count: int = 3, top: int = 3) -> RenderableType:
    """Proponents and opponents of a few test instances, evenly spaced over the test set."""
    rows = []
    for test_id in record.spread(count):
        cells = [Text(f"{test_id}, label {text.shortened(text.clean(record.label('test', test_id)), LABEL)}")]
        for role in roles(record):
            cells.append(Text("\n".join(_one_line(near) for near in record.neighbours(test_id, role, top))))
        rows.append(cells)
    ends = (called if is_unsigned(record) else f"{called}s" for called in roles(record).values())
    return Grid(["test instance", *(f"{end}: train id, label" for end in ends)], rows)


def perspective(record: RunRecord, top: int = 5) -> RenderableType:
    """The first and last rows of what was asked for, where that is not the matrix itself."""
    found = record.tables.get("perspective")
    if found is None:
        return Text()
    table = found.frame
    head = Text.assemble(
        ("perspective ", "bold"), f"{record.choice('perspective')}: {text.clean(record.perspective_note)}"
    )
    ends = table if len(table) <= 2 * top else table.iloc[[*range(top), *range(len(table) - top, len(table))]]
    columns = [str(c) for c in table.columns]
    rows = [dict(zip(columns, values, strict=True)) for values in ends.itertuples(index=False, name=None)]
    return Group(head, Text(), listing(rows, columns), Text())


def _one_line(near: Neighbour) -> str:
    return f"{text.signed(near.influence):>8} {near.train_id}, {text.shortened(text.clean(near.label), LABEL)}"


@dataclass(frozen=True)
class Listing:
    """A table, or one block per row where the screen is too narrow for its words."""

    grid: Grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # A column narrower than 10 letters breaks its words; then blocks read better.
        least = sum(min(max(_widths(self.grid, i)), 10) + 2 for i in range(len(self.grid.columns)))
        least += max(_widths(self.grid, 0), default=0)
        if least <= options.max_width:
            yield self.grid
            return
        for row in self.grid.rows:
            yield row[0].copy()
            named = zip(self.grid.columns[1:], row[1:], strict=True)
            block = Definitions([(f"  {name}", cell.plain) for name, cell in named if cell.plain])
            yield block


def _widths(grid: Grid, column: int) -> list[int]:
    return [len(grid.columns[column]), *(row[column].cell_len for row in grid.rows)]


def listing(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> RenderableType:
    """Any rows under the given columns; numbers to the right, missing values empty."""
    right = frozenset(c for c in columns if rows and all(_is_number(row.get(c)) for row in rows))
    cells = [[_cell(c, row.get(c)) for c in columns] for row in rows]
    named = {c: c.replace("_mb", " MB").replace("_", " ") for c in columns}
    return Listing(Grid(list(named.values()), cells, frozenset(named[c] for c in right)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(column: str, value: object) -> Text:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if column == "seconds" and _is_number(value):
        return Text(text.seconds(value))
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, list | tuple | set | frozenset):
        value = ", ".join(sorted(map(str, value)) if isinstance(value, set | frozenset) else map(str, value))
    plain = text.clean("" if value is None else value)
    return Text(plain, style=STYLES.get(plain, ""))


def plan_table(stages: Sequence[Mapping[str, object]]) -> RenderableType:
    """What a run would do: mappings with stage, state, work, seconds, memory_mb, disk_mb, formula, and a total."""
    columns = ("stage", "state", "work", "seconds", "memory_mb", "disk_mb", "formula")
    total: dict[str, object] = {"stage": "total"}
    for column, combine in (("seconds", sum), ("memory_mb", max), ("disk_mb", sum)):
        numbers = [v for row in stages if isinstance(v := row.get(column), int | float)]
        total[column] = combine(numbers) if numbers else None
    used = [c for c in columns if any(row.get(c) not in (None, "") for row in stages)]
    return listing([*stages, total], used)


def verify_table(checks: Sequence[Check]) -> RenderableType:
    """Measured errors against oracles, and how many hold."""
    rows = [
        [
            Text(text.clean(c.name)),
            Text(text.clean(c.oracle)),
            Text(f"{c.error:.2e}"),
            Text(f"{c.bound:.0e}"),
            Text("yes" if c.passed else "NO", style="green" if c.passed else "bold red"),
        ]
        for c in checks
    ]
    held = sum(c.passed for c in checks)
    grid = Grid(["estimator", "oracle", "error", "bound", "holds"], rows, frozenset({"error", "bound"}))
    return Group(grid, Text(), Text(f"{held} of {len(checks)} within their bounds"))


def status_table(jobs: Sequence[Mapping[str, object]]) -> RenderableType:
    """Runs or jobs of a sweep: mappings with name, status, stage, resumable, note."""
    columns = ("name", "status", "stage", "resumable", "note")
    return listing(jobs, [c for c in columns if any(row.get(c) not in (None, "") for row in jobs)] or ["name"])
