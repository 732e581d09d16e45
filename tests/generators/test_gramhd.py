"""GRAM-HD: strict 3D consistency of cached scenes, dependences, stage 1, sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan3d.camera import Camera, spanning_camera
from gan3d.generators import GRAM, GRAMHD
from gan3d.generators.gramhd import RadianceMaps
from gan3d.rendering.manifolds import background_coordinate, background_position, trace_surfaces

TINY_PLANES = {"lr_resolution": 9, "img_resolution": 18}  # odd sides have a center ray


def model(**changes) -> GRAMHD:
    torch.manual_seed(0)
    generator = GRAMHD(**GRAMHD.tiny | changes).eval()
    with torch.no_grad():  # the background's last layer starts at zero
        for parameter in generator.super_resolution_bg.conv_last.parameters():
            parameter.normal_(std=0.1)
    return generator


def planes(**changes) -> GRAMHD:
    """A model whose surfaces are the planes z = s - 0.5 for s from 0.8 down to 0.2.

    s = z + 0.5 is computed exactly, as relu(z + 1) - 0.5.
    """
    generator = model(**TINY_PLANES | {"levels_start": 0.8, "levels_end": 0.2} | changes)
    predictor = generator.predictor
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.zero_()
        # The input of the predictor is 2 x - center, center = (0, 0, -1.5): 2 z + 1.5.
        predictor.network[0].weight[0, 2] = 0.5
        predictor.network[0].bias[0] = 0.25
        for layer in predictor.network[2::2]:
            layer.weight[0, 0] = 1
        predictor.output_layer.weight[0, 0] = 1
        predictor.output_layer.bias[0] = -0.5
    return generator


def cameras(b: int = 4) -> Camera:
    return Camera.from_angles(torch.linspace(-0.4, 0.4, b), torch.linspace(-0.1, 0.1, b))


def latents(generator: GRAMHD, b: int = 4) -> torch.Tensor:
    return torch.randn(b, generator.z_dim, generator=torch.Generator().manual_seed(1))


def scene(generator: GRAMHD, level: int, rgba) -> RadianceMaps:
    """A single visible surface with color and alpha rgba [4 H W], on a gray background."""
    k, h, low = generator.options.num_levels, generator.img_resolution, generator.raw_resolution
    foreground = torch.zeros(1, k, 4, h, h)
    foreground[:, level] = rgba
    background = torch.full((1, 3, h, h), 0.5)
    low_foreground, low_background = torch.zeros(1, k, 4, low, low), torch.zeros(1, 3, low, low)
    ws = torch.zeros(1, generator.num_ws, generator.w_dim)
    return RadianceMaps(foreground, background, low_foreground, low_background, ws)


def around(point: torch.Tensor) -> Camera:
    """Eight cameras that look at a point."""
    yaw, pitch = torch.linspace(-0.4, 0.4, 8), torch.linspace(0.3, -0.3, 8)
    return Camera.from_angles(yaw, pitch, target=point)


def sample(texture: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Texture [c H W] at a position [2] in [-1, 1], from edge to edge: [c]."""
    grid = position.expand(1, 1, 1, 2)
    return F.grid_sample(texture[None], grid, align_corners=False)[0, :, 0, 0]


# -- Consistency -----------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["exact", "upsampled"])
@pytest.mark.parametrize("level", [0, 2])
@torch.no_grad()
def test_a_point_of_a_surface_has_the_same_color_in_all_views(geometry, level):
    """Eight cameras look at one point of a plane, which their center ray hits exactly."""
    generator = planes(geometry=geometry)
    z = generator.options.levels(torch.zeros(1))[level].item() - 0.5
    rgba = torch.rand(4, 18, 18, generator=torch.Generator().manual_seed(level))
    for x, y in ((0.0, 0.0), (0.13, -0.21), (-0.3, 0.1)):
        point = torch.tensor([x, y, z])
        *color, alpha = sample(rgba, torch.tensor([x, y]) / generator.grid_extent)
        expected = 2 * (alpha * torch.stack(color) + (1 - alpha) * 0.5) - 1
        one = scene(generator, level, rgba)
        image = generator.render(one, around(point), resolution=17, raw=False).image
        torch.testing.assert_close(image[:, :, 8, 8], expected.expand(8, 3), atol=1e-4, rtol=0)
        assert image.std((2, 3)).min() > 0.02, "the other pixels have the same color"


@pytest.mark.parametrize("level", [0, 2])
@torch.no_grad()
def test_a_point_of_a_curved_surface_has_one_color_and_occupancy(level):
    """As above, with maps of the networks and the initial surfaces, in small but not flat steps."""
    generator = model(**TINY_PLANES, lock_view=True, geometry="exact", num_samples=200)
    cached = generator.represent(generator.map(latents(generator, 1)))
    first = Camera.from_angles(0.2, 0.1)
    center = first.rays(17, torch.tensor([8 * 17 + 8]))
    surfaces = trace_surfaces(generator.predictor, center, generator.options)
    assert surfaces.valid[0, 0, level]
    point = surfaces.points[0, 0, level]
    seen = {}
    for name, channels in (("color", slice(0, 3)), ("occupancy", slice(3, 4))):
        rgba = cached.foreground[0, level].clone()
        rgba[:3] = rgba[channels]
        rgba[3:] = 1
        one = scene(generator, level, rgba)
        image = generator.render(one, around(point), resolution=17, raw=False).image
        seen[name] = image[:, :, 8, 8] / 2 + 0.5
        expected = sample(rgba, point[:2] / generator.grid_extent)[:3]
        torch.testing.assert_close(seen[name], expected.expand(8, 3), atol=1e-4, rtol=0)
    assert seen["color"].std(1).min() > 1e-3


@pytest.mark.parametrize("geometry", ["exact", "upsampled"])
@torch.no_grad()
def test_an_opaque_plane_has_its_depth(geometry):
    generator = planes(geometry=geometry)
    one = scene(generator, 1, torch.ones(4, 18, 18))
    shown = generator.render(one, Camera.from_angles(0.0, 0.0), raw=False)
    z = generator.options.levels(torch.zeros(1))[1].item() - 0.5
    torch.testing.assert_close(shown.depth, torch.full((1, 1, 18, 18), 2.7 - z))
    torch.testing.assert_close(shown.opacity, torch.ones(1, 1, 18, 18))
    along = shown.extras["ray_depth"][0, 0]
    corner = (2.7 - z) * math.hypot(1, math.sqrt(2) * math.tan(math.radians(18.83 / 2)) * 17 / 18)
    assert along[0, 0].item() == pytest.approx(corner, rel=1e-4)


@torch.no_grad()
def test_interpolated_geometry_of_planes_is_nearly_exact():
    coarse = torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    rgba = F.interpolate(coarse, (18, 18), mode="bilinear")[0]
    shown = []
    for geometry in ("exact", "upsampled"):
        generator = planes(geometry=geometry)
        shown.append(generator.render(scene(generator, 1, rgba), cameras(2), raw=False).image)
    assert (shown[0] - shown[1]).abs().max() < 0.02


@torch.no_grad()
def test_a_cached_scene_renders_exactly_like_a_new_one():
    generator, camera = model(lock_view=True), cameras()
    ws = generator.map(latents(generator))
    cached = generator.render(generator.represent(ws), camera)
    for other in (generator.render(ws, camera), generator(latents(generator), camera)):
        assert torch.equal(cached.image, other.image)
        assert torch.equal(cached.raw, other.raw)
        assert torch.equal(cached.depth, other.depth)


@torch.no_grad()
def test_another_view_of_a_cached_scene_runs_no_network_but_the_predictor(monkeypatch):
    generator = model(lock_view=True)
    cached = generator.represent(generator.map(latents(generator, 1)))
    expected = generator.render(cached, cameras(1)).image

    def forbidden(*_, **__):
        raise AssertionError("a network was called")

    for name in ("radiance", "mapping", "super_resolution", "super_resolution_bg"):
        monkeypatch.setattr(getattr(generator, name), "forward", forbidden)
    assert torch.equal(generator.render(cached, cameras(1), raw=False).image, expected)


@pytest.mark.parametrize("lock_view", [True, False])
@torch.no_grad()
def test_one_scene_from_many_cameras_equals_each_view_alone(lock_view):
    generator = model(lock_view=lock_view)
    cached = generator.represent(generator.map(latents(generator, 1)))
    together = generator.render(cached, cameras(3))
    for i, camera in enumerate(cameras(3)):
        alone = generator.render(cached, camera)
        torch.testing.assert_close(together.image[i : i + 1], alone.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.raw[i : i + 1], alone.raw, atol=1e-5, rtol=0)


# -- Dependences -----------------------------------------------------------------------------------


@torch.no_grad()
def test_maps_depend_on_the_camera_unless_views_are_locked():
    for lock_view in (True, False):
        generator = model(lock_view=lock_view)
        ws = generator.map(latents(generator, 1)).expand(4, -1, -1)
        for name in ("maps", "raw_maps"):
            maps = generator.render(ws, cameras()).extras[name]
            equal = torch.allclose(maps[:1].expand_as(maps), maps, atol=1e-6)
            assert equal is lock_view, name


@torch.no_grad()
def test_the_camera_of_an_image_does_not_change_the_others_unless_origins_are_shared():
    for shared in (False, True):
        generator = model(shared_origin=shared)
        z = latents(generator, 2)
        moved = Camera.cat([cameras(4)[3], cameras(2)[1]])
        before, after = generator(z, cameras(2)), generator(z, moved)
        assert (before.image[0] - after.image[0]).abs().mean() > 1e-3
        assert torch.equal(before.image[1], after.image[1]) is not shared


@torch.no_grad()
def test_omitting_the_raw_image_does_not_change_the_image():
    generator = model()
    z, camera = latents(generator), cameras()
    with_raw, without = generator(z, camera), generator(z, camera, raw=False)
    assert torch.equal(with_raw.image, without.image)
    assert without.raw is None
    assert set(without.extras) == {"ray_depth"}
    k = generator.options.num_manifolds
    assert with_raw.extras["maps"].shape == (4, k, 4, 32, 32)
    assert with_raw.extras["raw_maps"].shape == (4, k, 4, 16, 16)
    for name in ("maps", "raw_maps"):
        assert not with_raw.extras[name][:, -1, 3].any()
        occupancy = with_raw.extras[name][:, :-1, 3]
        assert occupancy.min() >= 0
        assert occupancy.max() <= 1


@pytest.mark.parametrize("geometry", ["exact", "upsampled"])
@torch.no_grad()
def test_a_cached_scene_is_rendered_at_any_resolution(geometry):
    generator = model(lock_view=True, geometry=geometry)
    cached = generator.represent(generator.map(latents(generator, 1)))
    coarse, fine = (generator.render(cached, cameras(1), resolution=side) for side in (32, 96))
    assert fine.image.shape == (1, 3, 96, 96)
    assert fine.raw.shape == (1, 3, 16, 16)
    # A pixel of the coarse image is the center of 3 x 3 pixels of the fine one.
    center = fine.image[..., 1::3, 1::3]
    assert (center - coarse.image).abs().mean() < 0.05 * coarse.image.std()


@torch.no_grad()
def test_aligned_lookups_find_contents_where_they_were_sampled():
    """A map x / e on a plane: exact if aligned; published lookups shrink it by 1 - 1 / H."""
    h, frontal = 18, Camera.from_angles(0.0, 0.0)
    for lookup, scale in (("aligned", 1.0), ("official", 18 / 17)):
        generator = planes(lookup=lookup, geometry="exact")
        rgba = torch.ones(4, h, h)
        rgba[0] = torch.linspace(-1, 1, h)
        red = generator.render(scene(generator, 0, rgba), frontal, raw=False).image[0, 0] / 2 + 0.5
        rays = frontal.rays(h)
        z = generator.options.levels(torch.zeros(1))[0].item() - 0.5
        x = (rays.directions[0, :, 0] / -rays.directions[0, :, 2]) * (2.7 - z)
        expected = (x / generator.grid_extent * scale).reshape(h, h)
        torch.testing.assert_close(red, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lookup", ["official", "aligned"])
@torch.no_grad()
def test_surfaces_with_their_maps_composite_to_the_image(lookup):
    """The center ray of a frontal camera intersects all surfaces at the (x, y) of a grid point."""
    generator = planes(lookup=lookup, geometry="exact", lock_view=True)
    cached = generator.represent(generator.map(latents(generator, 1)))
    surfaces = generator.surfaces(cached)
    assert [layer.name for layer in surfaces] == ["level 0", "level 1", "level 2", "background"]
    *levels, background = surfaces
    shrink = 17 / 18 if lookup == "aligned" else 1
    for i, j in ((4, 4), (2, 5), (1, 7)):
        x, y, _ = levels[0].points[i, j].tolist()
        expected, light = torch.zeros(3), 1.0
        for layer in levels:
            torch.testing.assert_close(layer.points[i, j, :2], torch.tensor([x, y]))
            assert layer.valid.all()
            *color, alpha = sample(layer.texture, layer.grid[i, j])
            expected = expected + light * alpha * torch.stack(color)
            light = light * (1 - alpha)
        grid = shrink * background_coordinate(torch.tensor([x, y]), 1.0)
        color = sample(background.texture, grid)
        expected = expected + light * color[:3]
        assert color[3] == 1
        frontal = Camera.from_angles(0.0, 0.0, target=(x, y, 0.0))
        image = generator.render(cached, frontal, resolution=17, raw=False).image[0, :, 8, 8]
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    axis = background_position(torch.linspace(-1, 1, 9), 1.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    torch.testing.assert_close(background.points[..., :2], torch.stack([x, y], -1))
    assert generator.surfaces(cached, resolution=5)[0].points.shape == (5, 5, 3)
    with pytest.raises(ValueError, match="got 2 scenes"):
        generator.surfaces(generator.map(latents(generator, 2)))


# -- Stage 1 ---------------------------------------------------------------------------------------


def test_a_gram_is_loaded_by_name_and_its_image_is_the_raw_image():
    sizes = {name: value for name, value in GRAMHD.tiny.items() if name in GRAM.tiny}
    torch.manual_seed(3)
    gram, generator = GRAM(**sizes), model()
    stage1 = {name: parameter.detach() for name, parameter in gram.named_parameters()}
    parameters = dict(generator.named_parameters())
    assert all(parameters[name].shape == parameter.shape for name, parameter in stage1.items())
    generator.load_state_dict(stage1, strict=False)
    z, camera = latents(generator), cameras()
    raw = generator(z, camera).raw
    torch.testing.assert_close(raw, gram(z, spanning_camera(camera, 32, 16), resolution=16).image)
    torch.testing.assert_close(generator.map(z)[:, :9, : gram.w_dim], gram.map(z))


def test_a_background_without_a_network_of_its_own_is_a_map_of_the_foregrounds():
    torch.manual_seed(0)
    generator = GRAMHD(**GRAMHD.tiny, separate_background=False).eval()
    assert not any(name.startswith("super_resolution_bg") for name in generator.state_dict())
    ws = generator.map(latents(generator, 1))
    maps = generator.radiance_maps(ws)
    plane = torch.cat([maps.low_background, torch.ones(1, 1, 16, 16)], 1)
    plane = F.pad(plane, (0, 0, 0, 0, 0, generator.radiance.feature_dim))
    style = ws[:, -1, : generator.super_resolution.style_dim]
    expected = generator.super_resolution(plane[:, None], style)[:, 0, :3]
    torch.testing.assert_close(maps.background, expected)
    assert maps.foreground.shape[1] == generator.options.num_levels


def test_stage_1_without_features():
    generator = GRAMHD(**GRAMHD.tiny | {"feature_dim": 0}).eval()
    image = generator(latents(generator, 1), cameras(1)).image
    assert image.shape == (1, 3, 32, 32)
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_trained_parameters(frozen):
    generator = model(frozen=frozen)
    parameters = dict(generator.named_parameters())
    trained = {name for name, p in parameters.items() if p.requires_grad}
    if frozen:
        parts = ("radiance.output_feature.", "super_resolution")
        assert trained == {name for name in parameters if name.startswith(parts)}
    else:
        assert trained == {name for name in parameters if not name.startswith("predictor.")}
    shown = generator(latents(generator), cameras())
    assert not shown.raw.requires_grad
    assert not shown.depth.isnan().any()
    (shown.image.square().mean() + shown.extras["maps"].square().mean()).backward()
    assert {name for name, p in generator.named_parameters() if p.grad is not None} == trained


def test_every_parameter_belongs_to_one_part():
    generator = model()
    for name, _ in generator.named_parameters():
        assert sum(generator.is_part_of(name, [part]) for part in generator.parts) == 1, name


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        generator = model(checkpointing=checkpointing)
        shown = generator(latents(generator, 2), cameras(2))
        (shown.image.square().mean() + shown.extras["maps"].square().mean()).backward()
        gradients.append([p.grad for p in generator.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)


def test_geometry_has_a_gradient_only_if_the_camera_requires_one():
    generator = model(lock_view=True)
    cached = generator.represent(generator.map(latents(generator, 1)).detach())
    cached = RadianceMaps(*(part.detach() for part in cached))
    assert not generator.render(cached, cameras(1)).depth.requires_grad
    label = cameras(1).label().requires_grad_(True)
    generator.render(cached, Camera.from_label(label)).depth.sum().backward()
    assert label.grad.abs().max() > 0


# -- Sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "total", "trained"),
    [(256, 11_399_012, 9_448_391), (512, 11_442_324, 9_491_703), (1024, 11_453_036, 9_502_415)],
)
def test_parameter_counts_are_the_published_ones(resolution, total, trained):
    with torch.device("meta"):
        generator = GRAMHD(img_resolution=resolution)
    assert sum(p.numel() for p in generator.parameters()) == total
    assert sum(p.numel() for p in generator.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize("sides", [(256, 64), (33, 9), (8, 8)])
def test_a_spanning_camera_has_the_same_corner_rays(sides):
    fine, coarse = sides
    camera = Camera.from_angles(torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.0]))
    camera = camera.to(torch.float64)
    skew = torch.tensor([[0.0, 0.1, 0.05], [0.0, 0.2, -0.1], [0.0, 0.0, 0.0]])
    camera = Camera(camera.cam2world, camera.intrinsics + skew)

    def corners(rays, side):
        return rays.directions.unflatten(1, (side, side))[:, :: side - 1, :: side - 1]

    expected = corners(camera.rays(fine), fine)
    spanning = spanning_camera(camera, fine, coarse)
    torch.testing.assert_close(corners(spanning.rays(coarse), coarse), expected)


def test_a_spanning_camera_is_the_sphere_camera_of_its_own_size():
    fine, coarse = (Camera.from_sphere(1.4, 1.8, 12.0, resolution=side) for side in (256, 64))
    torch.testing.assert_close(spanning_camera(fine, 256, 64).intrinsics, coarse.intrinsics)


def test_wrong_arguments_are_refused():
    not_a_power = "img_resolution 48 is not lr_resolution 16 times a power of two"
    with pytest.raises(ValueError, match=not_a_power):
        model(img_resolution=48)
    unknown = "geometry 'guessed' is unknown; choose upsampled or exact"
    with pytest.raises(ValueError, match=unknown):
        model(geometry="guessed")
    with pytest.raises(ValueError, match="lookup 'nearest' is unknown"):
        model(lookup="nearest")
    generator = model()
    ws = generator.map(latents(generator))
    with pytest.raises(ValueError, match="renders from a camera"):
        generator.render(ws)
    with pytest.raises(ValueError, match="got 3 rays, but GRAMHD renders whole images"):
        generator.render(ws, cameras(), rays=torch.arange(3))


def test_a_spanning_camera_is_not_lowered_by_autocast():
    camera = Camera.from_angles(torch.tensor([0.3, -0.2]), 0.1, fov=12.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = spanning_camera(camera, 256, 64)
    assert torch.equal(lowered.label(), spanning_camera(camera, 256, 64).label())
