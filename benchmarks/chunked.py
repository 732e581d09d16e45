"""Memory of the generator's gradient: all rays at once, or the exact gradient in chunks (CIPS-3D,
full size).

`full` keeps what autograd saves: so much for the scene and so much for every ray, counted by hooks
on saved tensors at two numbers of rays. `chunked` (gan3d.training.ray_gradients) is run, its peak
of resident memory measured, and its gradient compared with the full one at a resolution where that
fits.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from machine import PeakMemory, facts, write
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators import CIPS3D
from gan3d.randomness import Randomness
from gan3d.training.ray_gradients import SceneView, replay

TARGET = 0.25  # peak of chunked / saved bytes of full, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256, help="where memory is measured")
    parser.add_argument(
        "--compare", type=int, default=96, help="resolution where both gradients are compared"
    )
    parser.add_argument("--chunk", type=int, default=4096, help="rays at once")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model at tiny sizes, to try the script"
    )
    parser.add_argument("--out", type=Path, help="folder of the JSON; results/<machine> by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.tiny:
        args.resolution, args.compare, args.chunk = 32, 16, 64

    view = make(args.resolution, args.tiny)
    start = time.process_time()
    with PeakMemory() as peak:  # first: memory that was freed before would serve it unseen
        chunked(view, args.chunk)
    seconds = time.process_time() - start
    saved = saved_gigabytes(make(args.resolution, args.tiny))
    errors = {
        str(dtype).removeprefix("torch."): gradient_difference(
            args.compare, args.compare**2 // 5, args.tiny, dtype
        )
        for dtype in (torch.float32, torch.float64)
    }
    result = facts() | {
        "model": "CIPS3D, tiny" if args.tiny else "CIPS3D, full size, one image",
        "resolution": args.resolution,
        "chunk": args.chunk,
        "full_saved_gb": saved,
        "chunked_peak_gb": peak.extra,
        "ratio": peak.extra / saved,
        "chunked_cpu_seconds": seconds,
        "gradient_difference": errors,
        "gradient_compared_at": args.compare,
    }
    path = write("chunked", result, args.out)
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    print(path)
    return 0 if args.tiny or (result["ratio"] <= TARGET and errors["float64"] <= 1e-5) else 1


def make(resolution: int, tiny: bool, dtype: torch.dtype = torch.float32) -> SceneView:
    """A fresh model and its view of one scene."""
    torch.manual_seed(0)
    generator = (CIPS3D(**CIPS3D.tiny) if tiny else CIPS3D(img_resolution=resolution)).to(dtype)
    draw = Randomness(0, [0], "generator", dtype=dtype)
    camera = Camera.from_angles(
        0.2, 0.1, radius=2.7 if tiny else 1.0, fov=18.83 if tiny else 12.0
    ).to(dtype)
    scene = generator.represent(generator.map(draw.normal("z", generator.z_dim)), randomness=draw)
    return SceneView(generator, scene, camera, resolution, False, draw)


def loss(image: Tensor) -> Tensor:
    """As a discriminator's: not linear in the image, and every pixel matters to its neighbors."""
    return (image * image.roll(1, -1)).mean()


def gradients(view: SceneView) -> dict[str, Tensor]:
    return {name: p.grad for name, p in view.generator.named_parameters() if p.grad is not None}


def chunked(view: SceneView, chunk: int) -> None:
    with torch.no_grad():
        image = view.render().image
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image), image)
    for term in replay(view, {"image": gradient}, None, chunk, 1.0):
        term.backward()


def gradient_difference(resolution: int, chunk: int, tiny: bool, dtype: torch.dtype) -> float:
    """Largest difference of the two gradients, of each parameter relative to its largest entry.

    In float32 the two add up their rays in another order, and sines of gain 30 enlarge that
    rounding.
    """
    whole, parts = make(resolution, tiny, dtype), make(resolution, tiny, dtype)
    loss(whole.render().image).backward()
    chunked(parts, chunk)
    full, some = gradients(whole), gradients(parts)
    assert full.keys() == some.keys()
    return max(
        float((full[n] - some[n]).abs().max() / full[n].abs().max().clamp(min=1e-20)) for n in full
    )


def saved_gigabytes(view: SceneView) -> float:
    """Bytes that autograd keeps for the backward pass of one image, in GB: those of the scene, and
    so many per ray.
    """
    many = min(4096, view.num_pixels // 2)
    one, two = (saved_bytes(view, torch.arange(num)) for num in (many, 2 * many))
    per_ray = (two - one) / many
    return (one + per_ray * (view.num_pixels - many)) / 1e9


def saved_bytes(view: SceneView, rays: Tensor) -> int:
    """Bytes that autograd keeps of some rays: every storage once, and nothing of the parameters
    themselves.
    """
    mine = {p.untyped_storage().data_ptr() for p in view.generator.parameters()}
    kept: dict[
        int, torch.UntypedStorage
    ] = {}  # alive while they are counted, so that no address comes twice

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):
        view.render(rays)
    return sum(storage.nbytes() for storage in kept.values())


if __name__ == "__main__":
    sys.exit(main())
