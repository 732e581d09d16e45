"""The radiance generator against its equations, layer by layer."""

import math

import pytest
import torch
from torch import Tensor

from gan3d.layers.manifold_radiance import ManifoldRadiance


def radiance(**changes) -> ManifoldRadiance:
    torch.manual_seed(0)
    return ManifoldRadiance(**{"hidden_dim": 6, "feature_dim": 2, **changes}).double()


def inputs(p: int = 5, hidden_dim: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    options = {"generator": torch.Generator().manual_seed(1), "dtype": torch.float64}
    points = torch.randn(2, p, 3, **options)
    directions = torch.randn(2, p, 3, **options)
    ws = torch.randn(2, 9, 2 * hidden_dim, **options)
    return 0.08 * points, torch.nn.functional.normalize(directions, dim=-1), 0.3 * ws


def equations(
    network: ManifoldRadiance, points: Tensor, directions: Tensor, ws: Tensor
) -> tuple[Tensor, ...]:
    """(rgb, sigma, features) before activations, one layer and one head at a time."""

    def film(layer, x: Tensor, w: Tensor) -> Tensor:
        gain, phase = w[:, None, : w.shape[1] // 2], w[:, None, w.shape[1] // 2 :]
        return torch.sin((15 * gain + 30) * (x @ layer.weight.T + layer.bias) + phase)

    x = points * 2 / network.extent
    layers = []
    for i, layer in enumerate(network.network):
        x = film(layer, x, ws[:, i])
        layers.append(x)
    colored = film(network.color_layer, torch.cat([directions, layers[-1]], -1), ws[:, 8])
    rgb_inputs = [*layers[1:-1], colored]
    rgb = sum(head(x) for head, x in zip(network.output_color, rgb_inputs, strict=True))
    sigma = sum(head(x) for head, x in zip(network.output_sigma, layers[1:], strict=True))
    features = sum(head(x) for head, x in zip(network.output_feature, layers[1:], strict=True))
    return rgb, sigma, features


@pytest.mark.parametrize("color", ["widen_sigmoid", "sigmoid"])
@pytest.mark.parametrize("density", ["softplus", "relu"])
def test_agrees_with_its_equations(color, density):
    network = radiance(color_activation=color, density_activation=density, extent=0.5)
    rgb, sigma, features = equations(network, *inputs())
    sample = network(*inputs(), features=True)
    expected_rgb = rgb.sigmoid() if color == "sigmoid" else 1.002 * rgb.sigmoid() - 0.001
    expected_sigma = sigma.clamp(min=0) if density == "relu" else sigma.exp().log1p()
    assert torch.allclose(sample.rgb, expected_rgb)
    assert torch.allclose(sample.sigma, expected_sigma)
    assert torch.allclose(sample.features, features)


def test_quantities_that_are_not_requested_are_none_and_the_others_are_unchanged():
    network = radiance()
    whole = network(*inputs(), features=True)
    plain = network(*inputs())
    color = network(*inputs(), sigma=False)
    both = network(*inputs(), sigma=False, features=True)
    assert plain.features is None
    assert color.sigma is None
    assert color.features is None
    assert both.sigma is None
    for sample in (plain, color, both):
        assert torch.allclose(sample.rgb, whole.rgb)
    assert torch.allclose(plain.sigma, whole.sigma)
    assert torch.allclose(both.features, whole.features)


def test_only_the_color_depends_on_the_view_direction():
    network, (points, directions, ws) = radiance(), inputs()
    one, other = (network(points, d, ws, features=True) for d in (directions, -directions))
    assert not torch.allclose(one.rgb, other.rgb, atol=1e-3)
    assert torch.equal(one.sigma, other.sigma)
    assert torch.equal(one.features, other.features)


def test_every_scene_has_its_own_latents():
    network, tensors = radiance(), inputs()
    together, alone = network(*tensors), network(*(tensor[1:] for tensor in tensors))
    assert torch.allclose(together.rgb[1:], alone.rgb)
    assert torch.allclose(together.sigma[1:], alone.sigma)


def test_first_and_second_derivatives_are_right():
    network = radiance(hidden_dim=2, feature_dim=1)
    tensors = [tensor.clone().requires_grad_() for tensor in inputs(1, 2)[:2]]
    ws = inputs(1, 2)[2].requires_grad_()

    def function(points: Tensor, directions: Tensor, ws: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(points / 20, directions, ws, features=True))

    assert torch.autograd.gradcheck(function, (*tensors, ws))
    assert torch.autograd.gradgradcheck(function, (*tensors, ws), atol=1e-4)


def test_initial_weights_are_those_of_a_siren():
    torch.manual_seed(0)
    network = ManifoldRadiance(256, 32)
    limit = math.sqrt(6 / 256) / 25
    assert 0.98 / 3 < network.network[0].weight.abs().max() <= 1 / 3
    heads = [*network.output_sigma, *network.output_color, *network.output_feature]
    for layer in (*network.network[1:], *heads):
        assert 0.9 * limit < layer.weight.abs().max() <= limit
    color_limit = math.sqrt(6 / 259) / 25
    assert 0.9 * color_limit < network.color_layer.weight.abs().max() <= color_limit


def test_published_sizes():
    with torch.device("meta"):
        network = ManifoldRadiance(256, 32)
    assert sum(p.numel() for p in network.parameters()) == 535_324 + 57_568
    assert sum(p.numel() for p in network.output_feature.parameters()) == 57_568


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"color_activation": "tanh"}, "choose widen_sigmoid or sigmoid"),
        ({"density_activation": "exp"}, "choose softplus or relu"),
    ],
)
def test_unknown_activations_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        radiance(**wrong)


def test_latents_of_another_shape_and_missing_features_are_refused():
    network, (points, directions, ws) = radiance(feature_dim=0), inputs()
    with pytest.raises(ValueError, match=r"expected \[2 9 12\]"):
        network(points, directions, ws[:, :8])
    with pytest.raises(ValueError, match="feature_dim > 0"):
        network(points, directions, ws, features=True)
