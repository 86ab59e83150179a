"""The IDX format of MNIST: a header of big-endian whole numbers, then bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, shape: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, gzipped when its name ends in ``.gz``.

    Args:
        path: the file.
        shape: of one instance; () for labels, (28, 28) for images.
        most: instances that the official file has; a header that promises more is damaged.

    Returns:
        (n, *shape) uint8.

    Raises:
        DataError: the header is not that of such an array, or the file is too short or too long.
    """
    dimensions = 1 + len(shape)
    header_size = 4 * (1 + dimensions)
    limit = header_size + most * int(np.prod(shape, dtype=np.int64)) + 1  # never unpack more than the real file has
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); {_again(path)}") from error
    if len(content) < header_size:
        raise DataError(f"{path} ends within its header ({len(content)} bytes); {_again(path)}")
    magic, n, *instance = struct.unpack(f">{1 + dimensions}I", content[:header_size])
    expected = UNSIGNED_BYTE << 8 | dimensions
    if magic != expected:
        raise DataError(f"{path} starts with the number {magic}, expected {expected}; {_again(path)}")
    if tuple(instance) != shape or not 0 < n <= most:
        raise DataError(
            f"the header of {path} promises {n} instances of shape {tuple(instance)}, expected 1 to {most} of shape "
            f"{shape}; {_again(path)}"
        )
    promised = n * int(np.prod(shape, dtype=np.int64))
    if len(content) - header_size != promised:
        raise DataError(
            f"{path} holds {len(content) - header_size} bytes after its header, expected {promised}; {_again(path)}"
        )
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(n, *shape)


def _again(path: Path) -> str:
    return f"it is damaged, delete {path.name} and set dataset.download=true to fetch it again"
