"""Shared by the benchmarks: facts about the machine, timing, memory, and writing of results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gan3d.bench.machine import PeakMemory, machine_name
from gan3d.bench.machine import machine_facts as facts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

__all__ = [
    "RESULTS",
    "ROOT",
    "PeakMemory",
    "best_seconds",
    "facts",
    "machine_name",
    "sgemm_rate",
    "write",
]


def best_seconds(work: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of this process for one call of `work`, the minimum of several calls."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def sgemm_rate(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP per CPU second of a float32 matrix product of size^3, the peak of this machine."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    return 2 * size**3 / best_seconds(lambda: a @ b, repeats) / 1e9


def write(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Writes <folder>/<name>.json, by default in the folder of this machine."""
    path = (folder or RESULTS / machine_name()) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
