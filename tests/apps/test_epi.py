"""Epipolar line textures of scenes with known lines."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.apps.epi import epi, sweep, write_epi
from gan3d.generators import GENERATORS, Generator, Rendering


class Poles(Generator):
    """A thin vertical line at (x, z) = representation [b 2], brighter towards the bottom."""

    z_dim = w_dim = 2
    num_ws, img_resolution = 1, 64
    independent_pixels = True

    def __init__(self, independent: bool = True):
        super().__init__()
        self.independent_pixels = independent
        self.rendered = []

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return z[:, None]

    def represent(self, ws, *, randomness=None):
        return ws[:, 0]

    def render(
        self, representation, camera=None, *, resolution=None, rays=None, raw=True, randomness=None
    ):
        assert not torch.is_grad_enabled()
        side = resolution or self.img_resolution
        indices = torch.arange(side * side) if rays is None else rays
        self.rendered.append(len(indices))
        x, z = representation.unbind(-1)
        uv, _ = camera.project(torch.stack([x, torch.zeros_like(x), z], -1)[:, None])
        u, v = (indices % side + 0.5) / side, (indices // side + 0.5) / side
        bright = 1 - (u - uv[:, :, 0]).abs() * side  # b r: a tent of two pixels
        image = (bright.clamp(min=0) * v)[:, None].expand(-1, 3, -1)
        return Rendering(image.unflatten(-1, (side, side)) if rays is None else image[..., None])


class FlatPoles(Poles):
    has_camera = False


# for these tests only: tests that walk the registry must not see them
for name in ("Poles", "FlatPoles"):
    GENERATORS.pop(name)


def where(lines: torch.Tensor) -> torch.Tensor:
    """Mean position of the brightness in every row, in pixels from the left edge, [b frames]."""
    x = torch.arange(lines.shape[-1]) + 0.5
    return (lines[:, 0] * x).sum(-1) / lines[:, 0].sum(-1)


def test_a_sweep_goes_from_one_side_to_the_other_at_equal_steps():
    yaw, pitch = sweep(5, yaw=0.4, pitch=0.1, radius=1.0, fov=12.0).yaw_pitch()
    torch.testing.assert_close(yaw, torch.tensor([-0.4, -0.2, 0.0, 0.2, 0.4]))
    torch.testing.assert_close(pitch, torch.full((5,), 0.1))
    with pytest.raises(ValueError, match=r"1 camera\(s\) does not move"):
        sweep(1)


def test_a_point_draws_the_line_of_its_depth():
    """From yaw a, the point (0, 0, z) is at u = 1/2 - f z sin a / (r - z cos a)."""
    scenes = torch.tensor([[0.0, 0.2], [0.0, -0.2], [0.0, 0.0]])
    path = sweep(9, yaw=0.3, radius=2.0, fov=20.0)
    lines = epi(Poles(), scenes, path, num_scenes=3)
    assert lines.shape == (3, 3, 9, 64)
    yaw = torch.linspace(-0.3, 0.3, 9)
    focal = 0.5 / math.tan(math.radians(10))
    for scene, z in enumerate((0.2, -0.2, 0.0)):
        expected = 64 * (0.5 - focal * z * yaw.sin() / (2.0 - z * yaw.cos()))
        torch.testing.assert_close(where(lines)[scene], expected, atol=1e-3, rtol=0)


def test_independent_pixels_render_the_row_only_and_the_same_one():
    scenes, path = torch.tensor([[0.1, 0.2]]), sweep(3)
    alone, whole = Poles(True), Poles(False)
    assert torch.equal(epi(alone, scenes, path, row=11), epi(whole, scenes, path, row=11))
    assert (alone.rendered, whole.rendered) == ([64] * 3, [64 * 64] * 3)
    small = epi(alone, scenes, path, 3, resolution=16)
    assert torch.equal(small, epi(whole, scenes, path, 3, resolution=16))


def test_the_row_is_counted_from_the_top_and_defaults_to_the_middle():
    scenes, path = torch.tensor([[0.0, 0.0]]), sweep(2)
    for row in (0, 40, 63):
        top = epi(Poles(), scenes, path, row=row).amax(dim=(0, 1, 3))
        torch.testing.assert_close(top, torch.full((2,), 0.5 * (row + 0.5) / 64), atol=1e-4, rtol=0)
    assert torch.equal(epi(Poles(), scenes, path), epi(Poles(), scenes, path, row=32))
    for wrong in (-1, 64):
        with pytest.raises(ValueError, match="use 0 to 63"):
            epi(Poles(), scenes, path, row=wrong)


def test_a_model_without_a_camera_is_refused():
    with pytest.raises(ValueError, match="FlatPoles has no camera to move"):
        epi(FlatPoles(), torch.zeros(1, 2), sweep(2))


def test_the_picture_shows_the_scenes_below_each_other(tmp_path):
    lines = torch.full((2, 3, 5, 7), -1.0)
    lines[1] = 1.0
    picture = np.array(Image.open(write_epi(tmp_path / "new/epi.png", lines)))
    assert picture.shape == (12, 7, 3)
    assert (picture[:5] == 0).all()
    assert (picture[5:] == 255).all()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["epi.png"]
