"""Procedural heads, with their distance compiled and as it stands: images per CPU second.

    python benchmarks/heads.py [--pairs 3] [--out FOLDER]

One thread; both forms make the same heads at 64 px in turn, after the pictures are compared. What
compiling takes stands beside, with torch's cache empty and in a second process.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import facts, write

from gan3d.data.heads import HeadViews, head_camera, render_heads, sample_angles, sample_heads

SIDE = 64
NUM = 32  # images per call, as `gan3d data heads` makes them


def render(compile: bool) -> tuple[HeadViews, float]:
    """Views of NUM heads, and the CPU seconds that they took."""
    heads = sample_heads(7, range(NUM))
    yaw, pitch = sample_angles(7, range(NUM), 1, 0.7, 0.3)
    start = time.process_time()
    views = render_heads(heads, head_camera(yaw[:, 0], pitch[:, 0]), SIDE, compile=compile)
    return views, time.process_time() - start


def compiling() -> list[float]:
    """CPU seconds of two processes, children included, that compile and render one image."""
    program = (
        "import torch; from gan3d.data.heads import *\n"
        "torch.set_num_threads(1); zero = torch.zeros(2)\n"
        "render_heads(sample_heads(0, [0, 1]), head_camera(zero, zero), 16, compile=True)"
    )
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
            subprocess.run([sys.executable, "-c", program], check=True, env=env)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)

    # the same pictures
    (plain, _), (fast, _) = render(False), render(True)
    levels = float((plain.image - fast.image).abs().max()) * 127.5
    depth = float((plain.depth - fast.depth).nan_to_num(0).abs().max())
    assert levels < 1, levels
    assert torch.equal(plain.depth.isfinite(), fast.depth.isfinite())

    # in turn
    rates: dict[str, list[float]] = {"plain": [], "compiled": []}
    for _ in range(options.pairs):
        rates["plain"].append(NUM / render(False)[1])
        rates["compiled"].append(NUM / render(True)[1])
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    first, second = compiling()
    result = facts() | {
        "resolution": SIDE,
        "images_per_cpu_second": {name: statistics.median(found) for name, found in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest_difference": {"levels": levels, "depth": depth},
        "compiling_cpu_seconds": {"first": first, "cached": second},
    }
    print(write("heads", result, options.out))


if __name__ == "__main__":
    main()
