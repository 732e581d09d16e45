"""Tri-plane sampling: planes known in closed form, and the table against grid_sample."""

import pytest
import torch

from gan3d.ops.triplane import PlaneTable, plane_features_reference

AXES = pytest.mark.parametrize("axes", ["official", "fixed"])


def reference(planes, points, box_warp, axes):
    return plane_features_reference(planes, points, box_warp=box_warp, axes=axes).mean(1)


def table(planes, points, box_warp, axes):
    return PlaneTable.of(planes, axes).features(points, box_warp=box_warp)


FORMS = pytest.mark.parametrize("form", [reference, table], ids=["grid_sample", "table"])


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def ramp(size: int) -> torch.Tensor:
    """Coordinates of texel centers in [-1, 1]: sampling them bilinearly gives the coordinate."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) * 2 / size - 1


@FORMS
@pytest.mark.parametrize(
    ("axes", "width", "height"),
    [("official", (0, 0, 2), (1, 2, 0)), ("fixed", (0, 0, 2), (1, 2, 1))],
)
def test_ramps_along_width_and_height_give_the_documented_world_axes(form, axes, width, height):
    box_warp, size = 1.6, 16
    points = 0.7 * box_warp / 2 * (2 * torch.rand(1, 50, 3, dtype=torch.float64) - 1)
    for plane in range(3):
        planes = torch.zeros(1, 3, 2, size, size, dtype=torch.float64)
        planes[0, plane, 0], planes[0, plane, 1] = ramp(size)[None, :], ramp(size)[:, None]
        seen = 3 * form(planes, points, box_warp, axes)
        assert torch.allclose(seen[..., 0], points[..., width[plane]] * 2 / box_warp)
        assert torch.allclose(seen[..., 1], points[..., height[plane]] * 2 / box_warp)


@FORMS
@AXES
def test_planes_constant_along_x_do_not_change_along_x(form, axes):
    planes = random(1, 3, 4, 8, 8)
    planes[:, 0] = planes[:, 0, :, :, :1]
    planes[:, 1] = planes[:, 1, :, :, :1]
    if axes == "official":  # its third plane has x along the height
        planes[:, 2] = planes[:, 2, :, :1, :]
    points = 0.4 * (2 * torch.rand(1, 30, 3, dtype=torch.float64) - 1)
    moved = points + torch.tensor([0.03, 0, 0])
    assert torch.allclose(form(planes, points, 1.0, axes), form(planes, moved, 1.0, axes))


@FORMS
@AXES
def test_features_fade_to_zero_over_half_a_texel_outside_the_box(form, axes):
    size, box_warp = 8, 2.0
    planes = torch.ones(1, 3, 1, size, size, dtype=torch.float64)
    texel = box_warp / size
    outside = torch.tensor(
        [-texel / 2, 0.0, texel / 4, texel / 2, 1.0, 1e9, torch.inf], dtype=torch.float64
    )
    points = torch.stack([1 + outside] * 3, -1)[None]
    fading = torch.tensor([1, 0.5, 0.25, 0, 0, 0, 0], dtype=torch.float64)
    # Only the table accepts infinite points.
    assert torch.allclose(form(planes, points[:, :-1], box_warp, axes)[0, :, 0], fading[:-1] ** 2)
    assert torch.allclose(table(planes, -points, box_warp, axes)[0, :, 0], fading**2)


@AXES
@pytest.mark.parametrize("size", [(1, 1), (5, 5), (6, 9)])
@pytest.mark.parametrize("points", [1, 63, 100])
def test_table_is_the_mean_of_grid_sample(axes, size, points):
    planes, where = random(2, 3, 5, *size), random(2, points, 3, seed=1)
    expected = reference(planes, where, 1.7, axes)
    assert torch.allclose(table(planes, where, 1.7, axes), expected, atol=1e-12)


def test_square_official_planes_are_folded_to_two_and_others_are_not():
    assert len(PlaneTable.of(random(1, 3, 2, 4, 4), "official").projections) == 2
    assert len(PlaneTable.of(random(1, 3, 2, 4, 4), "fixed").projections) == 3
    assert len(PlaneTable.of(random(1, 3, 2, 4, 6), "official").projections) == 3


def test_a_table_of_one_scene_accepts_points_of_any_batch_and_shape():
    planes, points = random(1, 3, 4, 6, 6), random(5, 2, 7, 3, seed=1)
    seen = PlaneTable.of(planes).features(points, box_warp=2.0)
    assert seen.shape == (5, 2, 7, 4)
    expected = reference(planes.expand(5, -1, -1, -1, -1), points.flatten(1, 2), 2.0, "official")
    assert torch.allclose(seen.flatten(1, 2), expected)


@AXES
def test_table_gradients_equal_those_of_grid_sample(axes):
    planes = random(2, 3, 4, 6, 6).requires_grad_()
    points = random(2, 40, 3, seed=1).requires_grad_()
    cotangent = random(2, 40, 4, seed=2)
    for got, want in zip(
        torch.autograd.grad(table(planes, points, 1.9, axes), (planes, points), cotangent),
        torch.autograd.grad(reference(planes, points, 1.9, axes), (planes, points), cotangent),
    ):
        assert torch.allclose(got, want, atol=1e-12)


@AXES
def test_first_and_second_derivatives_of_the_table(axes):
    planes = random(1, 3, 2, 3, 3).requires_grad_()
    points = (0.6 * random(1, 4, 3, seed=1)).requires_grad_()
    run = lambda planes, points: table(planes, points, 2.0, axes)  # noqa: E731
    assert torch.autograd.gradcheck(run, (planes, points))
    assert torch.autograd.gradgradcheck(run, (planes, points))


def test_first_and_second_derivatives_of_grid_sample_in_the_planes():
    planes, points = random(1, 3, 2, 3, 3).requires_grad_(), 0.6 * random(1, 4, 3, seed=1)
    run = lambda planes: plane_features_reference(planes, points, box_warp=2.0, axes="official")  # noqa: E731
    assert torch.autograd.gradcheck(run, planes)
    assert torch.autograd.gradgradcheck(run, planes)


def test_wrong_planes_axes_and_batches_are_refused():
    with pytest.raises(ValueError, match="expected \\[b 3 c h w\\]"):
        PlaneTable.of(random(2, 96, 4, 4))
    with pytest.raises(ValueError, match="choose official or fixed"):
        PlaneTable.of(random(1, 3, 2, 4, 4), "eg3d")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 scenes do not match points of a batch of 3"):
        PlaneTable.of(random(2, 3, 2, 4, 4)).features(random(3, 5, 3), box_warp=1.0)
