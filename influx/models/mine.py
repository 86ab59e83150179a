"""A model of your own: any module that a function of a trusted package returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from influx.errors import ConfigError, IncompatibleError
from influx.instantiate import Named
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Mine:
    """A module by a function or class: ``factory(**arguments)``, or ``factory(data, **arguments)`` with ``sizes``.

    It must return (n, classes) logits, or (n, 1) for regression, and be in the state that training begins with; it may
    draw from torch's global generator.

    Attributes:
        factory: ``mypackage.models:build``; its package must be among ``trust``.
        arguments: keyword arguments.
        sizes: whether the factory takes influx's ``Data`` first, to read ``data.n_outputs`` and ``data.train.x.shape``.
    """

    factory: Named | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    sizes: bool = False

    @property
    def identity(self) -> Mapping[str, str]:
        """The code that builds the module."""
        return {} if self.factory is None else {"model": self.factory.identity}

    def build(self, data: Data) -> nn.Module:
        """The module.

        Raises:
            ConfigError: no factory is named.
            IncompatibleError: it fails, or returns something else.
        """
        if self.factory is None:
            raise ConfigError(
                "model.factory must name a function of yours, got null; set model.factory=mypackage.models:build and "
                "trust=[mypackage]"
            )
        try:
            made = self.factory.call(*([data] if self.sizes else []), **self.arguments)
        except Exception as error:
            raise IncompatibleError(
                f"model.factory={self.factory.name} fails ({type(error).__name__}: {' '.join(str(error).split())}); "
                "correct it, or its model.arguments"
            ) from error
        if not isinstance(made, nn.Module):
            raise IncompatibleError(
                f"model.factory={self.factory.name} must return a torch.nn.Module, got {type(made).__name__}; "
                "correct it"
            )
        return made
