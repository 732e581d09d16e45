"""Modulated convolution: its definition image by image, its two forms, its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.layers.modulated import demodulation, demodulation_reference, modulated_conv2d
from gan3d.ops.resample import setup_filter

BINOMIAL = setup_filter([1, 3, 3, 1])
FORMS = pytest.mark.parametrize("fused", [True, False])


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@FORMS
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("demodulate", [True, False])
def test_each_image_is_convolved_with_its_own_weights(fused, k, demodulate):
    x, weight, styles = noise(3, 4, 5, 7), noise(6, 4, k, k, seed=1), noise(3, 4, seed=2)
    y = modulated_conv2d(x, weight, styles, padding=k // 2, demodulate=demodulate, fused=fused)
    for image, style, got in zip(x, styles, y):
        own = weight * style[:, None, None]
        if demodulate:
            own = own / (own.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(got, F.conv2d(image[None], own, padding=k // 2)[0])


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_grouped_and_scaled_form_agree_in_values_and_gradients(b, up, demodulate):
    results = []
    for fused in (True, False, None):
        x = noise(b, 4, 5, 5).requires_grad_()
        weight = noise(6, 4, 3, 3, seed=1).requires_grad_()
        styles = noise(b, 4, seed=2).requires_grad_()
        extra = noise(b, 1, 5 * up, 5 * up, seed=3).requires_grad_()
        y = modulated_conv2d(
            x,
            weight,
            styles,
            noise=extra,
            up=up,
            padding=1,
            resample_filter=BINOMIAL,
            demodulate=demodulate,
            flip_weight=up == 1,
            fused=fused,
        )
        y.backward(noise(*y.shape, seed=4))
        results.append([y, *(tensor.grad for tensor in (x, weight, styles, extra))])
    for grouped, scaled, auto in zip(*results):
        torch.testing.assert_close(grouped, scaled)
        torch.testing.assert_close(auto, scaled)


@FORMS
def test_demodulated_output_has_unit_variance_for_any_styles(fused):
    x, weight = noise(4, 16, 40, 40), noise(8, 16, 3, 3, seed=1)
    styles = noise(4, 16, seed=2) * torch.tensor([[0.01], [1.0], [10.0], [300.0]])
    y = modulated_conv2d(x, weight, styles, demodulate=True, fused=fused)
    # 1444 values per channel, correlated among 3x3 neighbors.
    torch.testing.assert_close(y.var(dim=(0, 2, 3)), torch.ones(8).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(y.var(dim=(1, 2, 3)), torch.ones(4).double(), atol=0.1, rtol=0)


@FORMS
def test_noise_is_added_after_demodulation(fused):
    x, weight, styles = noise(2, 4, 5, 5), noise(6, 4, 3, 3, seed=1), noise(2, 4, seed=2)
    plain = modulated_conv2d(x, weight, styles, padding=1, fused=fused)
    for extra in (noise(5, 5, seed=3), noise(2, 1, 5, 5, seed=3)):
        noisy = modulated_conv2d(x, weight, styles, noise=extra, padding=1, fused=fused)
        torch.testing.assert_close(noisy - plain, extra.expand_as(plain))


@FORMS
@pytest.mark.parametrize(("up", "demodulate"), [(1, True), (2, True), (1, False)])
def test_modulated_convolution_is_twice_differentiable(fused, up, demodulate):
    def convolved(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
        return modulated_conv2d(
            x,
            weight,
            styles,
            up=up,
            padding=1,
            resample_filter=BINOMIAL,
            demodulate=demodulate,
            fused=fused,
        )

    inputs = noise(2, 2, 3, 3), noise(2, 2, 3, 3, seed=1), noise(2, 2, seed=2)
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(convolved, inputs)
    assert torch.autograd.gradgradcheck(convolved, inputs)


@FORMS
def test_half_precision_survives_weights_and_styles_beyond_its_range(fused):
    x = noise(2, 64, 6, 6)
    weight, styles = 1e3 * noise(6, 64, 3, 3, seed=1), 1e3 * noise(2, 64, seed=2)
    exact = modulated_conv2d(x, weight, styles, padding=1, fused=fused)
    half = modulated_conv2d(x.half(), weight.float(), styles.float(), padding=1, fused=fused)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, atol=1e-2, rtol=1e-2)


def test_styles_of_another_batch_or_width_are_refused():
    x, weight = noise(2, 4, 5, 5), noise(6, 4, 3, 3)
    for shape in ((1, 4), (2, 6)):
        with pytest.raises(ValueError, match=r"expected \[b i\] = \(2, 4\)"):
            modulated_conv2d(x, weight, noise(*shape))


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_demodulation_has_the_gradients_of_its_equation_of_any_order(needed):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, generator=draw, dtype=torch.float64)
    styles = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    inputs = [x.requires_grad_(wanted) for x, wanted in zip((weight, styles), needed)]
    assert torch.equal(demodulation(*inputs), demodulation_reference(*inputs))
    assert torch.autograd.gradcheck(demodulation, inputs)
    assert torch.autograd.gradgradcheck(demodulation, inputs)
    # Without a second order the short form is taken.
    grad = torch.randn(4, 5, generator=draw, dtype=torch.float64)
    wanted = [x for x in inputs if x.requires_grad]
    short = torch.autograd.grad(demodulation(*inputs), wanted, grad)
    expected = torch.autograd.grad(demodulation_reference(*inputs), wanted, grad)
    torch.testing.assert_close(short, expected, rtol=1e-12, atol=1e-12)
