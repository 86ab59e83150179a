"""Small transformers: what they compute, what padding does to it, and that every derivative of it exists."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influx.engines.gradients import GradientsAt
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.tasks import task_for
from influx.learners.torch.traits import check_trainable, traits_of
from influx.models.bag_of_words import BagOfWords
from influx.models.text_decoder import CausalDecoder, TextDecoder
from influx.models.text_encoder import PooledEncoder, TextEncoder
from influx.models.transformer import Attention, Masks
from influx.oracles.toys import tokens

LENGTH = 6
MODELS = {
    "bag": BagOfWords(width=3),
    "mean": TextEncoder(width=4, heads=2, hidden=5, depth=2),
    "first": TextEncoder(width=4, heads=1, hidden=5, pooling="first", activation="tanh"),
    "decoder": TextDecoder(width=4, heads=2, hidden=5, depth=2),
    "tied": TextDecoder(width=4, heads=2, hidden=5, tied=True),
}


def made(name: str) -> tuple[Any, Tensor, Tensor, str]:
    """Module in float64, tokens, labels, task."""
    model = MODELS[name]
    data = tokens("density" if isinstance(model, TextDecoder) else "classification", length=LENGTH)
    torch.manual_seed(0)
    module = model.build(data).double().eval()
    return module, torch.from_numpy(data.train.x), torch.from_numpy(data.train.y), data.task


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(6, 3).double(), nn.MultiheadAttention(6, 3, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.projections.weight.data, ours.projections.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.output.weight.data, ours.output.bias.data
    x, ids = torch.randn(2, 5, 6).double(), torch.tensor([[2, 3, 4, 0, 0], [2, 3, 4, 5, 6]])
    expected = theirs(x, x, x, key_padding_mask=ids == 0, need_weights=False)[0]
    torch.testing.assert_close(ours(x, Masks.of_padding(ids)), expected)
    causal = theirs(x, x, x, attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1), need_weights=False)[0]
    torch.testing.assert_close(ours(x, Masks.causal(5, x)), causal)


@pytest.mark.parametrize("name", MODELS)
def test_more_padding_changes_nothing(name: str) -> None:
    module, x, _, _ = made(name)
    for row in x:
        words = row[row != 0]
        assert torch.allclose(module(words[None]), module(row[None]), rtol=1e-12)


def test_the_mean_is_over_the_words_of_a_text() -> None:
    module, x, _, _ = made("mean")
    assert isinstance(module, PooledEncoder)
    for row in x:
        words = row[row != 0]
        found = module.transformer(words[None], Masks.of_padding(words[None]))[0]
        torch.testing.assert_close(module(row[None])[0], module.head(found.mean(0)))


def test_a_bag_of_words_is_a_mean_over_words_whatever_their_order() -> None:
    module, x, _, _ = made("bag")
    for row in x:
        logits = [module.head.weight @ module.embedding.weight[w] + module.head.bias for w in row[row != 0]]
        torch.testing.assert_close(module(row.flip(0)[None])[0], torch.stack(logits).mean(0))


@pytest.mark.parametrize("name", ["decoder", "tied"])
def test_the_risk_is_the_mean_surprise_of_each_word_given_those_before(name: str) -> None:
    module, x, _, _ = made(name)
    assert isinstance(module, CausalDecoder)
    for row, risk in zip(x, module(x), strict=True):
        words = row[row != 0].tolist()
        surprises = []
        for at in range(1, len(words)):
            logits = module.logits(torch.tensor([[*words[:at], 1]]))[0, -1]  # whatever comes next is not seen
            surprises.append(-F.log_softmax(logits, 0)[words[at]])
        torch.testing.assert_close(risk[0], torch.stack(surprises).mean())


def test_many_texts_are_evaluated_in_parts_with_the_same_risks() -> None:
    module, x, _, _ = made("decoder")
    whole = module(x).detach()
    module.at_once = 2
    with torch.no_grad():
        torch.testing.assert_close(module(x), whole)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_by_factors_are_those_of_autograd(name: str) -> None:
    module, x, y, task = made(name)
    at = GradientsAt(module, task_for(task), "all", lambda split: (x, y))  # type: ignore[arg-type]
    rows = at.rows(x, y)
    expected = []
    for one, label in zip(x.split(1), y.split(1), strict=True):
        risk = task_for(task).loss(module(one), label).sum()
        expected.append(torch.cat([g.flatten() for g in torch.autograd.grad(risk, list(module.parameters()))]))
    wanted = torch.stack(expected)
    torch.testing.assert_close(rows.flat(), wanted, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(rows.dot(at.rows(x, y)), wanted @ wanted.T, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(rows.squares(), (wanted**2).sum(1), rtol=1e-10, atol=1e-13)
    assert set(at.route.values()) == {"factors"}


@pytest.mark.parametrize("name", MODELS)
def test_they_train_together_and_have_second_derivatives(name: str) -> None:
    module, x, y, task = made(name)
    risk = task_for(task)
    check_trainable(module, risk, x[:2], y[:2], 2)
    found = traits_of(module, risk, x[:2], y[:2])
    assert found.stackable and not (found.coupled or found.random)
    params = dict(module.named_parameters())
    torch.manual_seed(1)
    direction = {k: torch.randn_like(p) for k, p in params.items()}

    def gradient(step: float) -> list[Tensor]:
        moved = {k: p + step * direction[k] for k, p in params.items()}
        total = risk.loss(functional_call(module, moved, (x,)), y).sum()
        return list(torch.autograd.grad(total, list(params.values()), create_graph=True))

    along = sum((g * d).sum() for g, d in zip(gradient(0.0), direction.values(), strict=True))
    assert isinstance(along, Tensor)
    product = torch.autograd.grad(along, list(params.values()))
    step = 1e-5
    for value, ahead, behind in zip(product, gradient(step), gradient(-step), strict=True):
        torch.testing.assert_close(value, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6)


def test_many_models_in_one_program_give_the_gradients_of_each() -> None:
    module, x, y, _ = made("mean")
    weights = torch.ones(2, len(x), dtype=torch.float64)
    weights[1, 0] = 0

    def loss(params: dict[str, Tensor], w: Tensor) -> Tensor:
        outputs = functional_call(module, params, (x,))
        return (F.cross_entropy(outputs, y, reduction="none") * w).sum()

    together = vmap(grad(loss), in_dims=(None, 0))(dict(module.named_parameters()), weights)
    for row, w in enumerate(weights):
        single = grad(loss)(dict(module.named_parameters()), w)
        for key, value in single.items():
            torch.testing.assert_close(together[key][row], value)


def test_a_random_decoder_is_about_as_surprised_as_one_that_knows_nothing() -> None:
    module, x, _, _ = made("decoder")
    assert abs(module(x).mean().item() - math.log(12)) < 1.0


@pytest.mark.parametrize("model", [BagOfWords, TextEncoder, TextDecoder])
def test_data_that_are_no_tokens_are_refused(model: Any, make_data: Any) -> None:
    with pytest.raises(IncompatibleError, match=r"expects token ids, dataset=noise has tabular data; choose"):
        model().build(make_data((5,)))


@pytest.mark.parametrize(
    ("model", "settings", "named"),
    [
        (BagOfWords, {"width": 0}, "model.width"),
        (TextEncoder, {"width": 33}, "model.width"),
        (TextEncoder, {"heads": 0}, "model.heads"),
        (TextEncoder, {"pooling": "max"}, "model.pooling"),
        (TextEncoder, {"activation": "swish"}, "model.activation"),
        (TextDecoder, {"depth": 0}, "model.depth"),
        (TextDecoder, {"hidden": "wide"}, "model.hidden"),
        (TextDecoder, {"tied": 1}, "model.tied"),
    ],
)
def test_bad_settings_are_refused_by_name(model: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}.* got .*; "):
        model(**settings)
