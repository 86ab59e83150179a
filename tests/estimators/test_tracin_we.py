"""TracIn-WE: which embedding it takes, what a word adds, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from influx.errors import ConfigError, IncompatibleError
from influx.models.mlp import MLP
from influx.oracles import toys
from influx.oracles.checkpoints import checkpoint_weights
from influx.oracles.toys import Toy
from influx.problem import Data

WORDS, WIDTH = 12, 3


class Bag(nn.Module):
    """Means of words with positions, and a linear head."""

    def __init__(self, length: int, outputs: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.positions = nn.Embedding(length, WIDTH)
        self.tokens = nn.Embedding(WORDS, WIDTH, **settings)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        places = self.positions(torch.arange(x.shape[1], device=x.device).expand_as(x))
        return self.head((self.tokens(x) + places).tanh().mean(1))


class Renumbered(nn.Module):
    """Words by numbers of the model's own, behind a beginning that it adds; another table for pairs of words."""

    own: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("own", torch.tensor([(i * 5 + 3) % WORDS for i in range(WORDS)]))
        self.tokens, self.pairs = nn.Embedding(WORDS + 1, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        begun = torch.cat([torch.full_like(x[:, :1], WORDS), self.own[x[:, :-1]]], 1)
        pairs = self.pairs((x + x.roll(1, 1)) % WORDS)
        return self.head((self.tokens(begun) + pairs).tanh().mean(1))


class Tied(nn.Module):
    """Each next word from the word before, by the embedding that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(WORDS, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.tokens(x[:, :-1]).tanh()
        return self.risk(x, hidden, self.tokens.weight)

    @staticmethod
    def risk(x: Tensor, hidden: Tensor, out: Tensor) -> Tensor:
        logits = F.linear(hidden, out)
        found = torch.logsumexp(logits, -1) - logits.gather(-1, x[:, 1:, None]).squeeze(-1)
        return found.mean(1, keepdim=True)


class Pairs(nn.Module):
    """Pairs of words without the words."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.pairs, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pairs((x + x.roll(1, 1)) % WORDS).tanh().mean(1))


class OneHots(nn.Module):
    """Tokens without a lookup."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(WORDS, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.one_hot(x, WORDS).to(self.head.weight.dtype).mean(1))


@dataclass(frozen=True)
class Net:
    kind: str = "bag"
    settings: dict[str, Any] = field(default_factory=dict)

    def build(self, data: Data) -> nn.Module:
        if self.kind == "tied":
            return Tied()
        length, outputs = data.train.x.shape[1], data.n_outputs
        if self.kind in ("renumbered", "pairs"):
            return Renumbered(outputs) if self.kind == "renumbered" else Pairs(outputs)
        return Bag(length, outputs, self.settings) if self.kind == "bag" else OneHots(outputs)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return toys.train(tmp_path_factory.mktemp("toy"), toys.tokens(), Net())


def rows_of(toy: Toy, module: nn.Module, weight: Tensor) -> list[np.ndarray]:
    """Whole gradients of a table (n, words, width) of the training and of the test instances."""
    found = []
    for split in (toy.train, toy.test):
        x, y = toy.tensors(split)
        losses = F.cross_entropy(module(x), y, reduction="none")
        found.append(np.stack([torch.autograd.grad(one, weight, retain_graph=True)[0].numpy() for one in losses]))
    return found


def expected(toy: Toy, table: str = "tokens") -> np.ndarray:
    """Terms (n_train, n_test, words) summed over checkpoints."""
    total = np.zeros(())
    for step, weight in checkpoint_weights(toy).items():
        module = toy.module(step)
        mine, theirs = rows_of(toy, module, module.get_parameter(f"{table}.weight"))
        total = total + weight * np.einsum("iwd,jwd->ijw", mine, theirs)
    return total


def test_it_is_the_word_embeddings_share_of_the_gradient_product(toy: Toy) -> None:
    found = toy.estimate("tracin_we")
    np.testing.assert_allclose(found.values, expected(toy).sum(2), rtol=0, atol=1e-14)
    assert found.report["embedding"] == "tokens.weight" and (found.self_influence >= 0).all()
    places = toy.estimate("tracin_we", embedding="positions")
    np.testing.assert_allclose(places.values, expected(toy, "positions").sum(2), rtol=0, atol=1e-14)
    both = toy.estimate("tracin_we", embedding="positions|tokens")
    np.testing.assert_allclose(both.values, found.values + places.values, rtol=0, atol=1e-14)


def test_words_sum_to_the_score(toy: Toy) -> None:
    found, terms = toy.estimate("tracin_we", word_tests=2, word_pairs=3), expected(toy)
    table = found.tables["words"]
    assert set(table["test_id"]) == set(toy.test.ids[:2].tolist())
    assert list(table.columns) == ["test_id", "train_id", "side", "token", "word", "contribution"]
    for (test, train), rows in table.groupby(["test_id", "train_id"]):
        i, j = toy.train.ids.tolist().index(train), toy.test.ids.tolist().index(test)
        assert rows["contribution"].sum() == pytest.approx(found.values[i, j], rel=1e-12, abs=1e-15)
        np.testing.assert_allclose(rows["contribution"], terms[i, j, rows["token"]], rtol=0, atol=1e-14)
        assert (rows["word"] == [toy.problem.data.vocabulary[t] for t in rows["token"]]).all()
        best = np.argsort(-found.values[:, j])
        assert i in (best[:3] if rows["side"].iloc[0] == "proponent" else best[-3:])
        assert np.abs(rows["contribution"]).is_monotonic_decreasing
    nothing = toy.estimate("tracin_we", word_tests=0).tables["words"]
    assert len(nothing) == 0 and list(nothing.columns) == list(table.columns)


def test_special_tokens_are_counted_or_left_out(toy: Toy) -> None:
    terms = expected(toy)
    by_special, by_words = (np.abs(part.sum(2)).sum() for part in (terms[:, :, :3], terms[:, :, 3:]))
    included, excluded = (toy.estimate("tracin_we", special_tokens=which) for which in ("include", "exclude"))
    assert included.report["special_share"] == pytest.approx(by_special / (by_special + by_words))
    np.testing.assert_allclose(excluded.values, terms[:, :, 3:].sum(2), rtol=0, atol=1e-14)
    bags = [[set(x.tolist()) - {0, 1, 2} for x in split.x] for split in (toy.train, toy.test)]
    apart = np.mean([[not a & b for b in bags[1]] for a in bags[0]])
    assert included.report["pairs_without_common_token"] == 0  # all begin alike
    for found in (included, excluded):
        assert found.report["pairs_without_common_word"] == pytest.approx(apart) and 0 < apart < 1
    assert excluded.report["pairs_without_common_token"] == pytest.approx(apart)
    assert "special_share" not in excluded.report and not excluded.values[np.equal(terms[:, :, 3:], 0).all(2)].any()


def test_rows_are_known_by_the_datasets_tokens(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.tokens(), Net("renumbered"))
    terms, own = expected(toy), [(i * 5 + 3) % WORDS for i in range(WORDS)]
    found = toy.estimate("tracin_we", word_tests=4, word_pairs=9)
    assert found.report["embedding"] == "tokens.weight"
    np.testing.assert_allclose(found.values, terms.sum(2), rtol=0, atol=1e-14)
    table = found.tables["words"]
    rows = np.array([own[t] if t < WORDS else t - WORDS for t in table["token"]])  # 12 + 12 is the beginning
    i, j = np.searchsorted(toy.train.ids, table["train_id"]), np.searchsorted(toy.test.ids, table["test_id"])
    np.testing.assert_allclose(table["contribution"], terms[i, j, rows], rtol=0, atol=1e-14)
    excluded = toy.estimate("tracin_we", special_tokens="exclude")
    words = terms[:, :, own[3:]]
    np.testing.assert_allclose(excluded.values, words.sum(2), rtol=0, atol=1e-14)
    special = np.abs(terms.sum(2) - words.sum(2)).sum()
    assert found.report["special_share"] == pytest.approx(special / (special + np.abs(words.sum(2)).sum()))
    assert "9 training and 4 test" in found.report["special_share_of"]


def test_rows_of_other_things_have_no_names(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.tokens(), Net("renumbered"))
    found = toy.estimate("tracin_we", embedding="pairs", word_tests=1)
    table = found.tables["words"]
    assert (table["word"] == table["token"].astype(str)).all() and len(table)
    assert "special_share" not in found.report and found.report["pairs_without_common_token"] is None
    with pytest.raises(ConfigError, match=r"exclude needs embeddings.*pairs\.weight"):
        toy.estimate("tracin_we", embedding="pairs", special_tokens="exclude")


def test_padding_and_words_that_were_not_kept_connect_no_texts(tmp_path: Path) -> None:
    data = toys.tokens()
    x = [np.where(split.x == 0, 0, split.x % 4 + low) for split, low in ((data.train, 3), (data.test, 7))]
    split = [replace(part, x=new) for part, new in zip((data.train, data.test), x, strict=True)]
    toy = toys.train(tmp_path, replace(data, train=split[0], test=split[1]), Net(), checkpoints=1)
    assert toy.estimate("tracin_we").report["pairs_without_common_token"] == 1
    assert toy.estimate("tracin_we", topk=1).report["pairs_without_common_token"] is None


def test_of_a_tied_embedding_the_input_counts(tmp_path: Path) -> None:
    toy = toys.train(tmp_path, toys.tokens("density"), Net("tied"), checkpoints=1)
    run = toy.run(toys.estimator_named("tracin_we"), "tracin_we")
    found = toys.estimator_named("tracin_we", {"weight": "uniform"}).estimate(run)
    assert any("output layer's weight as well" in sentence for sentence in run.warnings)
    (step,) = checkpoint_weights(toy)
    module, rows = toy.module(step), []
    for split in (toy.train, toy.test):
        x, _ = toy.tensors(split)
        weight = module.tokens.weight
        risks = module.risk(x, weight[x[:, :-1]].tanh(), weight.detach())
        rows.append([torch.autograd.grad(one[0], weight, retain_graph=True)[0].numpy() for one in risks])
    products = [[float((a * b).sum()) for b in rows[1]] for a in rows[0]]
    np.testing.assert_allclose(found.values, products, rtol=0, atol=1e-14)


def test_models_without_word_gradients_are_refused(tmp_path: Path, toy: Toy) -> None:
    with pytest.raises(IncompatibleError, match=r"tracin_we compares words.*dataset=text"):
        toys.train(tmp_path, toys.table(), MLP(width=2)).estimate("tracin_we")
    with pytest.raises(IncompatibleError, match=r"looks its tokens up.*model=text_encoder"):
        toys.train(tmp_path, toys.tokens(), Net("one hot")).estimate("tracin_we")
    hidden = toys.train(tmp_path / "pairs", toys.tokens(), Net("pairs"))
    with pytest.raises(IncompatibleError, match=r"which are pairs\.weight, looks up.*estimator\.embedding"):
        hidden.estimate("tracin_we")
    with pytest.raises(ConfigError, match=r"embedding=head matches none.*positions\.weight, tokens\.weight"):
        toy.estimate("tracin_we", embedding="head")


@pytest.mark.parametrize("setting", ["max_norm", "sparse", "scale_grad_by_freq"])
def test_an_embedding_whose_gradient_is_no_sum_of_its_words_is_refused(tmp_path: Path, setting: str) -> None:
    given = {setting: 1.0 if setting == "max_norm" else True}
    model = Net(settings=given)
    plain = toys.train(tmp_path, toys.tokens(), Net(), checkpoints=1)
    fitted = plain.fitted
    object.__setattr__(fitted, "build", lambda init: model.build(plain.problem.data).double())
    with pytest.raises(IncompatibleError, match=f"tokens has {setting}.*without {setting}"):
        plain.estimate("tracin_we")


@pytest.mark.parametrize(
    "settings", [{"topk": 0}, {"word_tests": -1}, {"word_pairs": -1}, {"embedding": "("}], ids=lambda s: next(iter(s))
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"estimator.{next(iter(settings))}"):
        toys.estimator_named("tracin_we", settings)
