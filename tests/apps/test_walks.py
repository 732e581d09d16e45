"""Walks through latents and style mixing."""

import math

import pytest
import torch

from gan3d.apps.walks import closed_walk, mixed


def test_a_walk_goes_through_its_keyframes_and_back_to_the_first():
    torch.manual_seed(0)
    keyframes = torch.randn(3, 4, 5)
    walk = closed_walk(keyframes, 12)
    assert walk.shape == (12, 4, 5)
    torch.testing.assert_close(walk[::4], keyframes)
    # The last frame is one step before the first: half way to the end of the last part is near.
    steps = (walk.roll(-1, 0) - walk).flatten(1).norm(dim=1)
    assert steps.max() < 4 * steps.mean()


def test_a_walk_is_smooth_also_where_it_closes():
    """Keyframes on a circle give a circle: a cubic spline of 8 points is within 1 %."""
    angle = torch.arange(8) * math.pi / 4
    keyframes = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
    walk = closed_walk(keyframes, 200)
    torch.testing.assert_close(walk.norm(dim=-1), torch.ones(200, 1), atol=0.01, rtol=0)
    steps = (walk.roll(-1, 0) - walk).norm(dim=-1)
    assert steps.max() < 1.03 * steps.min()


def test_two_keyframes_are_enough_and_one_is_refused():
    ends = torch.tensor([[[0.0]], [[1.0]]])
    torch.testing.assert_close(closed_walk(ends, 4).flatten(), torch.tensor([0.0, 0.5, 1.0, 0.5]))
    with pytest.raises(ValueError, match="got 1 keyframes; a walk needs 2 or more"):
        closed_walk(ends[:1], 4)


def test_mixing_takes_the_later_latents_of_the_style():
    ws, styles = torch.zeros(2, 4, 3), torch.ones(1, 4, 3)
    assert mixed(ws, styles, 1)[:, :, 0].tolist() == [[0, 1, 1, 1]] * 2
    assert mixed(ws, styles)[:, :, 0].tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("cut", [0, 4])
def test_a_cut_that_mixes_nothing_is_refused(cut):
    with pytest.raises(ValueError, match=f"cut {cut} leaves no latents on one side; .* 1 to 3"):
        mixed(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3), cut)
    with pytest.raises(ValueError, match="a single latent"):
        mixed(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))
