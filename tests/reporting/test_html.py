import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from influx.errors import DataError
from influx.reporting import html
from influx.reporting.record import RunRecord

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Collects tags, attributes and text; fails on a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_page_is_balanced(record: RunRecord, make_run: Callable[..., RunRecord]) -> None:
    parsed(html.page([record]))
    parsed(html.page([record, make_run("no truth", truth=False), make_run("no images", images=False)]))


def test_page_asks_nothing_of_the_network(record: RunRecord) -> None:
    page = html.page([record])
    found = parsed(page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert not {tag for tag, _ in found.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    assert all(a["src"].startswith("data:image/png;base64,") for a in found.all("img"))
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")


def test_scripts_in_labels_and_names_stay_text(make_run: Callable[..., RunRecord]) -> None:
    for images in (True, False):
        found = parsed(html.page([make_run(f"<script>{images}<", images=images)]))
        assert len(found.all("script")) == 1 and not found.all("b") and not found.all("i")
        text = " ".join(found.texts)
        assert (
            "<script>alert(1)</script>" in text and "toy <b>images</b>" in text and "the noise ceiling is <low>" in text
        )
        assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]


def test_the_policy_lets_the_one_script_run_and_nothing_else(record: RunRecord) -> None:
    page = html.page([record])
    [body] = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;;" in page
    assert "fetch" not in body and "innerHTML" not in body


def test_verdict_is_on_the_page(record: RunRecord) -> None:
    text = " ".join(parsed(html.page([record])).texts)
    for told in ("0.712", "[0.66, 0.76]", "degenerate (a)", "degenerate: the scores of <i>random</i> are constant"):
        assert told in text
    assert "35 of 40 instances" in text and "the test loss would be higher without it" in text


def test_a_ceiling_stands_beside_the_number_it_bounds(record: RunRecord) -> None:
    page = html.page([record])
    beside = '<td>0.712</td><td class="ci">[0.66, 0.76]</td><td>0.874 <span class="ci">[0.82, 0.92]</span></td>'
    assert f"<td>spearman</td>{beside}" in page
    known = [row for row in record.metric_rows if (row["metric"], row["status"]) == ("spearman", "ok")]
    assert page.count("0.874 <span") == len(known)  # not beside other metrics, nor beside itself


def test_command_config_versions_and_costs_are_on_the_page(record: RunRecord) -> None:
    text = " ".join(parsed(html.page([record])).texts)
    for told in (record.command, record.config_text, "2.8.0", "9.50", "from an earlier run", "standardised on the"):
        assert told in text


def test_an_instance_is_as_strongly_influenced_as_by_its_strongest_opponent(record: RunRecord) -> None:
    found = {
        int(a["data-id"]): float(a["data-influence"]) for a in parsed(html.page([record])).all("div") if "data-id" in a
    }
    values = {i: np.asarray(record.influence[:, record.column(i)]) for i in found}
    assert any(-column.min() > column.max() for column in values.values())
    assert found == {i: pytest.approx(np.abs(column).max(), rel=1e-5) for i, column in values.items()}


def test_images_are_those_of_the_instances(record: RunRecord) -> None:
    shown = {a["alt"]: a["src"] for a in parsed(html.page([record])).all("img")}
    near = record.neighbours(500, "proponent", 1)[0]
    for axis, row, name in (("test", 0, "test instance 500"), ("train", near.position, f"instance {near.train_id}")):
        source = next(src for alt, src in shown.items() if name in alt)
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
        assert np.array_equal(image, record.images[axis][row, 0])


def test_tables_and_plots_can_be_read_aloud(record: RunRecord) -> None:
    found = parsed(html.page([record]))
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table")) >= 4
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert len(found.all("svg")) == 3
    for plot in found.all("svg"):
        assert plot["role"] == "img" and set(plot["aria-labelledby"].split()) <= set(ids)
    assert found.all("html") == [{"lang": "en"}] and all(a["alt"] for a in found.all("img"))


def test_page_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        html.write([RunRecord.load(folder)], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_several_runs_are_linked_from_the_top(record: RunRecord, make_run: Callable[..., RunRecord]) -> None:
    found = parsed(html.page([record, make_run("second")]))
    ids = {a["id"] for a in found.all("article")}
    assert [a["href"] for a in found.all("a")] == ["#content", "#run-1", "#run-2"] and ids == {"run-1", "run-2"}
    assert not any("different protocols" in text for text in found.texts)


def test_different_protocols_are_pointed_out(record: RunRecord, make_run: Callable[..., RunRecord]) -> None:
    other = make_run("second")
    path = other.folder / "manifest.json"
    path.write_text(json.dumps(dict(other.manifest) | {"protocol": {"loss_norm": "subset", "seeds": 3}}))
    page = html.page([record, RunRecord.load(other.folder)])
    assert "different protocols" in page and "loss_norm: subset; seeds: 3" in page


def test_run_without_truth_says_so(make_run: Callable[..., RunRecord]) -> None:
    found = parsed(html.page([make_run("plain", truth=False, images=False)]))
    assert not found.all("svg") and not found.all("img")
    assert "No ground truth was computed." in found.texts


def test_damaged_images_stop_the_page(folder: Path, tmp_path: Path) -> None:
    (folder.parents[1] / "problems/abc123/display.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"display\.npz"):
        html.write([RunRecord.load(folder)], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
