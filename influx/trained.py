"""The trained problem in its folder: what training made, outcomes of all instances, a description with checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from influx import results
from influx.manifest import SCHEMA, refuse_schema, versions
from influx.reporting import passages
from influx.store import is_plain
from influx.vocabulary import special_tokens

if TYPE_CHECKING:
    from influx.job import Job
    from influx.problem import Data, Fitted, Problem
    from influx.store import Folder


def trained_problem(job: Job) -> Fitted:
    """Train, or read what was trained, and describe it in the problem's folder."""
    return trained(job.problem, job.problem_folder)


def trained(problem: Problem, folder: Folder) -> Fitted:
    """The same for a problem whose folder is to be ``folder``."""
    data = problem.data
    with folder.locked(what="problem"):
        folder.sweep_temporaries()
        fitted = problem.learner.fit(data, problem.seed, folder)
        if not folder.has("instances.parquet"):
            outcomes = {"train": fitted.outcomes(data.train), "test": fitted.outcomes(data.test)}
            results.save_table(folder, "instances.parquet", results.instances_table(data, outcomes))
        if data.display and not folder.has("display.npz"):
            folder.write("display.npz", lambda path: _save_arrays(path, _shown(data)))
        if data.tokenizer and not folder.has("tokenizer.json"):
            folder.write("tokenizer.json", lambda path: _save_text(path, data.tokenizer))
        if folder.has("problem.json"):
            refuse_schema(folder.read_json("problem.json"), f"the problem {folder.path}")
        else:
            described = {
                "schema": SCHEMA,
                "id": problem.id,
                "config": dict(problem.config),
                "seed": problem.seed,
                "fingerprint": data.fingerprint(),
                "notes": list(data.notes),
                "versions": versions(),
                "checksums": _others(folder.checksums()) | _below(folder, "checkpoints"),
            }
            folder.write_json("problem.json", described)
    return fitted


def doubts(problem: Problem) -> tuple[str, ...]:
    """What the model says of itself that readers of a report should know; most say nothing."""
    say = getattr(getattr(problem.learner, "model", None), "doubts", None)
    return tuple(say(problem.data)) if say else ()


def is_trained(job: Job) -> bool:
    """Whether all that training left is there undamaged. Reads every file once."""
    folder = job.problem_folder
    if not folder.path.is_dir():
        return False
    with folder.locked(what="problem"):
        if not folder.has("problem.json"):
            return False
        listed = folder.read_json("problem.json")["checksums"]
        if not all(is_plain(name.removeprefix("checkpoints/")) for name in listed):
            return False  # not written by us: names stay below the folder
        places = [(folder / name).parent.relative_to(folder.path) for name in listed]
        folders = {place: folder.sub(str(place)) for place in places}
        return all(folders[place].has(Path(name).name) for place, name in zip(places, listed, strict=True))


def _others(listed: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in listed.items() if name != "problem.json"}


def _below(folder: Folder, name: str) -> dict[str, str]:
    return {f"{name}/{file}": digest for file, digest in folder.sub(name).checksums().items()}


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with path.open("wb") as f:
        np.savez(f, **arrays)


def _save_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _shown(data: Data) -> dict[str, Any]:
    """What people look at; texts with their tokens."""
    if data.kind != "text":
        return dict(data.display)
    tokens = {"train": data.train.x, "test": data.test.x}
    return passages.arrays(data.display, tokens, special_tokens(data.vocabulary, data.tokenizer))
