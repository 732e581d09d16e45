"""Timing on a CPU or a GPU, in the same words: medians and quantiles, peak memory, and what the
device can do at most, measured in the same run.

On a GPU the time of a call lies between two events in its stream; on a CPU it is CPU time of this
process. Nothing is timed before a warm-up.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gan3d.ops import backend

Work = Callable[[], Any]
WARM_UP = 0.025  # seconds


def started() -> float:
    """When this process began, as `time.perf_counter` counts (Linux; elsewhere now): to import what
    is measured takes a while, too.
    """
    try:
        ticks = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.perf_counter()
    return time.perf_counter() - (uptime - int(ticks) / os.sysconf("SC_CLK_TCK"))


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(
    work: Work, device: torch.device, *, seconds: float = 0.3, most: int = 50
) -> dict[str, float]:
    """Time of one call: median, and the quantiles 0.1 and 0.9.

    Args:
        work: the call.
        device: where it runs.
        seconds: how long it is repeated, at least three times.
        most: repetitions.
    """
    begin = time.perf_counter()
    work()
    wait(device)
    while time.perf_counter() - begin < WARM_UP:
        work()
        wait(device)

    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (len(times) < most and time.perf_counter() - begin < seconds):
        times.append(_once(work, device))
    times.sort()
    tenth = (len(times) - 1) // 10
    return {
        "ms": statistics.median(times),
        "ms_10": times[tenth],
        "ms_90": times[len(times) - 1 - tenth],
        "calls": len(times),
    }


def _once(work: Work, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        begin = time.process_time()
        work()
        return 1000 * (time.process_time() - begin)
    begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begins.record()
    work()
    ends.record()
    ends.synchronize()
    return begins.elapsed_time(ends)


def peak_megabytes(work: Work, device: torch.device) -> float:
    """Most bytes of live tensors during a call, above those before it."""
    if device.type == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most / 1e6


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32, or not."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


PRECISIONS = ("float32", "tf32", "bf16", "fp16")
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """float32 without TF32, with it, or fewer bits under autocast with TF32 for what stays."""
    with tf32(name != "float32"), torch.autocast(device.type, LOW.get(name), enabled=name in LOW):
        yield


@contextmanager
def kernels(on: bool) -> Iterator[None]:
    """With the Triton kernels, where they run, or without any."""
    before = backend.HAS_TRITON
    backend.HAS_TRITON = before and on
    try:
        yield
    finally:
        backend.HAS_TRITON = before


def forms(device: torch.device) -> dict[str, Callable[[], Any]]:
    """The forms in which ours is timed, as contexts: all precisions with kernels, and without."""
    found: dict[str, Callable[[], Any]] = {}
    on_gpu = device.type == "cuda"
    for name in PRECISIONS if on_gpu else ("float32", "bf16"):
        for on in (True, False) if on_gpu and backend.HAS_TRITON else (False,):
            label = f"{name}, kernels" if on else name
            found[label] = partial(_form, name, on, device)
    return found


@contextmanager
def _form(name: str, on: bool, device: torch.device) -> Iterator[None]:
    with kernels(on), precision(name, device):
        yield


def ceilings(device: torch.device, tiny: bool = False) -> dict[str, float]:
    """What the device reaches at most: a copy in GB/s (read and written), products in TFLOP/s.

    Args:
        device: to be measured.
        tiny: in a fraction of a second on a CPU, where only float32 is measured.
    """
    numbers, side = (1 << 22, 512) if tiny else (1 << 28, 8192)
    found = {"copy_gb_s": _copy_rate(numbers, device)}
    a, b = (torch.randn(side, side, device=device) for _ in range(2))

    def rate(a: Tensor, b: Tensor) -> float:
        return 2 * side**3 / milliseconds(lambda: a @ b, device)["ms"] / 1e9

    with tf32(False):
        found["float32_tflop_s"] = rate(a, b)
    if device.type == "cuda":
        with tf32(True):
            found["tf32_tflop_s"] = rate(a, b)
        found["bfloat16_tflop_s"] = rate(a.bfloat16(), b.bfloat16())
    return found


def _copy_rate(numbers: int, device: torch.device) -> float:
    """GB/s of a copy, read and written."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source), device)["ms"] / 1e6
