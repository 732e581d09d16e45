"""Analytic generators: balls with known depth, which record their calls, and a density."""

import math

import pytest
import torch
from torch import nn

from gan3d.generators import GENERATORS, Generator, Rendering


class Balls(Generator):
    """A ball of radius 0.25 at the origin, colored by z; raw and depth at half the image's size."""

    z_dim, w_dim, num_ws, img_resolution = 3, 3, 1, 32
    has_raw = True
    camera_conditioned = True

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.calls: list[str] = []
        self.conditioning = None

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        self.calls.append("map")
        self.conditioning = camera
        return z[:, None] * truncation

    def represent(self, ws, *, randomness=None):
        self.calls.append("represent")
        return self.dropout(torch.tanh(ws[:, 0]))

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        self.calls.append("render")
        assert not torch.is_grad_enabled()
        side = resolution or 16
        ray = camera.rays(side)
        along = -(ray.origins * ray.directions).sum(-1)
        inside = 0.25**2 - (ray.origins.square().sum(-1) - along**2)
        hit = (inside > 0).float().reshape(-1, 1, side, side)
        distance = along - inside.clamp(min=0).sqrt()
        depth = (distance[..., None] * ray.cosines).reshape(-1, 1, side, side)
        raw = representation[:, :, None, None] * hit + (hit - 1)
        image = raw.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return Rendering(image, raw, depth, hit)


class Egg(Generator):
    """A density that falls across an ellipsoid off the origin, painted with p / 0.4 at p."""

    z_dim = w_dim = 1
    num_ws, img_resolution = 1, 48
    has_field = True
    center, axes = (0.02, -0.03, 0.05), (0.2, 0.3, 0.25)

    def __init__(self):
        super().__init__()
        self.shift = 0.0
        self.unused = nn.Parameter(torch.zeros(1))
        self.volume = 4 / 3 * math.pi * math.prod(self.axes)

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return z[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def radius_at(self, points):
        """1 on the surface, [.. 3] -> [..]."""
        return ((points - torch.tensor(self.center)) / torch.tensor(self.axes)).norm(dim=-1)

    def density(self, points):
        """Density from -12 to 12 [..], which `render` takes as the logarithm of the density."""
        return (200 * (1 - self.radius_at(points))).clamp(-12, 12)

    def field(self, representation, points, directions=None):
        assert not torch.is_grad_enabled()
        return self.density(points)[..., None] + self.shift, points / 0.4

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        side = resolution or self.img_resolution
        rays = camera.rays(side)
        t = torch.linspace(2.1, 3.3, 241)
        points = rays.origins[:, :, None] + rays.directions[:, :, None] * t[:, None]  # b r s 3
        alpha = 1 - (-self.density(points).exp() * (t[1] - t[0])).exp()
        seen = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], -1), -1)
        weights = alpha * seen[..., :-1]  # b r s
        opacity = weights.sum(-1, keepdim=True)
        distance = (weights * t).sum(-1, keepdim=True) / opacity.clamp(min=1e-6)
        depth = torch.where(opacity > 1e-6, distance, t[-1]) * rays.cosines
        rgb = (weights[..., None] * (points / 0.4).clamp(-1, 1)).sum(-2) + (1 - opacity)

        def maps(x):
            return x.mT.unflatten(-1, (side, side))

        return Rendering(maps(rgb), None, maps(depth), maps(opacity))


GENERATORS.pop("Egg")
GENERATORS.pop("Balls")  # for these tests only: tests that walk the registry must not see it


@pytest.fixture
def balls() -> Balls:
    return Balls()


@pytest.fixture
def egg() -> Egg:
    return Egg()
