"""The mapping network of pi-GAN and GRAM: its layers, initialization, precision."""

import math

import pytest
import torch
from torch import nn

from gan3d.layers.film_mapping import FiLMMapping


def test_one_number_goes_through_by_hand():
    mapping = FiLMMapping(1, 1, hidden_dim=1, hidden_layers=2)
    with torch.no_grad():
        for i, (weight, bias) in zip((0, 2, 4), ((2.0, -3.0), (-1.0, 1.0), (5.0, 0.5))):
            mapping.network[i].weight.fill_(weight)
            mapping.network[i].bias.fill_(bias)
    # 1 -> 2 - 3 = -1 -> -0.2 -> 0.2 + 1 = 1.2 -> 6 + 0.5;   4 -> 5 -> 5 -> -4 -> -0.8 -> -4 + 0.5
    torch.testing.assert_close(mapping(torch.tensor([[1.0], [4.0]])), torch.tensor([[6.5], [-3.5]]))


def test_linear_layers_have_their_published_names():
    mapping = FiLMMapping(8, 216)
    shapes = {name: tuple(p.shape) for name, p in mapping.named_parameters()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "network.0.weight": (256, 8),
        "network.2.weight": (256, 256),
        "network.4.weight": (256, 256),
        "network.6.weight": (216, 256),
    }
    assert isinstance(mapping.network[-1], nn.Linear)


@pytest.mark.parametrize("last_scale", [0.25, 1.0])
def test_weights_start_normal_and_the_last_one_scaled(last_scale):
    torch.manual_seed(0)
    mapping = FiLMMapping(64, 512, last_scale=last_scale)
    for i, scale in ((0, 1.0), (2, 1.0), (4, 1.0), (6, last_scale)):
        layer = mapping.network[i]
        expected = scale * math.sqrt(2 / 1.04 / layer.in_features)
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert layer.weight.abs().max() > 3 * expected, "not normal"
        limit = 1 / math.sqrt(layer.in_features)
        assert 0.95 * limit < layer.bias.abs().max() <= limit


def test_the_length_of_z_matters():
    torch.manual_seed(0)
    mapping, z = FiLMMapping(4, 6), torch.randn(2, 4)
    assert (mapping(z) - mapping(2 * z)).abs().max() > 0.01


def test_autocast_does_not_lower_its_precision():
    torch.manual_seed(0)
    mapping, z = FiLMMapping(4, 6), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = mapping(z)
    assert lowered.dtype == torch.float32
    assert torch.equal(lowered, mapping(z))


def test_a_wrong_z_and_no_hidden_layers_are_refused():
    with pytest.raises(ValueError, match=r"z has shape \(4,\); expected \[b 4\]"):
        FiLMMapping(4, 6)(torch.zeros(4))
    with pytest.raises(ValueError, match="hidden_layers 0 is not positive"):
        FiLMMapping(4, 6, hidden_layers=0)
