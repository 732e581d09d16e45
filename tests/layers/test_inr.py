"""The INR: independent pixels, residuals and colors, memory of the activations, derivatives."""

import pytest
import torch

from gan3d.layers.inr import BLOCKS, INRBlock, INRNetwork


def network(**options) -> INRNetwork:
    torch.manual_seed(0)
    return INRNetwork(6, 12, 5, **options).double()


def styles(inr: INRNetwork, b: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return inr.styles([torch.randn(b, 5, generator=generator).double() for _ in inr.latent_names])


def test_a_pixel_does_not_depend_on_the_others():
    inr, x = network(), torch.randn(2, 40, 6).double()
    whole = inr(x, styles(inr))
    assert torch.allclose(whole[:, 7:9], inr(x[:, 7:9], styles(inr)), atol=1e-13)


def test_eighteen_layers_take_a_latent_each():
    inr = network()
    assert inr.latent_names[:3] == ("inr_w4_0", "inr_w4_1", "inr_w8_0")
    assert len(inr.latent_names) == len(styles(inr)) == 18
    with pytest.raises(ValueError, match=r"zip\(\)"):
        inr.styles([torch.zeros(1, 5).double()] * 17)


def test_residuals_begin_at_block_64_and_colors_at_block_32():
    inr = network()
    residual = [name for name in BLOCKS if inr.network[name].residual]
    assert residual == ["64", "128", "256", "512", "1024"]
    assert list(inr.to_rgbs) == ["32", "64", "128", "256", "512", "1024"]


def test_a_residual_block_adds_its_input_where_widths_agree():
    w = torch.randn(2, 5)
    for width, adds in ((8, 1.0), (7, 0.0)):
        block = INRBlock(width, 8, 5, residual=True)
        x, s = torch.randn(2, 3, width), (block.mod1.style(w), block.mod2.style(w))
        plain = torch.nn.functional.leaky_relu(block.mod2(block.mod1(x, s[0]), s[1]), 1.0)
        assert torch.allclose(block(x, s), plain + adds * x if adds else plain, atol=1e-6)


@pytest.mark.parametrize("pre_rgb_dim", [3, 5])
def test_the_color_is_tanh_of_the_summed_colors_of_the_blocks(pre_rgb_dim):
    inr, x = network(pre_rgb_dim=pre_rgb_dim), torch.randn(2, 4, 6).double()
    assert (inr.to_image is None) == (pre_rgb_dim == 3)
    s, h, total = styles(inr), x, torch.zeros(2, 4, pre_rgb_dim).double()
    for k, name in enumerate(BLOCKS):
        h = inr.network[name](h, s[2 * k : 2 * k + 2])
        if k >= 3:
            total = total + inr.to_rgbs[name](h)
    expected = torch.tanh(total if inr.to_image is None else inr.to_image(total))
    assert torch.allclose(inr(x, s), expected)
    with pytest.raises(ValueError, match="pre_rgb_dim 2"):
        network(pre_rgb_dim=2)


def test_backward_keeps_few_numbers_per_pixel():
    # Needed are the results of 18 layers, the input, and the residual sums; activations are in
    # place.
    inr = INRNetwork(16, 16, 5)
    x = torch.randn(1, 4000, 16, requires_grad=True)
    s = tuple(v.detach() for v in inr.styles([torch.randn(1, 5)] * 18))
    kept: dict[int, int] = {}

    def pack(tensor):
        if 4000 in tensor.shape:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        inr(x, s)
    assert sum(kept.values()) / 4000 / 4 <= 25 * 16


def test_first_and_second_derivatives_are_right():
    inr = INRNetwork(2, 3, 2).double()
    torch.manual_seed(2)
    x = torch.randn(1, 2, 2).double().requires_grad_()
    w = torch.randn(1, 2).double().requires_grad_()

    def colors(x, w):
        return inr(x, inr.styles([w] * 18))

    assert torch.autograd.gradcheck(colors, (x, w))
    assert torch.autograd.gradgradcheck(colors, (x, w))


def test_colors_are_summed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    inr = INRNetwork(16, 16, 5)
    x, latents = torch.randn(1, 400, 16), [torch.randn(1, 5)] * 18
    styles = inr.styles(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        colors = inr(x, styles)
    assert colors.dtype == torch.float32
    assert not torch.equal(colors, colors.bfloat16().float())
