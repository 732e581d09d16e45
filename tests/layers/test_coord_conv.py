"""CoordConv: which coordinates, in which channels, convolved like any other channel."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from gan3d.layers.coord_conv import CoordConv2d, coordinates


def layer(*sizes: int, **options: int) -> CoordConv2d:
    torch.manual_seed(0)
    return CoordConv2d(*sizes, **options).double()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_coordinates_are_row_then_column_from_border_to_border():
    row, column = coordinates(2, 3, dtype=torch.float64)[0]
    assert row.tolist() == [[-1, -1, -1], [1, 1, 1]]
    assert column.tolist() == [[-1, 0, 1], [-1, 0, 1]]


def test_a_single_pixel_is_in_the_middle():
    assert coordinates(1, 1).tolist() == [[[[0]], [[0]]]]


@pytest.mark.parametrize(
    ("channel", "expected"), [(2, [[-1, -1], [1, 1]]), (3, [[-1, 1], [-1, 1]])]
)
def test_coordinates_are_the_channels_behind_those_of_x(channel, expected):
    conv = layer(2, 1, 1)
    torch.nn.init.zeros_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    with torch.no_grad():
        conv.weight[0, channel] = 1
    assert conv(normal(1, 2, 2, 2))[0, 0].tolist() == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("padding", "h", "w"), [(0, 3, 3), (0, 7, 4), (1, 3, 3), (1, 7, 4), (1, 1, 6)]
)
def test_it_is_a_convolution_of_x_and_its_coordinates(stride, padding, h, w):
    conv, x = layer(2, 5, 3, stride=stride, padding=padding), normal(3, 2, h, w)
    joined = torch.cat([x, coordinates(h, w, dtype=x.dtype).expand(3, -1, -1, -1)], dim=1)
    expected = F.conv2d(joined, conv.weight, conv.bias, stride, padding)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def test_parameters_are_those_of_a_convolution_with_two_more_channels():
    shapes = {name: tuple(p.shape) for name, p in layer(2, 5, 3).named_parameters()}
    assert shapes == {"weight": (5, 4, 3, 3), "bias": (5,)}


def test_it_can_be_differentiated_twice():
    conv = layer(2, 3, 3, stride=2, padding=1)
    weight, bias = (p.detach().clone().requires_grad_(True) for p in (conv.weight, conv.bias))

    def run(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    inputs = (normal(2, 2, 5, 4).requires_grad_(True), weight, bias)
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_all_columns_of_a_wide_image_differ_under_autocast():
    conv = CoordConv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1))
        conv.bias.zero_()
    x = torch.zeros(1, 1, 1, 1024)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x.bfloat16())
        exact = conv(x)
    assert y.dtype == torch.bfloat16
    # rounded once, not before the product with the weight
    assert torch.equal(y, coordinates(1, 1024)[:, 1:].bfloat16())
    assert torch.equal(exact, y)


def test_coordinates_are_multiplied_in_full_precision():
    conv = CoordConv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1))
        conv.bias.fill_(-0.75)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(torch.zeros(1, 1, 1, 1024, dtype=torch.bfloat16))
    near = y[0, 0, 0, 880:912]  # x = 0.72 to 0.78, where y is small
    assert len(near.unique()) == 32
