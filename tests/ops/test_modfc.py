"""The modulated fully connected layer: by hand, agreement of all forms, two derivatives, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.modfc import FORMS, choose_form, demodulation, modfc

ALL_FORMS = pytest.mark.parametrize("form", FORMS)
DEMODULATE = pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "plain"])


def inputs(
    b: int, n: int, i: int, o: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and style; styles are around 1."""
    generator = torch.Generator().manual_seed(b + n + i + o)
    shapes = ((b, n, i), (i, o), (b, i))
    x, weight, style = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return x, weight, style + 1


def by_definition(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """Modulated weights divided by their norms, one image at a time."""
    images = []
    for points, s in zip(x, style):
        modulated = s[:, None] * weight
        if demodulate:
            modulated = modulated / (modulated.square().sum(0) + 1e-8).sqrt()
        images.append(points @ modulated)
    return torch.stack(images)


@ALL_FORMS
def test_one_point_by_hand(form):
    x, weight = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[3.0, 0.0], [2.0, 1.0]])
    style = torch.tensor([[1.0, 2.0]])
    # The modulated weights are [[3, 0], [4, 2]], their norms 5 and 2, the products (3 - 8, -4).
    torch.testing.assert_close(modfc(x, weight, style, form=form), torch.tensor([[[-1.0, -2.0]]]))
    plain = modfc(x, weight, style, demodulate=False, form=form)
    torch.testing.assert_close(plain, torch.tensor([[[-5.0, -4.0]]]))


@ALL_FORMS
@DEMODULATE
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 1, 5, 4), (2, 63, 4, 7), (1, 100, 3, 2), (5, 2, 1, 6)], ids=str
)
def test_every_form_is_the_definition(form, demodulate, shape):
    arguments = inputs(*shape)
    actual = modfc(*arguments, demodulate=demodulate, form=form)
    torch.testing.assert_close(
        actual, by_definition(*arguments, demodulate), atol=1e-12, rtol=1e-12
    )


def derivatives(demodulate: bool, form) -> list[Tensor]:
    """First derivatives of a nonlinear function of y, and second ones along a direction."""
    arguments = [t.requires_grad_() for t in inputs(2, 3, 4, 5)]
    loss = modfc(*arguments, demodulate=demodulate, form=form).pow(3).sum()
    first = torch.autograd.grad(loss, arguments, create_graph=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), arguments)
    return [*first, *second]


@DEMODULATE
def test_first_and_second_derivatives_agree_between_the_forms(demodulate):
    expected, *others = (derivatives(demodulate, form) for form in FORMS)
    for other in others:
        for actual, reference in zip(other, expected):
            assert reference.abs().max() > 0.1
            torch.testing.assert_close(actual, reference, atol=1e-9, rtol=1e-9)


@ALL_FORMS
@DEMODULATE
@pytest.mark.parametrize("n", [1, 3])
def test_first_and_second_derivatives_are_right(form, demodulate, n):
    arguments = [t.requires_grad_() for t in inputs(2, n, 3, 2)]

    def layer(*arguments: Tensor) -> Tensor:
        return modfc(*arguments, demodulate=demodulate, form=form)

    assert torch.autograd.gradcheck(layer, arguments)
    assert torch.autograd.gradgradcheck(layer, arguments)


@ALL_FORMS
def test_the_activation_on_top_is_a_leaky_relu_with_its_derivatives(form):
    arguments = [t.requires_grad_() for t in inputs(2, 3, 3, 2)]
    expected = F.leaky_relu(by_definition(*arguments), 0.2)
    assert (expected < 0).any()
    torch.testing.assert_close(modfc(*arguments, slope=0.2, form=form), expected)

    def layer(*arguments: Tensor) -> Tensor:
        return modfc(*arguments, slope=0.2, form=form)

    assert torch.autograd.gradcheck(layer, arguments)
    assert torch.autograd.gradgradcheck(layer, arguments)


@ALL_FORMS
def test_the_activation_does_not_modify_the_inputs(form):
    arguments = inputs(2, 3, 4, 5)
    kept = [t.clone() for t in arguments]
    modfc(*arguments, slope=0.2, form=form)
    assert all(torch.equal(a, b) for a, b in zip(arguments, kept))


def test_the_demodulated_result_does_not_depend_on_the_scale_of_style_and_weight():
    x, weight, style = inputs(2, 3, 4, 5)
    torch.testing.assert_close(
        modfc(x, 100 * weight, 0.3 * style), modfc(x, weight, style), atol=1e-7, rtol=1e-7
    )


def test_a_zero_style_gives_zeros_and_finite_gradients():
    arguments = [t.requires_grad_() for t in inputs(1, 3, 4, 5)]
    with torch.no_grad():
        arguments[2].zero_()
    y = modfc(*arguments)
    assert (y == 0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), arguments))


def test_demodulation_is_the_inverse_norm_of_the_modulated_weights():
    _, weight, style = inputs(3, 1, 4, 5)
    expected = 1 / (style[:, :, None] * weight).norm(dim=1)
    torch.testing.assert_close(demodulation(weight, style, eps=0.0), expected)


@pytest.mark.parametrize(
    ("n", "i", "o", "form"),
    [
        (1, 512, 512, "scale"),
        (64, 512, 512, "scale"),
        (512, 512, 512, "scale"),
        (513, 512, 512, "bmm"),
        (4096, 512, 512, "bmm"),
        (4096, 32, 32, "bmm"),
        (60, 32, 512, "scale"),
        (61, 32, 512, "bmm"),
    ],
)
def test_few_points_share_the_weight_and_many_get_weights_per_image(n, i, o, form):
    assert choose_form(n, i, o) == form


def test_the_chosen_form_is_used():
    for n in (4, 5):
        arguments = inputs(2, n, 4, 4, torch.float32)
        assert torch.equal(modfc(*arguments), modfc(*arguments, form=choose_form(n, 4, 4)))


@ALL_FORMS
def test_the_result_has_the_dtype_of_x_and_the_demodulation_the_dtype_of_the_weight(form):
    x, weight, style = inputs(2, 6, 8, 3, torch.float32)
    expected = modfc(x.bfloat16().float(), weight, style)
    lowered = modfc(x.bfloat16(), weight, style, form=form)
    assert lowered.dtype == torch.bfloat16
    torch.testing.assert_close(lowered.float(), expected, atol=0.03, rtol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        precise = demodulation(weight, style)
        assert precise.dtype == torch.float32
        cast = modfc(x, weight, style, form=form)
    assert cast.dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), modfc(x, weight, style), atol=0.03, rtol=0.02)


@pytest.mark.parametrize(
    ("x", "weight", "style"),
    [
        ((2, 3, 4), (1, 4, 5), (2, 4)),
        ((2, 4), (4, 5), (2, 4)),
        ((2, 3, 4), (5, 4), (2, 4)),
        ((2, 3, 4), (4, 5), (1, 4)),
    ],
    ids=str,
)
def test_wrong_shapes_are_refused_with_the_expected_ones(x, weight, style):
    with pytest.raises(ValueError, match=r"are not \[b n i\], \[i o\] and \[b i\]"):
        modfc(torch.zeros(x), torch.zeros(weight), torch.zeros(style))
