"""Reads the plain values in a pickle file without running the pickle.

The Python version of CIFAR is distributed as pickles, and unpickling runs whatever code the file names. Here the
file is only parsed (``pickletools.genops`` executes nothing), and a small interpreter builds dictionaries,
lists, tuples, text, bytes, whole numbers and arrays of uint8. Any other thing is refused by name. A Python 2
string becomes text in latin-1, byte by byte.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from influx.errors import DataError

Handler = Callable[["_Machine", Any], None]
MALFORMED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, DeprecationWarning)

# What a pickled array names, in old and new numpy, and how Python 3 writes bytes in protocol 2.
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
DTYPE, NDARRAY, ENCODE = "numpy dtype", "numpy ndarray", "_codecs encode"
UINT8 = ("u1", "uint8")


class _Refused(Exception):
    """The file asks for something that is not a plain value."""


@dataclass
class _Name:
    """A name that the file mentions; it is compared, never imported."""

    text: str


@dataclass
class _Array:
    """An array between its creation and the state that fills it."""

    values: np.ndarray[Any, np.dtype[np.uint8]] | None = None


@dataclass
class _Machine:
    """The pickle's stack and memo."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken, self.stack[start:] = self.stack[start:], []
        return taken

    def take(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]


def read_pickled(path: Path) -> Any:
    """The value in a pickle file.

    Raises:
        DataError: the file is damaged, or asks for anything but plain values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an odd escape in a name is damage
            return _run(path.read_bytes())
    except _Refused as refused:
        raise DataError(
            f"{path} holds more than plain numbers and text ({refused}), so it was not read; it is damaged or unsafe, "
            f"delete it and set dataset.download=true"
        ) from refused
    except (*MALFORMED, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and set dataset.download=true") from error


def _run(content: bytes) -> Any:
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "STOP":
            return _finished(machine.stack.pop())
        handler = _HANDLERS.get(opcode.name)
        if handler is None:
            raise _Refused(f"the instruction {opcode.name}")
        handler(machine, argument)
    raise ValueError("it ends before its data does")


def _finished(value: Any) -> Any:
    """Replace the array placeholders at the top level by their arrays."""
    if isinstance(value, dict):
        return {key: _finished(v) if isinstance(v, _Array) else v for key, v in value.items()}
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("an array without content")
        return value.values
    return value


def _reduce(machine: _Machine, _: Any) -> None:
    function, arguments = machine.take(2)
    name = function.text if isinstance(function, _Name) else type(function).__name__
    if name in RECONSTRUCT and isinstance(arguments[0], _Name) and arguments[0].text == NDARRAY:
        machine.push(_Array())
    elif name == DTYPE and arguments[0] in UINT8:
        machine.push(_Name(DTYPE))
    elif name == ENCODE and arguments[1] == "latin1":
        machine.push(arguments[0].encode("latin-1"))
    else:
        raise _Refused(f"a call of {name.replace(' ', '.')} with {str(arguments)[:40]}")


def _build(machine: _Machine, _: Any) -> None:
    """Give an array its shape and bytes; a dtype's state only says that a byte has no order."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, _Name) and target.text == DTYPE:
        return
    if not isinstance(target, _Array):
        raise _Refused(f"a state for {type(target).__name__}")
    _, shape, dtype, fortran, content = state
    if fortran or not (isinstance(dtype, _Name) and dtype.text == DTYPE):
        raise _Refused("an array that is not of uint8 in C order")
    raw = content.encode("latin-1") if isinstance(content, str) else content
    target.values = np.frombuffer(raw, np.uint8).reshape(shape)


def _name(machine: _Machine, argument: str) -> None:
    if argument not in (*RECONSTRUCT, DTYPE, NDARRAY, ENCODE):
        raise _Refused(f"the name {argument.replace(' ', '.')}")
    machine.push(_Name(argument))


def _set_items(machine: _Machine, items: list[Any]) -> None:
    machine.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _memoise(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _ignore(machine: _Machine, argument: Any) -> None:
    """Framing carries no value."""


_PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_PUSHED, lambda m, value: m.push(value)),
    **dict.fromkeys(("PROTO", "FRAME"), _ignore),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoise),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, key: m.push(m.memo[key])),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "APPEND": lambda m, _: (lambda item: m.stack[-1].append(item))(m.stack.pop()),
    "APPENDS": lambda m, _: (lambda items: m.stack[-1].extend(items))(m.since_mark()),
    "SETITEM": lambda m, _: _set_items(m, m.take(2)),
    "SETITEMS": lambda m, _: _set_items(m, m.since_mark()),
    "GLOBAL": _name,
    "STACK_GLOBAL": lambda m, _: _name(m, " ".join(m.take(2))),
    "REDUCE": _reduce,
    "BUILD": _build,
}
