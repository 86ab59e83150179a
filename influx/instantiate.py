"""From plain values to objects: the one place that instantiates what a configuration names."""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from influx.errors import ConfigError, did_you_mean
from influx.own_code import after_import, before_import


@dataclasses.dataclass(frozen=True)
class Named:
    """A function or class of a trusted package that a setting names, as in ``mypackage.models:build``.

    ``identity`` is the hash of all source files of its package: other code makes another problem.
    """

    name: str
    call: Callable[..., Any] = dataclasses.field(compare=False, repr=False)
    identity: str = dataclasses.field(compare=False, repr=False)


OPTIONAL = ("truth", "corruption")  # groups that may hold nothing
ROLES = {  # what the objects of a group are asked for
    "dataset": ("load",),
    "corruption": ("apply",),
    "estimator": ("requires", "estimate"),
    "perspective": ("seeds", "check", "look"),
    "baselines": ("requires", "estimate"),
    "truth": ("requires", "estimate"),
    "metric": ("requires", "evaluate"),
    "executor": ("open",),
    "trackers": ("package", "log"),
}
PACKAGE_REMEDY = "check the name, install the package or put its folder on PYTHONPATH"
NAMED = ("metric", "baselines", "trackers")  # groups of several objects, each below a name


def build(node: Any, path: str, trust: list[str]) -> Any:
    """Instantiate a node with ``_target_``; a node whose target is null is None where nothing is a choice.

    Raises:
        ConfigError: the target is not trusted, not found or not of the group's kind, a key is unknown, a value is
            missing or has the wrong type.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path} must be one of the choices of its group, got {node!r}; see influx list")
    if node["_target_"] is None:
        return _nothing(path)
    cls = _locate(str(node["_target_"]), path, trust)
    _check_role(cls, path)
    hints = _hints(cls, path)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = {}
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in fields:
            raise ConfigError(
                f"{path}.{key} is not a setting{did_you_mean(str(key), fields)}; known: "
                + ", ".join(f"{path}.{name}" for name in fields)
            )
        if value is not None and _is_named(hints[key]):
            values[key] = function_named(value, f"{path}.{key}", trust)
            continue
        nested = isinstance(value, Mapping) and "_target_" in value
        values[key] = build(value, f"{path}.{key}", trust) if nested else checked(value, hints[key], f"{path}.{key}")
    needed = [name for name, f in fields.items() if name not in values and _required(f)]
    if needed:
        raise ConfigError(f"{path}.{needed[0]} must be given, got nothing; set {path}.{needed[0]}=...")
    try:
        return cls(**values)
    except ConfigError as error:  # a class used in several groups names its fields alone
        message = str(error)
        named = message.startswith(f"{path.partition('.')[0]}.")
        raise (error if named else ConfigError(f"{path}.{message}")) from None


def _nothing(path: str) -> None:
    if path not in OPTIONAL:
        raise ConfigError(f"{path}._target_ must name a class, got null; choose one, see influx list")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_role(cls: type, path: str) -> None:
    """Refuse a class of another group: its objects would fail later, in the middle of the work."""
    group, *inner = path.split(".")
    if len(inner) != (group in NAMED):
        return  # a part of an object: what it must offer is the object's business
    lacking = [name for name in ROLES.get(group, ()) if not hasattr(cls, name)]
    if lacking:
        raise ConfigError(
            f"{path}._target_={cls.__module__}.{cls.__qualname__} must have {' and '.join(ROLES[group])}, "
            f"it lacks {' and '.join(lacking)}; name a class of that kind"
        )


def _hints(cls: type, path: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception as error:  # a name that exists for type checkers alone
        raise ConfigError(
            f"{path}._target_={cls.__module__}.{cls.__qualname__} has a type that cannot be read "
            f"({_told(error)}); import it where it is defined"
        ) from error


def _locate(target: str, path: str, trust: list[str]) -> type:
    allowed = ("influx", *trust)
    module_name, _, name = target.rpartition(".")
    if not _trusted(module_name, allowed):
        raise ConfigError(
            f"{path}._target_={target} is outside the trusted packages ({', '.join(allowed)}); "
            f"add its package to trust, as in trust=[{target.partition('.')[0]}], if you wrote it"
        )
    found = getattr(_module(module_name, f"{path}._target_={target}"), name, None)
    if found is None:
        raise ConfigError(
            f"{path}._target_={target} cannot be imported (module {module_name!r} has no attribute {name!r}); "
            "check the name"
        )
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and _trusted(found.__module__, allowed)):
        raise ConfigError(f"{path}._target_={target} must name a dataclass of a trusted package; choose another")
    return found


def _is_named(hint: Any) -> bool:
    return hint is Named or Named in get_args(hint)


def function_named(value: Any, path: str, trust: list[str]) -> Named:
    """The function or class of a trusted package that ``value``, "package.module:name", stands for.

    Raises:
        ConfigError: it is no such text, its package is not trusted, it does not exist there, or the package's files
            have changed since they were imported.
    """
    module_name, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and name.isidentifier()):
        raise ConfigError(f"{path} must be text such as mypackage.module:function, got {value!r}; change it")
    if not _trusted(module_name, tuple(trust)):  # not influx: its functions write files
        raise ConfigError(
            f"{path}={value} is outside the packages of yours that are trusted ({', '.join(trust) or 'none'}); "
            f"add it to trust, as in trust=[{module_name.partition('.')[0]}], if you wrote it"
        )
    imported = before_import(module_name)
    found = getattr(_module(module_name, f"{path}={value}"), name, None)
    if not callable(found) or not _trusted(str(getattr(found, "__module__", "")), tuple(trust)):
        raise ConfigError(f"{path}={value} must name a function or class that {module_name} defines; check the name")
    after_import(module_name, imported, f"{path}={value}")
    return Named(value, found, imported)


def functions_named(values: Any, trust: Sequence[str]) -> set[str]:
    """All texts in ``values`` that ``build`` may take for functions of trusted packages, and call."""
    if isinstance(values, Mapping):
        return set().union(*(functions_named(value, trust) for value in values.values()))
    if isinstance(values, list | tuple):
        return set().union(*(functions_named(value, trust) for value in values))
    named = isinstance(values, str) and ":" in values and _trusted(values.partition(":")[0], tuple(trust))
    return {values} if named else set()


def refuse_foreign(target: str, path: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that does not lead to a class of an allowed package, by whatever way.

    Raises:
        ConfigError: it does not.
    """
    module_name, _, name = target.rpartition(".")
    found = getattr(_module(module_name, f"{path}={target}"), name, None) if _trusted(module_name, allowed) else None
    if not (isinstance(found, type) and _trusted(found.__module__, allowed)):
        raise ConfigError(
            f"{path}={target} must name a class of {', '.join(allowed)}; choose one, or add its package to trust if "
            "you wrote it"
        )


def _module(name: str, setting: str) -> types.ModuleType:
    """Import a trusted module; what its code raises is reported, whatever it is."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or ""
        if name != absent and not name.startswith(f"{absent}."):  # an import inside the module
            raise ConfigError(
                f"{setting} cannot be imported: module {name} raises {_told(error)}; install what it needs"
            ) from error
        remedy = "check the name" if _trusted(name, ("influx",)) else PACKAGE_REMEDY
        raise ConfigError(f"{setting} cannot be imported ({error}); {remedy}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{setting} cannot be imported: module {name} raises {_told(error)}; correct the module"
        ) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}"


def _trusted(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in allowed)


def checked(value: Any, hint: Any, path: str) -> Any:
    """``value`` if it fits the type ``hint``, whole numbers becoming floats where those are expected.

    Raises:
        ConfigError: it does not fit.
    """
    fitted = _fit(value, hint)
    if fitted is _MISFIT:
        shown = "null" if value is None else repr(value)
        near = did_you_mean(value, _literals(hint)) if isinstance(value, str) else ""
        raise ConfigError(f"{path} must be {describe(hint)}, got {shown}{near}; change it")
    return fitted


_MISFIT = object()
LISTS: dict[Any, type] = {list: list, tuple: tuple, Sequence: tuple}  # a hint and what is made for it


def _fit(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return next((f for f in (_fit(value, a) for a in args) if f is not _MISFIT), _MISFIT)
    if origin is Literal:
        return value if value in args and type(value) in {type(a) for a in args} else _MISFIT
    if origin in LISTS:
        if not isinstance(value, list | tuple):
            return _MISFIT
        items = [_fit(v, args[0]) for v in value]
        return _MISFIT if any(i is _MISFIT for i in items) else LISTS[origin](items)
    if origin is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else _MISFIT
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is type(None):
        return value if value is None else _MISFIT
    return value if isinstance(hint, type) and type(value) is hint else _MISFIT


def _literals(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(a) for a in get_args(hint)]
    return [name for arg in get_args(hint) for name in _literals(arg)]


def describe(hint: Any) -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in LISTS:
        return f"a list of {describe(args[0]).removeprefix('a ').replace('number', 'numbers')}"
    if origin is dict:
        return "settings by name, as {name: value}"
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    words[Named] = "text such as mypackage.module:function"
    return words.get(hint, str(hint))
