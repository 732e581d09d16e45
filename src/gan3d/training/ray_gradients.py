"""Which rays of an image carry gradient, and how many at once: training at high resolution.

For generators whose pixels are independent of each other, three ways to the gradient of a loss L of
the whole image I:

    full       autograd through all rays: memory grows with the image
    partial    n_r random rays carry gradient, the others are only seen (CIPS-3D section 3.2): an
               approximation, dL/dI set to zero on the other rays
    chunked    dL/dI first, of an image without gradient; then the rays again in chunks, each with
               its slice of dL/dI:

                   dL/dtheta = sum over chunks of (dL/dI)[chunk] . dI[chunk]/dtheta

               the exact full gradient (or, with `num_rays`, the partial one) in the memory of one
               chunk, for one more rendering. The same pixel has the same draws in every rendering,
               so the images agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering
from gan3d.randomness import Randomness


@dataclass(frozen=True)
class RayGradients:
    """How the generator's gradient is taken.

    Args:
        mode: full, partial or chunked.
        num_rays: rays that carry gradient, drawn anew in every iteration and shared by its images
            (CIPS-3D at 512 px: 400^2); None, or more than there are, is all. Not for `full`.
        chunk: rays of each image that are differentiated at once in `chunked`.
    """

    mode: Literal["full", "partial", "chunked"] = "full"
    num_rays: int | None = None
    chunk: int = 4096

    def __post_init__(self) -> None:
        if self.chunk < 1 or (self.num_rays is not None and self.num_rays < 1):
            raise ValueError(
                f"rays got num_rays {self.num_rays} and chunk {self.chunk}; both must be at least 1"
            )
        if self.mode == "full" and self.num_rays is not None:
            raise ValueError(
                f"rays.num_rays is {self.num_rays}, but mode full differentiates all; set mode to "
                "partial"
            )

    def check(self, generator: Generator) -> None:
        """Refuses a generator whose pixels depend on each other."""
        if self.mode != "full" and not generator.independent_pixels:
            raise ValueError(
                f"rays.mode {self.mode} needs a generator whose pixels are independent of each "
                f"other, those of {type(generator).__name__} are not (super-resolution or "
                "convolutions); set --model.rays.mode full"
            )

    def selected(
        self, num_pixels: int, seed: int, images_seen: int, device: torch.device | str = "cpu"
    ) -> Tensor | None:
        """Indices of the rays that carry gradient, [r]; None means all of them."""
        if self.mode == "full" or self.num_rays is None or self.num_rays >= num_pixels:
            return None
        draw = Randomness(seed, [images_seen], "rays", device=device)
        return draw.uniform("order", num_pixels)[0].argsort()[: self.num_rays]


@dataclass(frozen=True)
class SceneView:
    """A scene and where it is seen from: everything that rendering needs."""

    generator: Generator
    scene: Any
    camera: Camera | None
    resolution: int | None
    raw: bool
    draw: Randomness

    @property
    def num_pixels(self) -> int:
        return (self.resolution or self.generator.img_resolution) ** 2

    def render(self, rays: Tensor | None = None) -> Rendering:
        return self.generator.render(
            self.scene,
            self.camera,
            resolution=self.resolution,
            rays=rays,
            raw=self.raw,
            randomness=self.draw,
        )


def render_partially(view: SceneView, selected: Tensor) -> Rendering:
    """The whole image, of which only the selected rays [r] carry gradient."""
    # The other rays in ascending order: `nonzero` would wait for the device.
    is_other = torch.ones(view.num_pixels, dtype=torch.uint8, device=selected.device)
    is_other = is_other.index_fill(0, selected, 0)
    others = is_other.argsort(stable=True)[len(selected) :]
    some = view.render(selected)
    with torch.no_grad():
        without = view.render(others)
    order = torch.cat([selected, others]).argsort()

    def whole(name: str) -> Tensor | None:
        mine, theirs = getattr(some, name), getattr(without, name)
        if mine is None:
            return None
        side = round(len(order) ** 0.5)
        return torch.cat([mine, theirs], dim=2)[:, :, order, 0].unflatten(2, (side, side))

    image = whole("image")
    assert image is not None
    return Rendering(image, whole("raw"), whole("depth"), whole("opacity"))


def replay(
    view: SceneView,
    gradients: dict[str, Tensor],
    selected: Tensor | None,
    chunk: int,
    factor: Tensor | float,
) -> Iterator[Tensor]:
    """Scalars whose gradients add up to those of a loss with the given derivatives, in the memory
    of a chunk each.

    Args:
        view: what was rendered.
        gradients: dL/d(map) by the name of the map, [b c h w].
        selected: rays that carry gradient, [r]; None is all.
        chunk: rays at once.
        factor: what the caller multiplies each scalar with before it runs backward.
    """
    leaves = SceneLeaves.of(view.scene)
    rays = torch.arange(view.num_pixels, device=view.draw.device) if selected is None else selected
    for some in rays.split(chunk):
        shown = replace(view, scene=leaves.scene).render(some)
        maps = {name: getattr(shown, name).squeeze(3) for name in gradients}  # b c r
        terms = [
            (maps[name] * gradient.flatten(2)[:, :, some]).sum()
            for name, gradient in gradients.items()
        ]
        yield torch.stack(terms).sum()
    yield from leaves.through(factor)


@dataclass(frozen=True)
class SceneLeaves:
    """A scene cut off from the graph that made it: several backward passes end in its leaves.

    Attributes:
        scene: with leaves in place of the tensors that carry gradient.
        pairs: (tensor, its leaf).
    """

    scene: Any
    pairs: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, scene: Any) -> SceneLeaves:
        return cls(*_detached(scene))

    def through(self, factor: Tensor | float) -> Iterator[Tensor]:
        """The scalar that takes the gradients gathered in the leaves on into the graph, if any.

        Args:
            factor: what the caller multiplies each scalar with before it runs backward.
        """
        terms = [(t * leaf.grad / factor).sum() for t, leaf in self.pairs if leaf.grad is not None]
        if terms:
            yield torch.stack(terms).sum()


def _detached(scene: Any) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
    """The scene with leaves in place of its tensors that carry gradient, and the pairs (tensor,
    leaf).
    """
    pairs: list[tuple[Tensor, Tensor]] = []

    def visit(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.requires_grad:
                return value
            pairs.append((value, value.detach().requires_grad_()))
            return pairs[-1][1]
        if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{f.name: visit(getattr(value, f.name)) for f in fields(value) if f.init}
            )
        if isinstance(value, dict):
            return {name: visit(item) for name, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(visit, value))
        return type(value)(map(visit, value)) if isinstance(value, (tuple, list)) else value

    return visit(scene), pairs
