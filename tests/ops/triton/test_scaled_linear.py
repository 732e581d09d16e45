"""The kernel of ModFC and FiLM-SIREN against the fast forms, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.film_siren import film_siren
from gan3d.ops.modfc import modfc

# points, inputs, outputs: odd sizes, several tiles, one point per image
SIZES = [(3, 5, 7), (1, 4, 3), (70, 33, 65)]


def draws(*shapes: tuple[int, ...], dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def of_modfc(n: int, i: int, o: int, b: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    return draws((b, n, i), (i, o), (b, i), dtype=dtype)


def of_siren(n: int, i: int, o: int, b: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    return draws((b, n, i), (o, i), (o,), (b, o), (b, o), dtype=dtype)


def compare(op, tensors, **options) -> None:
    """Values and all gradients of both backends."""
    found = []
    for backend in ("fast", "triton"):
        y = op(*tensors, backend=backend, **options)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad((weights * y).sum(), tensors)))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("slope", [None, 0.2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modfc(size, demodulate, slope):
    compare(modfc, of_modfc(*size), demodulate=demodulate, slope=slope)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_film_siren(size):
    compare(film_siren, of_siren(*size))


def test_film_siren_of_points_that_all_images_share():
    x, *rest = of_siren(4, 3, 5)
    compare(film_siren, [x[:1].detach().requires_grad_(), *rest])


@pytest.mark.parametrize("op", [modfc, film_siren])
def test_derivatives(op):
    tensors = (of_modfc if op is modfc else of_siren)(2, 2, 3, b=2)
    options = {"slope": 0.2} if op is modfc else {}
    assert torch.autograd.gradcheck(lambda *t: op(*t, backend="triton", **options), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: op(*t, backend="triton", **options), tensors)


def test_the_sine_of_float32_is_right_for_many_radians():
    """x alone passes: gain -29/15 makes gamma 1."""
    x = torch.linspace(-300, 300, 4001)[None, :, None].requires_grad_()
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    y = film_siren(x, one, zero[0], torch.full((1, 1), -29 / 15), zero, backend="triton")
    gamma = (15 * torch.tensor(-29 / 15) + 30).double()
    exact = (x.double() * gamma).float().double()  # rounded as the kernel's argument is
    assert (y - exact.sin()).abs().max() < 3e-7
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert (grad - exact.cos() * gamma).abs().max() < 3e-7


def test_half_precision_is_summed_in_float32():
    tensors = of_modfc(4, 256, 3, dtype=torch.float32)
    exact = modfc(*tensors, backend="fast")
    found = modfc(tensors[0].half(), *tensors[1:], backend="triton")
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), exact, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("activation", ["none", "leaky_relu", "sine"])
def test_the_ops_are_well_registered(activation):
    from gan3d.ops.triton.scaled_linear import scaled_linear, scaled_linear_backward

    x, weight, style, norm, offset = draws((2, 3, 4), (4, 5), (2, 4), (2, 5), (2, 5))
    options = (2, activation, 0.2)
    inputs = (x, weight, style, norm, offset)
    torch.library.opcheck(scaled_linear, (*inputs, *options))
    torch.library.opcheck(scaled_linear, (x, weight, None, None, None, *options))
    plain = [tensor.detach() for tensor in inputs]
    y = scaled_linear(*plain, *options)
    torch.library.opcheck(scaled_linear_backward, (torch.ones_like(y), y, *plain, *options))


def test_it_compiles_into_one_graph():
    tensors = of_modfc(3, 4, 5)
    compiled = torch.compile(
        lambda *t: modfc(*t, slope=0.2, backend="triton"), fullgraph=True, backend="aot_eager"
    )
    expected = modfc(*tensors, slope=0.2, backend="triton")
    torch.testing.assert_close(compiled(*tensors), expected)
    grads = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), tensors))
