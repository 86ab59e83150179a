"""Runs side by side, and the page about them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from influx.commands import paired
from influx.metrics.brittleness import Brittleness
from influx.reporting.record import RunRecord
from influx.streams import stream
from tests.cli.conftest import Influx, spawn
from tests.reporting.conftest import metric_row, write_run

N_TEST = 12
Maker = Callable[..., Path]


def truth_and_noise(full: bool) -> tuple[np.ndarray, np.random.Generator]:
    truth = np.random.default_rng(0).normal(size=(40, N_TEST)).astype(np.float32)
    if not full:
        truth[-5:] = np.nan
    return truth, np.random.default_rng(1)


def correlations(influence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    rows = ~np.isnan(truth[:, 0])
    with np.errstate(invalid="ignore"):
        return np.array([spearmanr(influence[rows, j], truth[rows, j]).statistic for j in range(N_TEST)])


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A finished run of an estimator that sees the truth through ``noise``; its metrics are measured by scipy."""

    def made(estimator: str, noise: float, *, full: bool = True, name: str = "", **changes: Any) -> Path:
        folder = write_run(tmp_path / "outputs", name or f"r_{estimator}", images=False)
        truth, rng = truth_and_noise(full)
        influence = np.nan_to_num(truth) + noise * rng.normal(size=truth.shape).astype(np.float32)
        np.save(folder / "truth.npy", truth)
        np.save(folder / "influence.npy", influence)
        value = float(correlations(influence, truth).mean())
        protocol = changes.pop("protocol", "mean over test instances; 40 of 40")
        rows = [
            metric_row(estimator, "spearman", value, protocol=protocol),
            metric_row(estimator, "lds", value / 2),
            metric_row("random", "spearman", 0.01, protocol=protocol),
            metric_row(estimator, "ceiling_spearman", 0.8),
        ]
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)
        settings = changes.pop("settings", {})
        lines = [f"dataset:\n  n_train: {changes.pop('n_train', 40)}", f"estimator:\n  _target_: x.{estimator}"]
        lines += [f"  {key}: {value}" for key, value in settings.items()]
        (folder / "config.yaml").write_text("\n".join(lines) + "\n")
        manifest = json.loads((folder / "manifest.json").read_text())
        cost = {"seconds": changes.pop("seconds", 1.0), "peak_mb": 100, "trainings": 0, "trained_now": 0}
        manifest |= {"estimator": estimator, "cost": {estimator: cost | changes.pop("cost", {})}} | changes
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return made


def rows_of(done: Any) -> dict[str, dict[str, Any]]:
    assert done.code == 0, done.err
    return {row["name"]: row for row in json.loads(done.out)["rows"]}


def test_best_comes_first_and_baselines_once(influx: Influx, make: Maker) -> None:
    places = [make("poor", 3.0), make("good", 0.3), make("fair", 1.0)]
    done = influx("compare", *places, "--json")
    assert list(rows_of(done)) == ["good", "fair", "poor", "random", "noise ceiling"]
    shown = influx("compare", *places).out
    assert [shown.index(f"\n{name}") for name in ("good", "fair", "poor", "random")] == sorted(
        shown.index(f"\n{name}") for name in ("good", "fair", "poor", "random")
    )
    assert shown.count("\nrandom") == 1 and "Pareto front" in shown


def test_a_baseline_with_its_own_run_has_one_row(influx: Influx, make: Maker) -> None:
    found = rows_of(influx("compare", make("good", 0.3), make("random", 50.0), "--json"))
    assert found["random"]["kind"] == "run" and list(found).count("random") == 1


def test_differences_are_those_of_the_paired_means(influx: Influx, make: Maker) -> None:
    folders = {name: make(name, noise, full=False) for name, noise in (("good", 0.3), ("poor", 2.0))}
    [pair] = json.loads(influx("compare", *folders.values(), "--json").out)["pairs"]
    values = [correlations(np.load(f / "influence.npy"), np.load(f / "truth.npy")) for f in folders.values()]
    assert (pair["row"], pair["minus"], pair["n"]) == ("good", "poor", N_TEST)
    assert pair["value"] == pytest.approx(np.mean(values[0] - values[1]), abs=1e-12)
    assert pair["low"] < pair["value"] < pair["high"]


def test_intervals_are_percentiles_over_resampled_test_instances(make: Maker) -> None:
    records = [RunRecord.load(make(name, noise)) for name, noise in (("a", 0.5), ("b", 0.9))]
    found = paired.pairs_of(records, "spearman", 10).differences[0, 1]
    truth = np.load(records[0].folder / "truth.npy")
    apart = np.subtract(*(correlations(np.asarray(r.influence), truth) for r in records))
    drawn = stream(0, "compare/test instances").integers(N_TEST, size=(paired.N_BOOT, N_TEST))
    low, high = np.quantile([apart[indices].mean() for indices in drawn], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_training_instances_are_resampled_where_only_some_have_a_truth(make: Maker) -> None:
    wide = []
    for full in (True, False):
        places = [make(n, noise, full=full, name=f"{n}{full}") for n, noise in (("a", 0.5), ("b", 0.9))]
        found = paired.pairs_of([RunRecord.load(place) for place in places], "spearman", 10).differences[0, 1]
        wide.append(found.high - found.low)
    assert wide[1] > 1.1 * wide[0]


@pytest.mark.parametrize("metric", [metric for metric in paired.METRICS if metric != paired.LDS])
def test_every_paired_metric_calls_a_run_and_its_copy_the_same(make: Maker, metric: str) -> None:
    places = [make("good", 0.3), make("copy", 0.3), make("poor", 9.0)]
    np.save(places[1] / "influence.npy", np.load(places[0] / "influence.npy"))
    found = paired.pairs_of([RunRecord.load(place) for place in places], metric, 5)
    assert found.differences[0, 1].value == 0 and not found.different[0, 1]
    assert found.different[0, 2] and found.different[1, 2] and not found.different.diagonal().any()


def test_undefined_test_instances_are_left_out_of_their_pairs_alone() -> None:
    values = np.random.default_rng(0).normal(size=(3, 30))
    values[1, :4] = np.nan
    found, _ = paired.bootstrap(values, lambda i: None, 100)
    assert [found[pair].n for pair in ((0, 1), (0, 2), (1, 2))] == [26, 30, 26]
    assert found[0, 1].value == pytest.approx((values[0, 4:] - values[1, 4:]).mean())
    assert found[0, 2].value == pytest.approx((values[0] - values[2]).mean())


def test_letters_and_the_reference_follow_the_differences(influx: Influx, make: Maker) -> None:
    places = [make("good", 0.1), make("same", 0.1), make("poor", 5.0)]
    found = rows_of(influx("compare", *places, "--json", "--against", "poor"))
    assert found["good"]["letters"] == found["same"]["letters"] != found["poor"]["letters"]
    assert found["good"]["difference"]["value"] > 0.5 and found["poor"]["difference"] is None


def test_a_run_on_other_test_instances_is_not_paired(influx: Influx, make: Maker) -> None:
    first, second = make("good", 0.1), make("other", 0.5)
    ids = pd.read_parquet(second / "ids.parquet")
    ids.loc[ids["axis"] == "test", "id"] += 1000
    ids.to_parquet(second / "ids.parquet")
    ranking = pd.read_parquet(second / "ranking.parquet")
    ranking.assign(test_id=ranking["test_id"] + 1000).to_parquet(second / "ranking.parquet")
    found = json.loads(influx("compare", first, second, "--json").out)
    assert found["pairs"] == [] and any("other test instances" in note for note in found["notes"])


def test_other_problems_are_refused_by_the_setting_that_differs(influx: Influx, make: Maker) -> None:
    places = [make("a", 0.1), make("b", 0.1, n_train=80, problem={"id": "other"})]
    done = influx("compare", *places)
    assert done.code == 2 and done.out == "" and "dataset.n_train is 40 in r_a and 80 in r_b" in done.err
    assert "--force" in done.err and "Traceback" not in done.err
    found = rows_of(influx("compare", *places, "--json", "--force"))
    assert (found["a"]["protocol"], found["b"]["protocol"]) == (0, 1) and found["a"]["difference"] is None
    shown = influx("compare", *places, "--force").out
    assert "dataset.n_train 40\n" in shown and "dataset.n_train 80\n" in shown
    assert "Protocol 2: " in shown and "do not answer the same question" in shown


def test_models_on_the_same_instances_share_a_table_each_with_its_own_truth(influx: Influx, make: Maker) -> None:
    nets, trees = {"choices": {"model": "mlp"}}, {"choices": {"model": "lightgbm"}, "problem": {"id": "trees"}}
    places = [make(name, noise, name=f"net_{name}", **nets) for name, noise in (("good", 0.1), ("poor", 5.0))]
    places += [make(name, noise, name=f"tree_{name}", **trees) for name, noise in (("good", 0.5), ("poor", 5.0))]
    done = influx("compare", *places, "--json")
    rows, found = rows_of(done), json.loads(done.out)
    assert {"good, mlp", "poor, mlp", "random, mlp", "good, lightgbm", "random, lightgbm"} <= rows.keys()
    assert rows["poor, lightgbm"]["model"] == "lightgbm" and rows["noise ceiling, mlp"]["kind"] == "ceiling"
    assert {(pair["row"], pair["minus"]) for pair in found["pairs"]} == {
        ("good, mlp", "poor, mlp"),
        ("good, lightgbm", "poor, lightgbm"),
    }
    assert rows["good, lightgbm"]["difference"] is None and rows["poor, mlp"]["difference"]["value"] < 0
    assert len({row["letters"] for row in rows.values() if row["kind"] == "run"}) == 4
    assert "model mlp (id abc123), model lightgbm (id trees)" in found["protocols"][0]["problem"]
    assert any("own ground truth" in note for note in found["notes"])
    assert json.loads(influx("compare", *places, "--json", "--force").out) == found


def test_another_optimizer_on_the_same_instances_is_another_model(influx: Influx, make: Maker) -> None:
    adam = {"choices": {"model": "mlp", "optimizer": "adam"}, "problem": {"id": "adam"}}
    sgd = {"choices": {"model": "mlp", "optimizer": "sgd"}}
    done = influx("compare", make("a", 0.1, name="a_sgd", **sgd), make("a", 0.5, name="a_adam", **adam), "--json")
    rows = rows_of(done)
    assert rows["a, mlp"]["model"] == "mlp" and rows["a, mlp by adam"]["model"] == "mlp by adam"
    assert json.loads(done.out)["pairs"] == []


def test_settings_that_one_model_lacks_are_told_of_the_others(influx: Influx, make: Maker) -> None:
    places = []
    for model, optimizer, momentum in (("mlp", "sgd", 0.9), ("cnn", "sgd", 0.5), ("mlp", "adam", None)):
        name = f"{model}_{optimizer}"
        places.append(make("a", 0.1, name=name, problem={"id": name}, choices={"model": model, "optimizer": optimizer}))
        with (places[-1] / "config.yaml").open("a") as config:
            config.write("optimizer:\n  lr: 0.1\n" + (f"  momentum: {momentum}\n" if momentum else "  beta1: 0.9\n"))
    notes = json.loads(influx("compare", *places, "--json").out)["notes"]
    [told] = [note for note in notes if "not the model alone differs" in note]
    expected = "optimizer.momentum is 0.9 for mlp by sgd with momentum, 0.5 for cnn by sgd with momentum"
    assert told == f"not the model alone differs: {expected}"


def test_words_about_a_bank_make_no_other_protocol(influx: Influx, make: Maker) -> None:
    earlier, now = "K=6; bank=test: none of these is seen; n=5", "K=6; bank=test: none, where seeds have no effect; n=5"
    done = influx("compare", make("a", 0.1, protocol=earlier), make("b", 0.1, protocol=now), "--json")
    assert len(json.loads(done.out)["protocols"]) == 1
    assert influx("compare", make("c", 0.1, protocol="K=6; bank=tune: x; n=5"), make("d", 0.1, protocol=now)).code == 2


def test_momentum_makes_another_model_too(influx: Influx, make: Maker) -> None:
    choices = {"choices": {"model": "mlp", "optimizer": "sgd"}}
    plain, heavy = make("a", 0.1, name="plain", **choices), make("a", 0.5, name="heavy", problem={"id": "b"}, **choices)
    with (heavy / "config.yaml").open("a") as config:
        config.write("optimizer:\n  momentum: 0.9\n")
    rows = rows_of(influx("compare", plain, heavy, "--json"))
    assert rows["a, mlp by sgd with momentum"]["model"] == "mlp by sgd with momentum" and "a, mlp" in rows


def test_models_in_one_table_have_each_its_rows_front_reference_and_settings(influx: Influx, make: Maker) -> None:
    nets, trees = {"choices": {"model": "mlp"}}, {"choices": {"model": "lightgbm"}, "problem": {"id": "trees"}}
    places = [make(name, noise, name=f"net_{name}", **nets) for name, noise in (("a", 0.1), ("b", 5.0), ("c", 9.0))]
    places += [make(name, noise, name=f"tree_{name}", **trees) for name, noise in (("a", 5.0), ("b", 0.5))]
    for place, epochs in zip(places, (20, 20, 20, 50, 50), strict=True):
        with (place / "config.yaml").open("a") as config:
            config.write(f"training:\n  epochs: {epochs}\n")
    found = json.loads(influx("compare", *places, "--json").out)
    ordered = [row["name"] for row in found["rows"] if row["kind"] == "run"]
    assert ordered == ["a, mlp", "b, mlp", "c, mlp", "b, lightgbm", "a, lightgbm"]
    assert any("training.epochs is 20 for mlp, 50 for lightgbm" in note for note in found["notes"])
    for against, references in (("b", "b, mlp / b, lightgbm"), ("c", "c, mlp"), ("b, mlp", "b, mlp")):
        asked = json.loads(influx("compare", *places, "--json", "--against", against).out)
        differing = [row["name"] for row in asked["rows"] if row["difference"]]
        assert asked["references"] == [references]
        named = set(references.split(" / "))
        assert differing == [n for n in ordered if n not in named and ("mlp" in n or "light" in references)]
        told = any("model lightgbm has no such row" in note for note in asked["notes"])
        assert told == ("lightgbm" not in references)
    assert "no other row of its model has" in influx("compare", *places).out.replace("\n", " ")


@pytest.mark.parametrize("other", [{"n_train": 80}, {"choices": {"model": "mlp"}}])
def test_other_data_and_other_settings_of_one_model_share_no_table(
    influx: Influx, make: Maker, other: dict[str, Any]
) -> None:
    changed = {"choices": {"model": "lightgbm"}, "problem": {"id": "other"}} | other
    done = influx("compare", make("a", 0.1, choices={"model": "mlp"}), make("b", 0.1, **changed))
    assert done.code == 2 and "need one protocol" in done.err


def test_each_protocol_has_its_own_order_front_and_reference(influx: Influx, make: Maker) -> None:
    other = {"n_train": 80, "problem": {"id": "other"}}
    places = [make("a", 2.0), make("b", 1.0), make("c", 0.5, **other), make("d", 0.1, **other)]
    alone = json.loads(influx("compare", *places[2:], "--json").out)
    done = json.loads(influx("compare", *places, "--json", "--force").out)
    assert [row["name"] for row in done["rows"] if row["kind"] == "run"] == ["b", "a", "d", "c"]
    assert done["references"] == ["b", "d"] and alone["references"] == ["d"]
    assert [row for row in done["rows"] if row["protocol"] == 1] == [r | {"protocol": 1} for r in alone["rows"]]
    asked = json.loads(influx("compare", *places, "--json", "--force", "--against", "a").out)
    assert asked["references"] == ["a", "d"]
    unknown = influx("compare", *places, "--force", "--against", "e")
    assert unknown.code == 2 and "there are b, a, d, c" in unknown.err


def test_a_protocol_without_the_metric_asked_for_is_sorted_by_its_own(influx: Influx, make: Maker) -> None:
    places = [make("a", 1.0), make("b", 0.1), make("c", 0.1, n_train=80, problem={"id": "other"})]
    rows = pd.read_csv(places[2] / "metrics.csv")
    rows[rows["metric"] != "lds"].to_csv(places[2] / "metrics.csv", index=False)
    asked = influx("compare", *places, "--json", "--force", "--metric", "lds", "--lower-is-better")
    found = json.loads(asked.out)
    assert [row["name"] for row in found["rows"] if row["kind"] == "run"] == ["a", "b", "c"]
    assert "lds" not in found["rows"][-3]["scores"] and found["metric"] == "lds"


def test_titles_say_what_tells_protocols_apart_and_no_more(influx: Influx, make: Maker) -> None:
    places = [
        make("a", 0.1, choices={"model": "mlp", "optimizer": "sgd"}),
        make("b", 0.1, choices={"model": "mlp", "optimizer": "adam"}, problem={"id": "b"}, n_train=60),
        make("c", 0.1, choices={"model": "trees", "optimizer": "adam"}, problem={"id": "c"}, n_train=80),
    ]
    shown = influx("compare", *places, "--force").out.splitlines()
    titles = [line.partition(": ")[2].strip() for line in shown if line.startswith("Protocol ")]
    assert titles == ["model mlp, optimizer sgd", "model mlp, optimizer adam", "model trees"]


def test_other_protocols_of_a_metric_are_refused(influx: Influx, make: Maker) -> None:
    done = influx("compare", make("a", 0.1), make("b", 0.1, protocol="mean over test instances; 30 of 40"))
    assert done.code == 2 and "spearman is by (40 of 40) in r_a and (30 of 40) in r_b" in done.err


def test_rows_of_one_estimator_are_told_apart_by_their_settings(influx: Influx, make: Maker) -> None:
    places = [make("gas", noise, name=f"g{noise}", settings={"damping": noise}) for noise in (0.1, 2.0)]
    assert {"gas damping=0.1", "gas damping=2.0"} <= set(rows_of(influx("compare", *places, "--json")))


def test_the_metric_asked_for_comes_first_and_may_fall(influx: Influx, make: Maker) -> None:
    places = [make("good", 0.1), make("poor", 4.0)]
    found = json.loads(influx("compare", *places, "--json", "--metric", "lds", "--lower-is-better").out)
    assert next(iter(found["columns"])) == "lds" and found["rows"][0]["name"] == "poor"
    assert found["pairs"] == [] and any("run again with overwrite=true" in note for note in found["notes"])
    found = json.loads(influx("compare", *places, "--json", "--metric", "ceiling_spearman").out)
    assert any("paired for pearson, spearman" in note for note in found["notes"])


def test_trainings_read_from_the_bank_are_charged(influx: Influx, make: Maker) -> None:
    cost = {"trainings": 10, "trained_now": 4}
    place = make("a", 0.1, seconds=2.0, cost=cost)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["cost"]["truth"] = {"seconds": 8.0, "trainings": 16, "trained_now": 16}
    (place / "manifest.json").write_text(json.dumps(manifest))
    [row] = [r for name, r in rows_of(influx("compare", place, "--json")).items() if name == "a"]
    assert row["seconds"] == pytest.approx(2.0 + 6 * 0.5) and row["unpaid"] == 6
    assert "~5.00" in influx("compare", place).out


def with_costs(place: Path, **costs: dict[str, Any]) -> Path:
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["cost"] |= costs
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def test_a_later_job_is_charged_what_the_first_one_paid(influx: Influx, make: Maker) -> None:
    bank = {"seconds": 0.007, "trainings": 16, "trained_now": 0}
    later = with_costs(make("loo", 0.1, seconds=0.005, cost={"trainings": 16}), truth=bank)
    first = with_costs(make("a", 1.0), truth=bank | {"seconds": 8.0, "trained_now": 16})
    assert rows_of(influx("compare", first, later, "--json"))["loo"]["seconds"] == pytest.approx(0.005 + 16 * 0.5)
    done = influx("compare", later, "--json")
    row = rows_of(done)["loo"]
    assert row["seconds"] is None and not row["front"]
    assert any("read trainings from the bank are unknown" in note for note in json.loads(done.out)["notes"])


def test_costs_that_are_no_numbers_are_unknown(influx: Influx, make: Maker) -> None:
    place = make("a", 0.1, cost={"trainings": float("inf"), "seconds": 10**400})
    row = rows_of(influx("compare", place, "--json"))["a"]
    assert row["trainings"] is None and row["seconds"] is None
    assert influx("report", place).code == 0


@pytest.mark.parametrize(
    ("seeds", "mean", "shown", "told"),
    [(3, 0.9, 0.9, "reliability of a mean over seeds"), (1, 0.8, 0.8, "truth of one")],
)
def test_the_ceiling_is_that_of_a_truth_over_as_many_seeds(
    influx: Influx, make: Maker, seeds: int, mean: float, shown: float, told: str
) -> None:
    place = make("a", 0.1)
    rows = pd.read_csv(place / "metrics.csv")
    more = pd.DataFrame([metric_row("a", "ceiling_spearman_mean", mean, note=f"mean over {seeds} seeds")])
    pd.concat([rows, more]).to_csv(place / "metrics.csv", index=False)
    done = influx("compare", place, "--json")
    assert rows_of(done)["noise ceiling"]["scores"]["spearman"]["value"] == shown
    assert any(note.startswith(f"noise ceiling of spearman: {told}") for note in json.loads(done.out)["notes"])


def test_ceilings_over_different_removals_stand_side_by_side(influx: Influx, make: Maker) -> None:
    places, rng = [make("a", 0.1), make("b", 0.2)], np.random.default_rng(0)
    values = []
    for place, name, tried in zip(places, "ab", (12, 18), strict=True):
        wrong = (rng.random((3, 9, 2)) < np.linspace(0, 1, 9)[:, None]).astype(float)
        wrong[:, tried - 9 :, 1] = np.nan
        found = Brittleness(counts=[4, 12])._ceiling(wrong, np.ones((100, 9)), "k in 4, 12")
        assert found.status == "ok"
        values.append(pytest.approx(found.value))
        more = pd.DataFrame([{"estimator": name} | asdict(found)])
        pd.concat([pd.read_csv(place / "metrics.csv"), more]).to_csv(place / "metrics.csv", index=False)
    rows = rows_of(influx("compare", *places, "--json", "--metric", "brittleness_ceiling"))
    assert [rows[name]["scores"]["brittleness_ceiling"]["value"] for name in "ab"] == values


def test_a_ceiling_of_one_estimators_removals_is_not_that_of_all(influx: Influx, make: Maker) -> None:
    places = [make("a", 0.1), make("b", 0.2)]
    for place, name, reliability in zip(places, "ab", (0.9, 0.4), strict=True):
        known = {"qld": 1.5, "qld_ceiling": reliability, "group_rank_random": 0.5, "group_reliability_random": 0.7}
        known |= {"calibration_r2": 0.2, "calibration_ceiling": 0.6}
        more = [metric_row(name, metric, value) for metric, value in known.items()]
        pd.concat([pd.read_csv(place / "metrics.csv"), pd.DataFrame(more)]).to_csv(place / "metrics.csv", index=False)
    asked = [
        word for name in ("qld", "qld_ceiling", "group_rank_random", "calibration_r2") for word in ("--metric", name)
    ]
    done = influx("compare", *places, "--json", *asked)
    rows = rows_of(done)
    assert [rows[name]["scores"]["qld_ceiling"]["value"] for name in "ab"] == [0.9, 0.4]
    shared = {metric: score["value"] for metric, score in rows["noise ceiling"]["scores"].items()}
    assert "qld" not in shared and "qld_ceiling" not in shared
    assert (shared["group_rank_random"], shared["calibration_r2"]) == (0.7, 0.6)
    assert any(
        "noise ceiling of calibration_r2: reliability of the truth" in note for note in json.loads(done.out)["notes"]
    )


def test_one_nearly_undefined_estimator_leaves_the_others_their_letters() -> None:
    values = np.random.default_rng(0).normal(size=(3, 30)) * 0.1
    values[0] += 1
    values[2, 2:] = np.nan
    found, different = paired.bootstrap(values, lambda i: None, 200)
    assert found[0, 2].n == 2 and different[0, 1]


def test_missing_differences_have_a_reason(influx: Influx, make: Maker) -> None:
    places = [make("a", 0.1), make("b", 0.5)]
    records = [RunRecord.load(place) for place in places]
    assert "k=40 needs more" in paired.pairs_of(records, "topk_proponents", 40).lack
    for place in places:
        influence = np.load(place / "influence.npy")
        influence[:, 1:] = 0
        np.save(place / "influence.npy", influence)
    notes = json.loads(influx("compare", *places, "--json").out)["notes"]
    assert any(note.startswith("no differences: no two are defined") for note in notes)
    for place in places:
        np.save(place / "influence.npy", np.where(np.arange(40)[:, None] < 2, influence, np.nan))
    lack = paired.pairs_of([RunRecord.load(place) for place in places], "spearman", 10).lack
    assert lack.startswith("2 training instances")


def test_unfinished_runs_are_named_and_left_out(influx: Influx, make: Maker) -> None:
    place = make("a", 0.1)
    make("b", 0.1, status="failed", error="the loss is inf")
    done = influx("compare", place.parent, "--json")
    assert set(rows_of(done)) == {"a", "random", "noise ceiling"}
    assert "left out: 1 failed (r_b)" in json.loads(done.out)["notes"][0]
    alone = influx("compare", place.parent / "r_b")
    assert alone.code == 2 and "1 failed (r_b)" in alone.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "is no folder"),
        (["."], "is none; check the path"),
        (["RUN", "--metric", "speerman"], "did you mean 'spearman'?"),
        (["RUN", "--against", "b"], "--against expects"),
        (["RUN", "--lower-is-better"], "add --metric"),
        ([], "required: runs"),
        (["RUN", "--json", "--csv"], "not allowed with"),
    ],
    ids=str,
)
def test_bad_requests_are_one_sentence(influx: Influx, make: Maker, arguments: list[str], told: str) -> None:
    place = str(make("a", 0.1))
    done = influx("compare", *(place if argument == "RUN" else argument for argument in arguments))
    assert done.code == 2 and told in done.err and len(done.err.splitlines()) == 1


def test_csv_has_a_line_per_row_and_no_formulas(influx: Influx, make: Maker) -> None:
    done = influx("compare", make("a", 0.1, name="=1+1"), make("b", 1.0), "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["estimator"] for row in rows] == ["a", "b", "random", ""]
    assert rows[0]["run"] == "'=1+1" and float(rows[0]["spearman"]) > float(rows[1]["spearman"])
    assert rows[2]["difference"] == "" and float(rows[1]["difference"]) < 0


def test_report_writes_one_page_about_all(influx: Influx, make: Maker, tmp_path: Path) -> None:
    places = [make("a", 0.1), make("b", 1.0)]
    done = influx("report", *places)
    assert done.code == 0 and "report: report.html" in done.out
    page = (tmp_path / "report.html").read_text()
    assert "2 runs" in page and "Agreement against cost" in page and 'href="#run-2"' in page
    assert influx("report", *places).code == 0  # its own page it may replace
    assert influx("report", places[0], "-o", "one.html").code == 0
    assert "Agreement against cost" not in (tmp_path / "one.html").read_text()


def test_report_replaces_nothing_that_is_not_its_own(influx: Influx, make: Maker, tmp_path: Path) -> None:
    place = make("a", 0.1)
    (tmp_path / "mine.html").write_text("mine")
    (place / "checksums.json").write_text("{}")
    for output, told in (("mine.html", "no report"), (place / "report.html", "belongs to a run"), (".", "a folder")):
        done = influx("report", place, "-o", output)
        assert done.code == 2 and told in done.err
    assert (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "told"), [(["--metric", "speerman"], "did you mean"), (["--against", "b"], "--against expects")]
)
def test_report_of_one_run_checks_what_is_asked(
    influx: Influx, make: Maker, tmp_path: Path, option: list[str], told: str
) -> None:
    done = influx("report", make("a", 0.1), *option)
    assert done.code == 2 and told in done.err and not (tmp_path / "report.html").exists()


def test_report_refuses_other_protocols_as_well(influx: Influx, make: Maker, tmp_path: Path) -> None:
    places = [make("a", 0.1), make("b", 0.1, problem={"id": "other"})]
    assert influx("report", *places).code == 2 and not (tmp_path / "report.html").exists()
    assert influx("report", *places, "--force").code == 0
    assert "must not be compared" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_torch_is_not_imported(make: Maker) -> None:
    places = [str(make("a", 0.1)), str(make("b", 1.0))]
    code = f"""
import sys
from influx.cli import main
try:
    main(["compare", *{places!r}])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    assert spawn(code).stderr.splitlines()[-1] == "False"


@pytest.mark.slow
def test_alike_estimators_are_told_apart_in_one_of_twenty_comparisons() -> None:
    rng = np.random.default_rng(0)
    wrong = np.mean([paired.bootstrap(rng.normal(size=(6, 30)), lambda i: None, 500)[1].any() for _ in range(1000)])
    assert abs(wrong - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 1000)
