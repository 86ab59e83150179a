"""Launcher, sweeper, callbacks and logging of a command: Hydra makes whatever they name, so it is checked before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.config import conf_dir, explained, quoted
from influx.instantiate import refuse_foreign

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGES = ("hydra", "hydra_plugins", "influx")
PLUGINS = ("optuna", "nevergrad", "ax")  # what sweepers are made of
LOGGING = ("logging", "colorlog")
CALLED = ("_target_", "()", "class")  # the last two are how logging names what it makes
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
NODES = ("launcher", "sweeper", "callbacks", "job_logging", "hydra_logging")


def refuse_foreign_parts(overrides: list[str], config_dir: Path | None) -> None:
    """Refuse Hydra's parts outside Hydra, its plug-ins and the trusted packages.

    Raises:
        ConfigError: one of them is, or the configuration cannot be composed.
    """
    if config_dir is None and not any("hydra" in override for override in overrides):
        return  # the files of influx alone: they name no such thing
    from omegaconf import OmegaConf

    with explained(overrides, config_dir):
        cfg = _composed(overrides, config_dir)
        trust = OmegaConf.select(cfg, "trust") or []
        allowed = (*PACKAGES, *trust)
        for name in NODES:
            logs = name.endswith("logging")
            for path, target in _targets(cfg.hydra.get(name), f"hydra.{name}", CALLED if logs else CALLED[:1]):
                refuse_foreign(target, path, (*LOGGING, *allowed) if logs else (*PLUGINS, *allowed))


def _composed(overrides: list[str], config_dir: Path | None) -> DictConfig:
    """The configuration of the whole command, as Hydra is going to compose it."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    extra = [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            return hydra.compose_config("config", [*overrides, *extra], RunMode.MULTIRUN)
    finally:
        GlobalHydra.instance().hydra = before


def _is_external(value: object) -> bool:
    """Whether logging takes the value for the name of an object to import, wherever it stands."""
    return isinstance(value, str) and value.startswith("ext://") and value not in STREAMS


def _targets(node: Any, path: str, called: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Everything that the node names to be called, with its place; interpolations are followed."""
    from omegaconf import DictConfig, ListConfig
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        try:
            value = node[key]
        except OmegaConfBaseException:  # only jobs can resolve it, and what is named is not left to them
            if key in called or str(node._get_node(key)).startswith("ext"):
                yield f"{path}.{key}", "an interpolation"
            continue
        if value is not None and (key in called or _is_external(value)):
            yield f"{path}.{key}", str(value)
        yield from _targets(value, f"{path}.{key}", called)
