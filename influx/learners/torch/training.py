"""The training recipe: how long, in which batches, with which learning rates, and what is saved."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.learners.torch.mixed import Precision
from influx.streams import stream

ScheduleName = Literal["constant", "step", "cosine"]
Engine = Literal["auto", "dense", "vmap", "sequential"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Epochs, batches, schedule, clipping, checkpoints, precision.

    Attributes:
        epochs: passes over the training set; batches are drawn without replacement, reshuffled every epoch.
        batch_size: instances per step; the last batch of an epoch may be smaller unless ``drop_last``.
        drop_last: leave out an epoch's last batch when it is not full.
        schedule: learning rate over steps, after ``warmup_steps`` of linear warm-up: constant, step
            (times ``decay_factor`` every ``decay_every`` steps) or cosine (down to ``final_fraction``).
        warmup_steps: steps of linear warm-up.
        decay_every: steps between decays of the step schedule; None means a third of the training.
        decay_factor: factor of each decay of the step schedule.
        final_fraction: last learning rate of the cosine schedule as a fraction of the first.
        clip_norm: largest allowed norm of a batch gradient, or None.
        checkpoints: saved intervals; step 0 and the last step are always saved.
        checkpoint_spacing: even, log (denser at the start) or every (``checkpoints`` is ignored).
        checkpoint_every: with spacing every, steps from one checkpoint to the next.
        dtype: parameters, and arithmetic where ``precision`` does not say otherwise.
        precision: of a step's forward and backward pass: model (``dtype``), or bfloat16 (products and convolutions, by
            autocast; parameters, losses, optimizer and all evaluation stay in float32).
        compile: let ``torch.compile`` speed up the steps of recorded trainings and of their replays; retrained models
            are trained without, so that they differ by rounding from one that saw the same.
        device: cpu, cuda, or auto.
        engine: how many models are retrained at once: dense (batched products, at precision=model, networks of linear
            layers), vmap (any net without batch statistics or dropout), sequential (one at a time), auto (also
            one at a time: nets of more than 16 million parameters, dense ones apart).
        block: models per retraining block; None chooses by the size of the model.
    """

    epochs: int = 20
    batch_size: int = 50
    drop_last: bool = False
    schedule: ScheduleName = "constant"
    warmup_steps: int = 0
    decay_every: int | None = None
    decay_factor: float = 0.1
    final_fraction: float = 0.0
    clip_norm: float | None = None
    checkpoints: int = 10
    checkpoint_spacing: Literal["even", "log", "every"] = "even"
    checkpoint_every: int = 1
    dtype: Literal["float32", "float64"] = "float32"
    precision: Precision = "model"
    compile: bool = False
    device: str = "cpu"
    engine: Engine = "auto"
    block: int | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("epochs", "batch_size", "checkpoints", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}; raise it")
        if self.warmup_steps < 0:
            raise ConfigError(f"training.warmup_steps must not be negative, got {self.warmup_steps}; use 0 for none")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"training.clip_norm must be positive or null, got {self.clip_norm}; use null for none")
        if self.decay_every is not None and self.decay_every < 1:
            raise ConfigError(f"training.decay_every must be at least 1 or null, got {self.decay_every}; raise it")
        if not 0 < self.decay_factor <= 1:
            raise ConfigError(
                f"training.decay_factor must be above 0 and at most 1, got {self.decay_factor}; change it"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"training.final_fraction must be from 0 to 1, got {self.final_fraction}; change it")
        if self.block is not None and self.block < 1:
            raise ConfigError(f"training.block must be at least 1 or null, got {self.block}; raise it")
        if self.precision != "model" and self.dtype != "float32":
            raise ConfigError(
                f"training.precision={self.precision} is for training.dtype=float32, got {self.dtype}; change one"
            )

    def steps(self, n_train: int) -> int:
        """Updates in the whole training."""
        return self.epochs * self._per_epoch(n_train)

    def _per_epoch(self, n_train: int) -> int:
        if self.drop_last:
            if n_train < self.batch_size:
                raise ConfigError(
                    f"training.drop_last with batch_size={self.batch_size} leaves no batch of {n_train} instances; "
                    "lower training.batch_size"
                )
            return n_train // self.batch_size
        return math.ceil(n_train / self.batch_size)

    def sizes(self, n_train: int) -> NDArray[np.int64]:
        """Instances in each batch of an epoch."""
        used = self._per_epoch(n_train) * self.batch_size if self.drop_last else n_train
        sizes = np.full(self._per_epoch(n_train), self.batch_size, np.int64)
        sizes[-1] = used - self.batch_size * (len(sizes) - 1)
        return sizes

    def visits(self, n_train: int) -> int:
        """Instances in all batches of the training together."""
        return self.epochs * int(self.sizes(n_train).sum())

    def batches(self, n_train: int, seed: int, order: int) -> Batches:
        """The batches of every step, as rows of the training split, for the order numbered ``order``."""
        rng, sizes = stream(seed, f"order/{order}"), self.sizes(n_train)
        used = int(sizes.sum())
        rows = np.concatenate([rng.permutation(n_train)[:used] for _ in range(self.epochs)])
        offsets = np.concatenate([[0], np.cumsum(np.tile(sizes, self.epochs))])
        return Batches(rows=rows.astype(np.int64), offsets=offsets.astype(np.int64))

    def learning_rate(self, base: float, step: int, total: int) -> float:
        """Learning rate of the update that leaves checkpoint ``step`` (0-based)."""
        if step < self.warmup_steps:
            return base * (step + 1) / self.warmup_steps
        done, length = step - self.warmup_steps, max(total - self.warmup_steps, 1)
        if self.schedule == "cosine":
            wave = 0.5 * (1 + math.cos(math.pi * done / length))
            return base * (self.final_fraction + (1 - self.final_fraction) * wave)
        if self.schedule == "step":
            every = self.decay_every or math.ceil(length / 3)
            return float(base * self.decay_factor ** (done // every))
        return base

    def saved_steps(self, total: int) -> list[int]:
        """Steps whose parameters are saved, from 0 to ``total``."""
        if self.checkpoint_spacing == "every":
            return sorted({*range(0, total, self.checkpoint_every), total})
        if self.checkpoint_spacing == "log":
            inner = np.geomspace(1, total, self.checkpoints)
        else:
            inner = np.linspace(0, total, self.checkpoints + 1)
        return sorted({0, total, *(round(s) for s in inner)})


@dataclass(frozen=True)
class Batches:
    """Rows of the training split, step after step: step t uses ``rows[offsets[t]:offsets[t + 1]]``."""

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def spans(self, size: int) -> list[tuple[int, int]]:
        """Consecutive ranges of steps ``(first, last)`` of about ``size`` instances each, ``last`` excluded."""
        cuts = np.searchsorted(self.offsets, np.arange(0, self.offsets[-1], size), side="left")
        edges = sorted({*cuts.tolist(), 0, len(self)})
        return list(itertools.pairwise(edges))

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        return self.rows[self.offsets[step] : self.offsets[step + 1]]
