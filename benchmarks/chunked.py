"""Memory of CIPS-3D's exact gradient: all rays at once, or in chunks of rays.

`full` saves tensors for the scene and for every ray; their sizes are counted by hooks on saved
tensors at two numbers of rays. `chunked` (gan3d.training.ray_gradients) is run, its peak resident
memory is measured, and its gradient is compared with the full one at a lower resolution.
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

TARGET = 0.25  # largest ratio of the peak of chunked to the saved bytes of full


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--resolution", type=int, default=256, help="resolution of the memory measurement")
    add("--compare", type=int, default=96, help="resolution of the comparison of gradients")
    add("--chunk", type=int, default=4096, help="rays per chunk")
    add("--tiny", action="store_true", help="a tiny model at tiny sizes, to try the script")
    add("--out", type=Path, help="folder of the JSON; results/<machine> by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.tiny:
        args.resolution, args.compare, args.chunk = 32, 16, 64

    # Memory. First of all, because memory that was freed before would be reused unnoticed.
    view = make(args.resolution, args.tiny)
    start = time.process_time()
    with PeakMemory() as peak:
        chunked(view, args.chunk)
    seconds = time.process_time() - start
    saved = saved_gigabytes(make(args.resolution, args.tiny))

    # Gradients.
    side = args.compare
    errors = {
        name: gradient_difference(side, side**2 // 5, args.tiny, getattr(torch, name))
        for name in ("float32", "float64")
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
    radius, fov = (2.7, 18.83) if tiny else (1.0, 12.0)
    camera = Camera.from_angles(0.2, 0.1, radius=radius, fov=fov).to(dtype)
    scene = generator.represent(generator.map(draw.normal("z", generator.z_dim)), randomness=draw)
    return SceneView(generator, scene, camera, resolution, False, draw)


def loss(image: Tensor) -> Tensor:
    """Like a discriminator's: nonlinear in the image, with interaction of neighboring pixels."""
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
    """Largest difference of the two gradients, per parameter relative to its largest entry.

    In float32 the order of summation over rays differs, and sines of gain 30 amplify the rounding.
    """
    whole, parts = make(resolution, tiny, dtype), make(resolution, tiny, dtype)
    loss(whole.render().image).backward()
    chunked(parts, chunk)
    expected, actual = gradients(whole), gradients(parts)
    assert expected.keys() == actual.keys()
    differences = []
    for name, gradient in expected.items():
        largest = gradient.abs().max().clamp(min=1e-20)
        differences.append(float((gradient - actual[name]).abs().max() / largest))
    return max(differences)


def saved_gigabytes(view: SceneView) -> float:
    """Size of the tensors that autograd saves for one image, in GB: scene, plus rays."""
    num = min(4096, view.num_pixels // 2)
    once = saved_bytes(view, torch.arange(num))
    twice = saved_bytes(view, torch.arange(2 * num))
    per_ray = (twice - once) / num
    return (once + per_ray * (view.num_pixels - num)) / 1e9


def saved_bytes(view: SceneView, rays: Tensor) -> int:
    """Size of the tensors that autograd saves for some rays: each storage once, no parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in view.generator.parameters()}
    # Storages are kept alive while they are counted, so that no address is reused.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):
        view.render(rays)
    return sum(storage.nbytes() for storage in saved.values())


if __name__ == "__main__":
    sys.exit(main())
