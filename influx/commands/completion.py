"""Shell completion: ``eval "$(influx -sc install=bash)"``. Commands here, overrides by Hydra."""

from __future__ import annotations

import os
from collections.abc import Iterable

from influx.commands.run import through_hydra
from influx.errors import ConfigError

ACTIONS = ("install=", "uninstall=", "query=")
OVERRIDES = ("run", "plan")  # commands whose arguments are Hydra's


def completion(arguments: list[str], commands: Iterable[str]) -> int:
    """Install, or answer the shell, which hands over the line in ``COMP_LINE``; the exit code."""
    if not arguments[-1].startswith(ACTIONS):
        raise ConfigError(f"-sc takes install=bash, uninstall=bash or query=bash, got {arguments[-1]!r}; add one")
    if not arguments[-1].startswith("query="):
        return through_hydra(arguments)
    line = os.environ.get("COMP_LINE", "")
    program, _, rest = line.lstrip().partition(" ")
    command, typed, overrides = rest.lstrip().partition(" ")
    if not typed:
        print(" ".join(name for name in sorted(commands) if name.startswith(command)))
    elif command in OVERRIDES:
        # Hydra completes the line of a program that takes overrides alone.
        os.environ["COMP_LINE"] = f"{program} {overrides.lstrip()}"
        return through_hydra(arguments)
    elif command == "list":
        from influx.catalogue import KINDS

        print(" ".join(kind for kind in KINDS if kind.startswith(overrides.strip())))
    return 0
