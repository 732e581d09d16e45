"""The kernels of surfaces with opacities against torch, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.composite import composite_alphas


def surfaces(rays: int = 7, k: int = 5, c: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rays, k), (rays, k, c), (rays, k))
    tensors = [torch.rand(s, generator=generator, dtype=dtype) for s in shapes]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("last_back", [False, True])
@pytest.mark.parametrize("k", [1, 5, 16, 23])
def test_values_and_all_gradients_are_those_of_torch(k, last_back):
    tensors = surfaces(37, k)
    found = []
    for backend in ("fast", "triton"):
        result = composite_alphas(*tensors, last_back=last_back, backend=backend)
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x) for x in result]
        loss = sum((w * x).sum() for w, x in zip(weights, result))
        found.append((*result, *torch.autograd.grad(loss, tensors)))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opaque_and_missed_surfaces_and_equal_distances(dtype):
    """Nothing is divided by 0; of surfaces at one place the first is nearer."""
    alpha, rgb, distances = (tensor.detach() for tensor in surfaces(6, 4, dtype=dtype))
    alpha[0], alpha[1], alpha[2, 1], alpha[3, :2] = 0, 1, 1, 1
    distances[4:] = 2.0
    tensors = [tensor.requires_grad_() for tensor in (alpha, rgb, distances)]
    found = []
    for backend in ("fast", "triton"):
        result = composite_alphas(*tensors, backend=backend)
        found.append((*result, *torch.autograd.grad(result.rgb.square().sum(), tensors[:2])))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast, rtol=2e-5, atol=1e-6)


def test_derivatives():
    tensors = surfaces(2, 3, 2)

    def op(*tensors):
        return tuple(composite_alphas(*tensors, last_back=True, backend="triton"))

    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, tensors, fast_mode=True)


def test_many_surfaces_take_torch():
    tensors = surfaces(2, 65)
    for fast, kernel in zip(*(composite_alphas(*tensors, backend=b) for b in ("fast", "triton"))):
        assert torch.equal(fast, kernel)


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.alphas import composite_surfaces, composite_surfaces_backward

    tensors = surfaces(3, 2)
    torch.library.opcheck(composite_surfaces, (*tensors, True))
    plain = [tensor.detach() for tensor in tensors]
    grads = [torch.ones_like(x) for x in composite_surfaces(*plain, True)]
    torch.library.opcheck(composite_surfaces_backward, (*plain, True, *grads))


def test_it_compiles_into_one_graph():
    tensors = surfaces(3, 3)

    def op(*tensors):
        return composite_alphas(*tensors, backend="triton").rgb

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), op(*tensors))
    grads = [torch.autograd.grad(f(*tensors).sum(), tensors[:2]) for f in (compiled, op)]
    torch.testing.assert_close(*grads)
