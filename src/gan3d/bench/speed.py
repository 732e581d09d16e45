"""Speed, memory and size of a generator, on the machine that measures it.

CPU seconds of this process count on a CPU, as other programs may run beside it; wall seconds count
on a GPU. Of several repeats the fastest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gan3d.apps.views import evaluating
from gan3d.bench.machine import PeakMemory
from gan3d.bench.subject import Subject
from gan3d.metrics.exact import full_precision

BATCH, REPEATS = 4, 3


@torch.no_grad()
def measure_speed(subject: Subject) -> dict[str, Any]:
    """Speed, memory and size, plain values.

    The first pass of this process is the one whose memory is measured: call it before all else.

    Returns:
        images_per_second (map, represent and render, 4 images at once),
        cached_images_per_second (render alone, as in a video: view directions locked) and
        ms_per_view (of one such scene), both None for 2D models, whose scene is the picture,
        peak_memory_gb (above the loaded model, 4 images; None where it is not known),
        parameters, gflops_per_image (2 per multiply-add; products and convolutions), clock.
    """
    generator, device = subject.generator, subject.device
    draw = next(iter(subject.protocol.draws(device)))
    camera = None if subject.cameras is None else subject.cameras(draw)
    # pictures of the suite, repeated where there are fewer
    chosen = [k % len(draw) for k in range(BATCH)]
    z = draw.normal("z", generator.z_dim)[chosen]
    many = None if camera is None else camera.select(chosen)
    one = None if many is None else many[:1]

    def scene(num: int) -> Any:
        view = None if many is None else many[:num]
        return generator.represent(generator.map(z[:num], view))

    def render(of: Any, view: Any) -> Any:
        return generator.render(of, view, resolution=subject.resolution, raw=False).image

    cached = view = None
    with full_precision():
        memory = _peak(lambda: render(scene(BATCH), many), device)
        with FlopCounterMode(display=False) as counter:
            render(scene(1), one)
        uncached = _seconds(lambda: render(scene(BATCH), many), device)
        if generator.has_camera:
            with evaluating(generator, lock_view=True):
                several, single = scene(BATCH), scene(1)
                cached = _seconds(lambda: render(several, many), device)
                view = _seconds(lambda: render(single, one), device)
    return {
        "images_per_second": _digits(BATCH / uncached),
        "cached_images_per_second": None if cached is None else _digits(BATCH / cached),
        "ms_per_view": None if view is None else _digits(1000 * view),
        "peak_memory_gb": memory,
        "parameters": sum(p.numel() for p in generator.parameters()),
        "gflops_per_image": _digits(counter.get_total_flops() / 1e9),
        "clock": "CPU seconds" if device.type == "cpu" else "wall seconds",
        "batch_size": BATCH,
    }


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(REPEATS):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - start)
    return max(min(seconds), 1e-9)


def _peak(work: Callable[[], Any], device: torch.device) -> float | None:
    """Peak memory of one call above what is there, GB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return _digits((torch.cuda.max_memory_allocated(device) - before) / 1e9)
    known = device.type == "cpu" and Path("/proc/self/clear_refs").exists()
    with PeakMemory() if known else nullcontext() as peak:
        work()
    return None if peak is None else _digits(peak.extra)


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
