"""Shared by the benchmarks: facts about the machine, timing, memory, and writing of results."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gan3d
from gan3d.cli.plan import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


def machine_name() -> str:
    """Processor and number of cores as a folder name, such as amd-epyc-2cores."""
    name = processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    cores = len(re.findall(r"^processor", known.read_text(), re.M)) if known.exists() else 1
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{cores}cores"


def facts() -> dict[str, Any]:
    """Machine, versions, commit and date of a run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "machine": machine_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gan3d": gan3d.__version__,
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


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


class PeakMemory:
    """Peak resident memory of this process in a block, above the start of the block, in GB (Linux).

    with PeakMemory() as peak:
        work()
    print(peak.extra)
    """

    extra: float

    def __enter__(self) -> PeakMemory:
        # Resets the peak to the current resident memory.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.extra = _resident("VmHWM") - self._before


def _resident(kind: str) -> float:
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9


def write(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Writes <folder>/<name>.json, by default in the folder of this machine."""
    path = (folder or RESULTS / machine_name()) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
