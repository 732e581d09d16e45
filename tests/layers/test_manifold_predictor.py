"""The manifold predictor: its values, initialization and units."""

import math

import pytest
import torch

from gan3d.layers.manifold_predictor import ManifoldPredictor


def predictor(**changes) -> ManifoldPredictor:
    torch.manual_seed(0)
    return ManifoldPredictor(**{"width": 16, "num_layers": 2, **changes})


def points(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, 3, generator=torch.Generator().manual_seed(1))


def test_one_hidden_unit_by_hand():
    network = predictor(width=1, num_layers=1, center=(0.5, 0.0, 0.0), extent=2.0)
    with torch.no_grad():
        network.network[0].weight.copy_(torch.tensor([[2.0, 0.0, 1.0]]))
        network.network[0].bias.fill_(0.25)
        network.output_layer.weight.fill_(3.0)
        network.output_layer.bias.fill_(-1.0)
    at = torch.tensor([[0.75, 9.0, 0.5], [-0.75, 0.0, 0.0]])
    assert network(at).tolist() == pytest.approx([3 * (2 * 0.25 + 0.5 + 0.25) - 1, -1.0])


def test_starts_as_a_cone_around_its_center_lowered_by_the_radius():
    network, rays = predictor(center=(0.1, -0.2, -1.5), init_radius=0.7, extent=0.5), points(20)
    center = 0.25 * torch.tensor([0.1, -0.2, -1.5])
    height = network(center + rays) + 0.7
    assert torch.allclose(network(center), torch.tensor(-0.7))
    assert torch.allclose(network(center + 3 * rays) + 0.7, 3 * height, rtol=1e-4)
    assert (height > 0).all()


def test_starts_with_a_slope_near_ten_when_wide():
    away = torch.nn.functional.normalize(points(500), dim=-1)
    slopes = torch.stack([predictor(width=512, num_layers=3, center=(0, 0, 0), extent=2.0)(away)])
    assert 9 < slopes.mean() < 11


def test_initial_weights_are_normal_and_the_output_is_constant():
    network = predictor(width=256, num_layers=3)
    for layer in network.network[::2]:
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.1)
        assert (layer.bias == 0).all()
    assert torch.allclose(network.output_layer.weight, torch.tensor(10 * math.sqrt(math.pi / 256)))


def test_points_are_measured_in_extents():
    small, large = predictor(extent=0.24), predictor(extent=2.4)
    assert torch.allclose(small(points(7)), large(10 * points(7)), rtol=1e-4)


def test_autocast_does_not_lower_its_precision():
    network = predictor()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = network(points(9))
    assert torch.equal(lowered, network(points(9)))


def test_published_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in ManifoldPredictor().parameters()) == 33_665


@pytest.mark.parametrize("wrong", [{"num_layers": 0}, {"center": (0.0, 1.0)}])
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 1 or more layers, and 3 numbers"):
        predictor(**wrong)
