"""Images as PNG data URIs, written with zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError

_COLOUR = {1: 0, 3: 2, 4: 6}  # channels → colour type: grey, RGB, RGBA


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of an image ``(h, w, channels)`` with 1, 3 or 4 channels."""
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0)
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # filter 0 on every line
    body = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(image: NDArray[Any], limit: int = 96) -> str:
    """A ``data:`` URI of an image ``(c, h, w)``, uint8 or floats in [0, 1], shrunk to at most ``limit`` pixels.

    Raises:
        DataError: the image holds NaN or infinity.
    """
    pixels = np.asarray(image, dtype=np.float64) / (255.0 if image.dtype.kind == "u" else 1.0)
    if not np.isfinite(pixels).all():
        raise DataError("expected images with values in [0, 1] in display.npz, found NaN or infinity; run again")
    if len(pixels) not in _COLOUR:  # neither grey nor colours: show the mean over channels
        pixels = pixels.mean(axis=0, keepdims=True)
    small = _shrink(pixels, limit)
    levels = (small.clip(0, 1) * 255).round().astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(levels.transpose(1, 2, 0))).decode()


def _shrink(pixels: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """Means over square blocks, so that neither side exceeds ``limit`` (an incomplete last block is cut)."""
    channels, height, width = pixels.shape
    block = -(-max(height, width) // limit)
    if block == 1:
        return pixels
    block_h, block_w = min(block, height), min(block, width)
    high, wide = height // block_h, width // block_w
    cut = pixels[:, : high * block_h, : wide * block_w]
    means: NDArray[np.float64] = cut.reshape(channels, high, block_h, wide, block_w).mean(axis=(2, 4))
    return means
