"""The kernels of bilinear samples against torch, in Triton's interpreter."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from gan3d.ops.grid_sample import grid_sample

SHAPES = {  # b c h w H W
    "one pixel": (1, 1, 1, 1, 2, 3),
    "colors": (2, 3, 5, 4, 7, 6),
    "several tiles": (2, 5, 4, 3, 1, 21),
}
KERNEL = partial(grid_sample, backend="triton")
ORDERS = {"first": torch.contiguous_format, "last": torch.channels_last}


def example(b, c, h, w, H, W, order="first", dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(b, c, h, w, generator=draw, dtype=dtype)
    # Up to 1.3, which is outside of the image, where pixels are zero.
    grid = 1.3 * (2 * torch.rand(b, H, W, 2, generator=draw, dtype=dtype) - 1)
    image = image.contiguous(memory_format=ORDERS[order])
    return image.requires_grad_(), grid.requires_grad_()


@pytest.fixture
def _small_tiles(monkeypatch):
    """Of 8 or 16 points, and of 4 or 2 channels."""
    for name, size in (("NUMBERS", 32), ("CHANNELS_LAST", 4), ("CHANNELS_FIRST", 2)):
        monkeypatch.setattr(f"gan3d.ops.triton.grid_sample.{name}", size)


@pytest.mark.usefixtures("_small_tiles")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_all_gradients_are_those_of_torch(shape, order):
    image, grid = example(*shape, order)
    found = []
    for form in (partial(F.grid_sample, align_corners=False), KERNEL):
        y = form(image, grid)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        found.append((y, *torch.autograd.grad((weights * y).sum(), (image, grid))))
    for expected, kernel in zip(*found):
        torch.testing.assert_close(kernel, expected)
    for kernel in found[1][:2]:
        assert kernel.is_contiguous(memory_format=ORDERS[order])


@pytest.mark.parametrize("order", ORDERS)
def test_each_gradient_alone_is_the_same(order):
    image, grid = example(1, 3, 2, 3, 1, 5, order)
    both = torch.autograd.grad(KERNEL(image, grid).square().sum(), (image, grid))
    (of_image,) = torch.autograd.grad(KERNEL(image, grid.detach()).square().sum(), image)
    (of_grid,) = torch.autograd.grad(KERNEL(image.detach(), grid).square().sum(), grid)
    torch.testing.assert_close((of_image, of_grid), both)


def test_the_image_alone_is_differentiated_by_kernels_in_any_order(monkeypatch):
    monkeypatch.setattr("gan3d.ops.triton.grid_sample.recorded", None)
    image, grid = example(1, 2, 2, 2, 1, 2, "last")

    def op(image):
        return KERNEL(image, grid.detach()) ** 2

    assert torch.autograd.gradcheck(op, image, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, image, fast_mode=True)


def test_derivatives():
    tensors = example(1, 2, 2, 3, 1, 3)
    assert torch.autograd.gradcheck(lambda *t: KERNEL(*t) ** 2, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: KERNEL(*t) ** 2, tensors, fast_mode=True)


def test_samples_far_outside_are_zero():
    image, _ = example(1, 2, 3, 3, 1, 1)
    far = torch.tensor([[1e30, 0.0], [0.0, -1e9], [torch.inf, -torch.inf]], dtype=torch.float64)
    assert not KERNEL(image, far[None, None]).any()


def test_half_precision_has_sums_in_float32():
    """600 samples of one pixel; in float16, the last ones would not count."""
    image, grid = example(1, 1, 2, 2, 1, 600, dtype=torch.float32)
    low = image.detach().half().requires_grad_()
    y = KERNEL(low, torch.full_like(grid, -0.5))
    assert y.dtype == torch.float16
    (found,) = torch.autograd.grad(y, low, torch.full_like(y, 10.001))
    assert found[0, 0, 0, 0] == 6000


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.grid_sample import sample_image, sample_image_backward

    image, grid = example(2, 3, 2, 3, 1, 2)
    last, _ = example(2, 3, 2, 3, 1, 2, "last")
    torch.library.opcheck(sample_image, (image, grid))
    grad = torch.ones_like(sample_image(last, grid)).requires_grad_()
    grid = grid.detach()
    torch.library.opcheck(sample_image_backward, (grad, grid, None, 2, 3, True))
    for x, of_image in ((image, False), (last, True)):
        inputs = (grad.detach(), grid, x.detach(), 2, 3, of_image)
        torch.library.opcheck(sample_image_backward, inputs)


def test_it_compiles_into_one_graph():
    tensors = example(1, 2, 2, 2, 1, 3)
    compiled = torch.compile(KERNEL, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), KERNEL(*tensors))
    grads = [torch.autograd.grad(f(*tensors).square().sum(), tensors) for f in (compiled, KERNEL)]
    torch.testing.assert_close(*grads)
