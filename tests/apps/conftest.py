"""An analytic generator of colored balls with known depth, which records its calls."""

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


GENERATORS.pop("Balls")  # for these tests only: tests that walk the registry must not see it


@pytest.fixture
def balls() -> Balls:
    return Balls()
