"""ModFC: a hand-computed example, demodulation, activation, initial weights."""

import pytest
import torch

from gan3d.layers.mod_fc import ModFC, leaky_kaiming_


def test_two_points_by_hand():
    layer = ModFC(2, 1, 1, demodulate=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0], [4.0]]))
        layer.modulation.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.modulation.bias.zero_()
    style = layer.style(torch.tensor([[1.0]]))  # 0 + 1 and 1 + 1
    assert style.tolist() == [[1.0, 2.0]]
    out = layer(torch.tensor([[[1.0, 1.0], [2.0, -1.0]]]), style)
    norm = (3.0**2 + 8.0**2) ** 0.5
    assert torch.allclose(out, torch.tensor([[[11 / norm], [-2 / norm]]]))


def test_without_demodulation_the_modulated_product_is_the_result():
    layer = ModFC(5, 4, 3, demodulate=False)
    x, style = torch.randn(2, 6, 5), torch.randn(2, 5)
    expected = torch.stack([(x[k] * style[k]) @ layer.weight for k in range(2)])
    assert torch.allclose(layer(x, style), expected, atol=1e-6)


def test_a_slope_is_a_leaky_relu_without_gain():
    plain, leaky = ModFC(5, 4, 3), ModFC(5, 4, 3, slope=0.2)
    leaky.load_state_dict(plain.state_dict())
    x, style = torch.randn(2, 6, 5), torch.randn(2, 5)
    assert torch.allclose(leaky(x, style), torch.nn.functional.leaky_relu(plain(x, style), 0.2))


def test_demodulation_removes_the_scale_of_styles_and_weights():
    layer = ModFC(16, 8, 4)
    x, style = torch.randn(1, 3, 16), torch.randn(1, 16)
    first = layer(x, style)
    with torch.no_grad():
        layer.weight *= 7
    assert torch.allclose(first, layer(x, 3 * style), atol=1e-5)


@pytest.mark.parametrize(("shape", "fan"), [((400, 100), 100), ((100, 400), 400)])
def test_leaky_kaiming_has_the_deviation_of_its_second_axis(shape, fan):
    torch.manual_seed(0)
    weight = torch.empty(shape)
    leaky_kaiming_(weight)
    assert weight.std().item() == pytest.approx((2 / 1.04 / fan) ** 0.5, rel=0.02)
