"""Fields of ours, fitted to views of a scene that a generator rendered: small tri-planes.

A field has 3 planes of features and a network with one hidden layer, as EG3D's (section 3.2), and
is rendered along rays like NeRF (section 5.2). It starts from random numbers and minimizes, by Adam
(Kingma and Ba 2015), over random pixels u of all views,

    |C(u) - a(u) I(u)|^2 + w_a (A(u) - a(u))^2 + w_tv |grad planes|^2

with I the given image, a its opacity, C and A the color and the opacity of the field. What is not
opaque is gray (0), so that a background that belongs to no place in the world does not count.

What a field shows from a new camera is what the views say of it. A field has one scene for all
views: where they contradict one another, it is a compromise.

Convention: images in [-1, 1]; the field fills the cube of side `extent` around the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import Camera, Rays
from gan3d.generators.contract import Rendering
from gan3d.ops.triplane import PlaneTable
from gan3d.randomness import Randomness
from gan3d.rendering.volume import RayRendering, RenderOptions, render_rays

SIGMA_SCALE = 3.0  # raw densities per output of the network: edges become sharp in few steps
FIRST_PLANES = 0.1  # standard deviation of the planes at the start


@dataclass(frozen=True)
class FitOptions:
    """How a field is fitted. The defaults take about 3 seconds per scene on one core.

    Attributes:
        side: of the views, pixels; larger ones are reduced by area.
        steps: of Adam.
        rays: per step.
        samples: per ray.
        planes: side of the planes, texels.
        channels: of the planes.
        hidden: width of the network.
        lr: learning rate at the start; it falls to a tenth.
        opacity_weight: w_a.
        smoothness: w_tv.
    """

    side: int = 32
    steps: int = 300
    rays: int = 256
    samples: int = 24
    planes: int = 32
    channels: int = 8
    hidden: int = 16
    lr: float = 0.03
    opacity_weight: float = 0.3
    smoothness: float = 0.03

    def __post_init__(self) -> None:
        least = {"side": 8, "steps": 1, "rays": 1, "samples": 2, "planes": 2, "channels": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {value} or more")


class FittedField(nn.Module):
    """A tri-plane field with a random start.

    Args:
        extent: side of the cube that it fills, world units.
        options: its sizes.
        seed: of the start.
    """

    def __init__(self, extent: float, options: FitOptions, seed: int):
        super().__init__()
        draw = Randomness(seed, [0], "field")

        def start(name: str, scale: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(scale * draw.normal(name, *shape)[0])

        side, channels, hidden = options.planes, options.channels, options.hidden
        self.planes = start("planes", FIRST_PLANES, 3, channels, side, side)
        self.weight1 = start("weight1", 1 / math.sqrt(channels), hidden, channels)
        self.weight2 = start("weight2", 0.1 / math.sqrt(hidden), 4, hidden)
        self.bias1 = nn.Parameter(torch.zeros(hidden))
        # translucent everywhere: a start that is opaque, or empty, would stay so
        self.bias2 = nn.Parameter(torch.tensor([1 / SIGMA_SCALE, 0.0, 0.0, 0.0]))
        self.extent = extent
        self.rendering = RenderOptions(
            depth_samples=options.samples,
            importance_samples=0,
            ray_start="auto",
            ray_end="auto",
            box_warp=extent,
        )

    def render(self, rays: Rays, randomness: Randomness | None = None) -> RayRendering:
        """Colors in [-1, 1], depth and opacity of rays [b r 3]; what is not opaque is gray."""
        table = PlaneTable.of(self.planes[None], "fixed")

        def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            features = 3 * table.features(points, box_warp=self.extent)  # b r s c, the sum
            x = F.softplus(F.linear(features, self.weight1, self.bias1))
            sigma, rgb = F.linear(x, self.weight2, self.bias2).split([1, 3], dim=-1)
            return SIGMA_SCALE * sigma, (rgb / 2).tanh()

        return render_rays(field, rays, self.rendering, randomness)

    @torch.no_grad()
    def show(self, camera: Camera, side: int) -> Rendering:
        """From v cameras: image [v 3 h w], depth (camera z) and opacity [v 1 h w]."""
        rays = camera.to(self.planes).rays(side)
        rays = Rays(rays.origins.expand_as(rays.directions), rays.directions, rays.cosines)
        seen = self.render(rays)
        flat = torch.cat([seen.features, seen.depth * rays.cosines, seen.opacity], dim=-1)
        image, depth, opacity = rearrange(flat, "v (h w) c -> v c h w", h=side).split([3, 1, 1], 1)
        return Rendering(image, depth=depth, opacity=opacity)


@torch.enable_grad()
def fit_field(
    images: Tensor,
    opacity: Tensor,
    camera: Camera,
    *,
    extent: float = 1.0,
    options: FitOptions = FitOptions(),
    seed: int = 0,
) -> FittedField:
    """Fits a field to views of one scene.

    Args:
        images: [v 3 h h] in [-1, 1].
        opacity: [v 1 h h] in [0, 1].
        camera: v cameras.
        extent: side of the cube that holds the scene, world units.
        options: sizes and steps.
        seed: of the start and of the pixels; another one gives another field.

    Raises:
        ValueError: the shapes do not match.
    """
    v, _, h, w = images.shape
    if opacity.shape != (v, 1, h, w) or len(camera) != v or h != w:
        raise ValueError(
            f"images {list(images.shape)}, opacity {list(opacity.shape)} and {len(camera)} "
            "cameras; expected [v 3 h h], [v 1 h h] and v cameras"
        )
    # all pixels of all views, one after the other
    alpha = rearrange(opacity, "v c h w -> (v h w) c")
    color = alpha * rearrange(images, "v c h w -> (v h w) c")
    rays = camera.to(images).rays(h)
    origins, directions, cosines = (
        x.expand(v, h * w, -1).flatten(0, 1) for x in (rays.origins, rays.directions, rays.cosines)
    )

    field = FittedField(extent, options, seed).to(images)
    adam = torch.optim.Adam(field.parameters(), lr=options.lr, betas=(0.9, 0.99))
    for step in range(options.steps):
        adam.param_groups[0]["lr"] = options.lr * 0.1 ** (step / options.steps)
        draw = Randomness(seed, [step], "fit", device=images.device)
        u = draw.integers("pixels", len(origins), options.rays)[0]
        seen = field.render(Rays(origins[u][None], directions[u][None], cosines[u][None]), draw)
        loss = (seen.features[0] - color[u]).square().mean()
        loss = loss + options.opacity_weight * (seen.opacity[0] - alpha[u]).square().mean()
        loss = loss + options.smoothness * _roughness(field.planes)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return field.requires_grad_(False)


def _roughness(planes: Tensor) -> Tensor:
    """Mean squared step between neighboring texels of [.. h w]."""
    along = (planes[..., 1:] - planes[..., :-1]).square().mean()
    down = (planes[..., 1:, :] - planes[..., :-1, :]).square().mean()
    return along + down
