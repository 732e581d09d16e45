"""One forward pass of the full-size EG3D on one CPU thread, against the published formulation.

    python benchmarks/forward.py [--repeats 3] [--tiny] [--out FOLDER]
    python benchmarks/forward.py --device cuda [--seconds 60] [--tiny] [--out FOLDER]

Both run in the same process and make the same image (checked to 1e-4). Reported per part and in
total: CPU seconds (minimum of several calls), GFLOP of convolutions and matrix products (counted by
`torch.utils.flop_counter`), their rate relative to sgemm on this thread, and peak memory above the
loaded model.

With `--device`, medians and quantiles on that device: every part in float32, TF32 and bfloat16,
with and without the Triton kernels, beside the published form; the whole view at several batch
sizes, compiled, and replayed as a CUDA graph. One JSON, forward_on_device.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import published
import torch
from machine import RESULTS, PeakMemory, best_seconds, facts, machine_name, sgemm_rate, write
from timing import ceilings, forms, milliseconds, peak_megabytes, precision, started
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gan3d.apps.graphs import Graphed
from gan3d.camera import Camera
from gan3d.generators import EG3D
from gan3d.rendering import render_rays

PARTS = ("map", "represent", "render", "super-resolution", "all")
Parts = dict[str, Callable[[], Any]]
# Largest error of an image on a device, as a norm: TF32 rounds products to 10 bits, bfloat16 to 7.
ALLOWED, ALLOWED_BF16 = 0.01, 0.05


def build(tiny: bool) -> tuple[EG3D, Tensor, Camera]:
    """Generator with a visible density and noise, one z, one camera."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {}
    if tiny:
        larger = replace(EG3D.tiny["superresolution"], layout="8X")
        sizes = {**EG3D.tiny, "img_resolution": 64, "superresolution": larger}
    generator = EG3D(**sizes).eval().requires_grad_(False)
    last = generator.decoder.net[2]
    assert isinstance(last.bias, nn.Parameter)
    # Density for the importance samples.
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
    features = shown.extras["features"]
    enlarge = generator.superresolution
    assert enlarge is not None
    assert shown.raw is not None
    rays = camera.rays(generator.raw_resolution)
    field = partial(generator.field, scene)
    return {
        "map": lambda: generator.map(z, camera),
        "represent": lambda: generator.represent(ws),
        "render": lambda: render_rays(field, rays, generator.options),
        "super-resolution": lambda: enlarge(shown.raw, features, ws[:, -1]),
        "all": lambda: generator(z, camera).image,
    }


def published_parts(generator: EG3D, z: Tensor, camera: Camera) -> Parts:
    """The same parts in the published order of operations."""
    ws = generator.map(z, camera)
    planes = published.planes_of(generator.backbone.synthesis, ws)
    side = generator.raw_resolution
    rendering = (generator.decoder, generator.options, planes, camera, side)
    features = published.features_of(*rendering)
    enlarge = generator.superresolution
    assert enlarge is not None
    return {
        "map": lambda: generator.map(z, camera),
        "represent": lambda: published.planes_of(generator.backbone.synthesis, ws),
        "render": lambda: published.features_of(*rendering),
        "super-resolution": lambda: published.superresolve(enlarge, features, ws[:, -1]),
        "all": lambda: published.forward(generator, z, camera),
    }


def measure(parts: Parts, repeats: int, sgemm: float) -> dict[str, dict[str, float]]:
    """CPU seconds, GFLOP and rate relative to sgemm, by part."""
    result = {}
    for name in PARTS:
        with FlopCounterMode(display=False) as counter:
            parts[name]()
        gflop = counter.get_total_flops() / 1e9
        seconds = best_seconds(parts[name], repeats)
        share = gflop / seconds / sgemm
        result[name] = {"cpu_seconds": seconds, "gflop": gflop, "share_of_sgemm": share}
    return result


@torch.no_grad()
def extra_memory(which: str, tiny: bool) -> float:
    """Peak memory of one forward pass above the loaded model, the first in this process, in GB."""
    generator, z, camera = build(tiny)
    with PeakMemory() as peak:
        generator(z, camera) if which == "ours" else published.forward(generator, z, camera)
    return peak.extra


def memory_in_own_process(which: str, tiny: bool) -> float:
    """`extra_memory` in a new process, in GB."""
    command = [sys.executable, __file__, "--memory", which, *(["--tiny"] if tiny else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def run(repeats: int, tiny: bool) -> dict[str, Any]:
    """Compares the images, then measures both forms."""
    generator, z, camera = build(tiny)
    ours, theirs = our_parts(generator, z, camera), published_parts(generator, z, camera)
    image, expected = ours["all"](), theirs["all"]()
    error = ((image - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not error <= 1e-4:
        raise SystemExit(f"the two forms differ by {error:.2g}: nothing was measured")

    sgemm = sgemm_rate()
    result: dict[str, Any] = {
        **facts(),
        "model": "EG3D tiny" if tiny else "EG3D ffhq512-128",
        "batch": 1,
        "sgemm_gflops": sgemm,
        "repeats": repeats,
        "difference": error,
        "ours": measure(ours, repeats, sgemm),
        "published": measure(theirs, repeats, sgemm),
    }
    forms = ("ours", "published")
    memory = {which: memory_in_own_process(which, tiny) for which in forms}
    seconds = {which: result[which]["all"]["cpu_seconds"] for which in forms}
    result["extra_memory_gb"] = memory
    result["ratio"] = {
        "cpu_seconds": seconds["ours"] / seconds["published"],
        "memory": memory["ours"] / max(memory["published"], 1e-9),
    }
    return result


def show(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    rate, machine = result["sgemm_gflops"], result["machine"]
    print(f"{result['model']}, batch 1, one thread, sgemm {rate:.0f} GFLOP/s, {machine}")
    print(
        f"{'part':18}{'GFLOP':>8}{'ours s':>9}{'of sgemm':>10}"
        f"{'published s':>13}{'of sgemm':>10}{'ratio':>8}"
    )
    for name in PARTS:
        ours, theirs = result["ours"][name], result["published"][name]
        seconds, their_seconds = ours["cpu_seconds"], theirs["cpu_seconds"]
        print(
            f"{name:18}{ours['gflop']:8.2f}{seconds:9.3f}{ours['share_of_sgemm']:10.0%}"
            f"{their_seconds:13.3f}{theirs['share_of_sgemm']:10.0%}"
            f"{seconds / their_seconds:8.2f}"
        )
    memory, published_memory = (result["extra_memory_gb"][form] for form in ("ours", "published"))
    print(f"memory above the model: {memory:.2f} GB, published {published_memory:.2f} GB")
    print(f"largest difference of the images: {result['difference']:.1e}")


# ------------------------------------------------------------ on a device


@torch.no_grad()
def run_on(device: torch.device, seconds: float, tiny: bool, out: Path) -> int:
    """Measures on a device, and writes after every row."""
    begin, (generator, z, camera) = started(), build(tiny)
    expected = published.forward(generator, z, camera)
    generator, z, camera = generator.to(device), z.to(device), camera.to(device)
    result: dict[str, Any] = facts(device) | {
        "model": "EG3D tiny" if tiny else "EG3D ffhq512-128",
        "ceilings": ceilings(device, tiny),
        "rows": [],
        "cut_short": False,
    }
    failed = False
    for row in rows_on(device, generator, z, camera, expected):
        failed |= "failed" in row
        result["rows"].append(row)
        print(row, flush=True)
        write("forward_on_device", result, out)
        if time.perf_counter() - begin > seconds:
            result["cut_short"] = True
            break
    print(write("forward_on_device", result, out))
    return int(failed)


def rows_on(
    device: torch.device, generator: EG3D, z: Tensor, camera: Camera, expected: Tensor
) -> Iterator[dict[str, Any]]:
    """Every form and part, right first."""
    # parts of one view
    for name, context in forms(device).items():
        with context():
            found = generator(z, camera).image.float().cpu()
            error = float((found - expected).norm() / expected.norm())
            row = {"form": name, "batch": 1, "error": error}
            if not error <= (ALLOWED_BF16 if name.startswith(("bf16", "fp16")) else ALLOWED):
                yield row | {"failed": f"differs by {error:.2g} from the published form"}
                continue
            parts = our_parts(generator, z, camera)
            for part in PARTS:
                took = milliseconds(parts[part], device)
                yield row | {"part": part, **took, "peak_mb": peak_megabytes(parts[part], device)}
    with precision("tf32", device):
        parts = published_parts(generator, z, camera)
        for part in PARTS:
            took = milliseconds(parts[part], device)
            row = {"form": "published, tf32", "batch": 1, "part": part}
            yield row | took | {"peak_mb": peak_megabytes(parts[part], device)}

    # the whole view: larger batches, one launch, and compiled
    with precision("bf16", device):
        for batch in (4, 16):
            many = z.expand(batch, -1).contiguous(), camera.select([0] * batch)
            view = partial(generator, *many)
            row = {"form": "bf16", "batch": batch, "part": "all"}
            yield row | milliseconds(view, device) | {"peak_mb": peak_megabytes(view, device)}
    if device.type != "cuda":
        return

    def image(z: Tensor, cam2world: Tensor, intrinsics: Tensor) -> Tensor:
        return generator(z, Camera(cam2world, intrinsics)).image

    given = z, camera.cam2world, camera.intrinsics
    for name, function in {"CUDA graph": Graphed(image), "compiled": torch.compile(image)}.items():
        with precision("bf16", device):
            row = {"form": f"bf16, {name}", "batch": 1, "part": "all"}
            try:
                yield row | milliseconds(partial(function, *given), device)
            except Exception as error:  # what does not compile says so
                yield row | {"failed": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", type=int, default=3)
    add("--tiny", action="store_true", help="a tiny model, to try the script in seconds")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    add("--memory", choices=["ours", "published"], help=argparse.SUPPRESS)
    add("--device", help="measure on this device in all precisions")
    add("--seconds", type=float, default=120.0, help="no further row is begun after these")
    options = parser.parse_args()
    if options.device:
        device = torch.device(options.device)
        folder = options.out or RESULTS / machine_name(device)
        raise SystemExit(run_on(device, options.seconds, options.tiny, folder))
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.tiny))
        return
    result = run(options.repeats, options.tiny)
    show(result)
    print(write("forward", result, options.out))


if __name__ == "__main__":
    main()
