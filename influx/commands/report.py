"""``influx report``: one HTML page about finished runs, with their comparison where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from influx.errors import UserError

OURS = "<title>influx: "  # in the head of every page
HEAD = 4096  # characters in which it stands


def report(
    places: Sequence[Path],
    output: Path,
    metrics: Sequence[str] = (),
    *,
    against: str = "",
    lower_is_better: bool = False,
    force: bool = False,
) -> int:
    """Write the page about the finished runs in ``places`` and say where it is; the exit code.

    Raises:
        DataError: a place holds no finished run.
        ConfigError: protocols differ without ``force``, or a metric or reference is unknown.
        UserError: the file cannot be written, or is not one that may be replaced.
    """
    from influx.commands.comparisons import Asked, comparisons_of
    from influx.commands.finished import finished
    from influx.reporting import html, progress

    _may_write(output)
    records, notes = finished(places)
    asked = Asked(metrics=tuple(metrics), lower_is_better=lower_is_better, against=against, force=force)
    found = comparisons_of(records, asked, notes)  # of one run too, which finds what is asked for and is not there
    html.write(records, output, found if len(records) > 1 else ())
    for sentence in notes:
        progress.warn(sentence)
    progress.console().print(f"report: {output}", soft_wrap=True, markup=False)
    return 0


def _may_write(output: Path) -> None:
    """Refuse to replace what no report is, and files that a run counts among its own."""
    if output.is_dir():
        raise UserError(
            f"--output names a file, {output} is a folder; add the name of a file, as in {output}/report.html"
        )
    if (output.parent / "checksums.json").exists():
        raise UserError(f"{output.parent} belongs to a run, which checks its files; set --output to another folder")
    if not output.exists():
        return
    with output.open(encoding="utf-8", errors="replace") as file:
        if OURS not in file.read(HEAD):
            raise UserError(f"{output} exists and is no report of influx; set --output to another file")
