"""What Hydra and OmegaConf refuse, known by their words alone and said in ours."""

from __future__ import annotations

import re

from influx.errors import ConfigError


def several(text: str) -> ConfigError | None:
    """Several values where one is expected, if that is what ``text`` says."""
    sweep = re.search(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\.", " ".join(text.split()))
    if sweep:
        key, values = sweep.groups()
        return ConfigError(
            f"{key} must have one value, got {values}; write influx run -m {key}={values} for one run each, "
            f"{key}=[{values}] for a list"
        )
    twice = re.search(r"Multiple values for (\w+)\.", text)
    if twice:
        return ConfigError(f"{twice.group(1)} has a value already, + adds another; write {twice.group(1)}=… without +")
    return None


def misfit(text: str) -> ConfigError | None:
    """A value that OmegaConf cannot resolve or convert, if that is what ``text`` says."""
    place = re.search(r"full_key: (\S+)", text)
    if place is None:
        return None
    nowhere = re.search(r"Interpolation key '([^']+)' not found|Unsupported interpolation type (\S+)", text)
    if nowhere:
        reference = nowhere.group(1) or f"{nowhere.group(2)}:…"
        return ConfigError(f"{place.group(1)} refers to ${{{reference}}}, which does not exist; write the value itself")
    flag = re.search(r"Value '(.*?)' is not a valid bool", text)
    if flag:
        return ConfigError(f"{place.group(1)} must be true or false, got {flag.group(1)!r}; change it")
    shape = re.search(r"Cannot convert '(\w+)' to string: '(.*?)'", text)
    if shape:
        return ConfigError(f"{place.group(1)} must be text, got the {shape.group(1)} {shape.group(2)}; change it")
    return None
