"""Models of the transformers library: read from safetensors alone, exact gradients, refused when they are not here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import influx
from influx.engines.gradients import GradientsAt
from influx.errors import ConfigError, DataError, IncompatibleError
from influx.learners.torch.tasks import task_for
from influx.learners.torch.traits import check_trainable
from influx.models.hf import HuggingFace
from influx.oracles.toys import tokens

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # to import it takes seconds

TINY = {
    "bert": {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 9,
        "max_position_embeddings": 16,
    },
    "gpt2": {"vocab_size": 20, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "bos_token_id": 2}
    | {"eos_token_id": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights, saved as the library saves them."""
    found = {}
    for kind, settings in TINY.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **settings)
        base = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModel
        base.from_config(config).save_pretrained(found[kind])
    return found


def built(model: HuggingFace, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return model.build(tokens("density" if model.task else "classification")).double()


@pytest.mark.parametrize(
    ("kind", "objective"), [("bert", "classification"), ("gpt2", "language"), ("gpt2", "classification")]
)
def test_gradients_are_those_of_autograd(kind: str, objective: str, folder: dict[str, Path]) -> None:
    module = built(HuggingFace(name=str(folder[kind]), objective=objective)).eval()
    data, task = tokens(), task_for("density" if objective == "language" else "classification")
    x, y = torch.from_numpy(data.train.x[:4]), torch.from_numpy(data.train.y[:4])
    check_trainable(module, task, x[:2], y[:2], 2)
    at = GradientsAt(module, task, "all", lambda split: (x, y))  # type: ignore[arg-type]
    rows = at.rows(x, y)
    assert set(at.route.values()) == {"factors"}
    for i, found in enumerate(rows.flat()):
        risk = task.loss(module(x[i : i + 1]), y[i : i + 1]).sum()
        grads = torch.autograd.grad(risk, list(module.parameters()), allow_unused=True)
        pairs = zip(grads, module.parameters(), strict=True)
        expected = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


def test_models_that_count_positions_in_another_way_are_left_to_it(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("roberta", **TINY["bert"] | {"pad_token_id": 1})
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    module = built(HuggingFace(name=str(tmp_path))).eval()
    assert not module.positions
    x = torch.from_numpy(tokens().train.x[:3])
    expected = module.inner(input_ids=x, attention_mask=(x != 0).long()).logits
    torch.testing.assert_close(module(x), expected)


def test_pretrained_weights_are_kept_and_the_rest_is_new_with_the_seed(folder: dict[str, Path]) -> None:
    model = HuggingFace(name=str(folder["bert"]))
    first, again, other = built(model, 0), built(model, 0), built(model, 1)
    of = "inner.bert.embeddings.word_embeddings.weight"
    one, two, three = (dict(m.named_parameters()) for m in (first, again, other))
    assert torch.equal(one[of], three[of]) and all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["inner.classifier.weight"], three["inner.classifier.weight"])
    assert one["inner.classifier.weight"].shape == (3, 8)
    scratch = HuggingFace(name=str(folder["bert"]), pretrained=False)
    assert not torch.equal(
        dict(built(scratch, 0).named_parameters())[of], dict(built(scratch, 1).named_parameters())[of]
    )


def test_risks_do_not_change_with_padding_or_training_mode(folder: dict[str, Path], tmp_path: Path) -> None:
    x = torch.from_numpy(tokens().train.x)
    folder = folder | {"marked": tmp_path}  # padding is the id of [CLS], as where it is the end of texts
    config = transformers.AutoConfig.for_model("gpt2", **TINY["gpt2"], pad_token_id=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    pairs = [(kind, "classification") for kind in ("bert", "gpt2", "marked")] + [("gpt2", "language")]
    for kind, objective in pairs:
        module = built(HuggingFace(name=str(folder[kind]), objective=objective))
        wide = torch.nn.functional.pad(x, (0, 3))
        torch.testing.assert_close(module(x), module(wide))  # in training mode: no dropout
        torch.testing.assert_close(module.eval()(x), module(wide))


def test_tokens_are_found_by_their_text(folder: dict[str, Path], tmp_path: Path) -> None:
    import tokenizers

    data = tokens()
    own = {token: 19 - i for i, token in enumerate(data.vocabulary)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(own, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    for file in folder["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain, moved = (HuggingFace(name=str(p)).build(data) for p in (folder["bert"], tmp_path))
    assert plain.ids.tolist() == list(range(12)) and moved.ids.tolist() == [19 - i for i in range(12)]
    more = replace(data, vocabulary=(*data.vocabulary, "new"))
    assert HuggingFace(name=str(tmp_path)).build(more).ids[:12].tolist() == moved.ids.tolist()  # no text has it
    x = np.where(data.train.x == 11, 12, data.train.x)
    more = replace(more, train=replace(data.train, x=x))
    with pytest.raises(IncompatibleError, match=r"does not know the dataset's token 'new'; set dataset\.tokenizer"):
        HuggingFace(name=str(tmp_path)).build(more)
    own["word8"] = 20  # beyond the model's 20 tokens: it must not share the parameters of another
    tokenizers.Tokenizer(tokenizers.models.WordLevel(own, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(IncompatibleError, match=r"has no parameters, of 20 tokens, for the dataset's token 'word8'"):
        HuggingFace(name=str(tmp_path)).build(data)


def test_other_files_under_the_same_name_are_another_model(folder: dict[str, Path], tmp_path: Path) -> None:
    for file in folder["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model, of = HuggingFace(name=str(tmp_path)), "inner.bert.embeddings.word_embeddings.weight"
    before, first = model.identity, built(model).state_dict()[of]
    assert before == HuggingFace(name=str(folder["bert"])).identity
    torch.manual_seed(7)
    transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    assert model.identity != before and not torch.equal(built(model).state_dict()[of], first)
    from_scratch = HuggingFace(name=str(tmp_path), pretrained=False)
    before = from_scratch.identity
    (tmp_path / "model.safetensors").unlink()
    assert from_scratch.identity == before  # which it does not read
    (tmp_path / "tokenizer.json").write_text("{}")
    assert from_scratch.identity != before


def test_only_the_head_may_lack_weights_and_is_new_as_the_library_has_it(
    folder: dict[str, Path], tmp_path: Path
) -> None:
    for file in folder["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    other = {"model_type": "distilbert", "vocab_size": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 9}
    for unfit in (config | {"hidden_size": 16}, other | {"max_position_embeddings": 16}):
        (tmp_path / "config.json").write_text(json.dumps(unfit))
        with pytest.raises(DataError, match=r"do not fit its config\.json: .*; .*model\.pretrained=false"):
            built(HuggingFace(name=str(tmp_path)))
    modern = TINY["bert"] | {f"{mark}_token_id": 2 for mark in ("pad", "cls", "sep", "bos", "eos")}
    made = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("modernbert", **modern))
    made.save_pretrained(tmp_path / "modern")
    head = built(HuggingFace(name=str(tmp_path / "modern"))).inner.head
    assert torch.equal(head.norm.weight, torch.ones_like(head.norm.weight))


def test_layers_that_the_configuration_leaves_out_are_a_warning(folder: dict[str, Path], tmp_path: Path) -> None:
    deep = transformers.AutoConfig.for_model("bert", **TINY["bert"] | {"num_hidden_layers": 2})
    transformers.AutoModelForMaskedLM.from_config(deep).save_pretrained(tmp_path)  # whose own head is none of ours
    model = HuggingFace(name=str(tmp_path))
    assert model.doubts(tokens()) == () and HuggingFace(name=str(folder["gpt2"])).doubts(tokens()) == ()
    deep.num_hidden_layers = 1
    deep.save_pretrained(tmp_path)
    (said,) = HuggingFace(name=str(tmp_path)).doubts(tokens())
    assert "has 16 weights below the head" in said and "encoder.layer.1." in said and "correct config.json" in said
    assert HuggingFace(name=str(tmp_path), pretrained=False).doubts(tokens()) == ()
    told = ["dataset=synthetic_text", "dataset.length=8", "dataset.vocabulary=20", "model=hf", f"model.name={tmp_path}"]
    told += ["estimator=random", "truth=none", "metric=[]", "baselines=[]", "training.epochs=1", "quiet=true"]
    run = influx.run([*told, f"paths.outputs={tmp_path / 'out'}"])
    assert said in run.record.manifest["warnings"]


def test_what_is_not_here_is_refused_without_a_look_at_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError, match=r"model\.name=nobody/nothing is no folder .*; set model\.download=true"):
        built(HuggingFace(name="nobody/nothing"))


def test_pickled_weights_and_code_of_its_own_are_not_read(folder: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folder["bert"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"cannot be read .*model\.safetensors"):
        built(HuggingFace(name=str(tmp_path)))
    (tmp_path / "run.py").write_text("raise SystemExit(3)")
    own = config | {"model_type": "own", "auto_map": {"AutoConfig": "run.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(DataError, match="cannot be read"):
        built(HuggingFace(name=str(tmp_path)))


def test_unfit_data_and_settings_are_refused(folder: dict[str, Path], make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match="expects token ids"):
        HuggingFace(name=str(folder["bert"])).build(make_data((5,)))
    with pytest.raises(IncompatibleError, match=r"reads 16 tokens, the texts have 17; set dataset\.length=16"):
        HuggingFace(name=str(folder["bert"])).build(tokens(length=17))
    with pytest.raises(IncompatibleError, match=r"knows 20 tokens, the dataset has 40; set dataset\.vocabulary=20"):
        HuggingFace(name=str(folder["bert"])).build(replace(tokens(), vocabulary=("",) * 40))
    with pytest.raises(ConfigError, match=r"set model\.name"):
        HuggingFace().build(tokens())
    with pytest.raises(ConfigError, match=r"model\.objective must be one of"):
        HuggingFace(objective="regression")
    with pytest.raises(ConfigError, match=r"model\.name=n+… cannot be looked up .*; set model\.name"):
        HuggingFace(name="n" * 5000).build(tokens())


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, folder: dict[str, Path]) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'influx\[text\]'"):
        built(HuggingFace(name=str(folder["bert"])))
