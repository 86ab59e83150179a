"""Rows and columns for the terminal, and lists of names with what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from influx.reporting import text

PLAIN = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Grid:
    """A table whose rule is ASCII outside terminals; ``right`` holds numbers, ``whole`` never breaks."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Text]]
    right: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.table(plain=options.ascii_only or not console.is_terminal)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.table(plain=True))

    def table(self, *, plain: bool) -> Table:
        """The rich table."""
        table = Table(
            box=PLAIN if plain else box.SIMPLE_HEAD,
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            pad_edge=False,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for name in self.columns:
            heading = Text("\n".join(map(text.clean, name.split("\n"))))  # broken on purpose, see stack
            table.add_column(heading, justify="right" if name in self.right else "left", no_wrap=name in self.whole)
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass(frozen=True)
class Definitions:
    """Names in one column, what they stand for in the other; for hundreds of lines several times as fast as a table."""

    lines: Sequence[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        named = [(text.clean(name), text.clean(value)) for name, value in self.lines]
        indent = max((cell_len(name) for name, _ in named), default=0) + 2
        lines = []
        for name, value in named:
            label = name
            for line in Text(value).wrap(console, max(options.max_width - indent, 10)) or [Text()]:
                lines.append(Text.assemble((set_cell_size(label, indent), "dim"), line))
                label = ""
        yield Text("\n").join(lines)
