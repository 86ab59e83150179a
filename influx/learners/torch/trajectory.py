"""What happened at every step of a training: ``trajectory.npz``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from influx import reads
from influx.errors import DataError
from influx.store import Folder


@dataclass(frozen=True)
class Trajectory:
    """What happened at every step: arrays of ``trajectory.npz``.

    Attributes:
        lr: ``(T, groups)`` learning rates.
        batch_offsets: ``(T + 1,)`` and ``batch_ids``: step t used ``batch_ids[offsets[t]:offsets[t + 1]]``.
        batch_ids: instance ids as in ``ids.parquet``.
        loss: ``(T,)`` batch loss before the step.
        clip: ``(T,)`` factor that clipping applied (1 where it did not).
    """

    lr: NDArray[np.float64]
    batch_offsets: NDArray[np.int64]
    batch_ids: NDArray[np.int64]
    loss: NDArray[np.float64]
    clip: NDArray[np.float64]

    def save(self, folder: Folder) -> None:
        """Write ``trajectory.npz``."""

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.savez(f, **self.__dict__)

        folder.write("trajectory.npz", write)

    @classmethod
    def load(cls, folder: Folder) -> Trajectory:
        """Read ``trajectory.npz``.

        Raises:
            DataError: the file is damaged.
        """
        path = folder / "trajectory.npz"
        try:
            with np.load(reads.note(path), allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in ("lr", "batch_offsets", "batch_ids", "loss", "clip")})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"cannot read {path} ({error}); delete it and run again") from error
