"""Nothing that is loaded or named can run code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from influx.store import file_hash
from tests.faults.conftest import Program
from tests.security.conftest import Bomb, Command, bomb

FOREIGN = {
    "a function": "os.mkdir",
    "a module that a module of influx imports": "influx.store.os.mkdir",
    "through two modules": "influx.engines.executor.torch.os.mkdir",
    "a class of another package": "influx.store.Path",
    "a library's own alias": "influx.results.np.os.mkdir",
    "a dependency": "hydra.utils.instantiate",
    "a dunder": "influx.store.Folder.__init__.__globals__",
    "a package of the same beginning": "influx_evil.Thing",
    "nothing": "",
}


@pytest.mark.fault(32, "a bomb that is unpickled leaves its mark")
def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(bomb(tmp_path / "mark"))
    assert (tmp_path / "mark").is_dir()


def object_npz(mark: Path) -> bytes:
    held = np.array([[Bomb(mark)]], dtype=object)
    file = io.BytesIO()
    np.savez(file, x=held, y=np.array([0]))
    return file.getvalue()


def object_npy(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[Bomb(mark)]], dtype=object), allow_pickle=True)
    return file.getvalue()


def pickle_in_zip(mark: Path) -> bytes:
    """As torch writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", bomb(mark))
        archive.writestr("archive/data.pkl", bomb(mark))
    return file.getvalue()


@pytest.mark.fault(32, "refused in one sentence; nothing is executed")
@pytest.mark.parametrize("dataset", ["npz", "parquet", "csv"])
@pytest.mark.parametrize("content", [bomb, object_npz, object_npy, pickle_in_zip])
def test_a_dataset_file_is_never_unpickled(dataset: str, content: object, influx: Command, tmp_path: Path) -> None:
    assert callable(content)
    (tmp_path / "data").write_bytes(content(influx.mark))
    said = influx.refused(f"dataset={dataset}", f"dataset.path={tmp_path}/data")
    assert "data" in said and not influx.outputs.exists()


@pytest.mark.fault(32, "refused in one sentence; nothing is executed")
def test_a_bomb_among_the_batches_of_cifar_is_refused(influx: Command, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(bomb(influx.mark))
    code, said = influx("run", "dataset=cifar10", f"dataset.path={tmp_path}", "model=cnn", "truth=none")
    assert code == 2 and "more than plain numbers and text" in said and "mkdir" in said


@pytest.mark.fault(32, "refused in one sentence; nothing is executed")
@pytest.mark.parametrize(
    "pattern",
    ["problems/*/checkpoints/step_*.safetensors", "problems/*/trajectory.npz", "problems/*/instances.parquet"]
    + [f"runs/tiny/{name}" for name in ("influence.npy", "ids.parquet", "curves.parquet", "estimate.json")],
)
def test_a_bomb_with_a_right_checksum_is_not_executed(pattern: str, finished: Program, influx: Command) -> None:
    path = min(finished.outputs.glob(pattern))
    path.write_bytes(object_npy(influx.mark) if path.suffix == ".npy" else bomb(influx.mark))
    sums = path.parent / "checksums.json"
    sums.write_text(json.dumps(json.loads(sums.read_text()) | {path.name: file_hash(path)}))
    (finished.run_folder / "report.html").unlink()
    code, _ = finished.again()
    assert code in (0, 2) and not influx.mark.exists()
    assert influx("show", str(finished.run_folder))[0] in (0, 2)


@pytest.mark.fault(33, "refused in one sentence that names the setting")
@pytest.mark.parametrize(
    ("group", "target"),
    [
        *(("estimator", target) for target in FOREIGN.values()),
        *((g, "os.mkdir") for g in ("dataset", "model", "executor")),
    ],
)
def test_what_is_not_a_class_of_a_trusted_package_is_not_made(group: str, target: str, influx: Command) -> None:
    said = influx.refused(f"{group}._target_={target or chr(39) * 2}", f"+{group}.path={influx.mark}")
    assert f"{group}._target_" in said and not influx.outputs.exists()


@pytest.mark.fault(33, "refused in one sentence that names the setting")
@pytest.mark.parametrize(
    "override",
    [
        "estimator={_target_: influx.estimators.baseline.loss.Loss, x: {_target_: os.mkdir, path: MARK}}",
        "+estimator._args_=[{_target_: os.mkdir, path: MARK}]",
        "+estimator._partial_=true",
        "+estimator._convert_=all",
        "+estimator.checkpoints={_target_: os.mkdir, path: MARK}",
        "model.width=[{_target_: os.mkdir, path: MARK}]",
        "trust=[{_target_: os.mkdir, path: MARK}]",
    ],
)
def test_nested_targets_and_hydras_own_keys_are_refused(override: str, influx: Command) -> None:
    influx.refused(override.replace("MARK", str(influx.mark)))


HYDRA = {
    "a callback": "+hydra.callbacks.x={_target_: os.mkdir, _args_: [MARK]}",
    "a callback through an alias": "+hydra.callbacks.x={_target_: hydra.core.utils.os.mkdir, path: MARK}",
    "a callback in a class": "+hydra.callbacks.x={_target_: pathlib.Path.mkdir, self: MARK}",
    "a callback by interpolation": "+hydra.callbacks.x={_target_: '${hydra.job.name}.mkdir', path: MARK}",
    "a part of the launcher": "+hydra.launcher.x={_target_: os.mkdir, path: MARK}",
    "a part of the sweeper": "+hydra.sweeper.x=[{_target_: os.mkdir, path: MARK}]",
    "a log's handler": "+hydra.hydra_logging.handlers.x={class: os.mkdir, path: MARK}",
    "a job's log's handler": "+hydra.job_logging.handlers.x={class: os.mkdir, path: MARK}",
    "a log's handler through an alias": "+hydra.hydra_logging.handlers.x={class: logging.os.mkdir, path: MARK}",
    "an object that a log imports": "+hydra.job_logging.handlers.x={class: logging.StreamHandler, stream: 'ext://os.x'}",
    "an import by interpolation": "+hydra.job_logging.filters.x={name: 'ext://os.${hydra.job.id}'}",
}


@pytest.mark.fault(33, "refused in one sentence that names the setting")
@pytest.mark.parametrize("override", HYDRA.values(), ids=list(HYDRA))
def test_hydras_own_parts_are_of_hydra_or_trusted(override: str, influx: Command) -> None:
    for option in ("-m", "--help"):
        code, said = influx("run", option, "quiet=true", override.replace("MARK", str(influx.mark)))
        assert code == 2 and said.startswith("error: hydra.") and said.count("\n") == 1, said


@pytest.mark.fault(33, "refused in one sentence that names the setting")
def test_a_config_folder_cannot_bring_a_callback_or_a_factory_of_logs(influx: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "evil.yaml"
    for node in ("callbacks: {x: {_target_: os.mkdir", "hydra_logging: {formatters: {x: {(): os.mkdir"):
        ends = "}" * node.count("{")
        file.write_text(f"# @package _global_\nhydra:\n  {node}, path: {influx.mark}{ends}\n")
        code, said = influx("run", "-m", "--config-dir", str(tmp_path / "mine"), "experiment=evil", "seed=0")
        assert code == 2 and said.startswith("error: hydra.") and "os.mkdir" in said


@pytest.mark.fault(33, "refused in one sentence")
def test_a_pickled_job_is_not_run_again(influx: Command, tmp_path: Path) -> None:
    (tmp_path / "job.pickle").write_bytes(bomb(influx.mark))
    for given in (["--experimental-rerun", "job.pickle"], ["--experimental-rerun=job.pickle"]):
        code, said = influx("run", *given)
        assert code == 2 and "pickled job" in said and said.count("\n") == 1


TAGS = ("!!python/object/apply:os.mkdir [MARK]", "!!python/name:os.mkdir", "!!python/object/new:os.mkdir [MARK]")


@pytest.mark.fault(35, "refused in one sentence that names the file")
@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_a_config_folder_make_no_objects(tag: str, influx: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "estimator").mkdir(parents=True)
    file = tmp_path / "mine" / "estimator" / "evil.yaml"
    file.write_text(f"_target_: influx.estimators.baseline.loss.Loss\nx: {tag}\n".replace("MARK", str(influx.mark)))
    for override in ("estimator=evil", "baselines=[evil]"):
        assert "plain YAML" in influx.refused(override, "--config-dir", str(tmp_path / "mine"))


@pytest.mark.fault(35, "refused in one sentence that names the file")
@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_the_configuration_of_a_run_make_no_objects(tag: str, finished: Program, influx: Command) -> None:
    path = finished.run_folder / "config.yaml"
    path.write_text(f"seed: {tag}\n".replace("MARK", str(influx.mark)))
    sums = path.parent / "checksums.json"
    sums.write_text(json.dumps(json.loads(sums.read_text()) | {path.name: file_hash(path)}))
    code, said = finished.again()
    assert code == 2 and str(path) in said and said.count("\n") == 1
    code, said = influx("show", str(finished.run_folder))
    assert code == 2 and str(path) in said
