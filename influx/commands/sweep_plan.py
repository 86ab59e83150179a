"""What a sweep's command asks for, apart from the values that its jobs take, and whether it asked that before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influx.added import without_added
from influx.commands.outputs import read_manifest
from influx.config import GROUPS, NAME, PRESENTATION, Settings, choices_of, compose, conf_dir
from influx.errors import ConfigError
from influx.store import content_hash, file_hash

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

OF_LAUNCHERS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
NAMED = 5  # things that a sentence names


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command asks for, apart from the values that jobs take.

    Attributes:
        settings: one job's, of which those that are not swept hold for all.
        swept: keys of what differs between jobs.
        files: hashes of the files of choices that are swept, by ``group=choice``.
        left_out: overrides that do not tell jobs apart.
        command: the overrides of the command line.
    """

    settings: Settings
    swept: tuple[str, ...]
    files: Mapping[str, str]
    left_out: frozenset[str]
    command: list[str]

    @property
    def name(self) -> str:
        """The name given, or a hash of the command."""
        given = self.settings["sweep"]["name"]
        told = in_order(o for o in self.command if _key(o).split("/")[0].split(".")[0] not in ("hydra", *PRESENTATION))
        where = str(self.settings.config_dir.resolve()) if self.settings.config_dir else ""
        return str(given) if given is not None else content_hash([told, where])

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its states."""
        return Path(str(self.settings["paths"]["outputs"])).expanduser() / "sweeps" / self.name

    def head(self) -> dict[str, Any]:
        """What the manifest says of the sweep as a whole."""
        base = without_added({k: v for k, v in self.settings.values.items() if k not in PRESENTATION})
        choices = {k: v for k, v in self.settings.choices.items() if k not in PRESENTATION}
        flat = _flat(base) | {f"{k} (choice)": v for k, v in choices.items()}
        swept = self.swept
        kept = {k: v for k, v in flat.items() if not _swept(k, swept)}
        return {
            "name": self.name,
            "command": ["influx", "run", "-m", *self.command],
            "swept": list(swept),
            "settings": kept,
            "files": dict(self.files),
        }


def in_order(overrides: Iterable[str]) -> list[str]:
    """Overrides by key, whatever their order on the command line; of one key the last counts: those stay in order."""
    return sorted(overrides, key=_key)


def for_hydra(overrides: Iterable[str], swept: Iterable[str]) -> list[str]:
    """Settings of swept groups as sweeps over their one value, the others as they are.

    Hydra composes the whole command without what is swept, with the default choice, which may have no such setting.
    """
    known = set(swept)
    groups = tuple(f"{group}." for group in GROUPS if group in known or "experiment" in known)
    made = []
    for override in overrides:
        key, _, value = override.partition("=")
        alone = key.startswith(groups) and key not in known
        made.append(f"{key}=choice({value or repr('')})" if alone else override)
    return made


def planned(overrides: list[str], config_dir: Path | None, hydra: Hydra) -> Plan:
    """What holds for all jobs, and what differs.

    Raises:
        ConfigError: a setting is unusable.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(overrides)
    fixed: list[str] = []
    swept: list[str] = []
    left_out: list[str] = []
    first: dict[str, str] = {}
    files: dict[str, str] = {}
    for override in parsed:
        key = override.get_key_element().lstrip("+~")
        if override.is_hydra_override():
            continue
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
            if key.split(".")[0] in PRESENTATION and key != "name":
                left_out.append(f"{override.get_key_element()}={override.get_value_element_as_str()}")
            continue
        swept.append(key)
        if override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
            first[key] = f"{override.get_key_element()}={values[0]}"
            files |= _files(key, values, config_dir)
    settings = _composed(fixed, first, config_dir)
    check(settings)
    if settings["name"] is not None and swept and "name" not in swept:
        raise ConfigError("name gives all jobs of a sweep one folder; leave it out, sweep.name names the sweep")
    return Plan(
        settings=settings,
        swept=tuple(swept),
        files=files,
        left_out=frozenset(left_out),
        command=overrides,
    )


def _composed(fixed: list[str], first: Mapping[str, str], config_dir: Path | None) -> Settings:
    """The settings of a job. An experiment sets anything: it is left out, unless the others do not fit without it."""
    groups = [o for key, o in first.items() if key in GROUPS]
    try:
        return compose([*fixed, *groups], config_dir)
    except ConfigError:
        return compose([*fixed, *first.values()], config_dir)


def check(settings: Settings) -> None:
    """Refuse settings of the sweep itself that cannot be used.

    Raises:
        ConfigError: one of them.
    """
    name, on_error = settings["sweep"]["name"], settings["sweep"]["on_error"]
    if name is not None and not NAME.fullmatch(name):
        raise ConfigError(
            f"sweep.name must be letters, digits, '.', '_' and '-', beginning with a letter or digit, got {name!r}; "
            "change it"
        )
    if on_error not in ("continue", "stop"):
        raise ConfigError(f"sweep.on_error must be continue or stop, got {on_error!r}; change it")
    outputs = settings["paths"].get("outputs") if isinstance(settings["paths"], Mapping) else None
    if not isinstance(outputs, str) or not outputs:
        raise ConfigError(f"paths.outputs must name a folder, got {outputs!r}; set paths.outputs=outputs")


def _files(group: str, values: list[str], config_dir: Path | None) -> dict[str, str]:
    if group not in (*GROUPS, "experiment") or not choices_of(group, config_dir):
        return {}
    found = {}
    for value in values:
        for folder in (config_dir, conf_dir()):
            path = folder / group / f"{value}.yaml" if folder else None
            if path is not None and path.is_file():
                found[f"{group}={value}"] = file_hash(path)
                break
    return found


def going_on(folder: Path, head: dict[str, Any], overwrite: bool) -> tuple[dict[str, Any], bool]:
    """The head that the manifest is to have, with what it knows from earlier commands, and whether all starts afresh.

    Raises:
        ConfigError: jobs were run with other settings, and ``overwrite`` is false.
    """
    before = read_manifest(folder)
    if not before:
        return head, False
    try:
        _refuse_drift(folder, before, head)
    except ConfigError:
        if overwrite:
            return head, True
        raise
    earlier = {k: v for k, v in before["settings"].items() if _swept(k, head["swept"])}
    files = before.get("files")
    known = files if isinstance(files, Mapping) else {}
    return head | {"settings": earlier | head["settings"], "files": {**known, **head["files"]}}, False


def _refuse_drift(folder: Path, before: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    then, now = before.get("settings"), head["settings"]
    if not isinstance(then, Mapping):
        raise ConfigError(
            f"the sweep {folder} does not say what it was run with; use another sweep.name or overwrite=true"
        )
    earlier_swept = list(map(str, before.get("swept") or ()))
    changed = [
        f"{key}: {then.get(key, 'not set')!s} then, {now.get(key, 'not set')!s} now"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
        and not _swept(key, head["swept"])
        and not (key not in then and _swept(key, earlier_swept))
    ]
    earlier = before.get("files")
    files = earlier if isinstance(earlier, Mapping) else {}
    changed += [f"the file of {k} was changed" for k, v in head["files"].items() if files.get(k, v) != v]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ConfigError(
            f"the sweep {folder.name} was run with other settings ({'; '.join(changed[:NAMED])}{more}); "
            "set another sweep.name, or overwrite=true to run all its jobs again"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        found |= _flat(value, f"{path}.") if isinstance(value, Mapping) and value else {path: value}
    return found


def _swept(setting: str, swept: Iterable[str]) -> bool:
    """Whether a setting of the manifest belongs to something that is swept."""
    return any(_below(setting.removesuffix(" (choice)"), key) for key in swept)


def _below(path: str, key: str) -> bool:
    """Whether a setting is the swept one, or part of it."""
    return path == key or path.startswith(f"{key}.")


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
