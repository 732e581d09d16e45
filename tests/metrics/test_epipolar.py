"""Lines of patterns that move at a known speed."""

import math

import pytest
import torch

from gan3d.generators import Rendering
from gan3d.metrics.epipolar import EpipolarLines, epipolar_lines

STEP, SIDE, FRAMES = 0.02, 32, 11


def pattern(speed: float) -> torch.Tensor:
    """A smooth picture that moves to the right by `speed` pixels per frame, [1 t 3 H W]."""
    x = torch.arange(SIDE) - speed * torch.arange(FRAMES)[:, None]
    row = (2 * math.pi * x / 16).sin() + 0.5 * (2 * math.pi * x / 9 + 1).cos()
    return row[None, :, None, None].expand(1, FRAMES, 3, SIDE, SIDE)


@pytest.mark.parametrize("speed", [-0.4, 0.0, 0.3])
def test_a_pattern_that_moves_draws_straight_lines_of_its_speed(speed):
    images = pattern(speed)
    straight, parallax = epipolar_lines(images, torch.ones_like(images[:, :, :1]), STEP)
    assert straight.item() == pytest.approx(1, abs=5e-3)
    assert parallax.item() == pytest.approx(-speed / SIDE / STEP, rel=0.1, abs=1e-9)


def test_flicker_is_not_straight():
    images = torch.randn(1, FRAMES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    straight, parallax = epipolar_lines(images, torch.ones_like(images[:, :, :1]), STEP)
    assert 0 < straight < 0.35
    assert abs(parallax) < 0.1


def test_only_opaque_windows_count():
    still, moving = pattern(0.0), pattern(0.4)
    images = torch.cat([moving[..., :16], still[..., 16:]], dim=-1)
    opacity = torch.ones_like(images[:, :, :1])
    opacity[..., 16:] = 0
    _, parallax = epipolar_lines(images, opacity, STEP)
    assert parallax.item() == pytest.approx(-0.4 / SIDE / STEP, rel=0.1)
    straight, parallax = epipolar_lines(images, 0 * opacity, STEP)
    assert straight.isnan()
    assert parallax.isnan()


def test_the_parallax_of_a_point_is_that_of_its_depth():
    """A vertical stripe at z = 0.2 in front of the origin, seen by the metric's own cameras."""
    metric = EpipolarLines(radius=2.0, fov=30.0)
    z, focal = 0.2, 0.5 / math.tan(math.radians(15))
    uv, _ = metric.camera.project(torch.tensor([[[0.0, 0.0, z]]]).expand(len(metric.camera), 1, 3))
    pixel = (torch.arange(64) + 0.5) / 64
    row = torch.exp(-(((pixel - uv[:, :, 0]) / 0.05) ** 2))
    metric.update(Rendering(row[None, :, None, None].expand(1, -1, 3, 64, 64)))
    values = metric.compute()
    assert values["epi_parallax"].item() == pytest.approx(focal * z / (2.0 - z), rel=0.05)
    assert values["epi_straight"] > 0.98


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="at least 7 frames"):
        epipolar_lines(torch.zeros(1, 6, 3, 16, 16), torch.ones(1, 6, 1, 16, 16), STEP)
