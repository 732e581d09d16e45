"""Pictures: exact pixels."""

import math

import numpy as np
import pytest
import torch

from gan3d.apps.pictures import (
    DepthRange,
    depth_colors,
    depth_range,
    enlarge,
    grid,
    layers,
    side_by_side,
    to_uint8,
)
from gan3d.generators import Rendering


def test_the_image_range_maps_to_bytes_and_is_clipped():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    pictures = to_uint8(values.reshape(1, 1, 1, 5).expand(1, 3, 1, 5))
    assert pictures[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_bytes_survive_a_round_trip_through_an_image():
    bytes_ = torch.arange(256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert np.array_equal(to_uint8(bytes_ / 127.5 - 1)[0, ..., 0], bytes_[0, 0].numpy())


def test_one_image_without_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"image\[None\]"):
        to_uint8(torch.zeros(3, 4, 4))


def test_a_grid_is_filled_row_by_row_with_white_gaps():
    pictures = np.stack([np.full((4, 5, 3), i, np.uint8) for i in range(3)])
    sheet = grid(pictures, columns=2, gap=1)
    assert sheet.shape == (9, 11, 3)
    assert (sheet[:4, :5] == 0).all()
    assert (sheet[:4, 6:] == 1).all()
    assert (sheet[5:, :5] == 2).all()
    assert (sheet[4] == 255).all()
    assert (sheet[5:, 6:] == 255).all()


@pytest.mark.parametrize(("num", "columns"), [(1, 1), (4, 2), (6, 3), (7, 3), (8, 4), (16, 4)])
def test_a_grid_is_about_square_without_empty_cells_if_possible(num, columns):
    assert grid(np.zeros((num, 1, 1, 3), np.uint8), gap=0).shape[1] == columns


def test_enlarging_repeats_pixels_to_at_least_the_given_side():
    picture = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    large = enlarge(picture, 5)
    assert large.shape == (1, 6, 6, 3)
    assert np.array_equal(large[:, ::3, ::3], picture)
    assert enlarge(picture, 1).shape == picture.shape


def test_near_is_brighter_than_far_and_background_is_white():
    depth = torch.tensor([[2.0, 2.5, 3.0, 9.0]]).reshape(1, 1, 1, 4)
    opacity = torch.tensor([[1.0, 1.0, 1.0, 0.2]]).reshape(1, 1, 1, 4)
    colors = depth_colors(depth, opacity)[0, 0].astype(int)
    brightness = colors.sum(-1)
    assert brightness[0] > brightness[1] > brightness[2]
    assert colors[3].tolist() == [255, 255, 255]


def test_equal_depths_have_equal_colors_on_a_shared_range():
    span = DepthRange(2.0, 3.0)
    one = torch.full((1, 1, 2, 2), 2.5)
    other = torch.linspace(2.5, 2.9, 4).reshape(1, 1, 2, 2)
    color = depth_colors(one, span=span)[0, 0, 0]
    assert np.array_equal(color, depth_colors(other, span=span)[0, 0, 0])


def test_depth_range_ignores_invisible_pixels():
    invisible = torch.tensor([50.0, math.inf, math.nan])
    depth = torch.cat([torch.linspace(2.0, 3.0, 101), invisible]).reshape(1, 1, 1, -1)
    opacity = torch.cat([torch.ones(101), torch.zeros(1), torch.ones(2)]).reshape(1, 1, 1, -1)
    span = depth_range(depth, opacity)
    assert (span.near, span.far) == pytest.approx((2.02, 2.98))


def test_depth_of_nothing_is_white():
    assert (depth_colors(torch.full((1, 1, 3, 3), math.inf)) == 255).all()


def test_raw_image_and_depth_are_side_by_side_at_the_size_of_the_image():
    image, raw = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 4, 4)
    depth = opacity = torch.ones(2, 1, 4, 4)
    rendering = Rendering(image, raw, depth, opacity)
    picture = side_by_side(rendering, gap=1)
    assert picture.shape == (2, 8, 26, 3)
    assert (picture[:, :, :8] == 255).all()
    assert (picture[:, :, 9:17] == 128).all()


def test_layers_depend_on_the_rendering():
    image = torch.zeros(1, 3, 8, 8)
    assert len(layers(Rendering(image))) == 1
    assert len(layers(Rendering(image, raw=image))) == 2
    assert len(layers(Rendering(image, depth=torch.ones(1, 1, 8, 8)))) == 2
