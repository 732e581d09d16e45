"""1x1 convolutions as products: the numbers, gradients and memory format of a convolution."""

import pytest
import torch
import torch.nn.functional as F

from gan3d.ops.pointwise import is_product, pointwise

FORMATS = pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])


def given(order: torch.memory_format, side: int = 7, own: bool = False):
    """x [3 4 side+1 side] and w [5 4], or one for each image."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, side + 1, side, dtype=torch.float64).contiguous(memory_format=order)
    w = torch.randn(*[3] * own, 5, 4, dtype=torch.float64)
    return x.requires_grad_(), w.requires_grad_()


@FORMATS
@pytest.mark.parametrize("side", [1, 7])
@pytest.mark.parametrize("own", [False, True])
def test_it_is_a_convolution_in_values_and_gradients(order, side, own):
    x, w = given(order, side, own)
    kernels = w.flatten(0, -2)[:, :, None, None]
    if own:
        theirs = F.conv2d(x.flatten(0, 1)[None], kernels, groups=3)[0].unflatten(0, (3, 5))
    else:
        theirs = F.conv2d(x, kernels)
    ours = pointwise(x, w)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    for mine, other in zip(*(torch.autograd.grad(y, (x, w), grad) for y in (ours, theirs))):
        torch.testing.assert_close(mine, other)


@FORMATS
def test_it_is_differentiable_twice(order):
    x, w = given(order, 2, own=True)
    assert torch.autograd.gradcheck(pointwise, (x, w))
    assert torch.autograd.gradgradcheck(pointwise, (x, w))


@FORMATS
@pytest.mark.parametrize("own", [False, True])
def test_the_memory_format_stays(order, own):
    x, w = given(order, own=own)
    assert pointwise(x, w).is_contiguous(memory_format=order)


def test_it_is_chosen_in_full_precision_on_one_thread():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert is_product(torch.zeros(1))
        assert not is_product(torch.zeros(1, dtype=torch.bfloat16))
        with torch.autocast("cpu", torch.bfloat16):
            assert not is_product(torch.zeros(1))
        torch.set_num_threads(2)
        assert not is_product(torch.zeros(1))
    finally:
        torch.set_num_threads(threads)
