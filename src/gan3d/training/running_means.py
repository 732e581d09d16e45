"""Running means of what a run logs."""

from __future__ import annotations

import sys
import time

import torch
import torch.distributed as dist


class RunningMeans:
    """Means since the last reading. Its state is part of a checkpoint, so that resumed logs equal
    unbroken ones.
    """

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self.start(0)

    def start(self, images_seen: int) -> None:
        """Speed is measured from here on."""
        self._clock = (time.perf_counter(), time.process_time(), images_seen)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1.0

    def read(self, images_seen: int, device: torch.device) -> dict[str, float]:
        """The means over all processes, progress, speed and memory; empty if nothing was added.
        Starts anew.

        Speed is in seconds of the clock, and in those that the threads of the first process spent
        on a CPU: other programs do not change the latter much.

        Args:
            images_seen: by the run.
            device: whose peak memory is of interest.
        """
        self.gather()
        means = {
            name: total / count for name, (total, count) in sorted(self._sums.items()) if count
        }
        self._sums = {}
        if not means:
            return {}
        then, cpu_then, images = self._clock
        self.start(images_seen)
        now, cpu_now, _ = self._clock
        seen = images_seen - images
        means["progress/kimg"] = images_seen / 1000
        means["speed/images_per_second"] = seen / max(now - then, 1e-9)
        means["speed/images_per_cpu_second"] = seen / max(cpu_now - cpu_then, 1e-9)
        means["memory/peak_gib"] = peak_memory_gib(device)
        return means

    def gather(self) -> None:
        """Moves every process's sums to the first process (a collective call); nothing to do on one
        process.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        parts: list[dict[str, list[float]]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self._sums)
        self._sums = {}
        if dist.get_rank() == 0:
            for name in dict.fromkeys(name for part in parts for name in part):
                entries = [part[name] for part in parts if name in part]
                self._sums[name] = [sum(column) for column in zip(*entries, strict=True)]

    def state_dict(self) -> dict[str, list[float]]:
        self.gather()
        return {name: list(entry) for name, entry in self._sums.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        self._sums = {name: list(entry) for name, entry in state.items()} if first else {}


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process since its start: of the GPU if there is one, else resident,
    GiB.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
