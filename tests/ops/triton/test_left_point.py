"""The kernels of the left-point rule against torch, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.composite import Samples
from gan3d.ops.left_point import composite_left


def draws(sizes=(4, 3), rays: int = 5, channels: int = 3, dtype=torch.float64) -> list:
    """Depths, raw densities and colors of each block."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    tensors = []
    for n in sizes:
        tensors += [draw(rays, n) + 1, 4 * draw(rays, n) - 2, draw(rays, n, channels)]
    return [tensor.requires_grad_() for tensor in tensors]


def run(tensors, backend: str, **options):
    blocks = [Samples(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]
    return composite_left(*blocks, backend=backend, **options)


@pytest.mark.parametrize("clamp", ["relu", "softplus"])
@pytest.mark.parametrize("last_back", [False, True])
@pytest.mark.parametrize("sizes", [(5,), (4, 3), (1,), (6, 1)], ids=str)
def test_values_and_all_gradients_are_those_of_torch(sizes, last_back, clamp):
    tensors = draws(sizes, rays=37)
    found = []
    for backend in ("fast", "triton"):
        result = run(tensors, backend, last_back=last_back, clamp=clamp)
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x) for x in result]
        loss = sum((w * x).sum() for w, x in zip(weights, result))
        found.append((*result, *torch.autograd.grad(loss, tensors)))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clamp", ["relu", "softplus"])
def test_rounding_does_not_reach_the_endless_interval(clamp):
    """Its length, 1e10, would multiply what rounding leaves in float32."""
    exact, found = [], []
    for dtype, backend, gradients in (
        (torch.float64, "fast", exact),
        (torch.float32, "triton", found),
    ):
        tensors = [t.detach().to(dtype).requires_grad_() for t in draws((24,), rays=64)]
        loss = run(tensors, backend, clamp=clamp).rgb.square().sum()
        gradients.extend(grad.double() for grad in torch.autograd.grad(loss, tensors))
    for one, other in zip(exact, found):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_noise_is_added_in_order_of_depth():
    tensors, noise = draws(), torch.linspace(-2, 2, 35).double().view(5, 7)
    for fast, kernel in zip(*(run(tensors, b, noise=noise) for b in ("fast", "triton"))):
        torch.testing.assert_close(kernel, fast)


def test_derivatives():
    tensors = draws((2, 1), rays=2, channels=2)

    def op(*tensors):
        return tuple(run(tensors, "triton", clamp="softplus", last_back=True))

    for tensor in tensors[1::3]:
        tensor.data += 3  # the last interval is opaque: its slope is not that of differences
    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, tensors, fast_mode=True)


def test_three_blocks_take_torch():
    tensors = draws((2, 3, 2))
    for fast, kernel in zip(run(tensors, "fast"), run(tensors, "triton")):
        assert torch.equal(fast, kernel)


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.left_point import composite_left_backward, composite_left_sorted

    depths, sigma, first, *_, second = draws((2, 1), rays=2, channels=2)
    depths = torch.cat([depths.detach(), depths.detach()[:, :1]], -1).sort(-1).values
    sigma = torch.cat([sigma.detach(), sigma.detach()[:, :1]], -1)
    order = torch.tensor([[2, 0, 1], [0, 2, 1]])
    inputs = (depths.requires_grad_(), sigma.requires_grad_(), order, first, second, True, True)
    torch.library.opcheck(composite_left_sorted, inputs)
    plain = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
    results = composite_left_sorted(*plain)
    grads = [torch.ones_like(x) for x in results]
    torch.library.opcheck(composite_left_backward, (*plain, *results, *grads))


def test_it_compiles_into_one_graph():
    tensors = draws((2, 1), rays=2)

    def op(*tensors):
        return run(tensors, "triton").rgb

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), op(*tensors))
    grads = [torch.autograd.grad(f(*tensors).sum(), tensors) for f in (compiled, op)]
    torch.testing.assert_close(*grads)
