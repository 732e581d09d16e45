"""The kernels of plane features against the fast form, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.triplane import PlaneTable

SIZES = {"official": (4, 4), "fixed": (4, 4), "official, not square": (3, 5), "tiny": (2, 3)}


def inputs(axes: str, batch: int = 2, points: int = 5, channels: int = 3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    height, width = SIZES[axes]
    shape = (batch, 3, channels, height, width)
    planes = torch.randn(shape, generator=generator, dtype=dtype)
    # some of them outside of the box
    where = 1.4 * torch.rand(2, points, 3, generator=generator, dtype=dtype) - 0.7
    return planes.requires_grad_(), where.requires_grad_()


def features(planes, points, axes: str, backend: str):
    return PlaneTable.of(planes, axes.split(",")[0]).features(points, box_warp=1, backend=backend)


@pytest.mark.parametrize("axes", ["official", "fixed", "official, not square"])
@pytest.mark.parametrize("batch", [1, 2])
def test_features_and_gradients_are_those_of_the_fast_form(axes, batch):
    planes, points = inputs(axes, batch, points=41)
    found = []
    for backend in ("fast", "triton"):
        y = features(planes, points, axes, backend)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad((weights * y).sum(), (planes, points))))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


def test_points_may_have_several_dimensions_and_lie_far_outside():
    planes, points = inputs("fixed")
    far = torch.cat([points, torch.full_like(points, 1e30), -torch.full_like(points, 1e9)], 1)
    far = far.detach().unflatten(1, (3, 5))
    found = features(planes, far, "fixed", "triton")
    torch.testing.assert_close(found, features(planes, far, "fixed", "fast"))
    assert not found[:, 1:].any()


def test_derivatives():
    planes, points = inputs("tiny", batch=1, points=2, channels=1)
    assert torch.autograd.gradcheck(lambda *t: features(*t, "fixed", "triton"), (planes, points))
    assert torch.autograd.gradgradcheck(
        lambda *t: features(*t, "fixed", "triton"), (planes, points[:1].detach().requires_grad_())
    )


def test_half_precision_planes_have_gradients_summed_in_float32():
    planes, points = inputs("official", points=16, dtype=torch.float32)
    points = points.detach()
    (exact,) = torch.autograd.grad(features(planes, points, "official", "fast").sum(), planes)
    low = planes.detach().half().requires_grad_()
    y = features(low, points, "official", "triton")
    assert y.dtype == torch.float16
    (found,) = torch.autograd.grad(y.sum(), low)
    torch.testing.assert_close(found.float(), exact, rtol=2e-3, atol=2e-3)


def test_the_ops_are_well_registered():
    from gan3d.ops.triton.triplane import plane_features, plane_features_backward

    planes, points = inputs("fixed", points=3)
    rows = PlaneTable.of(planes, "fixed").rows.detach()
    options = (2, 4, 4, [0, 1, 0, 2, 2, 1], 2.0)
    torch.library.opcheck(plane_features, (rows.requires_grad_(), points, *options))
    y = plane_features(rows.detach(), points.detach(), *options)
    plain = (torch.ones_like(y), rows.detach(), points.detach())
    for asked in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(plane_features_backward, (*plain, *options, *asked))


def test_it_compiles_into_one_graph():
    planes, points = inputs("fixed", points=3)
    compiled = torch.compile(
        lambda *t: features(*t, "fixed", "triton"), fullgraph=True, backend="aot_eager"
    )
    expected = features(planes, points, "fixed", "triton")
    torch.testing.assert_close(compiled(planes, points), expected)
    grads = torch.autograd.grad(compiled(planes, points).sum(), (planes, points))
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), (planes, points)))
