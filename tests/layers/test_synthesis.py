"""Synthesis layers, blocks and networks: noise, latents, architectures."""

import pytest
import torch
from torch import Tensor

from gan3d.layers.synthesis import (
    SynthesisBlock,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGB,
    block_resolutions,
    channels_at,
)
from gan3d.ops.resample import setup_filter, upsample2d
from gan3d.randomness import Randomness

ARCHITECTURES = pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(10))
W = torch.randn(3, 8, generator=torch.Generator().manual_seed(11))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_with_noise(strength: float = 0.5, **options) -> SynthesisLayer:
    """A linear layer, so that the effect of noise is additive."""
    torch.manual_seed(0)
    options = {"activation": "linear", **options}
    layer = SynthesisLayer(4, 6, w_dim=8, resolution=8, **options).requires_grad_(False)
    layer.noise_strength.fill_(strength)
    return layer


def block_of(*channels: int, resolution: int = 16, **options) -> SynthesisBlock:
    torch.manual_seed(0)
    options |= {"w_dim": 8, "resolution": resolution, "img_channels": 3}
    return SynthesisBlock(*channels, **options).requires_grad_(False)


def network(architecture="skip", img_resolution: int = 16, **options) -> SynthesisNetwork:
    torch.manual_seed(0)
    options |= {"channel_base": 64, "channel_max": 8, "architecture": architecture}
    return SynthesisNetwork(8, img_resolution, 3, **options).requires_grad_(False)


# -- Noise -----------------------------------------------------------------------------------------


def added(layer: SynthesisLayer, **noise) -> Tensor:
    """The effect of noise on a linear layer, [b h w], which is the same in all channels."""
    difference = layer(X, W, **noise) - layer(X, W, noise="none")
    first = difference[:, :1].expand_as(difference)
    torch.testing.assert_close(difference, first, atol=1e-5, rtol=0)
    return difference[:, 0]


def test_constant_noise_is_the_buffer_times_its_strength():
    layer = layer_with_noise(0.5)
    expected = (0.5 * layer.noise_const).expand(3, 8, 8)
    torch.testing.assert_close(added(layer, noise="const"), expected, atol=1e-5, rtol=0)


def test_random_noise_is_the_draw_of_each_image_times_its_strength():
    layer, randomness = layer_with_noise(2.0, noise_name="mine"), Randomness(1, [10, 11, 12])
    expected = 2 * randomness.normal("mine", 1, 8, 8)[:, 0]
    actual = added(layer, noise="random", randomness=randomness)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    other = added(layer_with_noise(2.0, noise_name="yours"), randomness=randomness)
    assert (other - expected).abs().mean() > 1


def test_noise_is_random_with_a_randomness_and_constant_without():
    layer, randomness = layer_with_noise(), Randomness(1, [10, 11, 12])
    constant = layer(X, W)
    random = layer(X, W, randomness=randomness)
    assert torch.equal(constant, layer(X, W, noise="const"))
    assert torch.equal(random, layer(X, W, noise="random", randomness=randomness))
    assert (constant - random).abs().mean() > 0.1


def test_random_noise_without_a_randomness_is_refused():
    with pytest.raises(ValueError, match="give randomness"):
        layer_with_noise()(X, W, noise="random")


def test_a_new_layer_has_noise_of_strength_zero():
    layer = SynthesisLayer(4, 6, w_dim=8, resolution=8)
    torch.testing.assert_close(layer(X, W, noise="const"), layer(X, W, noise="none"))


def test_every_layer_of_a_network_draws_its_own_noise():
    layers = [module for module in network().modules() if isinstance(module, SynthesisLayer)]
    names = [layer.noise_name for layer in layers]
    assert len(names) == 5
    assert len(set(names)) == 5


# -- Layers ----------------------------------------------------------------------------------------


def test_a_new_layer_styles_all_channels_by_one_where_w_is_zero():
    layer = SynthesisLayer(4, 6, w_dim=8, resolution=8)
    assert torch.equal(layer.affine(torch.zeros(1, 8)), torch.ones(1, 4))


def test_gain_multiplies_output_and_clamp():
    layer = layer_with_noise(activation="lrelu", conv_clamp=0.5)
    torch.testing.assert_close(layer(3 * X, W, gain=0.5), 0.5 * layer(3 * X, W))
    assert layer(3 * X, W).abs().max() == 0.5


def test_a_feature_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match="resolution 8 got"):
        layer_with_noise()(normal(3, 4, 16, 16), W)


def test_image_channels_are_linear_in_the_features():
    torch.manual_seed(0)
    torgb = ToRGB(4, 3, w_dim=8)
    torch.testing.assert_close(torgb(2 * X, W), 2 * torgb(X, W), atol=1e-5, rtol=1e-5)
    assert ToRGB(4, 3, w_dim=8, conv_clamp=0.1)(X, W).abs().max() <= 0.1


# -- Blocks ----------------------------------------------------------------------------------------


@ARCHITECTURES
def test_blocks_double_the_resolution(architecture):
    block = block_of(4, 6, architecture=architecture)
    x, img = block(X, normal(3, 3, 8, 8), normal(3, block.num_ws, 8))
    assert x.shape == (3, 6, 16, 16)
    assert img.shape == (3, 3, 16, 16)


def test_a_block_may_keep_the_resolution():
    block, before, ws = block_of(4, 6, resolution=8, up=1), normal(3, 3, 8, 8), normal(3, 3, 8)
    x, img = block(X, before, ws)
    assert x.shape == (3, 6, 8, 8)
    torch.testing.assert_close(img - before, block.torgb(x, ws[:, 2]), atol=1e-5, rtol=1e-5)


def test_a_skip_block_adds_its_image_to_the_upsampled_input_without_modifying_it():
    block, before, ws = block_of(4, 6), normal(3, 3, 8, 8), normal(3, 3, 8)
    kept = before.clone()
    features, img = block(X, before, ws)
    expected = upsample2d(before, setup_filter([1, 3, 3, 1])) + block.torgb(features, ws[:, 2])
    torch.testing.assert_close(img, expected)
    assert torch.equal(before, kept)


def test_the_first_block_starts_from_its_constant():
    block, ws = block_of(0, 6, resolution=4), normal(1, 2, 8).expand(3, 2, 8)
    x, img = block(None, None, ws)
    torch.testing.assert_close(x, block.conv1(block.const.expand(3, 6, 4, 4), ws[:, 0]))
    torch.testing.assert_close(img, block.torgb(x, ws[:, 1]))


def test_a_block_takes_as_many_latents_as_it_has_layers():
    with pytest.raises(ValueError, match=r"expected \[b 3 w\]"):
        block_of(4, 6)(X, None, normal(3, 2, 8))


# -- Networks --------------------------------------------------------------------------------------


@ARCHITECTURES
@pytest.mark.parametrize("img_resolution", [4, 8, 32])
def test_networks_use_every_latent(architecture, img_resolution):
    net = network(architecture, img_resolution)
    ws = normal(2, net.num_ws, 8).requires_grad_()
    image = net(ws, noise="none")
    assert image.shape == (2, 3, img_resolution, img_resolution)
    (gradient,) = torch.autograd.grad(image.square().sum(), ws)
    assert (gradient.abs().sum(dim=(0, 2)) > 0).all()


def test_the_image_layer_of_a_block_shares_its_latent_with_the_next_block():
    """8 px: b4 takes slots 0 (conv1) and 1 (torgb), b8 takes 1 (conv0), 2 (conv1) and 3 (torgb)."""
    net, ws = network(img_resolution=8), normal(2, 4, 8)
    x, img = net.b4(None, None, ws[:, [0, 1]])
    _, img = net.b8(x, img, ws[:, [1, 2, 3]])
    torch.testing.assert_close(net(ws), img)


def test_images_of_a_batch_are_independent():
    net, ws = network(), normal(3, 6, 8)
    torch.testing.assert_close(net(ws)[1:2], net(ws[1:2]), atol=1e-5, rtol=1e-5)


@ARCHITECTURES
def test_gradients_of_gradients_reach_every_weight(architecture):
    net = network(architecture).requires_grad_()
    ws = normal(2, net.num_ws, 8).requires_grad_()
    image = net(ws, noise="const")
    value = (image * normal(*image.shape, seed=1)).sum()
    (gradient,) = torch.autograd.grad(value, ws, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        if name.endswith("weight"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 6, 7), (2, 48)])
def test_latents_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[b 6 8\]"):
        network()(normal(*shape))


def test_resolutions_double_and_channels_halve():
    assert block_resolutions(32) == [4, 8, 16, 32]
    assert [channels_at(side, 1024, 64) for side in (4, 16, 32, 64)] == [64, 64, 32, 16]


@pytest.mark.parametrize("resolution", [2, 48, 100])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"{resolution}.*power of two"):
        block_resolutions(resolution)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="choose skip, resnet or orig"):
        network("residual")


def test_a_network_without_noise_has_no_noise_tensors_and_draws_none():
    net = network(use_noise=False)
    assert not [name for name in net.state_dict() if "noise" in name]
    ws = normal(2, 6, 8)
    assert torch.equal(net(ws), net(ws, randomness=Randomness(0, [0, 1])))


@ARCHITECTURES
def test_the_image_keeps_full_precision_under_autocast(architecture):
    net, ws = network(architecture), normal(2, 6, 8)
    exact = net(ws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = net(ws)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, exact, atol=0.05 * exact.abs().max().item(), rtol=0)
    assert not torch.equal(image, exact)


@pytest.mark.parametrize("fused", [True, False, None])
def test_memory_layout_does_not_change_the_image(fused):
    net, ws = network(fused=fused), normal(2, 6, 8)
    expected = net(ws)
    actual = net.to(memory_format=torch.channels_last)(ws)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
