"""One image of the full-size GRAM-HD on one CPU thread, by part, and another view of its scene.

    python benchmarks/gramhd.py [--repeats 2] [--tiny] [--out FOLDER]

Reported: CPU seconds (minimum of several calls), GFLOP of convolutions and matrix products (counted
by `torch.utils.flop_counter`), their rate relative to sgemm on this thread, and peak memory above
the loaded model. The baseline, in the same process, is the foreground's super-resolution (most of
the work) in the published order of operations: all maps at once, one kernel per map, channels
first. Both make the same maps (checked to 1e-4).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from machine import PeakMemory, best_seconds, facts, sgemm_rate, write
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gan3d.camera import Camera, spanning_camera
from gan3d.generators import GRAMHD
from gan3d.layers.manifold_superresolution import ForegroundSuperResolution
from gan3d.layers.rrdb import RESIDUAL_SCALE, SLOPE, RRDBTrunk

# The published implementation at 256 x 256 with the image of stage 1 (specs/gramhd.md, cost).
PUBLISHED_GFLOP = 1626.6
Parts = dict[str, Callable[[], Any]]


def build(tiny: bool, lock_view: bool = False) -> tuple[GRAMHD, Tensor, Camera]:
    """Generator, one z, one camera."""
    torch.manual_seed(0)
    generator = GRAMHD(**GRAMHD.tiny if tiny else {}, lock_view=lock_view)
    generator.eval().requires_grad_(False)
    radius, fov = (2.7, 18.83) if tiny else (1.0, 12.0)
    camera = Camera.from_sphere(1.5, 1.75, fov, resolution=generator.img_resolution, radius=radius)
    return generator, torch.randn(1, generator.z_dim), camera


def parts_of(generator: GRAMHD, z: Tensor, camera: Camera) -> Parts:
    """The parts of one image; `all` is the whole, `all but raw` omits the image of stage 1."""
    ws = generator.map(z)
    film, style = film_and_style(generator, ws)
    side = generator.img_resolution
    coarse = spanning_camera(camera, side, generator.raw_resolution)
    low, high = generator._surfaces(camera, coarse, side, True)
    assert low is not None
    grid, plane = generator._grids(film, camera)
    maps = generator.radiance_maps(ws)
    return {
        "surfaces": lambda: generator._surfaces(camera, coarse, side, True),
        "raw image": lambda: generator._raw(ws, low, coarse),
        "grids": lambda: generator._grids(film, camera),
        "foreground": lambda: generator.super_resolution(grid, style),
        "background": lambda: generator.super_resolution_bg(plane[:, None]),
        "compositing": lambda: generator._composite(maps, high, camera),
        "another view": lambda: generator.render(maps, camera, raw=False),
        "all but raw": lambda: generator(z, camera, raw=False),
        "all": lambda: generator(z, camera),
    }


def film_and_style(generator: GRAMHD, ws: Tensor) -> tuple[Tensor, Tensor]:
    """Gains and phases of GRAM, and the style of the super-resolution."""
    film = ws[:, :9, : 2 * generator.radiance.hidden_dim]
    style = ws[:, 9, : generator.super_resolution.style_dim]
    return film, style


def published_foreground(
    network: ForegroundSuperResolution, maps: Tensor, styles: Tensor
) -> Tensor:
    """The foreground's super-resolution in the published order of operations."""
    b, k = maps.shape[:2]
    y = published_trunk(network, maps.flatten(0, 1))
    parts = styles.repeat_interleave(k, 0).split(network.style_dims, 1)
    for i, (conv, style) in enumerate(zip(network._modulated(), parts)):
        w = conv.weight * style[:, None, :, None, None]
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = rearrange(y, "n c h w -> 1 (n c) h w")
        y = F.conv2d(y, w.flatten(0, 1), padding=w.shape[-1] // 2, groups=b * k)
        y = rearrange(y, "1 (n c) h w -> n c h w", n=b * k) + conv.bias[:, None, None]
        if i < len(network.upconvs):
            y = F.pixel_shuffle(y, 2)
        if i < len(parts) - 1:
            y = F.leaky_relu(y, SLOPE)
    return y.unflatten(0, (b, k))


def published_trunk(network: RRDBTrunk, x: Tensor) -> Tensor:
    """The trunk in the published order of operations."""
    first = y = network.conv_first(x)
    for block in network.RRDB_trunk:
        start = y
        for dense in block.children():
            features = [y]
            for conv in list(dense.children())[:-1]:
                features.append(F.leaky_relu(conv(torch.cat(features, 1)), SLOPE))
            y = y + RESIDUAL_SCALE * dense.conv5(torch.cat(features, 1))
        y = start + RESIDUAL_SCALE * y
    return first + network.trunk_conv(y)


def published_parts(generator: GRAMHD, z: Tensor, camera: Camera) -> Parts:
    """The foreground in the published order of operations."""
    film, style = film_and_style(generator, generator.map(z))
    grid, _ = generator._grids(film, camera)
    return {"foreground": lambda: published_foreground(generator.super_resolution, grid, style)}


def measure(parts: Parts, repeats: int, sgemm: float) -> dict[str, dict[str, float]]:
    """CPU seconds, GFLOP and rate relative to sgemm, by part."""
    result = {}
    for name, work in parts.items():
        with FlopCounterMode(display=False) as counter:
            work()
        gflop = counter.get_total_flops() / 1e9
        seconds = best_seconds(work, repeats)
        share = gflop / seconds / sgemm
        result[name] = {"cpu_seconds": seconds, "gflop": gflop, "share_of_sgemm": share}
    return result


@torch.no_grad()
def extra_memory(which: str, tiny: bool) -> float:
    """Peak memory of one call above model and cached scene, the first in this process, in GB."""
    generator, z, camera = build(tiny, lock_view=True)
    scene = generator.represent(generator.map(z)) if which == "another view" else None
    with PeakMemory() as peak:
        generator(z, camera) if scene is None else generator.render(scene, camera, raw=False)
    return peak.extra


def memory_in_own_process(which: str, tiny: bool) -> float:
    """`extra_memory` in a new process, in GB."""
    command = [sys.executable, __file__, "--memory", which, *(["--tiny"] if tiny else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def run(repeats: int, tiny: bool) -> dict[str, Any]:
    """Compares the maps, then measures both forms."""
    model = build(tiny)
    ours, theirs = parts_of(*model), published_parts(*model)
    maps, expected = ours["foreground"](), theirs["foreground"]()
    error = ((maps - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not error <= 1e-4:
        raise SystemExit(f"the two forms differ by {error:.2g}: nothing was measured")

    size = 256 if tiny else 2048
    sgemm = sgemm_rate(size)
    result: dict[str, Any] = {
        **facts(),
        "model": "GRAM-HD tiny" if tiny else "GRAM-HD 256",
        "batch": 1,
        "repeats": repeats,
        "difference": error,
        "ours": measure(ours, repeats, sgemm),
        "published": measure(theirs, repeats, sgemm),
    }
    calls = ("all", "another view")
    result["extra_memory_gb"] = {which: memory_in_own_process(which, tiny) for which in calls}

    # The speed of the machine may have changed: the better rate is the one it is capable of.
    after = sgemm_rate(size)
    for part in (*result["ours"].values(), *result["published"].values()):
        part["share_of_sgemm"] *= sgemm / max(sgemm, after)
    result["sgemm_gflops"] = max(sgemm, after)

    whole = result["ours"]["all"]["cpu_seconds"]
    result["another_view_share"] = result["ours"]["another view"]["cpu_seconds"] / whole
    if not tiny:
        result["published_gflop"] = PUBLISHED_GFLOP
        result["published_gflop_share_of_sgemm"] = PUBLISHED_GFLOP / whole / result["sgemm_gflops"]
    return result


def show(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    rate, machine = result["sgemm_gflops"], result["machine"]
    print(f"{result['model']}, batch 1, one thread, sgemm {rate:.0f} GFLOP/s, {machine}")
    print(f"{'part':24}{'GFLOP':>9}{'CPU s':>9}{'of sgemm':>10}")
    published = {f"published {name}": part for name, part in result["published"].items()}
    for name, part in (result["ours"] | published).items():
        seconds, share = part["cpu_seconds"], part["share_of_sgemm"]
        print(f"{name:24}{part['gflop']:9.2f}{seconds:9.3f}{share:10.0%}")
    print(f"another view costs {result['another_view_share']:.1%} of a new image")
    if "published_gflop" in result:
        gflop, share = result["published_gflop"], result["published_gflop_share_of_sgemm"]
        print(f"the published {gflop:.0f} GFLOP of an image at {share:.0%} of sgemm")
    whole, view = (result["extra_memory_gb"][which] for which in ("all", "another view"))
    print(f"memory above the model: {whole:.2f} GB, another view {view:.2f} GB")
    print(f"largest difference of the maps: {result['difference']:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", type=int, default=2)
    add("--tiny", action="store_true", help="a tiny model, to try the script in seconds")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    add("--memory", choices=["all", "another view"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.tiny))
        return
    result = run(options.repeats, options.tiny)
    show(result)
    print(write("gramhd", result, options.out))


if __name__ == "__main__":
    main()
