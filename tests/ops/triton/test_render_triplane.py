"""The kernels of rays through tri-planes against the parts of the op, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.render_triplane import DecoderWeights, render_triplane, triplane_density
from gan3d.ops.triplane import PlaneTable


def inputs(
    rays: int = 3, samples: int = 3, channels: int = 2, hidden: int = 3, colors: int = 2,
    scenes: int = 2, side: int = 5, dtype=torch.float64,
) -> list[torch.Tensor]:  # fmt: skip
    """Planes, decoder, rays, distances and offsets. Some rays leave the cube."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    decoder = draw(hidden, channels), draw(hidden), draw(1 + colors, hidden), draw(1 + colors)
    origins, directions = 0.2 * draw(2, rays, 3), draw(2, rays, 3)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    depths = torch.rand(2, rays, samples, generator=generator, dtype=dtype).sort(-1).values
    planes = draw(scenes, 3, channels, side, side + 2)
    tensors = [planes, *decoder, origins, directions, draw(2, rays, samples)]
    return [*(tensor.requires_grad_() for tensor in tensors), depths]


def run(tensors, backend: str, axes: str = "fixed", background: float | None = 0.6):
    planes, w1, b1, w2, b2, origins, directions, offset, depths = tensors
    return render_triplane(
        PlaneTable.of(planes, axes),
        DecoderWeights(w1, b1, w2, b2),
        origins,
        directions,
        depths,
        box_warp=1.5,
        offset=offset,
        background=background,
        backend=backend,
    )


@pytest.mark.parametrize(
    "sizes",
    [{}, {"rays": 19, "samples": 2, "channels": 17, "hidden": 20, "colors": 18}, {"scenes": 1}],
    ids=["small", "several tiles", "one scene"],
)
def test_values_and_all_gradients_are_those_of_the_parts(sizes):
    tensors = inputs(**sizes)
    found = []
    for backend in ("reference", "fast", "triton"):
        result = run(tensors, backend)
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x) for x in result]
        loss = sum((w * x).sum() for w, x in zip(weights, result))
        found.append((*result, *torch.autograd.grad(loss, tensors[:-1])))
    for equation, fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(kernel, equation, rtol=1e-5, atol=1e-6)


def test_official_axes_without_offset_or_background():
    *tensors, _, depths = inputs()
    tensors[0] = torch.randn(2, 3, 2, 6, 6, dtype=torch.float64)
    found = []
    for backend in ("fast", "triton"):
        result = run([*tensors, None, depths], backend, "official", None)
        found.append((*result, torch.autograd.grad(result.rgb.sum(), tensors[5])[0]))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast, rtol=1e-6, atol=1e-7)


def test_densities():
    planes, *decoder, origins, directions, offset, depths = inputs(rays=23)
    table = PlaneTable.of(planes, "fixed")
    for noise in (offset, None):
        fast, kernel = (
            triplane_density(
                table,
                DecoderWeights(*decoder),
                origins,
                directions,
                depths,
                box_warp=1.5,
                offset=noise,
                backend=backend,
            )
            for backend in ("fast", "triton")
        )
        assert not kernel.requires_grad
        torch.testing.assert_close(kernel, fast)


def test_only_what_is_asked_for_has_a_gradient():
    tensors = inputs()
    for chosen in (0, 2, 6):
        some = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(tensors)]
        kernel, fast = (
            torch.autograd.grad(run(some, backend).rgb.square().sum(), some[chosen])[0]
            for backend in ("triton", "fast")
        )
        torch.testing.assert_close(kernel, fast, rtol=1e-6, atol=1e-7)


def test_an_empty_ray_has_the_distance_of_its_last_sample():
    tensors = inputs()
    tensors[7] = torch.full_like(tensors[7], -1e4).requires_grad_()
    result = run(tensors, "triton")
    assert torch.equal(result.depth, tensors[-1][..., -1])
    assert result.opacity.abs().max() == 0
    result.depth.sum().backward()
    assert tensors[0].grad.abs().max() == 0


@pytest.mark.slow
def test_derivatives():
    tensors = inputs(rays=1, samples=2, side=2)
    depths = tensors.pop()
    for tensor in tensors[5:7]:
        tensor.data *= 0.3  # within the planes, away from the borders of texels

    def op(*tensors):
        return tuple(run([*tensors, depths], "triton"))

    assert torch.autograd.gradcheck(op, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, tensors, fast_mode=True)


def test_many_channels_take_the_parts():
    tensors = inputs(channels=65)
    for fast, kernel in zip(run(tensors, "fast"), run(tensors, "triton")):
        torch.testing.assert_close(kernel, fast, rtol=1e-6, atol=1e-7)


def test_half_precision_planes_are_summed_in_float32():
    tensors = [tensor.detach().float() for tensor in inputs()]
    exact = run(tensors, "fast")
    found = run([tensors[0].half(), *tensors[1:]], "triton")
    assert (found.rgb.dtype, found.depth.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(found.rgb.float(), exact.rgb, rtol=3e-3, atol=3e-3)
    torch.testing.assert_close(found.depth, exact.depth, rtol=3e-3, atol=3e-3)


@pytest.mark.slow
def test_the_ops_are_well_registered():
    from gan3d.ops.triton.render_triplane import densities, render_rays, render_rays_backward

    planes, *decoder, origins, directions, offset, depths = inputs(rays=1, samples=2)
    rows = PlaneTable.of(planes, "fixed").rows.detach().requires_grad_()
    shape = (2, 5, 7, [0, 1, 0, 2, 2, 1], 1.3)
    tensors = (rows, *decoder, origins, directions, depths, offset)
    torch.library.opcheck(render_rays, (*tensors, *shape, 0.5))
    plain = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(densities, (*plain, *shape))
    results = render_rays(*plain, *shape, 0.5)
    grads = [torch.ones_like(x) for x in results]
    for asked in ((True, True, True), (False, False, True)):
        torch.library.opcheck(render_rays_backward, (*plain, *shape, 0.5, *results, *grads, *asked))


def test_it_compiles_into_one_graph():
    tensors = inputs(rays=1, samples=2)

    def op(*tensors):
        return run(tensors, "triton").rgb

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), op(*tensors))
    grads = [torch.autograd.grad(f(*tensors).sum(), tensors[:-1]) for f in (compiled, op)]
    torch.testing.assert_close(*grads)
