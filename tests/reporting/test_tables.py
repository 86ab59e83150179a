import io
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console, RenderableType

from influx.reporting import html, tables
from influx.reporting.guarantee import guarantee_line
from influx.reporting.record import RunRecord
from influx.reporting.verdict import verdict_of
from tests.reporting.conftest import metric_row


def shown(what: RenderableType, width: int = 100, terminal: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=terminal, highlight=False).print(what)
    return stream.getvalue()


def line(text: str, start: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(start))


def test_verdict_holds_the_numbers_of_the_metrics(record: RunRecord) -> None:
    own = line(shown(tables.verdict(record), 160), "tracincp")
    assert own.split("  ")[0] == "tracincp"
    assert all(
        n in own for n in ("0.712 [0.66, 0.76]", "0.723 [0.67, 0.77]", "0.356 [0.31, 0.41]", "0.500", "0.31", "250")
    )


def test_estimator_comes_first_then_the_baselines(record: RunRecord) -> None:
    names = [row.name for row in verdict_of(record).rows]
    assert names == ["tracincp", "random", "loss", "gradient_norm", "feature_similarity"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_degenerate_is_a_word_with_its_reason(record: RunRecord, width: int) -> None:
    text = shown(tables.verdict(record), width)
    random = line(text, "random")
    assert "degenerate (a)" in random and "not applicable" in random and "0.000" not in random
    assert "(a)  degenerate: the scores of <i>random</i> are constant" in text
    assert "(b)  not applicable: no bank of subsets" in text


def test_what_was_not_measured_is_a_dash(record: RunRecord) -> None:
    assert verdict_of(record).rows[1].scores.keys() == {"spearman", "lds"}
    assert " - " in line(shown(tables.verdict(record), 160), "random")


def test_context_is_below_the_table(record: RunRecord) -> None:
    text = shown(tables.verdict(record), 120)
    assert "Spearman 0.874 [0.824, 0.924]" in text and "9.50 s, 480 MB, 35 trainings" in text
    assert "35 of 40 instances" in text
    assert "positive influence = proponent: the test loss would be higher without it" in text
    assert "weight in place, denominators stay, seed 0" in text
    assert "warning: the noise ceiling is <low>" in text


def test_unknown_ceiling_tells_why(folder: Path) -> None:
    metrics = pd.read_csv(folder / "metrics.csv")
    row = metrics["metric"] == "ceiling_spearman"
    metrics.loc[row, ["value", "status", "note"]] = [float("nan"), "not applicable", "truth.seeds is 1"]
    metrics.to_csv(folder / "metrics.csv", index=False)
    assert "not applicable: truth.seeds is 1" in dict(verdict_of(RunRecord.load(folder)).lines)["ceiling"]


def test_nan_with_status_ok_is_never_shown_as_a_number(folder: Path) -> None:
    metrics = pd.read_csv(folder / "metrics.csv")
    metrics.loc[metrics["metric"] == "lds", "value"] = float("nan")
    metrics.to_csv(folder / "metrics.csv", index=False)
    assert verdict_of(RunRecord.load(folder)).rows[0].scores["lds"].main.startswith("undefined (")


def test_detection_is_shown_when_something_was_detected(record: RunRecord, folder: Path) -> None:
    assert "0.931 [0.88, 0.98]" in line(shown(tables.verdict(record), 80).split("detection")[1], "tracincp")
    metrics = pd.read_csv(folder / "metrics.csv")
    metrics.loc[metrics["metric"] == "mislabel_auroc_self", "status"] = "not applicable"
    metrics.to_csv(folder / "metrics.csv", index=False)
    assert "detection" not in shown(tables.verdict(RunRecord.load(folder)))


def test_detection_columns_tell_themselves_apart_and_fit(folder: Path) -> None:
    kinds = ("loss", "lira", "top", "rest", "own", "self_k_10")
    rows = [metric_row("tracincp", f"membership_auroc_{kind}", 0.7) for kind in kinds]
    rows.append(metric_row("tracincp", "shortcut_auroc", "", status="not applicable", note="no mark"))
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    record = RunRecord.load(folder)
    assert list(verdict_of(record).detection.values()) == [f"membership AUROC ({k.replace('_', ' ')})" for k in kinds]
    text = shown(tables.verdict(record), 60)
    assert text.count("0.700") == len(kinds) and "(lira)" in text and text.count("\ndetection") > 1


def test_headings_cannot_move_the_terminal(folder: Path) -> None:
    rows = [metric_row("tracincp", "auroc_\x1b]0;x", 0.7), metric_row("tracincp", "spearman", "", status="\x1b[2J")]
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
    assert "\x1b" not in shown(tables.verdict(RunRecord.load(folder)), 60)


def test_trainings_of_the_truth_that_were_read_are_told(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["cost"]["truth"] = {"seconds": 0.007, "peak_mb": 100, "trainings": 122, "trained_now": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "122 trainings, of which 122 were read" in dict(verdict_of(RunRecord.load(folder)).lines)["truth"]


def test_run_without_truth_still_has_its_costs(folder: Path) -> None:
    (folder / "truth.npy").unlink()
    pd.read_csv(folder / "metrics.csv").head(0).to_csv(folder / "metrics.csv", index=False)
    text = shown(tables.verdict(RunRecord.load(folder)))
    assert "no ground truth was computed" in text and "0.31" in line(text, "tracincp")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_keep_to_the_width_and_names_stay_whole(record: RunRecord, width: int) -> None:
    for what in (tables.verdict(record), tables.neighbours(record, 503, 3), tables.a_few(record)):
        assert max(map(len, shown(what, width).splitlines())) <= width
    assert "feature_similarity" in shown(tables.verdict(record), width)


def test_output_is_plain_ascii_when_not_a_terminal(record: RunRecord) -> None:
    text = shown(tables.verdict(record)) + shown(tables.neighbours(record, 503, 3))
    assert text.isascii() and "\x1b" not in text


def test_no_color_is_obeyed(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[33m" in shown(tables.verdict(record), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in shown(tables.verdict(record), terminal=True)


def test_labels_cannot_style_or_move_the_terminal(folder: Path) -> None:
    ids = pd.read_parquet(folder / "ids.parquet").assign(label="[red]x[/red]\x1b[2J\n")
    ids.to_parquet(folder / "ids.parquet")
    text = shown(tables.neighbours(RunRecord.load(folder), 503, 2))
    assert "[red]x[/red]" in text and "\x1b" not in text


def test_neighbours_show_both_roles_and_the_truth(record: RunRecord) -> None:
    text = shown(tables.neighbours(record, 503, 2))
    near = record.neighbours(503, "opponent", 1)[0]
    row = line(text, "opponent").split()
    assert row[1:3] == ["1", str(near.train_id)]
    assert [float(v) for v in row[-2:]] == pytest.approx([near.influence, near.truth], rel=5e-3)
    assert text.count("proponent") == 2 and text.count("opponent") == 2


def test_a_few_are_spread_over_the_test_set(record: RunRecord) -> None:
    text = shown(tables.a_few(record, count=3, top=2))
    assert [row.split(",")[0] for row in text.splitlines() if row.startswith("5")] == ["500", "506", "511"]


def test_listing_falls_back_to_blocks_on_narrow_screens() -> None:
    columns = [f"column_{i}" for i in range(9)]
    rows = [{c: "a long description" for c in columns} | {"column_0": "tracincp"}]
    assert len(line(shown(tables.listing(rows, columns), 200), "tracincp")) > 100
    narrow = shown(tables.listing(rows, columns), 80)
    assert line(narrow, "  column 8").split() == ["column", "8", "a", "long", "description"]


def test_plan_adds_up() -> None:
    stages = [
        {"stage": "train", "state": "done", "seconds": 1.0, "memory_mb": 200, "disk_mb": 3},
        {"stage": "truth", "state": "to do", "seconds": 11.5, "memory_mb": 400, "disk_mb": 10},
    ]
    assert line(shown(tables.plan_table(stages)), "total").split() == ["total", "12.5", "400", "13"]


@dataclass
class Check:
    name: str
    oracle: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


def test_verify_prints_error_bound_and_outcome() -> None:
    text = shown(tables.verify_table([Check("loo", "retraining", 1.25e-9, 1e-6), Check("gas", "cosine", 0.5, 1e-6)]))
    assert line(text, "loo").split() == ["loo", "retraining", "1.25e-09", "1e-06", "yes"]
    assert line(text, "gas").split()[-1] == "NO" and "1 of 2 within their bounds" in text


def test_status_tells_why_a_job_failed() -> None:
    jobs = [{"name": "a", "status": "done", "resumable": False}, {"name": "b", "status": "failed", "note": "no data"}]
    text = shown(tables.status_table(jobs))
    assert line(text, "a ").split() == ["a", "done", "no"] and line(text, "b ").split() == ["b", "failed", "no", "data"]


def test_columns_are_the_plain_metrics(record: RunRecord) -> None:
    assert list(verdict_of(record).columns) == ["spearman", "pooled_pearson", "lds", "topk_proponents"]
    assert verdict_of(record).columns["topk_proponents"] == "top-10 overlap"


def test_truth_is_named_in_the_heading(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | {"truth": "tmc_shapley"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "agreement with tmc_shapley" in shown(tables.verdict(RunRecord.load(folder)), 160)


@pytest.mark.parametrize(
    ("radius", "told"),
    [(-1.0, "no certificate for half"), (0.0, "withstand 0 changed"), (float("nan"), "none by construction")],
)
def test_a_wrong_vote_is_no_certificate(radius: float, told: str) -> None:
    assert told in guarantee_line([metric_row("a", "certified_radius_k5", radius)], "a")


def test_scores_without_a_sign_are_told_so(folder: Path) -> None:
    lines = dict(verdict_of(RunRecord.load(folder)).lines)
    assert lines["sign"].startswith("positive influence = proponent")
    with (folder / "config.yaml").open("a") as f:
        f.write("estimator:\n  sign: unsigned\n")
    assert dict(verdict_of(RunRecord.load(folder)).lines)["sign"].startswith("none: values are associations")


def test_the_sign_is_what_the_manifest_recorded(folder: Path) -> None:
    written = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(written | {"unsigned": ["loss", "another"]}))
    told = dict(verdict_of(RunRecord.load(folder)).lines)["sign"]
    assert told.startswith("positive influence") and "; of loss none: values are associations" in told
    (folder / "manifest.json").write_text(json.dumps(written | {"sign": "unsigned: values say nothing"}))
    record = RunRecord.load(folder)
    assert dict(verdict_of(record).lines)["sign"].startswith("none: values are associations")
    first = int(record.test["id"].iloc[0])
    screen, page = shown(tables.neighbours(record, first, 1)) + shown(tables.a_few(record)), html.page([record])
    assert "largest: train id, label" in screen and "ponent" not in screen
    assert "Largest and smallest values" in page and "ponents (h" not in page and "Opponents raise it" not in page


def test_the_guarantee_is_below_the_table(folder: Path) -> None:
    rows = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    more = [
        metric_row("tracincp", "guarantee", 0.00042, protocol="calibrated; level 0.9; 20 rows calibrate"),
        metric_row("tracincp", "guarantee_coverage", 0.91),
        metric_row("loss", "guarantee", 0.5, protocol="calibrated; level 0.9; 20 rows calibrate"),
    ]
    pd.concat([rows, pd.DataFrame(more)]).to_csv(folder / "metrics.csv", index=False)
    lines = dict(verdict_of(RunRecord.load(folder)).lines)
    assert lines["guarantee"].startswith("calibrated: value ± 0.00042 at level 0.9, measured coverage 0.910 [0.86")


def test_ceilings_of_retraining_stand_beside_their_numbers(folder: Path) -> None:
    rows = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    known = ("removal_area_top", "qld", "calibration_r2", "group_rank_random")
    plain = [
        metric_row("tracincp", name, 0.5) for name in (*known, "removal_top_5", "qld_random", "brittleness_flipped")
    ]
    names = ("removal_ceiling_top", "qld_ceiling", "calibration_ceiling", "group_reliability_random")
    of_own = [metric_row("tracincp", name, 0.61 + i / 10) for i, name in enumerate(names)]
    of_other = [metric_row("loss", name, 0.11) for name in ("removal_ceiling_bottom", "qld_ceiling", *known)]
    pd.concat([rows, pd.DataFrame([*plain, *of_other, *of_own])]).to_csv(folder / "metrics.csv", index=False)
    found = verdict_of(RunRecord.load(folder))
    told = {b.metric: b.ceiling.value for b in found.bounded}
    assert told == dict(zip(known, ("reliability 0.610", "reliability 0.710", "0.810", "0.910"), strict=True))
    said = dict(found.lines)["ceiling"]
    assert "R² of calibration 0.810" in said and "Group reliability random 0.910" in said and "0.710" not in said
    assert [r.name for r in found.rows].count("loss") == 1
