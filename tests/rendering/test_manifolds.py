"""Radiance manifolds: intersections, compositing and lookups against answers known by hand."""

import math

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera, Rays
from gan3d.ops.manifolds import look_up_foreground
from gan3d.rendering.manifolds import (
    ManifoldOptions,
    Surfaces,
    alphas,
    background_coordinate,
    background_grid,
    background_position,
    composite,
    distances_to,
    foreground_grid,
    in_chunks,
    intersections,
    look_up_background,
    plane_intersections,
    render_manifolds,
    samples_along,
    shade_surfaces,
    trace_surfaces,
    upsample_surfaces,
    view_directions,
)

FACES = ManifoldOptions(num_samples=32, num_manifolds=6, levels_start=5.0, levels_end=-5.0)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(resolution: int = 8, yaws: tuple[float, ...] = (0.0, 0.3), radius: float = 1.0) -> Rays:
    cameras = Camera.from_angles(torch.tensor(yaws).double(), 0.1, radius=radius, fov=12.0)
    return cameras.rays(resolution)


def planes(points: Tensor) -> Tensor:
    """s = 100 z: its level l is the plane z = l / 100."""
    return 100 * points[..., 2]


def along_x(values: list[float]) -> tuple[Tensor, Tensor]:
    """One ray whose sample k lies at (k, 0, 0) and has the k-th value."""
    s = torch.tensor(values, dtype=torch.float64)[None, None]
    samples = torch.zeros(1, 1, len(values), 3, dtype=torch.float64)
    samples[..., 0] = torch.arange(len(values))
    return samples, s


# -- Intersections ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "level", "x", "valid"),
    [
        ([4.0, 2.0, 0.0], 3.0, 0.5, True),
        ([4.0, 3.0, 0.0], 3.0, 1.0, True),  # at the end of the first of two intervals
        ([3.0, 1.0, 0.0], 3.0, 0.0, True),
        ([0.0, 2.0, 4.0], 3.0, 2.0, False),  # rising
        ([4.0, 3.5, 3.2], 3.0, 2.0, False),  # never reached
        ([2.0, 4.0, 1.0, 5.0, 0.0], 3.0, 1 + 1 / 3, True),  # falls twice, rises twice
        ([2.0, 2.5, 1.0], 3.0, 2.0, False),  # starts below, stays below
        ([3.04, 3.0, 1.0], 3.02, 1.0, True),  # flat: the far end
        ([3.05, 2.99, 1.0], 3.02, 0.5, True),  # just steep enough
    ],
)
def test_first_falling_crossing_by_hand(values, level, x, valid):
    surfaces = intersections(*along_x(values), torch.tensor([level], dtype=torch.float64))
    assert surfaces.valid.item() is valid
    assert surfaces.points[0, 0, 0].tolist() == pytest.approx([x, 0, 0])


def test_levels_of_a_linear_function_are_intersected_exactly():
    rays = views()
    surfaces = trace_surfaces(planes, rays, FACES)
    expected = FACES.levels(surfaces.points) / 100
    assert surfaces.valid.all()
    assert torch.allclose(surfaces.points[..., :5, 2], expected.expand(2, 64, 5), atol=1e-12)
    plane = torch.tensor(-0.12, dtype=torch.float64)
    assert torch.allclose(surfaces.points[..., 5, 2], plane, atol=1e-12)
    offsets = surfaces.points - rays.origins[:, :, None]
    along = torch.linalg.cross(offsets, rays.directions[:, :, None].expand_as(offsets))
    assert along.abs().max() < 1e-12


def test_spheres_are_intersected_up_to_the_curvature_within_an_interval():
    center = torch.tensor([0.0, 0.0, -0.18], dtype=torch.float64)
    options = ManifoldOptions(num_samples=64, num_manifolds=5, levels_start=25.0, levels_end=10.0)
    surfaces = trace_surfaces(lambda p: 100 * (p - center).norm(dim=-1), views(), options)
    radii = (surfaces.points[..., :4, :] - center).norm(dim=-1)
    error = (radii - options.levels(radii) / 100).abs()[surfaces.valid[..., :4]]
    step = 0.24 / 63
    assert error.max() <= step**2 / (8 * 0.1)
    missed = ~surfaces.valid[..., :4]
    assert missed.any()
    assert not missed.all()
    ends = samples_along(views(), options)[:, :, -1:].expand(-1, -1, 4, -1)
    assert torch.equal(surfaces.points[..., :4, :][missed], ends[missed])


def test_points_are_differentiable_in_s_and_in_the_samples():
    samples = numbers(2, 3, 6, 3).requires_grad_()
    s = (torch.arange(6.0, 0.0, -1.0).double() + 0.2 * numbers(2, 3, 6)).requires_grad_()
    levels = torch.tensor([4.6, 3.3, 1.7], dtype=torch.float64)

    def points(samples: Tensor, s: Tensor) -> Tensor:
        return intersections(samples, s, levels).points

    assert intersections(samples, s, levels).valid.all()
    assert torch.autograd.gradcheck(points, (samples, s))
    assert torch.autograd.gradgradcheck(points, (samples, s))


def test_misses_and_flat_intervals_pass_no_gradient_and_no_nan_to_s():
    for values, level in (([3.0, 3.0, 3.0], 3.0), ([1.0, 2.0, 2.0], 5.0), ([2.0, 2.0, 1.0], 9.0)):
        samples, s = along_x(values)
        s.requires_grad_()
        surfaces = intersections(samples, s, torch.tensor([level], dtype=torch.float64))
        surfaces.points.sum().backward()
        assert torch.equal(s.grad, torch.zeros_like(s))


def test_a_plane_is_hit_in_front_and_missed_behind_or_in_parallel():
    origins = torch.tensor([0.0, 0.0, 1.0]).expand(1, 4, 3)
    directions = [[0.0, 0.0, -1.0], [0.6, 0.0, -0.8], [0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]
    directions = torch.tensor([directions], requires_grad=True)
    surfaces = plane_intersections(origins, directions, -0.12)
    assert surfaces.valid[0, :, 0].tolist() == [True, True, False, False]
    assert torch.allclose(surfaces.points[0, 0, 0], torch.tensor([0.0, 0.0, -0.12]))
    assert torch.allclose(surfaces.points[0, 1, 0], torch.tensor([0.84, 0.0, -0.12]))
    surfaces.points.sum().backward()
    assert directions.grad.isfinite().all()


def test_samples_are_equally_spaced_including_both_ends():
    samples = samples_along(views(), FACES)
    distances = distances_to(samples, views().origins[:, :1])
    expected = torch.linspace(0.88, 1.12, 32, dtype=torch.float64)
    assert torch.allclose(distances, expected.expand(2, 64, 32))


# -- Compositing -----------------------------------------------------------------------------------


def one_ray(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, None]


def test_three_surfaces_out_of_order_by_hand():
    alpha, distances = one_ray([0.5, 0.25, 0.8]), one_ray([3.0, 1.0, 2.0])
    rgb = torch.eye(3, dtype=torch.float64)[None, None]
    seen = composite(alpha, rgb, distances)
    expected = [0.5 * 0.75 * 0.2, 0.25, 0.8 * 0.75]
    assert seen.weights.flatten().tolist() == pytest.approx(expected)
    assert seen.rgb.flatten().tolist() == pytest.approx(expected)
    assert seen.opacity.item() == pytest.approx(0.925)
    assert seen.depth.item() == pytest.approx(3 * expected[0] + expected[1] + 2 * expected[2])


def test_remaining_light_is_white_or_goes_to_the_farthest_surface():
    alpha, distances = one_ray([0.5, 0.5]), one_ray([2.0, 1.0])
    rgb = one_ray([0.0, 0.0])[..., None]
    white = composite(alpha, rgb, distances, white_back=True)
    assert white.rgb.item() == pytest.approx(0.25)
    assert white.opacity.item() == pytest.approx(0.75)
    last = composite(alpha, rgb, distances, last_back=True)
    assert last.weights.flatten().tolist() == pytest.approx([0.5, 0.5])
    assert last.opacity.item() == pytest.approx(1.0)
    assert last.depth.item() == pytest.approx(1.5)


def test_the_order_of_the_surfaces_does_not_matter():
    alpha, distances = numbers(2, 5, 7).sigmoid(), numbers(2, 5, 7, seed=1)
    rgb = numbers(2, 5, 7, 3)
    swap = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    one = composite(alpha, rgb, distances)
    other = composite(alpha[..., swap], rgb[:, :, swap], distances[..., swap])
    for a, b in zip(one[:3], other[:3]):
        assert torch.allclose(a, b)
    assert torch.allclose(one.weights[..., swap], other.weights)


@pytest.mark.parametrize("backs", [{}, {"white_back": True}, {"last_back": True}])
def test_compositing_is_differentiable_twice(backs):
    alpha = (0.2 + 0.6 * numbers(1, 2, 4).sigmoid()).requires_grad_()
    rgb = numbers(1, 2, 4, 2).requires_grad_()
    distances = (torch.tensor([3.0, 1.0, 4.0, 2.0]).double().expand(1, 2, 4) + 0).requires_grad_()

    def seen(alpha: Tensor, rgb: Tensor, distances: Tensor) -> tuple[Tensor, ...]:
        return tuple(composite(alpha, rgb, distances, **backs))

    assert torch.autograd.gradcheck(seen, (alpha, rgb, distances))
    assert torch.autograd.gradgradcheck(seen, (alpha, rgb, distances))


def test_alpha_by_hand_with_an_opaque_background_and_farthest_surface():
    sigma, valid = one_ray([2.0, 3.0, 5.0, 1e-3]), torch.tensor([[[True, False, True, True]]])
    distances = one_ray([1.0, 2.0, 9.0, 3.0])  # the background, the last one, is not the farthest

    def alpha(**options) -> list[float]:
        options = ManifoldOptions(delta_alpha=0.1, **options)
        return alphas(sigma, valid, distances, options).flatten().tolist()

    assert alpha() == pytest.approx([1 - math.exp(-0.2), 0, 1, 1])
    thin = [1 - math.exp(-0.2), 0, 1 - math.exp(-0.5), 1 - math.exp(-1e-4)]
    assert alpha(background=False) == pytest.approx(thin)


def test_alphas_are_differentiable_twice():
    sigma = (0.5 + numbers(1, 2, 4).square()).requires_grad_()
    valid, distances = torch.ones(1, 2, 4, dtype=torch.bool), numbers(1, 2, 4)
    assert torch.autograd.gradcheck(lambda s: alphas(s, valid, distances, FACES), sigma)
    assert torch.autograd.gradgradcheck(lambda s: alphas(s, valid, distances, FACES), sigma)


# -- A view ----------------------------------------------------------------------------------------


def colored(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Density increases with y; color depends on position and slightly on view direction."""
    return 20 * (1 + 5 * points[..., 1:2]), points / 0.24 + 0.5 + 0.1 * directions


def test_an_opaque_first_surface_hides_the_others():
    def opaque(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(points[..., :1], 1e6), points

    rays = views()
    seen = render_manifolds(planes, opaque, rays, FACES)
    front = trace_surfaces(planes, rays, FACES).points[:, :, 0]
    assert torch.allclose(seen.rgb, front)
    assert torch.allclose(seen.depth, (front - rays.origins).norm(dim=-1, keepdim=True))
    assert torch.allclose(seen.opacity, torch.ones_like(seen.opacity))


def test_rendering_is_tracing_and_shading():
    rays = views()
    whole = render_manifolds(planes, colored, rays, FACES)
    parts = shade_surfaces(colored, trace_surfaces(planes, rays, FACES), rays, FACES)
    for a, b in zip(whole, parts):
        assert torch.equal(a, b)
    surfaces = trace_surfaces(planes, rays, FACES)
    sigma, rgb = colored(surfaces.points, rays.directions[:, :, None].expand_as(surfaces.points))
    distances = distances_to(surfaces.points, rays.origins)
    alpha = alphas(sigma[..., 0], surfaces.valid, distances, FACES)
    assert torch.allclose(whole.rgb, composite(alpha, rgb, distances).rgb)


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_change_nothing(gradient):
    steepness = torch.tensor(100.0, dtype=torch.float64, requires_grad=True)
    results = []
    for chunk in (None, 1, 13, 1000):
        options = ManifoldOptions(
            num_samples=32, num_manifolds=6, levels_start=5, levels_end=-5, ray_chunk=chunk
        )
        with torch.set_grad_enabled(gradient):
            seen = render_manifolds(lambda p: steepness * p[..., 2], colored, views(), options)
        extra = torch.autograd.grad(seen.rgb.square().sum(), steepness) if gradient else ()
        results.append([*seen, *extra, *trace_surfaces(planes, views(), options)])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert torch.allclose(a.double(), b.double(), atol=1e-12)


def test_without_gradient_large_views_are_rendered_in_chunks():
    sizes = []

    def double(x: Tensor) -> list[Tensor]:
        sizes.append(x.shape[1])
        return [2 * x]

    with torch.no_grad():
        (twice,) = in_chunks(double, [numbers(2, 700, 1)], None)
    assert sizes == [128] * 5 + [60]
    assert torch.equal(twice, 2 * numbers(2, 700, 1))


def test_distances_are_from_the_origin_of_each_view_or_with_shared_origin_of_the_first():
    shared = ManifoldOptions(
        num_samples=32, num_manifolds=6, levels_start=5, levels_end=-5, shared_origin=True
    )
    rays = views(yaws=(0.0, 0.5))
    alone = render_manifolds(planes, colored, views(yaws=(0.5,)), FACES)
    assert torch.allclose(render_manifolds(planes, colored, rays, FACES).depth[1:], alone.depth)
    first = views(yaws=(0.0,)).origins[:, :1]
    points = trace_surfaces(planes, rays, shared).points
    both = render_manifolds(planes, colored, rays, shared)
    expected = (both.weights * distances_to(points, first)).sum(-1, keepdim=True)
    assert torch.allclose(both.depth, expected)
    assert not torch.allclose(both.depth[1:], alone.depth, atol=1e-3)


# -- Surfaces as images ----------------------------------------------------------------------------


def test_the_foreground_grid_spans_the_scene_from_its_lowest_row():
    surfaces = foreground_grid(planes, 5, FACES, numbers(1))
    axis = torch.linspace(-0.12, 0.12, 5, dtype=torch.float64)
    points = surfaces.points.unflatten(1, (5, 5))
    assert surfaces.valid.all()
    assert torch.allclose(points[0, ..., 0], axis[None, :, None].expand(5, 5, 5))
    assert torch.allclose(points[0, ..., 1], axis[:, None, None].expand(5, 5, 5))
    assert torch.allclose(points[0, ..., 2], (FACES.levels(axis) / 100).expand(5, 5, 5), atol=1e-12)


def test_the_foreground_grid_may_have_other_extents():
    surfaces = foreground_grid(planes, 3, FACES, numbers(1), half_extent=0.5, heights=(0.04, -0.04))
    assert surfaces.points[0, 0, 0, :2].tolist() == [-0.5, -0.5]
    inside = (FACES.levels(surfaces.points) / 100).abs() <= 0.04
    assert torch.equal(surfaces.valid, inside.expand(1, 9, 5))


def test_background_coordinates_by_hand():
    u = torch.tensor([0.0, 0.25, -0.5, 0.5, 1.0, -1.0], dtype=torch.float64)
    edge = 0.24 * math.tan(0.5) + 0.12
    expected = [0.0, 0.06, -0.12, 0.12, edge, -edge]
    assert background_position(u, 0.24).tolist() == pytest.approx(expected)
    assert background_position(u, 1.0).tolist() == pytest.approx([x / 0.24 for x in expected])


@pytest.mark.parametrize("extent", [0.24, 1.0])
def test_background_coordinates_are_the_inverse_of_positions(extent):
    u = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    assert torch.allclose(background_coordinate(background_position(u, extent), extent), u)
    slopes = background_position(u, extent).diff() / u.diff()
    assert slopes.min() >= extent * (1 - 1e-9)  # no jump, nowhere denser than within the scene
    some = (u + 1e-3)[::30].requires_grad_()
    assert torch.autograd.gradcheck(lambda u: background_position(u, extent), some)
    assert torch.autograd.gradcheck(lambda x: background_coordinate(x, extent), some)


def test_the_background_grid_lies_in_its_plane_from_its_lowest_row():
    points = background_grid(4, FACES, numbers(1)).unflatten(1, (4, 4))[0]
    axis = background_position(torch.linspace(-1, 1, 4, dtype=torch.float64), 0.24)
    assert torch.allclose(points[..., 0], axis.expand(4, 4))
    assert torch.allclose(points[..., 1], axis[:, None].expand(4, 4))
    assert (points[..., 2] == -0.12).all()


def test_points_between_rays_are_exact_if_the_surface_is_linear():
    x, y = torch.meshgrid(torch.linspace(0, 1, 4), torch.linspace(0, 1, 4), indexing="xy")
    points = torch.stack([x, y, 2 * x - y], -1).flatten(0, 1)[None, :, None].repeat(2, 1, 3, 1)
    surfaces = upsample_surfaces(Surfaces(points, torch.ones(2, 16, 3, dtype=torch.bool)), 7)
    x, y = torch.meshgrid(torch.linspace(0, 1, 7), torch.linspace(0, 1, 7), indexing="xy")
    expected = torch.stack([x, y, 2 * x - y], -1).flatten(0, 1)[None, :, None].expand(2, 49, 3, 3)
    assert torch.allclose(surfaces.points, expected, atol=1e-6)
    assert surfaces.valid.all()


def test_points_next_to_a_miss_are_not_valid():
    valid = torch.ones(1, 9, 1, dtype=torch.bool)
    valid[0, 4] = False  # the center of 3 x 3
    larger = upsample_surfaces(Surfaces(torch.zeros(1, 9, 1, 3), valid), 5).valid.reshape(5, 5)
    expected = torch.ones(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = False
    assert torch.equal(larger, expected)


def test_surfaces_of_an_incomplete_view_cannot_be_upsampled():
    surfaces = Surfaces(torch.zeros(1, 8, 1, 3), torch.ones(1, 8, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="surfaces of 8 rays are not a square view"):
        upsample_surfaces(surfaces, 4)


def test_aligned_lookups_return_the_maps_at_the_points_of_their_grid():
    surfaces = foreground_grid(planes, 6, FACES, numbers(1))
    maps = numbers(2, 5, 4, 6, 6)
    values = look_up_foreground(maps, surfaces.points.expand(2, -1, -1, -1), 0.12, aligned=True)
    assert torch.allclose(values, maps.flatten(3).permute(0, 3, 1, 2))
    texture = numbers(2, 3, 6, 6)
    points = background_grid(6, FACES, numbers(1)).expand(2, -1, -1)
    values = look_up_background(texture, points, 0.24, aligned=True)
    assert torch.allclose(values, texture.flatten(2).mT)


def test_published_lookups_put_the_border_of_the_scene_on_the_edge_of_the_map():
    # A map that is linear in x, with texel centers at (j + 1/2) / 4.
    ramp = ((torch.arange(4) + 0.5) / 4).double().expand(1, 1, 1, 4, 4)
    x = torch.tensor([-0.06, 0.0, 0.09], dtype=torch.float64)
    points = torch.stack([x, 0 * x, 0 * x], -1)[None, :, None]
    foreground = look_up_foreground(ramp, points, 0.12)
    background = look_up_background(ramp[:, 0], points[:, :, 0], 0.48)
    assert torch.allclose(foreground.flatten(), x / 0.24 + 0.5)
    assert torch.allclose(background.flatten(), x / 0.96 + 0.5)


def test_outside_its_map_a_surface_is_empty_and_the_background_is_reflected():
    maps = numbers(1, 1, 2, 4, 4)
    outside = torch.tensor([[[[0.2, 0.0, 0.0]]]], dtype=torch.float64)
    assert (look_up_foreground(maps, outside, 0.12) == 0).all()
    u = torch.tensor([0.9, 1.1], dtype=torch.float64)
    points = torch.stack([background_position(u, 0.24), 0 * u, 0 * u], -1)[None]
    inside, mirrored = look_up_background(maps[:, 0], points, 0.24)[0]
    assert torch.allclose(inside, mirrored)


def test_view_directions_are_unit_vectors_from_each_view():
    points, origins = numbers(2, 3, 4, 3), numbers(2, 3)
    directions = view_directions(points, origins)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(2, 3, 4, dtype=torch.float64))
    along = (points - origins[:, None, None]).norm(dim=-1, keepdim=True) * directions
    assert torch.allclose(along + origins[:, None, None], points)


# -- Options ---------------------------------------------------------------------------------------


def test_the_background_replaces_one_level():
    with_background = ManifoldOptions().levels(numbers(1))
    without = ManifoldOptions(num_manifolds=4, background=False).levels(numbers(1))
    assert with_background.tolist() == pytest.approx([23 - 15 / 22 * i for i in range(23)])
    assert without.tolist() == pytest.approx([23, 18, 13, 8])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scene_extent": 0.0}, "scene_extent 0.0 is not positive"),
        ({"ray_start": 1.2}, "ray_start 1.2 and ray_end 1.12"),
        ({"num_samples": 1}, "at least 2 samples"),
        ({"num_manifolds": 1}, "one surface besides the background"),
        ({"delta_alpha": 0.0}, "all surfaces would be transparent"),
        ({"ray_chunk": 0}, "ray_chunk 0 is not positive"),
    ],
)
def test_impossible_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ManifoldOptions(**wrong)
