"""Published numbers shown beside ours: another dataset and protocol, so they never pass or fail anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from influx.bench.measures import Results
from influx.config import conf_dir

FILE = "anchors.json"


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One published number. ``ours`` is an entry of the results and ``metric`` one of its values."""

    what: str
    published: float
    protocol: str
    source: str
    ours: str
    metric: str
    differs: str  # how our protocol is another one


def load() -> list[Anchor]:
    """All anchors that come with influx."""
    values = json.loads((conf_dir() / "bench" / FILE).read_text(encoding="utf-8"))
    groups = {
        name: {k: group[k] for k in ("protocol", "source", "differs")} for name, group in values["groups"].items()
    }
    return [Anchor(**groups[node.pop("group")], **node) for node in values["numbers"]]


def table(anchors: Sequence[Anchor], results: Results) -> Iterator[str]:
    """Markdown lines: those whose entry was measured, with their protocols below."""
    shown = [anchor for anchor in anchors if _ours(anchor, results) is not None]
    if not shown:
        return
    yield "### Published numbers beside ours (never pass or fail: other data, other protocols)"
    yield ""
    yield "| published | number | ours | entry |"
    yield "|---|---:|---:|---|"
    for anchor in shown:
        ours = f"{_ours(anchor, results):.3f} | {anchor.ours}: {anchor.metric}"
        yield f"| {anchor.what} | {anchor.published:g} | {ours} |"
    yield ""
    yield from dict.fromkeys(f"- {a.source}. {a.protocol}. Ours: {a.differs}." for a in shown)
    yield ""


def _ours(anchor: Anchor, results: Results) -> float | None:
    entry = results.entries.get(anchor.ours)
    value = entry.values.get(anchor.metric) if entry is not None else None
    return value.value if value is not None and value.status == "ok" else None
