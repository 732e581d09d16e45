"""The equalized convolution: scale of its output, sizes, clamp, frozen layers."""

import pytest
import torch
from torch import nn

from gan3d.layers.convolution import EqualizedConv2d


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("channels", [8, 64])
def test_unit_variance_in_unit_variance_out(channels, kernel_size):
    torch.manual_seed(0)
    y = EqualizedConv2d(channels, 200, kernel_size)(torch.randn(16, channels, 10, 10))
    assert y[:, :, 1:-1, 1:-1].var().item() == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("options", "side"), [({}, 8), ({"up": 2}, 16), ({"down": 2}, 4)])
def test_resampling_changes_the_size_by_its_factor(options, side, kernel_size):
    layer = EqualizedConv2d(3, 5, kernel_size, **options)
    assert layer(torch.randn(2, 3, 8, 8)).shape == (2, 5, side, side)


def test_gain_multiplies_output_and_clamp():
    torch.manual_seed(0)
    layer = EqualizedConv2d(3, 5, 3, activation="lrelu", conv_clamp=0.5)
    x = 3 * torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(layer(x, gain=0.5), 0.5 * layer(x))
    assert layer(x).abs().max() == 0.5
    assert layer(x, gain=0.5).abs().max() == 0.25


@pytest.mark.parametrize("bias", [True, False])
def test_frozen_layers_keep_their_names_but_have_no_parameter(bias):
    free = EqualizedConv2d(3, 5, 3, bias=bias, trainable=True)
    frozen = EqualizedConv2d(3, 5, 3, bias=bias, trainable=False)
    assert list(free.state_dict().keys() ^ frozen.state_dict().keys()) == []
    assert not list(frozen.parameters())
    frozen.load_state_dict(free.state_dict())
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(free(x), frozen(x))


def test_a_frozen_layer_passes_gradients_to_its_input():
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    nn.Sequential(EqualizedConv2d(3, 5, 3, trainable=False)).requires_grad_()(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size 4 is even"):
        EqualizedConv2d(3, 5, 4)
