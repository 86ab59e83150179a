"""Instances of one run as HTML: proponents and opponents, with images where the data are images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from influx.reporting import text as words
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.png import data_uri
from influx.reporting.record import Neighbour, RunRecord
from influx.reporting.sections import table

TESTS = 6
TOP = 5
SELF = 10
HEADINGS = {"proponent": "Proponents (helpful)", "opponent": "Opponents (harmful)"}


def neighbours(record: RunRecord) -> Markup:
    """Proponents and opponents of several test instances."""
    instances = [_instance(record, test_id) for test_id in record.spread(TESTS)]
    lead = text(
        "p",
        f"{len(instances)} test instances, evenly spaced over the test set. Proponents lower the test loss; without "
        f"them it would be higher. Opponents raise it.",
        class_="lead",
    )
    return tag("section", text("h2", "Proponents and opponents"), lead, *instances)


def _instance(record: RunRecord, test_id: int) -> Markup:
    label = words.clean(record.label("test", test_id))
    sides = [_side(record, test_id, role) for role in ("proponent", "opponent")]
    body = tag("div", *sides, class_="sides")
    title = text("h3", f"Test instance {test_id}, label {label}")
    if record.images:
        shown = tag("figure", _image(record, "test", record.column(test_id), f"test instance {test_id}, label {label}"))
        body = tag("div", shown, body, class_="shown")
    return tag("div", title, body, class_="instance")


def _side(record: RunRecord, test_id: int, role: Literal["proponent", "opponent"]) -> Markup:
    found = record.neighbours(test_id, role, TOP)
    if record.images:
        heading = text("p", HEADINGS[role], class_="side")
        return tag("div", heading, _strip(record, found))
    headings = [("train id", ""), ("label", ""), ("influence", "number")]
    headings += [(record.truth_name, "number")] if record.truth is not None else []
    return table(HEADINGS[role], headings, [_row(record, near) for near in found])


def _row(record: RunRecord, near: Neighbour) -> Markup:
    cells = [text("th", near.train_id, scope="row"), text("td", words.clean(near.label)), _value("td", near.influence)]
    if record.truth is not None:
        cells.append(text("td", words.signed(near.truth), class_="number"))
    return tag("tr", *cells)


def _value(name: str, influence: float) -> Markup:
    side = "help" if influence > 0 else "harm" if influence < 0 else ""
    return text(name, words.signed(influence), class_=f"number {side}".strip())


def _strip(record: RunRecord, found: Sequence[Neighbour]) -> Markup:
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
        body = _strip(record, found)
    else:
        cells = [(text("td", words.clean(n.label)), _value("td", n.influence)) for n in found]
        rows = [tag("tr", text("th", n.train_id, scope="row"), *c) for n, c in zip(found, cells, strict=True)]
        body = table("Self-influence", [("train id", ""), ("label", ""), ("influence on itself", "number")], rows)
    return tag("section", heading, join(lead, body))
