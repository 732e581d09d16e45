"""A generator that shows one scene: every z is mapped to the latents of an inverted photograph, so
that whatever is made of a generator (pictures, videos, meshes, measures) can be made of that scene.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import Generator


def pin(generator: Generator, ws: Tensor) -> Generator:
    """Pins a generator to one scene, in place, and returns it.

    `map` still draws to the mean latents by its truncation: psi 1 gives the scene itself.

    Args:
        generator: any generator.
        ws: latents [1 n w] of the scene.

    Raises:
        ValueError: the latents are not those of this generator.
    """
    if ws.shape != (1, generator.num_ws, generator.w_dim):
        raise ValueError(
            f"latents have shape {tuple(ws.shape)}, {type(generator).__name__} takes "
            f"[1 {generator.num_ws} {generator.w_dim}]"
        )
    generator.__dict__["map"] = _PinnedMap(generator, ws.detach())
    return generator


def unpin(generator: Generator) -> Generator:
    """Lets a generator map z again, in place, and returns it; one that is not pinned stays as it
    is.
    """
    generator.__dict__.pop("map", None)
    return generator


class _PinnedMap:
    """The method `map` of a pinned generator."""

    def __init__(self, generator: Generator, ws: Tensor):
        self.generator, self.ws = generator, ws

    def __call__(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        ws = self.ws.to(z).expand(len(z), -1, -1)
        if truncation == 1:
            return ws
        mean = type(self.generator).map(self.generator, z, camera, truncation=0.0)
        moved = torch.lerp(mean, ws, truncation)
        if truncation_cutoff is None:
            return moved
        return torch.cat([moved[:, :truncation_cutoff], ws[:, truncation_cutoff:]], dim=1)
