"""HTML and SVG as text, escaped at the one place where tags are made."""

from __future__ import annotations

import html
from typing import NewType

Markup = NewType("Markup", str)

# Characters that HTML does not allow even when escaped; tabs and newlines stay.
_CONTROLS = {i: " " for i in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}
_VOID = frozenset({"meta", "img", "br"})


def escaped(value: object) -> Markup:
    """Any text, safe inside an element or an attribute."""
    return Markup(html.escape(str(value).translate(_CONTROLS).encode("utf-8", "replace").decode(), quote=True))


def tag(name: str, /, *children: Markup | str, **attributes: object) -> Markup:
    """An element. ``str`` children must come from ``tag`` or ``escaped``; attributes are escaped here.

    An attribute None is left out; underscores become hyphens, a trailing one is dropped (``class_``).
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{''.join(children)}</{name}>")


def text(name: str, content: object, /, **attributes: object) -> Markup:
    """An element that holds plain text."""
    return tag(name, escaped(content), **attributes)


def join(*parts: Markup) -> Markup:
    """Elements one after another, one per line."""
    return Markup("\n".join(part for part in parts if part))
