"""Configuration: what Hydra composes, and what it refuses in one clear sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from influx import refusals, resolvers
from influx.errors import ConfigError, did_you_mean
from influx.resolvers import without_environment

GROUPS = (
    "dataset",
    "corruption",
    "model",
    "optimizer",
    "training",
    "estimator",
    "perspective",
    "truth",
    "metric",
    "executor",
    "paths",
)
# settings that say how and where a run is done, not what it is
PRESENTATION = tuple("name overwrite on_busy quiet trust threads paths executor matrix_mb sweep trackers".split())
NAME = re.compile(r"(?!.*\.corrupt(\.\d+)?$)[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # *.corrupt is what was set aside


@dataclass
class SweepSettings:
    """What ``influx run -m`` does with its jobs."""

    name: str | None = None
    on_error: str = "continue"


@dataclass
class Config:
    """Schema of the root; groups are plain mappings that ``build`` checks against their classes."""

    dataset: Any = None
    corruption: Any = None
    model: Any = None
    optimizer: Any = None
    training: Any = None
    estimator: Any = None
    perspective: Any = None
    truth: Any = None
    metric: Any = None
    executor: Any = None
    paths: Any = None
    seed: int = 0
    name: str | None = None
    baselines: list[str] = field(default_factory=list)
    top_k: int = 10
    output_dtype: str = "float32"
    matrix_mb: float = 1024
    threads: int | None = None
    overwrite: bool = False
    on_busy: str = "wait"
    quiet: bool = False
    trust: list[str] = field(default_factory=list)
    trackers: list[str] = field(default_factory=list)
    sweep: SweepSettings = field(default_factory=SweepSettings)


def conf_dir() -> Path:
    """The folder of configuration files: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if (inside / "config.yaml").is_file() else Path(__file__).parents[1] / "conf"


def register_schema() -> None:
    """Tell Hydra about ``Config``."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A composed configuration: plain values, the name chosen in each group, and the folder of the user's choices."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]
    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    call: str = ""  # what asked for it in Python, where no overrides did

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def compose(overrides: list[str], config_dir: Path | None = None) -> Settings:
    """Compose the configuration for a list of Hydra overrides.

    Raises:
        ConfigError: an override is malformed, or names a group, choice or key that does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_schema()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
    try:
        with (
            without_environment(),
            explained(overrides, config_dir),
            initialize_config_dir(str(conf_dir()), version_base="1.3"),
        ):
            cfg = hydra_compose("config", [*overrides, *extra], return_hydra_config=True)
            return settings_from(cfg, tuple(overrides), config_dir)
    finally:
        GlobalHydra.instance().hydra = before


def quoted(text: str) -> str:
    """A string in Hydra's grammar that stands for ``text``; ``${`` stays, since Hydra reads search paths unresolved."""
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)  # a backslash counts as itself unless quotes follow
    return "'" + re.sub(r"(\\+)$", r"\1\1", text) + "'"


@contextmanager
def explained(overrides: list[str], config_dir: Path | None = None) -> Iterator[None]:
    """Say in one sentence what Hydra, OmegaConf or YAML refuse inside the block.

    Raises:
        ConfigError: instead of their errors.
    """
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, config_dir) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise unreadable(error, config_dir) from error
    except ValueError as error:
        if "Config group override must be" not in str(error):
            raise
        raise _no_choice(overrides) from error


def unreadable(error: Exception, config_dir: Path | None) -> ConfigError:
    """What to say of a file that is not YAML in UTF-8; Hydra does not tell which one it was."""
    detail = " ".join(str(error).split())
    if not isinstance(error, UnicodeDecodeError):
        return ConfigError(f"a config file must be plain YAML: {detail}; correct the file")
    files = sorted(config_dir.rglob("*.yaml")) if config_dir else []
    damaged = (str(p) for p in files if "\ufffd" in p.read_text(encoding="utf-8", errors="replace"))
    return ConfigError(f"{next(damaged, 'a config file')} must be UTF-8: {detail}; save it as UTF-8")


def _no_choice(overrides: list[str]) -> ConfigError:
    """What to say of a group set to something that is no name, such as null."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(overrides):
        group, value = override.key_or_group, override.value()
        values = getattr(value, "list", [value])  # of a sweep
        if group in (*GROUPS, "experiment") and any(v is None or isinstance(v, int | float | dict) for v in values):
            none = "metric=[]" if group == "metric" else f"{group}=none" if "none" in choices_of(group) else ""
            remedy = f"; {none} asks for none" if none else ""
            got = str(override.input_line).partition("=")[2]
            return ConfigError(f"{group} must be one of the choices of its group, got {got}{remedy}; see influx list")
    return ConfigError("a group must be one of its choices; see influx list")


def settings_from(cfg: Any, overrides: tuple[str, ...], config_dir: Path | None = None) -> Settings:
    """Plain values and choices of a composed config that still holds its ``hydra`` node."""
    from omegaconf import OmegaConf, open_dict

    choices = {k: str(v) for k, v in cfg.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    with open_dict(cfg), without_environment():  # not all that comes here is from ``compose``
        cfg.pop("hydra")
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    known = [f.name for f in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{key!s} is not a setting{did_you_mean(str(key), known)}; known: {', '.join(known)}")
    for key in known:
        if key not in values:
            raise ConfigError(f"{key} must be set, ~{key} removes it; leave ~{key} out, or set {key}=…")
    plain = {str(k): v for k, v in values.items()}
    return Settings(values=plain, choices=choices, overrides=overrides, config_dir=config_dir)


def explain(error: Exception, overrides: list[str], config_dir: Path | None = None) -> ConfigError:
    """One clear sentence for what Hydra or OmegaConf refused."""
    text = " ".join(str(e) for e in (error, error.__cause__) if e is not None)
    environment = resolvers.explained(text)
    if environment is not None:
        return environment
    missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if missing and "/" in missing.group(1):
        group, _, name = missing.group(1).rpartition("/")
        return _no_such_choice(group, name, choices_of(group, config_dir))
    wrong = re.search(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", text)
    merging = re.search(r"merging override \+{0,2}([\w.]+)=", text)
    if wrong and merging:
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
            wrong.group(3), "text"
        )
        return ConfigError(f"{merging.group(1)} must be {kind}, got {wrong.group(1)!r}; change it")
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown.group(1), overrides, config_dir)
    malformed = next((o for o in overrides if not _readable(o)), None)
    if malformed is not None:
        return ConfigError(
            f"cannot read the override {malformed!r}; write key=value, quoting lists and spaces for the shell"
        )
    return (
        refusals.several(text)
        or refusals.misfit(text)
        or ConfigError(f"{' '.join(text.split())}; see influx run --cfg job")
    )


def _readable(override: str) -> bool:
    """Whether an override follows Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _unknown_key(path: str, overrides: list[str], config_dir: Path | None) -> ConfigError:
    names = choices_of(path, config_dir) if "." not in path else []
    name = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{path}=")), "")
    if names and name not in names:
        return _no_such_choice(path, name, names)
    kept = [o for o in overrides if not re.match(rf"\+{{0,2}}~?{re.escape(path)}=", o)]
    try:
        values: Any = compose(kept, config_dir).values if len(kept) < len(overrides) else {}
    except ConfigError:
        values = {}
    *parents, last = path.split(".")
    for parent in parents:
        values = values.get(parent, {}) if isinstance(values, Mapping) else {}
    names = [k for k in values if k != "_target_"] if isinstance(values, Mapping) else []
    if not parents:
        names = [*names, *GROUPS]
    prefix = "".join(f"{p}." for p in parents)
    listed = f"; known: {', '.join(prefix + n for n in sorted(set(names)))}" if names else "; see influx run --cfg job"
    return ConfigError(f"{path} is not a setting{did_you_mean(last, names)}{listed}")


def choices_of(group: str, config_dir: Path | None = None) -> list[str]:
    """Names that can be chosen in a group, sorted."""
    folders = [conf_dir() / group, *([config_dir / group] if config_dir else [])]
    return sorted({p.stem for folder in folders if folder.is_dir() for p in folder.glob("*.yaml")})


def load_choice(group: str, name: str, config_dir: Path | None = None, setting: str | None = None) -> dict[str, Any]:
    """The plain values of one choice, as its file has them; ``setting`` names what asked for it (the group).

    Raises:
        ConfigError: there is no such choice.
    """
    import yaml

    for folder in (config_dir, conf_dir()):
        path = folder / group / f"{name}.yaml" if folder else None
        if path is not None and path.is_file():
            try:  # by libyaml where PyYAML has it: several times faster
                loaded = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise unreadable(error, config_dir) from error
            if not isinstance(loaded, dict):
                raise ConfigError(f"{path} must hold settings, one 'name: value' a line; correct the file")
            return loaded
    names = choices_of(group, config_dir)
    raise _no_such_choice(setting or group, name, names)


def _no_such_choice(group: str, name: str, names: list[str]) -> ConfigError:
    if group in ("hydra/launcher", "hydra/sweeper"):
        package = f"hydra-{name.split('_')[0]}-{group.removeprefix('hydra/')}"
        return ConfigError(f"{group}={name} is not installed; pip install {package}, or leave {group}= out")
    remedy = f"choose one of {', '.join(names)}" if names else "see influx run --info plugins"
    return ConfigError(f"{group}={name} does not exist{did_you_mean(name, names)}; {remedy}")
