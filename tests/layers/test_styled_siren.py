"""StyledSiren: its equation, and its initialization."""

import math

import torch

from gan3d.layers.styled_siren import StyledSiren


def test_a_latent_sets_gain_and_phase():
    torch.manual_seed(0)
    layer = StyledSiren(3, 5, 4)
    x, w = torch.randn(2, 7, 3), torch.randn(2, 4)
    gain, phase = layer.style(w)
    assert torch.allclose(gain, layer.gain_fc(w))
    linear = x @ layer.linear.weight.T + layer.linear.bias
    expected = torch.sin((15 * gain + 30)[:, None] * linear + phase[:, None])
    assert torch.allclose(layer(x, gain, phase), expected, atol=1e-5)


def test_style_layers_start_with_a_quarter_of_the_usual_weights_and_the_usual_biases():
    torch.manual_seed(0)
    layer = StyledSiren(3, 200, 50)
    usual = 1 / math.sqrt(50)
    for style in (layer.gain_fc, layer.bias_fc):
        assert 0.98 * usual / 4 < style.weight.abs().max() <= usual / 4
        assert 0.9 * usual < style.bias.abs().max() <= usual
