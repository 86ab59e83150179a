"""What all tests share."""

from __future__ import annotations

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each use all processors wait for one another most of the time
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

os.fsync = lambda _: None  # what tests write need not outlive a power failure, and waiting for the disk takes minutes
