"""Every unusable request ends with exit code 2 and one line that names the setting, before any work."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from influx.cli import main

SMALL = (
    "dataset=iris",
    "dataset.n_train=30",
    "dataset.n_test=20",
    "model.width=4",
    "training.epochs=2",
    "truth.ceiling_budget=0",
    "metric=[]",
    "baselines=[]",
    "quiet=true",
)

# overrides -> words that the message must hold
UNKNOWN = {
    "a group": (["nogroup=x"], ["nogroup"]),
    "a choice": (["estimator=nope"], ["estimator=nope", "tracincp"]),
    "a misspelt choice": (["estimator=tracin_cp"], ["did you mean 'tracincp'"]),
    "a key": (["sed=1"], ["sed", "did you mean 'seed'"]),
    "a key in a group": (["dataset.n_trian=3"], ["dataset.n_trian", "did you mean 'n_train'"]),
    "a key of another choice": (["estimator.damping=0.1"], ["estimator.damping", "estimator.checkpoints"]),
    "an added key": (["+foo=1"], ["foo"]),
    "an added key in a group": (["+optimizer.learning_rate=1"], ["optimizer.learning_rate", "optimizer.lr"]),
    "a metric": (["metric=[agrement]"], ["metric=agrement", "did you mean 'agreement'"]),
    "a baseline": (["baselines=[nope]"], ["baselines", "nope"]),
    "an experiment": (["experiment=nope"], ["experiment=nope"]),
    "an option": (["--frobnicate"], ["--frobnicate", "influx run --help"]),
    "a removed group": (["~dataset"], ["dataset must be one of the choices"]),
    "a training instance": (["truth.indices=[99999]"], ["truth.indices", "99999"]),
    "a class": (["corruption=backdoor", "corruption.target_class=unicorn"], ["corruption.target_class", "unicorn"]),
}
WRONG_TYPE = {
    "text for a whole number": (["seed=abc"], ["seed", "whole number", "abc"]),
    "a fraction for a whole number": (["training.epochs=1.5"], ["training.epochs", "whole number", "1.5"]),
    "text for a number": (["optimizer.lr=fast"], ["optimizer.lr", "a number", "fast"]),
    "a list for text": (["name=[1]"], ["name must be text", "[1]"]),
    "text for true or false": (["training.drop_last=maybe"], ["training.drop_last", "true or false", "maybe"]),
    "text for a flag": (["overwrite=perhaps"], ["overwrite", "true or false", "perhaps"]),
    "a number for a list": (["truth.indices=3"], ["truth.indices", "list"]),
    "null for a number": (["optimizer.momentum=null"], ["optimizer.momentum", "null"]),
    "a word for a choice": (["training.schedule=linear"], ["training.schedule", "cosine", "linear"]),
    "text for a group": (["optimizer="], ["optimizer"]),
    "a mapping for a number": (["optimizer.lr={a: 1}"], ["optimizer.lr"]),
}
OUT_OF_RANGE = {
    "lr": (["optimizer.lr=-1"], ["optimizer.lr", "-1"]),
    "lr nan": (["optimizer.lr=nan"], ["optimizer.lr", "nan"]),
    "lr infinite": (["optimizer.lr=inf"], ["optimizer.lr", "inf"]),
    "momentum": (["optimizer.momentum=1.5"], ["optimizer.momentum", "1.5"]),
    "weight_decay": (["optimizer.weight_decay=-0.1"], ["optimizer.weight_decay", "-0.1"]),
    "epochs": (["training.epochs=0"], ["training.epochs", "got 0"]),
    "batch_size": (["training.batch_size=0"], ["training.batch_size", "got 0"]),
    "checkpoints": (["training.checkpoints=0"], ["training.checkpoints", "got 0"]),
    "warmup_steps": (["training.warmup_steps=-1"], ["training.warmup_steps", "-1"]),
    "clip_norm": (["training.clip_norm=0"], ["training.clip_norm"]),
    "block": (["training.block=0"], ["training.block"]),
    "decay_factor": (["training.schedule=step", "training.decay_factor=-2"], ["training.decay_factor", "-2"]),
    "final_fraction": (["training.schedule=cosine", "training.final_fraction=-1"], ["training.final_fraction", "-1"]),
    "width": (["model.width=0"], ["model.width"]),
    "dropout": (["model.dropout=1.5"], ["model.dropout", "1.5"]),
    "n_train": (["dataset.n_train=0"], ["dataset.n_train"]),
    "n_train too large": (["dataset.n_train=100000"], ["dataset.n_train", "100000"]),
    "n_test": (["dataset.n_test=-3"], ["dataset.n_test"]),
    "test_fraction": (["dataset.n_test=null", "dataset.test_fraction=2"], ["dataset.test_fraction"]),
    "estimator.checkpoints": (["estimator.checkpoints=99"], ["estimator.checkpoints", "99"]),
    "damping": (["estimator=if_exact", "estimator.damping=-1"], ["estimator.damping", "-1"]),
    "curvature": (["estimator=if_cg", "estimator.curvature=round"], ["estimator.curvature", "ggn", "round"]),
    "solver": (["estimator=relatif", "estimator.solver=magic"], ["estimator.solver", "exact", "magic"]),
    "tolerance": (["estimator=if_cg", "estimator.tolerance=0"], ["estimator.tolerance", "1e-6"]),
    "depth": (["estimator=if_lissa", "estimator.depth=0"], ["estimator.depth", "0"]),
    "rank": (["estimator=if_arnoldi", "estimator.rank=900"], ["estimator.rank", "estimator.iterations", "900"]),
    "EK-FAC of a Hessian": (["estimator=if_ekfac", "estimator.curvature=hessian"], ["estimator.curvature=ggn"]),
    "penalty": (["estimator=representer_point", "estimator.penalty=0"], ["estimator.penalty", "0"]),
    "candidates": (["estimator=fast_if", "estimator.candidates=0"], ["estimator.candidates", "0"]),
    "PBRF damping": (["estimator=pbrf", "estimator.damping=-1"], ["damping", "-1"]),
    "truth.seeds": (["truth.seeds=0"], ["truth.seeds"]),
    "truth.budget": (["truth.budget=0"], ["truth.budget"]),
    "top_k": (["top_k=0"], ["top_k"]),
    "seed": (["seed=-1"], ["seed", "-1"]),
    "threads": (["threads=0"], ["threads"]),
    "matrix_mb": (["matrix_mb=-1"], ["matrix_mb"]),
    "output_dtype": (["output_dtype=float16"], ["output_dtype", "float16"]),
    "on_busy": (["on_busy=never"], ["on_busy", "never"]),
    "name outside": (["name=../evil"], ["name", "../evil"]),
    "name empty": (["name=''"], ["name"]),
    "alpha": (["metric=[lds]", "metric.lds.alpha=2"], ["metric.lds.alpha", "2"]),
    "subsets": (["metric=[lds]", "metric.lds.subsets=1"], ["metric.lds.subsets", "1"]),
    "fraction": (["corruption=label_noise", "corruption.fraction=7"], ["corruption.fraction", "7"]),
}
IMPOSSIBLE = {
    "logistic regression on numbers": (["dataset=diabetes", "model=logistic"], ["model"]),
    "a convolutional net on a table": (["model=cnn"], ["model"]),
    "Nesterov without momentum": (["optimizer.nesterov=true"], ["optimizer.nesterov", "optimizer.momentum"]),
    "dense with convolutions": (
        ["dataset=digits", "dataset.shape=image", "model=cnn", "training.engine=dense"],
        ["training.engine=dense"],
    ),
    "vmap with batch statistics": (
        ["dataset=digits", "dataset.shape=image", "model=resnet9", "model.norm=batch", "training.engine=vmap"],
        ["training.engine=vmap", "training.engine=sequential"],
    ),
    "no full batch": (["training.drop_last=true", "training.batch_size=31"], ["training.drop_last", "31"]),
    "label noise on numbers": (["dataset=diabetes", "corruption=label_noise"], ["corruption"]),
    "an unknown device": (["training.device=abacus"], ["training.device", "abacus"]),
    "CUDA without a device": (["training.device=cuda:9"], ["training.device=cuda:9", "training.device=cpu"]),
    "curvature of too many parameters": (["estimator=if_exact", "estimator.max_p=3"], ["estimator.max_p", "3"]),
}
UNTRUSTED = {
    "os.system": (["estimator._target_=os.system"], ["estimator._target_", "trust"]),
    "an alias of a foreign module": (["estimator._target_=influx.store.os.system"], ["influx.store.os"]),
    "a foreign function in a module": (["estimator._target_=influx.store.contextmanager"], ["dataclass"]),
    "a foreign class in a module": (["estimator._target_=influx.store.Path"], ["dataclass"]),
    "a name like the package": (["estimator._target_=influxx.evil.Thing"], ["trusted"]),
    "a nested target": (["model.activation={_target_: os.system, command: id}"], ["model.activation"]),
    "no module": (["estimator._target_=system"], ["trusted"]),
}
MALFORMED = {
    "no value": (["seed"], ["'seed'"]),
    "an open bracket": (["seed=[1"], ["'seed=[1'"]),
    "words": (["a b"], ["'a b'"]),
    "an open quote": (["name='x"], ["name='x"]),
    "two signs": (["++=3"], ["++=3"]),
    "an interpolation of nothing": (["name=${nothing.there}"], ["name refers to ${nothing.there}"]),
    "an unknown resolver": (["name=${frobnicate:1}"], ["name refers to ${frobnicate:"]),
    "a folder that is not there": (["--config-dir", "nowhere"], ["--config-dir", "nowhere"]),
    "no folder": (["--config-dir"], ["--config-dir"]),
}
LATE = {"truth.indices", "estimator.checkpoints", "estimator.max_p"}  # known only once data or checkpoints are there
TABLES = {
    "unknown": UNKNOWN,
    "type": WRONG_TYPE,
    "range": OUT_OF_RANGE,
    "impossible": IMPOSSIBLE,
    "untrusted": UNTRUSTED,
    "malformed": MALFORMED,
}
CASES = [
    pytest.param(overrides, words, id=f"{table}: {case}")
    for table, cases in TABLES.items()
    for case, (overrides, words) in cases.items()
]


def with_defaults(bad: list[str]) -> list[str]:
    """The small request without what ``bad`` replaces or removes."""
    gone = {o.partition("=")[0].lstrip("+~") for o in bad}
    replaced = ("model",) if any(o.startswith("model=") for o in bad) else ()
    removed = (*replaced, *(o[1:] for o in bad if o.startswith("~")))
    parts = [(o, o.partition("=")[0]) for o in SMALL]
    return [*(o for o, key in parts if key not in gone and not key.startswith(tuple(f"{r}." for r in removed))), *bad]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(("bad", "words"), CASES)
@pytest.mark.fault(36, "one line that names the setting, exit code 2, nothing is written")
def test_one_line_names_the_setting(
    bad: list[str], words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refusal([*with_defaults(bad), f"paths.outputs={tmp_path}/out"], capfd)
    for word in words:
        assert word in line
    if not LATE & set(words):
        assert not (tmp_path / "out").exists(), "it was refused only after work had begun"


def refusal(overrides: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which the request is refused."""
    with pytest.raises(SystemExit) as left:
        main(["run", *overrides])
    said = capfd.readouterr()
    assert left.value.code == 2, said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err and said.out == ""
    return said.err


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, the log of what was asked excepted."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "log.txt"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The overrides of a run that is done, named ``mine``."""
    overrides = [*SMALL, "truth=none", "name=mine", f"paths.outputs={tmp_path}/out"]
    overrides.remove("truth.ceiling_budget=0")
    with pytest.raises(SystemExit) as left:
        main(["run", *overrides])
    assert left.value.code == 0, capfd.readouterr().err
    return overrides


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (["seed=1"], ["mine", "seed", "overwrite=true"]),
        (["estimator=gas", "training.epochs=3"], ["mine", "estimator, training", "overwrite=true"]),
        (["estimator=nope"], ["estimator=nope"]),
        (["dataset.n_train=100000"], ["dataset.n_train"]),
        (["estimator._target_=os.system"], ["trust"]),
    ],
)
@pytest.mark.fault(40, "refused with what differs; nothing is changed")
def test_a_refused_request_leaves_a_finished_run_as_it_is(
    bad: list[str], words: list[str], finished: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = digests(tmp_path / "out")
    line = refusal([*finished, *bad], capfd)
    assert all(word in line for word in words), line
    assert digests(tmp_path / "out") == before


@pytest.mark.fault(21, "one sentence with step and instances")
def test_a_training_that_diverges_says_at_which_step_and_on_which_instances(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = ["dataset=diabetes", "model=linear", "optimizer.lr=1e6", "training.epochs=50", "truth=none"]
    request = [o for o in with_defaults(bad) if not o.startswith("truth.")]
    line = refusal([*request, f"paths.outputs={tmp_path}/out"], capfd)
    assert "optimizer.lr" in line and "at step " in line and "instances [" in line
    (manifest,) = tmp_path.glob("out/runs/*/manifest.json")
    assert '"status": "failed"' in manifest.read_text()


UNSOLVABLE = {
    "exact, indefinite": ["estimator=if_exact", "estimator.curvature=hessian", "estimator.damping=0"],
    "conjugate gradients, indefinite": ["estimator=if_cg", "estimator.curvature=hessian", "estimator.damping=0"],
    "LiSSA, scale too small": ["estimator=if_lissa", "estimator.lissa_scale=0.01", "estimator.damping=0.1"],
    "last layer without damping": ["estimator=if_last_layer", "estimator.damping=0"],
    "Arnoldi without damping": [
        "estimator=if_arnoldi",
        "estimator.complement=zero",
        "estimator.rank=3",
        "estimator.damping=0",
    ],
    "PBRF without damping": ["estimator=pbrf", "estimator.damping=0"],
}


@pytest.mark.parametrize("bad", UNSOLVABLE.values(), ids=list(UNSOLVABLE))
@pytest.mark.fault(22, "one sentence with a damping that is enough")
def test_the_value_named_for_what_cannot_be_solved_is_enough(
    bad: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = [*bad, "truth=none"]
    request = [*(o for o in with_defaults(more) if not o.startswith("truth.")), f"paths.outputs={tmp_path}/out"]
    enough = None
    for _ in range(6):  # LiSSA's scale is raised step by step: no batch says how large another's eigenvalue is
        line = refusal(request, capfd)
        enough = re.search(r"set (estimator\.\w+=[^\s,;]+)", line)
        assert enough is not None, line
        request.append(enough.group(1))
        with pytest.raises(SystemExit) as left:
            main(["run", *request])
        capfd.readouterr()
        if left.value.code == 0:
            return
    raise AssertionError(f"{enough} is not enough")
