"""What plan foresees is what run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from influx.commands.outlook import Outlook
from influx.commands.plan import foresee
from influx.config import compose
from influx.engines import game_plans
from influx.job import Job, assemble
from influx.planning import Pace, Planned, Prospect, Work
from influx.rates import Rates
from tests.cli.conftest import TINY, Influx


def stages(overrides: list[str]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in foresee(overrides)["stages"]}


def prospect(job: Job, who: str) -> Prospect:
    return Prospect(problem=job.problem, who=who, shape=Outlook(job).shape, truth_rows=len(job.problem.train))


def test_planning_leaves_no_trace_and_prints_stages_total_and_rates(influx: Influx, tmp_path: Path) -> None:
    done = influx("plan", *TINY)
    assert done.code == 0 and list(tmp_path.iterdir()) == []
    names = ["start", "train", "truth", "estimate", "evaluate", "report", "total"]
    assert [line.split()[0] for line in done.out.splitlines() if line.split()[:1] and line.split()[0] in names] == names
    assert "measured here:" in done.out and "Gflop/s" in done.out


def test_json_holds_the_same_stages_with_numbers(influx: Influx) -> None:
    planned = json.loads(influx("plan", "--json", *TINY).out)
    assert [row["stage"] for row in planned["stages"]][1:] == ["train", "truth", "estimate", "evaluate", "report"]
    assert all(row["seconds"] >= 0 for row in planned["stages"])
    assert planned["rates"]["flops"] > 1e8 and planned["rates"]["model_seconds"] > 0


def test_the_trainings_foreseen_are_those_that_run_did(outputs: Path, tmp_path: Path) -> None:
    manifest = json.loads((outputs / "runs" / "tiny" / "manifest.json").read_text())
    fresh = stages([*TINY, f"paths.outputs={tmp_path}"])
    done = manifest["cost"]["truth"]["trained_now"]
    assert done == 8 + 1 + 4 + 1
    assert fresh["truth"]["work"] == f"{done} of {done} trainings"
    assert fresh["evaluate"]["work"].startswith("6 of 6 trainings")


def test_a_finished_run_has_nothing_left_to_do(outputs: Path) -> None:
    rows = stages([*TINY, f"paths.outputs={outputs}", "name=tiny"])
    assert {name: row["state"] for name, row in rows.items() if name != "start"} == dict.fromkeys(
        ("train", "truth", "estimate", "evaluate", "report"), "done"
    )


def test_another_run_of_a_problem_shares_its_training_and_bank(outputs: Path) -> None:
    rows = stages([*TINY, f"paths.outputs={outputs}", "truth.budget=null"])
    assert rows["train"]["state"] == "done"
    assert rows["truth"]["state"] == "in part"
    assert int(rows["truth"]["work"].split()[0]) < 41 + 5
    assert rows["evaluate"]["work"].startswith("0 of 6 trainings")


def test_a_damaged_bank_is_seen_and_left_alone(own: Path) -> None:
    [bank] = (own / "problems").glob("*/retrain")
    for block in bank.glob("*.npz"):
        block.write_bytes(b"damaged")
    before = sorted(path.name for path in bank.iterdir())
    rows = stages([*TINY, f"paths.outputs={own}", "name=other"])
    assert rows["truth"]["work"] == "14 of 14 trainings"
    assert sorted(path.name for path in bank.iterdir()) == before


def test_trainings_shared_by_two_stages_count_once(tmp_path: Path) -> None:
    rows = stages(
        [*TINY, f"paths.outputs={tmp_path}", "estimator=loo", "estimator.ceiling_budget=0", "truth.budget=null"]
    )
    assert rows["truth"]["work"].startswith("46 of 46") and rows["estimate"]["work"].startswith("0 of 41")


def test_without_ground_truth_nothing_is_retrained_for_it(tmp_path: Path) -> None:
    rows = stages([*TINY[:5], *TINY[7:], f"paths.outputs={tmp_path}", "truth=none"])
    assert rows["truth"]["state"] == "none" and rows["truth"]["seconds"] == 0


def test_products_of_gradients_are_counted_layer_by_layer() -> None:
    job = assemble(compose([*TINY, "model.width=64"]))
    net = prospect(job, "tracincp").net
    assert net.parameters == 4 * 64 + 64 + 64 * 3 + 3 and net.macs == 4 * 64 + 64 * 3
    assert net.dot == (4 + 64) + (64 + 3) and net.head_dot == 64 + 3 and net.head == 64 * 3 + 3
    work = job.estimator.plan(prospect(job, "tracincp")) if isinstance(job.estimator, Planned) else Work()
    assert work.gradients == 2 * (40 + 10)
    assert work.flops == 2 * (6 * net.macs * 50 + 2 * net.dot * 40 * 10)


def test_convolutions_are_written_out_when_their_maps_are_large() -> None:
    overrides = ["model=cnn", "model.channels=[2]", "model.hidden=64", "dataset.shape=image", "dataset.n_train=20"]
    job = assemble(compose([*overrides, "dataset.n_test=10"]))
    net = prospect(job, "tracincp").net
    module = job.problem.learner.model.build(job.problem.data)  # type: ignore[attr-defined]
    written = 2 * 9 + 2  # 64 positions: factors would need 64² (9 + 2)
    linear = sum(m.weight.shape[0] + m.weight.shape[1] for m in module.modules() if hasattr(m, "in_features"))
    assert net.dot == written + linear


@pytest.mark.parametrize(
    "estimator", ["tracincp", "tracin_last", "gas", "gas_layerwise", "tracinrp", "if_exact", "gradient_norm", "loo"]
)
def test_planned_work_grows_with_the_data(estimator: str) -> None:
    small, large = (
        assemble(compose([*TINY[2:5], "dataset=iris", f"estimator={estimator}", f"dataset.n_train={n}"]))
        for n in (20, 80)
    )
    works = []
    for job in (small, large):
        assert isinstance(job.estimator, Planned)
        work = job.estimator.plan(prospect(job, estimator))
        works.append(work.flops + work.numbers + sum(len(design) for design in work.trainings))
    assert works[1] > 1.5 * works[0] > 0


def test_work_adds_up_and_memory_is_the_largest() -> None:
    one, two = Work(flops=1, bytes=5, formula="a"), Work(flops=2, bytes=3, formula="b")
    assert one + two == Work(flops=3, bytes=5, formula="a; b")


def test_trainings_that_share_no_block_take_as_long_as_the_recorded_one(tmp_path: Path) -> None:
    outlook = Outlook(assemble(compose([*TINY, f"paths.outputs={tmp_path}"])))
    outlook.__dict__ |= {
        "pace": Pace(training=20.0, model=5.0, note=""),
        "rates": Rates(flops=1, numbers=1, compared=1),
    }
    seconds = [
        outlook._measured("evaluate", [work], 0.0)["seconds"]
        for work in (
            Work(more_trainings=10),
            Work(more_trainings=10, more_alone=4),
            Work(own_trainings=10, own_alone=4) + Work(more_trainings=3, more_alone=2),
        )
    ]
    assert seconds == pytest.approx([50, 50 + 4 * 15, 65 + 6 * 15], abs=1)  # and a block to write


def test_time_is_the_sum_over_kinds_of_operations() -> None:
    rates = Rates(flops=10, numbers=5, compared=2)
    assert rates.seconds(Work(flops=20, numbers=15, compared=2)) == pytest.approx(2 + 3 + 1)


def test_timing_the_learner_leaves_random_numbers_and_threads_alone() -> None:
    import torch

    job = assemble(compose(list(TINY)))
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    pace = job.problem.learner.pace(job.problem)  # type: ignore[attr-defined]
    assert pace.training > 0 and pace.model > 0
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_more_epochs_cost_proportionally_more(tmp_path: Path) -> None:
    costs = [assemble(compose([*TINY, f"training.epochs={epochs}"])).problem.learner.cost for epochs in (3, 30)]
    data = assemble(compose(list(TINY))).problem.data
    assert np.isclose(costs[1](data, 5).flops, 10 * costs[0](data, 5).flops)


def test_trainings_that_are_too_many_to_list_are_counted(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*TINY, f"paths.outputs={outputs}", "estimator=shapley_taylor", "estimator.estimator=permutation"]
    whole = stages(asked)["estimate"]
    monkeypatch.setattr(game_plans, "LOOKED_UP", 100)
    part = stages(asked)["estimate"]
    missing, of = (
        [int(word.replace(",", "")) for word in row["work"].split() if word[0].isdigit()] for row in (whole, part)
    )
    assert np.allclose(missing, of, rtol=0.02) and missing[1] > 300
    assert 0.5 < part["disk_mb"] / whole["disk_mb"] < 2
