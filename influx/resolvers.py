"""What a configuration may not read: the environment, whose secrets would be stored with the results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from influx.errors import ConfigError

REFUSED = "the environment is not read"
_depth = 0  # blocks that are open


@contextmanager
def without_environment() -> Iterator[None]:
    """Let ``${oc.env:NAME}`` fail inside the block; see ``explained``.

    The resolver itself is replaced: an interpolation can be spelt in too many ways to look for it in the text.
    Blocks may be inside others.
    """
    global _depth
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def refuse(name: str = "", *_: object) -> str:
        raise ValueError(f"{REFUSED}: {name}!")

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def explained(text: str) -> ConfigError | None:
    """The sentence for a refusal that OmegaConf has wrapped in ``text``; None for another error."""
    found = re.search(rf"{REFUSED}: (.*?)!(?:.*full_key: (\S+))?", " ".join(text.split()))
    if found is None:
        return None
    name, key = found.group(1), found.group(2) or "a setting"
    return ConfigError(
        f"{key} must not read the environment (${{oc.env:{name}}}), its value would be stored with the results; "
        f"let the shell write a value that may be stored, as in {key}=${name}"
    )
