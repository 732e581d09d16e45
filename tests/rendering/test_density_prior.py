"""The ball that stands in a scene before anything is learnt."""

import math

import pytest
import torch

from gan3d.rendering import DensityPrior


def along_x(*distances: float) -> torch.Tensor:
    points = torch.zeros(len(distances), 3)
    points[:, 0] = torch.tensor(distances)
    return points


def test_a_ball_adds_its_height_inside_nothing_at_its_surface_and_takes_it_away_outside():
    sigma = torch.full((4, 1), 0.5)
    seen = DensityPrior("ball").added(sigma, along_x(0.0, 0.3, 0.38, 0.9), 1.0)
    inside, step = 4 * math.tanh(0.3 / 0.08), 4 * math.tanh(1.0)
    assert seen.flatten().tolist() == pytest.approx([0.5 + inside, 0.5, 0.5 - step, -3.5], abs=1e-5)


def test_a_ball_is_measured_in_sides_of_the_scene():
    prior = DensityPrior("ball", height=2.0, radius=0.4, softness=0.1)
    sigma = torch.zeros(3, 1)
    points = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) / 4
    assert torch.allclose(prior.added(sigma, 3 * points, 3.0), prior.added(sigma, points, 1.0))


def test_without_a_shape_densities_are_passed_on():
    sigma = torch.randn(3, 1)
    assert DensityPrior().added(sigma, along_x(0.0, 0.1, 0.2), 1.0) is sigma


def test_gradients_are_those_of_finite_differences():
    sigma = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    points = 0.3 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    points.requires_grad_()
    prior = DensityPrior("ball")
    assert torch.autograd.gradcheck(lambda s, x: prior.added(s, x, 1.0), (sigma, points))
    # at the center, where the distance has no gradient, there is one all the same
    center = torch.zeros(1, 3, requires_grad=True)
    prior.added(torch.zeros(1, 1), center, 1.0).sum().backward()
    assert center.grad is not None
    assert center.grad.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": "cube"}, "density_prior.shape 'cube' is unknown; choose none or ball"),
        ({"height": 0.0}, "density_prior has height 0.0.* must be positive"),
        ({"radius": -0.1}, "radius -0.1"),
        ({"softness": 0.0}, "softness 0.0.* set density_prior.shape none"),
    ],
)
def test_impossible_balls_are_refused_with_a_way_out(wrong, message):
    with pytest.raises(ValueError, match=message):
        DensityPrior(**wrong)
