"""The FiLM-SIREN layer: its equation, derivatives, initial weights."""

import math

import pytest
import torch

from gan3d.layers.film_siren import FiLMSiren, siren_head
from gan3d.ops.film_siren import film_siren, reference


def numbers(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments() -> tuple[torch.Tensor, ...]:
    """x, weight, bias, gain and phase of 3 images."""
    return numbers(3, 5, 4), numbers(6, 4), numbers(6), numbers(3, 6), numbers(3, 6)


def test_one_point_by_hand():
    x, weight, bias = torch.tensor([[[2.0]]]), torch.tensor([[0.1]]), torch.tensor([0.05])
    y = film_siren(x, weight, bias, gain=torch.tensor([[0.2]]), phase=torch.tensor([[1.0]]))
    assert y.item() == pytest.approx(math.sin((15 * 0.2 + 30) * (0.1 * 2 + 0.05) + 1.0), abs=1e-6)


def test_gains_folded_into_the_weights_agree_with_the_equation():
    args = numbers(3, 63, 4), numbers(6, 4) / 10, numbers(6), numbers(3, 6), numbers(3, 6)
    assert torch.allclose(film_siren(*args), reference(*args), atol=1e-12)


def test_every_image_has_its_own_gain_and_phase():
    x, weight, bias, gain, phase = arguments()
    together = film_siren(x, weight, bias, gain, phase)
    alone = film_siren(x[1:2], weight, bias, gain[1:2], phase[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-12)


def test_one_gain_is_shared_by_all_images_and_one_image_by_all_gains():
    x, weight, bias, gain, phase = arguments()
    for args in ((x, weight, bias, gain[:1], phase[:1]), (x[:1], weight, bias, gain, phase)):
        assert torch.allclose(film_siren(*args), reference(*args), atol=1e-9)


def test_first_and_second_derivatives_are_right():
    scale = 0.03  # gamma is about 30: keeps the sine's argument small for finite differences
    x, weight, bias = scale * numbers(2, 3, 2), numbers(4, 2), numbers(4) * scale
    gain, phase = numbers(2, 4) * 0.1, numbers(2, 4)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, gain, phase)]
    assert torch.autograd.gradcheck(film_siren, inputs)
    assert torch.autograd.gradgradcheck(film_siren, inputs, atol=1e-4)


@pytest.mark.parametrize(("first", "limit"), [(True, 1 / 3), (False, math.sqrt(2) / 25)])
def test_initial_weights_fill_their_interval(first, limit):
    torch.manual_seed(0)
    weight = FiLMSiren(3, 1000, first=first).weight
    assert limit * 0.98 < weight.abs().max() <= limit


def test_a_head_has_small_uniform_weights():
    torch.manual_seed(0)
    assert 0.95 < siren_head(64, 100).weight.abs().max() / (math.sqrt(6 / 64) / 25) <= 1
