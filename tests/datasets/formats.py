"""Writes small datasets in the exact form in which the real ones lie on disk. Pixels of a class share a pattern."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def patterned(n: int, shape: tuple[int, ...], n_classes: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, c, h, w) uint8 of a fixed pattern per class plus noise, and balanced labels (n,) in random order."""
    patterns = np.random.default_rng(12345).integers(30, 226, (n_classes, *shape))
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    noise = rng.integers(-30, 30, (n, *shape))
    return (patterns[y] + noise).astype(np.uint8), y.astype(np.int64)


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2 wrote it: strings as byte strings, arrays by numpy's old names."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_python2(v) for v in value) + b"e"
    if isinstance(value, str):
        value = value.encode("latin-1")
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, np.ndarray):
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"".join(_python2(int(k)) for k in value.shape)
        return empty + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"
    return b"J" + struct.pack("<i", int(value))


def write_cifar10_python(folder: Path, n_train: int, n_test: int, seed: int) -> Arrays:
    """``cifar-10-batches-py`` below ``folder``; returns pixels and labels of train and test."""
    x, y, x_test, y_test = _cifar(n_train, n_test, 10, seed)
    below = _made(folder / "cifar-10-batches-py")
    for i, rows in enumerate(np.array_split(np.arange(n_train), 5), start=1):
        label = f"training batch {i} of 5"
        (below / f"data_batch_{i}").write_bytes(python2_pickle(_batch(x[rows], y[rows], label)))
    (below / "test_batch").write_bytes(python2_pickle(_batch(x_test, y_test, "testing batch 1 of 1")))
    meta = {"num_cases_per_batch": n_train // 5, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    (below / "batches.meta").write_bytes(python2_pickle(meta))
    return x, y, x_test, y_test


def write_cifar10_binary(folder: Path, n_train: int, n_test: int, seed: int) -> Arrays:
    """``cifar-10-batches-bin`` below ``folder``; the same images as ``write_cifar10_python``."""
    x, y, x_test, y_test = _cifar(n_train, n_test, 10, seed)
    below = _made(folder / "cifar-10-batches-bin")
    for i, rows in enumerate(np.array_split(np.arange(n_train), 5), start=1):
        (below / f"data_batch_{i}.bin").write_bytes(_records([y[rows]], x[rows]))
    (below / "test_batch.bin").write_bytes(_records([y_test], x_test))
    (below / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")  # the real file ends in an empty line
    return x, y, x_test, y_test


def write_cifar100_python(folder: Path, n_train: int, n_test: int, seed: int) -> Arrays:
    """``cifar-100-python`` below ``folder``; labels are the fine ones."""
    x, y, x_test, y_test = _cifar(n_train, n_test, 100, seed)
    below = _made(folder / "cifar-100-python")
    for file, pixels, labels in (("train", x, y), ("test", x_test, y_test)):
        batch = _batch(pixels, labels, file)
        del batch["labels"]
        batch |= {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()}
        (below / file).write_bytes(python2_pickle(batch))
    names = {"fine_label_names": cifar100_names(), "coarse_label_names": [f"group{i}" for i in range(20)]}
    (below / "meta").write_bytes(python2_pickle(names))
    return x, y, x_test, y_test


def write_cifar100_binary(folder: Path, n_train: int, n_test: int, seed: int) -> Arrays:
    """``cifar-100-binary`` below ``folder``: coarse and fine label before the pixels."""
    x, y, x_test, y_test = _cifar(n_train, n_test, 100, seed)
    below = _made(folder / "cifar-100-binary")
    (below / "train.bin").write_bytes(_records([y // 5, y], x))
    (below / "test.bin").write_bytes(_records([y_test // 5, y_test], x_test))
    (below / "fine_label_names.txt").write_text("\n".join(cifar100_names()) + "\n")
    return x, y, x_test, y_test


def cifar100_names() -> list[str]:
    """100 names in alphabetical order, as the real ones are."""
    return [f"class{i:03d}" for i in range(100)]


def write_mnist(
    folder: Path, n_train: int, n_test: int, seed: int, *, name: str = "MNIST", zipped: bool = True
) -> Arrays:
    """``MNIST/raw`` (or ``FashionMNIST/raw``) below ``folder``, gzipped or not."""
    x, y = patterned(n_train, (1, 28, 28), 10, seed)
    x_test, y_test = patterned(n_test, (1, 28, 28), 10, seed + 1)
    below = _made(folder / name / "raw")
    for part, pixels, labels in (("train", x, y), ("t10k", x_test, y_test)):
        write_idx(below / f"{part}-images-idx3-ubyte", pixels[:, 0], zipped)
        write_idx(below / f"{part}-labels-idx1-ubyte", labels.astype(np.uint8), zipped)
    return x, y, x_test, y_test


def write_idx(path: Path, array: NDArray[np.uint8], zipped: bool) -> None:
    """One IDX file of unsigned bytes; ``.gz`` is appended to the name where zipped."""
    content = struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, mtime=0))
    else:
        path.write_bytes(content)


def write_image_folder(
    folder: Path, per_class: int, seed: int, *, classes: tuple[str, ...] = ("cat", "dog", "fox"), size: int = 12
) -> NDArray[np.uint8]:
    """``folder/<class>/0000.png``; returns pixels (n, 3, size, size) in the order of class and name."""
    rng = np.random.default_rng(seed)
    written = []
    for index, name in enumerate(classes):
        below = _made(folder / name)
        for i in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3), np.uint8)
            pixels[:, :, index % 3] += 100
            Image.fromarray(pixels).save(below / f"{i:04d}.png")
            written.append(pixels.transpose(2, 0, 1))
    return np.array(written)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cifar(n_train: int, n_test: int, n_classes: int, seed: int) -> Arrays:
    return *patterned(n_train, (3, 32, 32), n_classes, seed), *patterned(n_test, (3, 32, 32), n_classes, seed + 1)


def _batch(pixels: NDArray[np.uint8], labels: NDArray[np.int64], label: str) -> dict[str, Any]:
    names = [f"image_s_{i:06d}.png" for i in range(len(labels))]
    rows = pixels.reshape(len(pixels), -1)
    return {"batch_label": label, "labels": labels.tolist(), "data": rows, "filenames": names}


def _records(labels: list[NDArray[np.int64]], pixels: NDArray[np.uint8]) -> bytes:
    columns = [label.astype(np.uint8)[:, None] for label in labels]
    return np.concatenate([*columns, pixels.reshape(len(pixels), -1)], axis=1).tobytes()
