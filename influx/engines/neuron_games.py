"""Games of a net's units: those outside a coalition are held at a constant while the others go on as usual."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from influx.engines.explanations import Output, worth
from influx.engines.features import head_of
from influx.engines.games import Array, Coalitions
from influx.errors import ConfigError, IncompatibleError
from influx.learners.torch.fitted import EVALUATION_CHUNK, EVALUATION_NUMBERS, TorchFitted, outcomes_of
from influx.learners.torch.learner import TorchLearner
from influx.planning import Prospect
from influx.problem import Split, TaskName

Ablation = Literal["mean", "zero"]
Change = Callable[[int, Tensor], Tensor | None]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
    *(nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid),
)


@dataclass(frozen=True)
class Site:
    """One call of a layer whose outputs are units: ``size`` of them, along ``dim`` of its output (b, ...)."""

    layer: str
    call: int
    dim: int
    size: int

    @property
    def name(self) -> str:
        """For tables: the layer, and which of its calls after the first."""
        return self.layer if self.call == 0 else f"{self.layer}#{self.call + 1}"

    def broadcast(self, rows: Tensor, ndim: int) -> Tensor:
        """``rows`` (b, size) or (1, size), shaped to go with the output."""
        shape = [1] * ndim
        shape[0], shape[self.dim] = rows.shape
        return rows.reshape(shape)


def sites_of(module: nn.Module, x: Tensor, layers: str | None) -> list[Site]:
    """Where units are, in the order of the forward pass on ``x`` (2, ...).

    Outputs of activation layers, or of hidden linear and convolution layers in nets without activation layers; or of
    the layers whose whole name matches the regular expression ``layers``. The units are channels: the first dimension
    after that of instances in what follows a convolution, the last one elsewhere.

    Raises:
        IncompatibleError: the net has no hidden units.
        ConfigError: no layer matches.
    """
    seen = list(_calls(module, x))
    if layers is not None:
        found = [site for site, _ in seen if re.fullmatch(layers, site.layer)]
        if not found:
            names = sorted({site.layer for site, _ in seen})
            raise ConfigError(f"no layer matches estimator.layers={layers!r}; layers are {', '.join(names)}")
        return found
    found = [site for site, layer in seen if isinstance(layer, ACTIVATIONS)]
    if not found:
        head = _head(module, x)
        weighted = (nn.Linear, *CONVOLUTIONS)
        found = [site for site, layer in seen if isinstance(layer, weighted) and layer is not head]
    if not found:
        raise IncompatibleError("the model has no hidden units to remove; choose another, such as model=mlp")
    return found


def _head(module: nn.Module, x: Tensor) -> nn.Module | None:
    try:
        return head_of(module, x[:1])[1]
    except IncompatibleError:
        return None


@torch.no_grad()
def _calls(module: nn.Module, x: Tensor) -> Iterator[tuple[Site, nn.Module]]:
    """Calls of layers without layers inside, whose outputs (2, ...) keep instances first."""
    found: list[tuple[Site, nn.Module]] = []
    count: dict[nn.Module, int] = {}
    names = {layer: name for name, layer in module.named_modules() if not list(layer.children())}
    spatial: list[bool] = [x.ndim == 4]

    def note(layer: nn.Module, args: object, output: object) -> None:
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
            spatial[0] = isinstance(layer, CONVOLUTIONS)
        call = count[layer] = count.get(layer, -1) + 1
        if isinstance(output, Tensor) and output.ndim > 1 and len(output) == len(x):
            dim = 1 if spatial[0] else output.ndim - 1
            found.append((Site(names[layer], call, dim, output.shape[dim]), layer))

    handles = [layer.register_forward_hook(note) for layer in names]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    yield from found


@contextmanager
def _changed(module: nn.Module, sites: Sequence[Site], change: Change) -> Iterator[None]:
    """Within, what ``change`` makes of a site's number and output replaces the output, unless it is None."""
    where = {(site.layer, site.call): number for number, site in enumerate(sites)}
    count: dict[str, int] = {}

    def restart(layer: nn.Module, args: object) -> None:
        count.clear()

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        def hook(layer: nn.Module, args: object, output: Tensor) -> Tensor | None:
            call = count[name] = count.get(name, -1) + 1
            number = where.get((name, call))
            return None if number is None else change(number, output)

        return hook

    handles = [module.register_forward_pre_hook(restart)]
    handles += [module.get_submodule(name).register_forward_hook(hook_for(name)) for name in {s.layer for s in sites}]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def planned_sites(prospect: Prospect, layers: str | None) -> list[Site]:
    """Where units will be, from the untrained module."""
    learner = prospect.problem.learner
    if not isinstance(learner, TorchLearner):
        raise IncompatibleError(f"{prospect.who} needs a net; choose a model such as model=mlp")
    with torch.random.fork_rng(devices=[]):
        module = learner.model.build(prospect.problem.data).eval()
    return sites_of(module, torch.from_numpy(np.ascontiguousarray(prospect.train.x[:2])), layers)


class Ablated:
    """A trained net whose units can be held at their mean over training instances (and positions), or at zero."""

    def __init__(self, fitted: TorchFitted, train: Split, layers: str | None, ablation: Ablation) -> None:
        """Find the units and their constants."""
        self.fitted, self.module = fitted, fitted.model()
        self.sites = sites_of(self.module, fitted.tensors(train.take(slice(0, 2)))[0], layers)
        self.constants = self._means(train) if ablation == "mean" else [torch.zeros(s.size) for s in self.sites]

    @property
    def units(self) -> int:
        """How many there are."""
        return sum(site.size for site in self.sites)

    @torch.no_grad()
    def _means(self, train: Split) -> list[Tensor]:
        sums, counts = [torch.zeros(site.size, dtype=torch.float64) for site in self.sites], [0] * len(self.sites)

        def note(number: int, output: Tensor) -> None:
            site = self.sites[number]
            rows = output.movedim(site.dim, -1).reshape(-1, site.size)
            sums[number] += rows.double().sum(dim=0).cpu()
            counts[number] += len(rows)

        with _changed(self.module, self.sites, note):
            for chunk in self.fitted.parts(train):
                self.module(chunk)
        return [total / count for total, count in zip(sums, counts, strict=True)]

    @torch.no_grad()
    def outputs(self, x: Tensor, coalitions: Tensor) -> Tensor:
        """``(K b, outputs)`` of inputs (b, ...) under each coalition (K, units), coalition by coalition."""
        kept = coalitions.repeat_interleave(len(x), dim=0).split([site.size for site in self.sites], dim=1)

        def hold(number: int, output: Tensor) -> Tensor:
            site = self.sites[number]
            constant = site.broadcast(self.constants[number].to(output)[None], output.ndim)
            return torch.where(site.broadcast(kept[number], output.ndim), output, constant)

        with _changed(self.module, self.sites, hold):
            return cast(Tensor, self.module(x.repeat(len(coalitions), *[1] * (x.ndim - 1))))


@dataclass(frozen=True, kw_only=True)
class NeuronGame:
    """Units that cooperate in one instance's prediction: v(S)[j] is the output at x_j without the units outside S."""

    net: Ablated
    task: TaskName
    output: Output
    split: Split

    @property
    def players(self) -> int:
        """How many there are."""
        return self.net.units

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return self.net.fitted.tensors(self.split)

    def values(self, coalitions: Coalitions) -> Array:
        """``(K, m)`` values."""
        x, y = self._tensors
        kept = torch.from_numpy(np.ascontiguousarray(coalitions)).to(x.device)
        rows = max(min(EVALUATION_CHUNK, EVALUATION_NUMBERS // max(x[0].numel(), 1)), 1)
        instances = min(rows, len(x))
        found = np.empty((len(coalitions), len(x)))
        for first in range(0, len(x), instances):
            part = slice(first, first + instances)
            for start in range(0, len(coalitions), rows // instances):
                some = kept[start : start + rows // instances]
                outputs = self.net.outputs(x[part], some)
                outcomes = outcomes_of(self.net.fitted.task, outputs, y[part].repeat(len(some)))
                right = np.tile(self.split.y[part], len(some))
                found[start : start + len(some), part] = worth(outcomes, right, self.output, self.task).reshape(
                    len(some), -1
                )
        return found
