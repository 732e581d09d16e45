"""Super-resolution of manifolds: modulation by hand, independent maps, initialization, sizes."""

import pytest
import torch
import torch.nn.functional as F

import gan3d.layers.manifold_superresolution as module
from gan3d.layers.manifold_superresolution import (
    BackgroundSuperResolution,
    ForegroundSuperResolution,
    ModulatedConv2d,
    conv_shuffle,
    interpolate,
    upsampling_channels,
)

SMALL = {"channels": 6, "num_blocks": 1, "growth": 2}


def foreground(scale: int = 4, **changes) -> ForegroundSuperResolution:
    torch.manual_seed(0)
    return ForegroundSuperResolution(5, 4, 3, scale, **SMALL, mapping_hidden_dim=8, **changes)


def background(scale: int = 4, **changes) -> BackgroundSuperResolution:
    torch.manual_seed(0)
    network = BackgroundSuperResolution(3, 3, scale, **SMALL, **changes)
    with torch.no_grad():
        for parameter in network.conv_last.parameters():
            parameter.normal_()
    return network


# -- Modulated convolution -------------------------------------------------------------------------


def test_modulation_and_demodulation_by_hand():
    conv = ModulatedConv2d(2, 1, 1)
    with torch.no_grad():
        conv.weight[0, :, 0, 0] = torch.tensor([3.0, -1.0])
        conv.bias.fill_(0.5)
    style = torch.tensor([1.0, 4.0])  # kernel (3, -4) / 5
    y = conv(torch.tensor([10.0, 5.0]).reshape(1, 2, 1, 1), style)
    assert y.item() == pytest.approx((3 * 10 - 4 * 5) / 5 + 0.5)


def test_a_kernel_has_norm_one_for_any_scale_of_its_style():
    conv, style = ModulatedConv2d(3, 4), torch.tensor([1.0, -2.0, 0.5])
    norms = conv.kernel(style).square().sum((1, 2, 3))
    torch.testing.assert_close(norms, torch.ones(4), rtol=1e-5, atol=0)
    torch.testing.assert_close(conv.kernel(10 * style), conv.kernel(style), rtol=1e-5, atol=1e-6)


def test_modulated_convolution_first_and_second_derivatives():
    torch.manual_seed(0)
    conv = ModulatedConv2d(2, 2, 3).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    style = torch.randn(2, dtype=torch.float64, requires_grad=True)
    inputs = (x, style, conv.weight, conv.bias)
    assert torch.autograd.gradcheck(lambda x, style, *_: conv(x, style), inputs)
    assert torch.autograd.gradgradcheck(lambda x, style, *_: conv(x, style), inputs)


def test_conv_shuffle_is_a_convolution_then_a_pixel_shuffle():
    x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(8, 3, 3, 3), torch.randn(8)
    for order in (torch.contiguous_format, torch.channels_last):
        actual = conv_shuffle(x.contiguous(memory_format=order), weight, bias)
        torch.testing.assert_close(actual, F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2))


# -- Foreground ------------------------------------------------------------------------------------


def test_every_map_is_enlarged_independently_with_the_style_of_its_image():
    network = foreground()
    maps, styles = torch.randn(2, 3, 5, 6, 6), network.map(torch.randn(2, 3))
    with torch.no_grad():
        fine = network(maps, styles)
        alone = network(maps[1:, 2:], styles[1:])
        restyled = network(maps, styles.flip(0))
    assert fine.shape == (2, 3, 4, 24, 24)
    torch.testing.assert_close(fine[1:, 2:], alone)
    assert (restyled - fine).abs().amax((1, 2, 3, 4)).min() > 1e-3


@pytest.mark.parametrize("pixels", [1, 36 * 2, 36 * 100])
def test_the_size_of_chunks_makes_no_difference(pixels, monkeypatch):
    network = foreground()
    maps, styles = torch.randn(2, 5, 5, 6, 6), network.map(torch.randn(2, 3))
    expected = network(maps, styles)
    monkeypatch.setitem(module.PIXELS_AT_ONCE, "cpu", pixels)
    torch.testing.assert_close(network(maps, styles), expected)


def test_styles_are_split_in_the_order_of_the_convolutions():
    network = foreground(up_channels=(4, 2))
    assert network.style_dims == [6, 4, 2, 2]
    maps, styles = torch.randn(1, 1, 5, 4, 4), torch.rand(1, 14) + 0.5
    x = network.trunk(maps[0])
    parts = dict(zip(("up0", "up1", "middle", "last"), styles[0].split([6, 4, 2, 2])))
    for conv, name in zip(network.upconvs, ("up0", "up1")):
        x = F.leaky_relu(F.pixel_shuffle(conv(x, parts[name]), 2), 0.2)
    x = network.conv_last(F.leaky_relu(network.HRconv(x, parts["middle"]), 0.2), parts["last"])
    torch.testing.assert_close(network(maps, styles)[0], x)


def test_an_affine_style_is_a_linear_layer():
    network = foreground(style="affine")
    z = torch.randn(2, 3)
    torch.testing.assert_close(network.map(z), z @ network.affine.weight.T + network.affine.bias)


def test_without_styles_the_convolutions_are_plain():
    network = foreground(2, style="none")
    maps, z = torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3)
    x = network.trunk(maps[1])
    conv = network.upconvs[0]
    x = F.leaky_relu(F.pixel_shuffle(F.conv2d(x, conv.weight, conv.bias, padding=1), 2), 0.2)
    for conv in (network.HRconv, network.conv_last):
        last = conv is network.conv_last
        x = F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)
        x = x if last else F.leaky_relu(x, 0.2)
    assert network.map(z).shape == (2, 0)
    torch.testing.assert_close(network(maps, network.map(z))[1], x)


def test_the_foreground_can_interpolate_in_place_of_shuffling():
    network = foreground(2, upsampling="bilinear")
    maps, styles = torch.randn(1, 1, 5, 4, 4), torch.rand(1, network.style_dim) + 0.5
    up, middle, last = styles[0].split(network.style_dims)
    x = F.leaky_relu(network.upconvs[0](network.trunk(maps[0]), up), 0.2)
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    x = network.conv_last(F.leaky_relu(network.HRconv(x, middle), 0.2), last)
    torch.testing.assert_close(network(maps, styles)[0], x)


@pytest.mark.parametrize("network", [foreground, background])
def test_checkpointing_changes_no_gradient_and_stores_less(network):
    def run(checkpointing: bool):
        kept: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        net = network(checkpointing=checkpointing)
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(2, 3, net.conv_first.in_channels, 4, 4, generator=generator)]
        if network is foreground:
            inputs.append(torch.linspace(0.5, 1.5, 2 * net.style_dim).reshape(2, -1))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(*inputs).square().mean()
        forward = sum(kept)
        loss.backward()
        return forward, [p.grad for p in net.parameters() if p.grad is not None]

    plain, expected = run(False)
    less, gradients = run(True)
    assert less < plain / 2
    torch.testing.assert_close(gradients, expected)


def test_foreground_derivatives():
    network = foreground(2).double()
    maps = torch.randn(1, 2, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    styles = network.map(torch.randn(1, 3, dtype=torch.float64)).detach().requires_grad_(True)
    assert torch.autograd.gradcheck(network, (maps, styles))


# -- Background ------------------------------------------------------------------------------------


def test_the_background_starts_as_a_bicubic_interpolation():
    network, maps = BackgroundSuperResolution(3, 3, 4, **SMALL), torch.randn(2, 1, 3, 5, 5)
    fine = network(maps)
    assert fine.shape == (2, 1, 3, 20, 20)
    expected = F.interpolate(maps[:, 0], scale_factor=4, mode="bicubic")
    torch.testing.assert_close(fine[:, 0], expected)


@pytest.mark.parametrize("upsampling", ["shuffle", "bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("residual", [True, False])
def test_background_layers_have_the_published_order(upsampling, residual):
    network = background(2, upsampling=upsampling, residual=residual)
    maps = torch.randn(1, 1, 3, 4, 4)
    x, conv = network.trunk(maps[0]), network.upconvs[0]
    if upsampling == "shuffle":
        x = F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.2)
    else:
        x = interpolate(F.leaky_relu(conv(x), 0.2), 2, upsampling)
    x = network.conv_last(F.leaky_relu(network.HRconv(x), 0.2))
    expected = F.interpolate(maps[0], scale_factor=2, mode="bicubic") + 0.2 * x if residual else x
    torch.testing.assert_close(network(maps)[0], expected)


# -- Sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "fg", "bg"),
    [(4, 6_408_900, 2_981_923), (8, 6_454_948, 2_979_187), (16, 6_466_452, 2_978_395)],
)
def test_parameter_counts_are_the_published_ones(scale, fg, bg):
    doublings = scale.bit_length() - 1
    front_widths, behind_widths = (64, 64, 32, 16), (64, 32, 16, 8)
    with torch.device("meta"):
        front = ForegroundSuperResolution(scale=scale, up_channels=front_widths[:doublings])
        behind = BackgroundSuperResolution(scale=scale, up_channels=behind_widths[:doublings])
    assert front.style_dim == 256
    assert sum(p.numel() for p in front.parameters()) == fg
    assert sum(p.numel() for p in behind.parameters()) == bg


def test_default_widths_are_the_published_default():
    assert upsampling_channels(64, 1) == ()
    assert upsampling_channels(64, 4) == (64, 64)
    assert upsampling_channels(64, 16) == (64, 64, 32, 32)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="scale 6 is not a power of two"):
        foreground(6)
    with pytest.raises(ValueError, match="has 1 widths; scale 4 needs 2"):
        foreground(4, up_channels=(8,))
    with pytest.raises(ValueError, match="style 'linear' is unknown"):
        foreground(style="linear")
    with pytest.raises(ValueError, match="upsampling 'sinc' is unknown"):
        background(upsampling="sinc")
    with pytest.raises(ValueError, match=r"not \[b k c h w\]"):
        foreground()(torch.zeros(2, 5, 4, 4), torch.zeros(2, 24))
    with pytest.raises(ValueError, match=r"expected \[b k c h w\]"):
        background()(torch.zeros(2, 3, 4, 4))
