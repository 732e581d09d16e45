"""bf16-mixed against float32: errors of image, raw image and depth of every generator.

Each of three seeds draws weights, latents and cameras; the same view is rendered in float32 and
under autocast to bfloat16. Errors are in units of the range of the map in float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from machine import facts, write

from gan3d.camera import GaussianPose
from gan3d.generators import GENERATORS, Generator, Rendering
from gan3d.randomness import Randomness

MAPS = ("image", "raw", "depth")
SEEDS, BATCH = 3, 2
# Of the range: rms, and largest.
TARGET = (0.01, 0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON; results/<machine> by default")
    args = parser.parse_args()
    torch.set_num_threads(1)

    errors = {name: measure(name) for name in sorted(GENERATORS)}
    print(f"{'':12}{'map':8}{'rms':>9}{'largest':>9}")
    for name, maps in errors.items():
        for of, (rms, largest) in maps.items():
            print(f"{name:12}{of:8}{rms:9.4f}{largest:9.4f}")
    every = [pair for maps in errors.values() for pair in maps.values()]
    reached = all(rms <= TARGET[0] and largest <= TARGET[1] for rms, largest in every)
    print(f"target {TARGET[0]} and {TARGET[1]}: {'reached' if reached else 'MISSED'}")

    named = {
        name: {of: {"rms": rms, "largest": largest} for of, (rms, largest) in maps.items()}
        for name, maps in errors.items()
    }
    result = facts() | {
        "sizes": "tiny",
        "seeds": SEEDS,
        "views": BATCH,
        "target": {"rms": TARGET[0], "largest": TARGET[1]},
        "reached": reached,
        "errors": named,
    }
    print(write("bf16", result, args.out))
    return 0 if reached else 1


def measure(name: str) -> dict[str, tuple[float, float]]:
    """Rms and largest error of each map, the worst of all seeds."""
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        generator = GENERATORS[name](**GENERATORS[name].tiny)
        exact = view(generator, seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = view(generator, seed)
        for of in MAPS:
            value = getattr(exact, of)
            if value is not None:
                rms, largest = error(getattr(rough, of), value)
                before = worst.get(of, (0.0, 0.0))
                worst[of] = max(before[0], rms), max(before[1], largest)
    return worst


@torch.no_grad()
def view(generator: Generator, seed: int) -> Rendering:
    """Scenes of a seed from cameras around the front, with jitter and noise."""
    draw = Randomness(seed, range(BATCH))
    posed = generator.has_camera or generator.camera_conditioned
    camera = GaussianPose().sample(draw) if posed else None
    z = draw.normal("z", generator.z_dim)
    return generator(z, camera if generator.has_camera else None, randomness=draw)


def error(rough: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Rms and largest difference, in units of the range of `exact`."""
    difference = (rough.float() - exact).abs() / (exact.max() - exact.min())
    return difference.square().mean().sqrt().item(), difference.max().item()


if __name__ == "__main__":
    sys.exit(main())
