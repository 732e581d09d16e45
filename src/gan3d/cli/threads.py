"""Threads of a training on the CPU: sums are split among them, so the last bits of a run depend on
their number, and it is recorded with the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from gan3d.checkpoints.runs import unpack_config

SMALL = 128  # px; smaller images give a thread too little to do


def default_threads(img_resolution: int | None, *, on_cpu: bool, processes: int = 1) -> int:
    """Threads of each process where nobody says how many: one for small images on a CPU (two were
    15 to 43 times slower on a busy machine), else all cores.

    Args:
        img_resolution: side of the images; None is not known.
        on_cpu: whether the CPU trains.
        processes: that share the cores.
    """
    if on_cpu and img_resolution is not None and img_resolution < SMALL:
        return 1
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(int(os.environ["OMP_NUM_THREADS"]), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((cores or 1) // processes, 1)


def use_threads(threads: int) -> None:
    """Sets the threads of this process, and of those that it starts."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def recorded_threads(checkpoint: Mapping[str, Any] | None) -> int | None:
    """Threads that a checkpoint was trained with; None where it does not tell."""
    try:
        return unpack_config(checkpoint or {}).get("threads")
    except ValueError:
        return None


def img_resolution_of(model: Any) -> int | None:
    """What the generator's arguments say of its resolution, in a parsed config."""
    arguments = model.generator.get("init_args") or {}
    return arguments.get("img_resolution")
