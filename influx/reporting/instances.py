"""Instances of one run as HTML: proponents and opponents, with images where the data are images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from influx.reporting import text as words
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.passages import Passage
from influx.reporting.png import data_uri
from influx.reporting.record import Neighbour, Role, RunRecord
from influx.reporting.sections import details, table
from influx.reporting.signs import is_unsigned

TESTS = 6
FEW = 2  # test instances where a page is about many runs
LISTED = 300  # test instances in the table of all
BEST = 3
TOP = 5
SELF = 10
ROLES: tuple[Role, ...] = ("proponent", "opponent")
HEADINGS: Mapping[Role, str] = {"proponent": "Proponents (helpful)", "opponent": "Opponents (harmful)"}
UNSIGNED: Mapping[Role, str] = {"proponent": "Largest", "opponent": "Smallest"}
SIGNED = "Proponents lower the test loss; without them it would be higher. Opponents raise it."


def neighbours(record: RunRecord, many: bool = False) -> Markup:
    """Proponents and opponents of several test instances; of fewer where the page is about ``many`` runs."""
    instances = [_instance(record, test_id) for test_id in record.spread(FEW if many else TESTS)]
    meant = "Values have no sign: they are associations." if is_unsigned(record) else SIGNED
    told = f"{len(instances)} test instances, evenly spaced over the test set. {meant}"
    if record.passages is not None:
        told += " Words that are in the test text too are underlined."
    lead = text("p", told, class_="lead")
    everyone = Markup("") if many else _everyone(record)
    heading = "Largest and smallest values" if is_unsigned(record) else "Proponents and opponents"
    return tag("section", text("h2", heading), lead, *instances, everyone)


def _everyone(record: RunRecord) -> Markup:
    """The first proponents and opponents of every test instance, to search and sort."""
    chosen = set(record.spread(LISTED))
    first = record.ranking[record.ranking["rank"] <= BEST]
    found: dict[tuple[int, str], list[str]] = {}
    for test_id, role, train_id, value in zip(
        *(first[name] for name in ("test_id", "role", "train_id", "influence")), strict=True
    ):
        if int(test_id) in chosen:
            label = words.shortened(words.clean(record.label("train", int(train_id))), 24)
            found.setdefault((int(test_id), str(role)), []).append(f"{train_id} {label} {words.signed(float(value))}")
    rows = []
    for test_id in record.spread(LISTED):
        sides = (Markup("<br>".join(map(escaped, found.get((test_id, role), [])))) for role in ROLES)
        cells = [text("td", words.clean(record.label("test", test_id))), *(tag("td", side) for side in sides)]
        rows.append(tag("tr", text("th", test_id, scope="row"), *cells))
    headings = [("test id", "number"), ("label", ""), *((_heading(record, role), "") for role in ROLES)]
    shown = f"{len(rows):,} of {len(record.test):,}" if len(rows) < len(record.test) else f"all {len(rows):,}"
    ends = "largest and smallest" if is_unsigned(record) else "proponents and opponents"
    caption = f"The first {BEST} {ends}: train id, label, influence"
    return details(f"Table of {shown} test instances", table(caption, headings, rows, sortable=True))


def _instance(record: RunRecord, test_id: int) -> Markup:
    label = words.clean(record.label("test", test_id))
    sides = [_side(record, test_id, role) for role in ROLES]
    body = tag("div", *sides, class_="sides")
    title = text("h3", f"Test instance {test_id}, label {label}")
    if record.images:
        shown = tag("figure", _image(record, "test", record.column(test_id), f"test instance {test_id}, label {label}"))
        body = tag("div", shown, body, class_="shown")
    own = record.passages.passage("test", record.column(test_id)) if record.passages is not None else None
    shown_text = _passage(own) if own is not None else Markup("")
    first = [near for role in ROLES for near in record.neighbours(test_id, role, 1)]
    strongest = max((abs(near.influence) for near in first), default=0.0)
    found: dict[str, object] = {"data_id": test_id, "data_label": label, "data_influence": f"{strongest:.6g}"}
    return tag("div", title, shown_text, body, class_="instance", **found)


def _side(record: RunRecord, test_id: int, role: Role) -> Markup:
    found, called = record.neighbours(test_id, role, TOP), _heading(record, role)
    if record.images:
        heading = text("p", called, class_="side")
        return tag("div", heading, strip(record, found))
    if record.passages is not None:
        own = record.passages.passage("test", record.column(test_id))
        return tag("div", text("p", called, class_="side"), _texts(record, found, own.words))
    headings = [("train id", ""), ("label", ""), ("influence", "number")]
    headings += [(record.truth_name, "number")] if record.truth is not None else []
    return table(called, headings, [_row(record, near) for near in found])


def _heading(record: RunRecord, role: Role) -> str:
    return (UNSIGNED if is_unsigned(record) else HEADINGS)[role]


def _row(record: RunRecord, near: Neighbour) -> Markup:
    cells = [text("th", near.train_id, scope="row"), text("td", words.clean(near.label)), _value("td", near.influence)]
    if record.truth is not None:
        cells.append(text("td", words.signed(near.truth), class_="number"))
    return tag("tr", *cells)


def _value(name: str, influence: float) -> Markup:
    side = "help" if influence > 0 else "harm" if influence < 0 else ""
    return text(name, words.signed(influence), class_=f"number {side}".strip())


def strip(record: RunRecord, found: Sequence[Neighbour]) -> Markup:
    """Training images in a row, with their influence."""
    items = []
    for near in found:
        image = _image(record, "train", near.position, f"training instance {near.train_id}, label {near.label}")
        lines = [
            _value("span", near.influence),
            escaped(f"label {words.clean(near.label)}"),
            escaped(f"id {near.train_id}"),
        ]
        if math.isfinite(near.truth):
            lines.insert(1, text("span", f"{record.truth_name} {near.truth:+#.2g}", class_="pair"))
        caption = tag("figcaption", Markup("<br>".join(lines)))
        items.append(tag("li", tag("figure", image, caption)))
    return tag("ul", *items, class_="strip")


def _texts(record: RunRecord, found: Sequence[Neighbour], shared: frozenset[int]) -> Markup:
    """Training texts under their numbers, with the words of ``shared`` marked."""
    assert record.passages is not None
    items = []
    for near in found:
        told = [
            _value("span", near.influence),
            escaped(f"label {words.clean(near.label)}"),
            escaped(f"id {near.train_id}"),
        ]
        if math.isfinite(near.truth):
            told.insert(1, escaped(f"{record.truth_name} {words.signed(near.truth)}"))
        head = tag("span", Markup(" · ".join(told)), class_="lead")
        items.append(tag("li", head, _passage(record.passages.passage("train", near.position), shared)))
    return tag("ul", *items, class_="passages")


def _passage(passage: Passage, shared: frozenset[int] = frozenset()) -> Markup:
    parts = [text("mark", part) if mark else escaped(part) for part, mark in passage.marked(shared)]
    return tag("p", *parts, class_="passage", dir="auto")


def _image(record: RunRecord, axis: Literal["train", "test"], position: int, description: str) -> Markup:
    return tag("img", src=data_uri(record.images[axis][position]), alt=words.clean(description))


def memorised(record: RunRecord) -> Markup:
    """The training instances with the largest influence on themselves."""
    heading, note = text("h2", "Self-influence"), record.self_influence_note
    if note:
        return tag("section", heading, text("p", note, class_="lead"))
    if record.self_influence is None:
        return Markup("")
    first = record.self_influence.sort_values("rank").head(SELF)
    found = []
    for rank, (train_id, value) in enumerate(zip(first["train_id"], first["influence"], strict=True), start=1):
        instance = int(train_id)
        found.append(
            Neighbour(
                rank=rank,
                train_id=instance,
                position=int(record.positions["train"][instance]),
                label=record.label("train", instance),
                influence=float(value),
                truth=math.nan,
            )
        )
    lead = text("p", "Training instances with the largest influence on their own loss (memorisation).", class_="lead")
    if record.images:
        body = strip(record, found)
    elif record.passages is not None:
        body = _texts(record, found, frozenset())
    else:
        cells = [(text("td", words.clean(n.label)), _value("td", n.influence)) for n in found]
        rows = [tag("tr", text("th", n.train_id, scope="row"), *c) for n, c in zip(found, cells, strict=True)]
        body = table("Self-influence", [("train id", ""), ("label", ""), ("influence on itself", "number")], rows)
    return tag("section", heading, join(lead, body))
