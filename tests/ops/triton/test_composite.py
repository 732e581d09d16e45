"""The kernels of the mid-point rule against the fast form, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.composite import Samples, composite

KINDS = {"one block": (5,), "two blocks": (4, 3), "a single sample more": (6, 1)}


def blocks(sizes, rays: int = 5, channels: int = 3, dtype=torch.float64) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=dtype)

    found = []
    for size in sizes:
        depths = draw(rays, size) + 1
        depths = depths.sort(-1).values if len(sizes) == 1 else depths
        found.append(Samples(depths, 8 * draw(rays, size) - 2, draw(rays, size, channels)))
    return found


def flat(some: list[Samples]) -> list[torch.Tensor]:
    return [tensor.requires_grad_() for block in some for tensor in block]


def run(tensors, backend: str, background: float = 0.7):
    some = [Samples(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)]
    return composite(*some, background=background, backend=backend)


@pytest.mark.parametrize("sizes", KINDS.values(), ids=KINDS)
def test_numbers_and_all_gradients_are_those_of_the_fast_form(sizes):
    tensors = flat(blocks(sizes, rays=37))
    weights = [torch.randn(37, 3).double(), torch.randn(37).double(), torch.randn(37).double()]
    found = {}
    for backend in ("fast", "triton", "reference"):
        result = run(tensors, backend)
        loss = sum((w * x).sum() for w, x in zip(weights, result))
        found[backend] = (*result, *torch.autograd.grad(loss, tensors))
    for fast, kernel, equation in zip(*(found[b] for b in ("fast", "triton", "reference"))):
        torch.testing.assert_close(kernel, fast)
        torch.testing.assert_close(kernel, equation, rtol=1e-5, atol=1e-6)


def test_derivatives():
    tensors = flat(blocks((3, 2), rays=2, channels=2))
    assert torch.autograd.gradcheck(lambda *t: tuple(run(t, "triton")), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: tuple(run(t, "triton")), tensors)


def test_an_empty_ray_has_the_distance_of_its_last_sample():
    depths = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    sigma = torch.full((1, 3), -1000.0, dtype=torch.float64)
    result = composite(Samples(depths, sigma, torch.ones(1, 3, 2).double()), backend="triton")
    assert (result.opacity.item(), result.depth.item()) == (0, 3)
    result.depth.sum().backward()
    assert depths.grad.tolist() == [[0, 0, 1]]


def test_half_precision_colors_are_summed_in_float32():
    some = blocks((64,), rays=2, channels=4, dtype=torch.float32)
    exact = run([t for block in some for t in block], "fast").rgb
    low = [block._replace(rgb=block.rgb.half()) for block in some]
    found = composite(*low, background=0.7, backend="triton").rgb
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), exact, rtol=2e-3, atol=2e-3)


def test_three_blocks_take_the_fast_form():
    tensors = flat(blocks((2, 3, 2)))
    for fast, kernel in zip(run(tensors, "fast"), run(tensors, "triton")):
        assert torch.equal(fast, kernel)


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.composite import composite_sorted, composite_sorted_backward

    some = blocks((3, 2), rays=3)
    depths, order = torch.cat([block.depths for block in some], -1).sort(-1)
    sigma = torch.cat([block.sigma for block in some], -1).gather(-1, order)
    colors = [block.rgb.requires_grad_() for block in some]
    inputs = (depths.requires_grad_(), sigma.requires_grad_(), order, *colors, 0.5)
    torch.library.opcheck(composite_sorted, inputs)
    results = [x.detach() for x in composite_sorted(*inputs)]
    plain = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
    grads = [torch.ones_like(x) for x in results]
    torch.library.opcheck(composite_sorted_backward, (*plain, *results, *grads))


def test_it_compiles_into_one_graph():
    tensors = flat(blocks((4, 3), rays=3))
    compiled = torch.compile(lambda *t: run(t, "triton"), fullgraph=True, backend="aot_eager")
    for expected, found in zip(run(tensors, "triton"), compiled(*tensors)):
        torch.testing.assert_close(found, expected)
    grads = torch.autograd.grad(compiled(*tensors).rgb.sum(), tensors)
    expected = torch.autograd.grad(run(tensors, "triton").rgb.sum(), tensors)
    torch.testing.assert_close(grads, expected)
