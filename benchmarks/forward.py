"""One forward pass of the full-size EG3D on one CPU thread, against the published formulation in
the same run.

python benchmarks/forward.py [--repeats 3] [--tiny] [--out FOLDER]

Both make the same image (checked to 1e-4). Reported per part and in all: CPU seconds (best of
some), GFLOP as `torch.utils.flop_counter` counts convolutions and matrix products, the share of
this thread's sgemm rate that this is, and the peak of memory above the loaded model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import published
import torch
from machine import PeakMemory, best_seconds, facts, sgemm_rate, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gan3d.camera import Camera
from gan3d.generators import EG3D
from gan3d.rendering import render_rays

PARTS = ("map", "represent", "render", "super-resolution", "all")
Parts = dict[str, Callable[[], Any]]


def build(tiny: bool) -> tuple[EG3D, Tensor, Camera]:
    """Generator with a density and noise worth rendering, one z, one camera."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {}
    if tiny:
        larger = replace(EG3D.tiny["superresolution"], layout="8X")
        sizes = {**EG3D.tiny, "img_resolution": 64, "superresolution": larger}
    generator = EG3D(**sizes).eval().requires_grad_(False)
    last = generator.decoder.net[2]
    assert isinstance(last.bias, nn.Parameter)
    # Matter, so that importance samples have something to find.
    last.bias[0] = 3.0
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.1)
    return generator, torch.randn(1, generator.z_dim), Camera.from_angles(0.3, 0.1)


def our_parts(generator: EG3D, z: Tensor, camera: Camera) -> Parts:
    """The parts as gan3d computes them."""
    ws = generator.map(z, camera)
    scene = generator.represent(ws)
    shown = generator.render(scene, camera)
    enlarge, features = generator.superresolution, shown.extras["features"]
    assert enlarge is not None
    assert shown.raw is not None
    rays = camera.rays(generator.raw_resolution)
    return {
        "map": lambda: generator.map(z, camera),
        "represent": lambda: generator.represent(ws),
        "render": lambda: render_rays(
            lambda p, d: generator.field(scene, p, d), rays, generator.options
        ),
        "super-resolution": lambda: enlarge(shown.raw, features, ws[:, -1]),
        "all": lambda: generator(z, camera).image,
    }


def published_parts(generator: EG3D, z: Tensor, camera: Camera) -> Parts:
    """The same parts in the published order of operations."""
    ws = generator.map(z, camera)
    planes = published.planes_of(generator.backbone.synthesis, ws)
    side, options = generator.raw_resolution, generator.options
    features = published.features_of(generator.decoder, options, planes, camera, side)
    enlarge = generator.superresolution
    assert enlarge is not None
    return {
        "map": lambda: generator.map(z, camera),
        "represent": lambda: published.planes_of(generator.backbone.synthesis, ws),
        "render": lambda: published.features_of(generator.decoder, options, planes, camera, side),
        "super-resolution": lambda: published.superresolve(enlarge, features, ws[:, -1]),
        "all": lambda: published.forward(generator, z, camera),
    }


def measure(parts: Parts, repeats: int, sgemm: float) -> dict[str, dict[str, float]]:
    """CPU seconds, GFLOP and the share of sgemm, by part."""
    result = {}
    for name in PARTS:
        with FlopCounterMode(display=False) as counter:
            parts[name]()
        gflop, seconds = counter.get_total_flops() / 1e9, best_seconds(parts[name], repeats)
        result[name] = {
            "cpu_seconds": seconds,
            "gflop": gflop,
            "share_of_sgemm": gflop / seconds / sgemm,
        }
    return result


@torch.no_grad()
def extra_memory(which: str, tiny: bool) -> float:
    """GB that one forward pass takes above the loaded model, the first in this process."""
    generator, z, camera = build(tiny)
    with PeakMemory() as peak:
        generator(z, camera) if which == "ours" else published.forward(generator, z, camera)
    return peak.extra


def in_own_process(which: str, tiny: bool) -> float:
    command = [sys.executable, __file__, "--memory", which, *(["--tiny"] if tiny else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def run(repeats: int, tiny: bool) -> dict[str, Any]:
    generator, z, camera = build(tiny)
    ours, theirs = our_parts(generator, z, camera), published_parts(generator, z, camera)
    image, expected = ours["all"](), theirs["all"]()
    error = ((image - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not error <= 1e-4:
        raise SystemExit(f"the two formulations differ by {error:.2g}: nothing was measured")
    sgemm = sgemm_rate()
    result: dict[str, Any] = {
        **facts(),
        "model": "EG3D tiny" if tiny else "EG3D ffhq512-128",
        "batch": 1,
    }
    result |= {"sgemm_gflops": sgemm, "repeats": repeats, "difference": error}
    result["ours"], result["published"] = (
        measure(ours, repeats, sgemm),
        measure(theirs, repeats, sgemm),
    )
    result["extra_memory_gb"] = {
        which: in_own_process(which, tiny) for which in ("ours", "published")
    }
    result["ratio"] = {
        "cpu_seconds": result["ours"]["all"]["cpu_seconds"]
        / result["published"]["all"]["cpu_seconds"],
        "memory": result["extra_memory_gb"]["ours"]
        / max(result["extra_memory_gb"]["published"], 1e-9),
    }
    return result


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']}, batch 1, one thread, sgemm {result['sgemm_gflops']:.0f} GFLOP/s, "
        f"{result['machine']}"
    )
    print(
        f"{'part':18}{'GFLOP':>8}{'ours s':>9}{'of sgemm':>10}"
        f"{'published s':>13}{'of sgemm':>10}{'ratio':>8}"
    )
    for name in PARTS:
        ours, theirs = result["ours"][name], result["published"][name]
        print(
            f"{name:18}{ours['gflop']:8.2f}{ours['cpu_seconds']:9.3f}{ours['share_of_sgemm']:10.0%}"
            f"{theirs['cpu_seconds']:13.3f}{theirs['share_of_sgemm']:10.0%}"
            f"{ours['cpu_seconds'] / theirs['cpu_seconds']:8.2f}"
        )
    memory = result["extra_memory_gb"]
    print(
        f"memory above the model: {memory['ours']:.2f} GB, published {memory['published']:.2f} GB"
    )
    print(f"largest difference of the images: {result['difference']:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a model of seconds, to try the script")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>"
    )
    parser.add_argument("--memory", choices=["ours", "published"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.tiny))
        return
    result = run(options.repeats, options.tiny)
    show(result)
    print(write("forward", result, options.out))


if __name__ == "__main__":
    main()
