"""Whole runs of models of the transformers library, and models by their name on the hub, without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import influx
from influx.errors import ConfigError
from influx.models import hf_files
from influx.models.hf import HuggingFace
from influx.oracles import checkpoints, plain, retraining
from influx.oracles.toys import Toy, tokens

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # to import it takes seconds

SETTINGS: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9}
    | {"max_position_embeddings": 16},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 2, "eos_token_id": 2},
}
WORDS = "inner.bert.embeddings.word_embeddings.weight"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = ["dataset=synthetic_text", "dataset.length=8", "dataset.vocabulary=20", "dataset.n_train=12", "dataset.n_test=3"]
RUN += ["model=hf", "optimizer.lr=0.05", "training.epochs=2", "training.batch_size=5", "training.dtype=float64"]
RUN += ["output_dtype=float64", "truth=none", "metric=[]", "baselines=[]", "quiet=true"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights, saved as the library saves them."""
    found = {}
    for kind, settings in SETTINGS.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, vocab_size=20, **settings)
        base = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModel
        base.from_config(config).save_pretrained(found[kind])
    return found


@pytest.fixture
def hub(folder: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model among what was downloaded before; who asks the network fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hf_files._fetched.cache_clear()
    below = tmp_path / "hub" / "models--tiny--bert"
    snapshot = below / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in folder["bert"].iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (below / "refs").mkdir()
    (below / "refs" / "main").write_text(COMMIT)
    return "tiny/bert"


def ran(tmp_path: Path, *overrides: str) -> tuple[influx.Result, Toy]:
    """A whole run, and plain readings of what its training wrote."""
    run = influx.run([*RUN, *overrides, f"paths.outputs={tmp_path}"])
    return run, Toy(problem=run.problem, fitted=None, folder=tmp_path / "problems" / run.problem.id)


@pytest.mark.parametrize(("kind", "objective"), [("bert", "classification"), ("gpt2", "language")])
def test_tracincp_is_the_sum_of_products_of_gradients(
    kind: str, objective: str, folder: dict[str, Path], tmp_path: Path
) -> None:
    told = [f"model.name={folder[kind]}", f"model.objective={objective}"]
    run, toy = ran(tmp_path, *told, "estimator=tracincp")
    values, own = checkpoints.contributions(toy, checkpoints.checkpoint_weights(toy), lambda *_: checkpoints.dot)
    np.testing.assert_allclose(run.influence, values.sum(0), rtol=1e-8, atol=1e-12)
    assert run.self_influence is not None
    np.testing.assert_allclose(run.self_influence.sort_values("train_id")["influence"], own.sum(0), rtol=1e-8)


def test_tracin_we_is_the_share_of_the_words(folder: dict[str, Path], tmp_path: Path) -> None:
    run, toy = ran(tmp_path, f"model.name={folder['bert']}", "estimator=tracin_we", "estimator.word_pairs=20")
    expected = np.zeros(run.influence.shape)
    for step, weight in checkpoints.checkpoint_weights(toy).items():
        module = toy.module(step)
        only = [p for name, p in module.named_parameters() if name == WORDS]
        mine, theirs = (plain.gradients(toy, module, split, only) for split in (toy.train, toy.test))
        expected += weight * mine @ theirs.T
    np.testing.assert_allclose(run.influence, expected, rtol=1e-8, atol=1e-12)
    words = pd.read_parquet(run.folder / "words.parquet").groupby(["test_id", "train_id"])["contribution"].sum()
    rows, columns = ({int(i): at for at, i in enumerate(split.ids)} for split in (toy.train, toy.test))
    assert len(words) > 10
    for (test, train), total in words.items():
        assert total == pytest.approx(expected[rows[train], columns[test]], rel=1e-8)


def test_leave_one_out_is_training_again_without_a_text(folder: dict[str, Path], tmp_path: Path) -> None:
    run, toy = ran(tmp_path, f"model.name={folder['bert']}", "estimator=loo", "estimator.ceiling_budget=0")
    values, _ = retraining.leave_one_out(toy)
    np.testing.assert_allclose(run.influence, values, rtol=1e-6, atol=1e-11)


def test_a_name_finds_what_was_downloaded_before(hub: str, folder: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    named = HuggingFace(name=hub).build(tokens())
    torch.manual_seed(0)
    in_folder = HuggingFace(name=str(folder["bert"])).build(tokens())
    theirs = dict(in_folder.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in named.named_parameters())
    assert torch.equal(named.ids, in_folder.ids)
    run, _ = ran(tmp_path, f"model.name={hub}", "estimator=tracincp")
    other, _ = ran(tmp_path, f"model.name={folder['bert']}", "estimator=tracincp")
    np.testing.assert_array_equal(run.influence, other.influence)
    with pytest.raises(ConfigError, match=r"model\.name=tiny/gpt2 is no folder .* set model\.download=true"):
        HuggingFace(name="tiny/gpt2").build(tokens())


@pytest.mark.parametrize("download", [False, True])
def test_the_network_is_for_the_library_to_ask_only_with_download(
    download: bool, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def recording(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def call(*args: Any, **given: Any) -> Any:
            asked.append((owner.__name__, bool(given.get("local_files_only", False))))
            return inner(*args, **given | {"local_files_only": True})

        monkeypatch.setattr(owner, name, call)

    recording(transformers.utils, "cached_file")
    recording(transformers.AutoConfig, "from_pretrained")
    recording(transformers.AutoModelForSequenceClassification, "from_pretrained")
    hf_files._configured.cache_clear()
    hf_files._read.cache_clear()
    HuggingFace(name=hub, download=download).build(tokens())
    assert {name for name, _ in asked} == {"transformers.utils", "AutoConfig", "AutoModelForSequenceClassification"}
    assert {local for _, local in asked} == {not download}
