"""Blur: its impulse response in closed form, and its fade."""

import pytest
import torch

from gan3d.augment import PRESETS, Blur, augment_pair
from gan3d.augment.blur import blur
from gan3d.discriminators import DualDiscriminator
from gan3d.randomness import Randomness


@pytest.mark.parametrize(("sigma", "radius"), [(0.34, 1), (1.0, 3), (2.5, 7)])
def test_an_impulse_falls_by_powers_of_two_up_to_three_sigma(sigma, radius):
    x = torch.zeros(1, 1, 21, 21)
    x[..., 10, 10] = 1.0
    k = torch.arange(-10, 11)
    taps = torch.where(k.abs() <= radius, 2.0 ** -((k / sigma) ** 2), 0.0)
    taps = taps / taps.sum()
    torch.testing.assert_close(blur(x, sigma)[0, 0], torch.outer(taps, taps))


def test_below_a_third_of_a_pixel_the_image_itself_is_returned():
    x = torch.ones(1, 3, 4, 4)
    assert blur(x, 0.33) is x
    assert blur(x, 0.0) is x


def test_the_blur_fades_linearly_and_ends():
    fading = Blur(sigma=10.0, fade_kimg=0.2)
    assert [fading.sigma_at(seen) for seen in (0, 50, 200, 1000)] == [10.0, 7.5, 0.0, 0.0]
    assert Blur(sigma=10.0, fade_kimg=0).sigma_at(0) == 0.0


def test_the_blur_is_not_lowered_by_autocast():
    x = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = blur(x, 2.0)
    assert torch.equal(lowered, blur(x, 2.0))
    assert blur(x.bfloat16(), 2.0).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blur_augmentation_and_dual_discrimination_run_in_bf16_on_a_cpu(dtype):
    discriminator = DualDiscriminator(**DualDiscriminator.tiny, c_dim=0)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = blur(image[..., ::2, ::2], 2.0)
        pair = augment_pair(blur(image, 2.0), raw, PRESETS["bgc"], 1.0, Randomness(0, range(2)))
        logits = discriminator(pair[0], raw=pair[1]).logits
    assert logits.isfinite().all()
