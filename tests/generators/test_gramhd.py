"""GRAM-HD: strict 3D consistency of kept scenes, what depends on what, stage 1 inside, sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan3d.camera import Camera
from gan3d.generators import GRAM, GRAMHD
from gan3d.generators.gramhd import RadianceMaps, spanning_camera
from gan3d.rendering.manifolds import background_coordinate, background_position, trace_surfaces

TINY_PLANES = {"lr_resolution": 9, "img_resolution": 18}  # odd sides have a ray in the middle


def model(**changes) -> GRAMHD:
    torch.manual_seed(0)
    generator = GRAMHD(**GRAMHD.tiny | changes).eval()
    with torch.no_grad():  # the background's last layer starts at zero
        for parameter in generator.super_resolution_bg.conv_last.parameters():
            parameter.normal_(std=0.1)
    return generator


def planes(**changes) -> GRAMHD:
    """Surfaces are the planes z = s - 0.5, s from 0.8 down to 0.2: s = z + 0.5 exactly, as relu(z +
    1) - 0.5.
    """
    generator = model(**TINY_PLANES | {"levels_start": 0.8, "levels_end": 0.2} | changes)
    predictor = generator.predictor
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.zero_()
        # the predictor sees 2 x - center, center = (0, 0, -1.5): 2 z + 1.5
        predictor.network[0].weight[0, 2], predictor.network[0].bias[0] = 0.5, 0.25
        for layer in predictor.network[2::2]:
            layer.weight[0, 0] = 1
        predictor.output_layer.weight[0, 0], predictor.output_layer.bias[0] = 1, -0.5
    return generator


def cameras(b: int = 4) -> Camera:
    return Camera.from_angles(torch.linspace(-0.4, 0.4, b), torch.linspace(-0.1, 0.1, b))


def latents(generator: GRAMHD, b: int = 4) -> torch.Tensor:
    return torch.randn(b, generator.z_dim, generator=torch.Generator().manual_seed(1))


def scene(generator: GRAMHD, level: int, rgba) -> RadianceMaps:
    """One surface is visible, with color and alpha rgba [4 H W], before a background of gray."""
    k, h, low = generator.options.num_levels, generator.img_resolution, generator.raw_resolution
    foreground = torch.zeros(1, k, 4, h, h)
    foreground[:, level] = rgba
    background = torch.full((1, 3, h, h), 0.5)
    ws = torch.zeros(1, generator.num_ws, generator.w_dim)
    return RadianceMaps(
        foreground, background, torch.zeros(1, k, 4, low, low), torch.zeros(1, 3, low, low), ws
    )


def fetch(texture: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Texture [c H W] at a place [2], -1 and 1 being its outer edges: [c]."""
    return F.grid_sample(texture[None], place.expand(1, 1, 1, 2), align_corners=False)[0, :, 0, 0]


# --------------------------------------------------------------------------------------------------
# consistency


@pytest.mark.parametrize("geometry", ["exact", "upsampled"])
@pytest.mark.parametrize("level", [0, 2])
@torch.no_grad()
def test_a_point_of_a_surface_looks_the_same_from_everywhere(geometry, level):
    """Eight cameras look at one point of a plane, which their middle ray meets exactly."""
    generator = planes(geometry=geometry)
    z = generator.options.levels(torch.zeros(1))[level].item() - 0.5
    rgba = torch.rand(4, 18, 18, generator=torch.Generator().manual_seed(level))
    for x, y in ((0.0, 0.0), (0.13, -0.21), (-0.3, 0.1)):
        point = torch.tensor([x, y, z])
        around = Camera.from_angles(
            torch.linspace(-0.4, 0.4, 8), torch.linspace(0.3, -0.3, 8), target=point
        )
        *color, alpha = fetch(rgba, torch.tensor([x, y]) / generator.grid_extent)
        shown = generator.render(scene(generator, level, rgba), around, resolution=17, raw=False)
        expected = 2 * (alpha * torch.stack(color) + (1 - alpha) * 0.5) - 1
        torch.testing.assert_close(
            shown.image[:, :, 8, 8], expected.expand(8, 3), atol=1e-4, rtol=0
        )
        assert shown.image.std((2, 3)).min() > 0.02, "there is something else around it"


@pytest.mark.parametrize("level", [0, 2])
@torch.no_grad()
def test_a_point_of_a_curved_surface_has_one_color_and_occupancy(level):
    """As above, with the networks' maps and the initial surfaces, in steps that are small, but not
    flat.
    """
    generator = model(**TINY_PLANES, lock_view=True, geometry="exact", num_samples=200)
    kept = generator.represent(generator.map(latents(generator, 1)))
    first = Camera.from_angles(0.2, 0.1)
    middle = first.rays(17, torch.tensor([8 * 17 + 8]))
    surfaces = trace_surfaces(generator.predictor, middle, generator.options)
    assert surfaces.valid[0, 0, level]
    point = surfaces.points[0, 0, level]
    around = Camera.from_angles(
        torch.linspace(-0.4, 0.4, 8), torch.linspace(0.3, -0.3, 8), target=point
    )
    seen = {}
    for name, channels in (("color", slice(0, 3)), ("occupancy", slice(3, 4))):
        rgba = kept.foreground[0, level].clone()
        rgba[:3], rgba[3:] = rgba[channels], 1
        middles = generator.render(
            scene(generator, level, rgba), around, resolution=17, raw=False
        ).image[:, :, 8, 8]
        seen[name] = middles / 2 + 0.5
        expected = fetch(rgba, point[:2] / generator.grid_extent)[:3]
        torch.testing.assert_close(seen[name], expected.expand(8, 3), atol=1e-4, rtol=0)
    assert seen["color"].std(1).min() > 1e-3


@pytest.mark.parametrize("geometry", ["exact", "upsampled"])
@torch.no_grad()
def test_depth_is_that_of_an_opaque_plane(geometry):
    generator = planes(geometry=geometry)
    shown = generator.render(
        scene(generator, 1, torch.ones(4, 18, 18)), Camera.from_angles(0.0, 0.0), raw=False
    )
    z = generator.options.levels(torch.zeros(1))[1].item() - 0.5
    torch.testing.assert_close(shown.depth, torch.full((1, 1, 18, 18), 2.7 - z))
    torch.testing.assert_close(shown.opacity, torch.ones(1, 1, 18, 18))
    along = shown.extras["ray_depth"][0, 0]
    corner = (2.7 - z) * math.hypot(1, math.sqrt(2) * math.tan(math.radians(18.83 / 2)) * 17 / 18)
    assert along[0, 0].item() == pytest.approx(corner, rel=1e-4)


@torch.no_grad()
def test_interpolated_geometry_of_planes_is_nearly_exact():
    rgba = F.interpolate(
        torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
        (18, 18),
        mode="bilinear",
    )[0]
    shown = []
    for geometry in ("exact", "upsampled"):
        generator = planes(geometry=geometry)
        shown.append(generator.render(scene(generator, 1, rgba), cameras(2), raw=False).image)
    assert (shown[0] - shown[1]).abs().max() < 0.02


@torch.no_grad()
def test_a_kept_scene_shows_exactly_what_a_new_one_does():
    generator, camera = model(lock_view=True), cameras()
    ws = generator.map(latents(generator))
    kept = generator.render(generator.represent(ws), camera)
    for other in (generator.render(ws, camera), generator(latents(generator), camera)):
        assert torch.equal(kept.image, other.image)
        assert torch.equal(kept.raw, other.raw)
        assert torch.equal(kept.depth, other.depth)


@torch.no_grad()
def test_another_view_of_a_kept_scene_needs_no_network_but_the_predictor(monkeypatch):
    generator = model(lock_view=True)
    kept = generator.represent(generator.map(latents(generator, 1)))
    expected = generator.render(kept, cameras(1)).image

    def forbidden(*_, **__):
        raise AssertionError("a network was asked")

    for network in (
        generator.radiance,
        generator.mapping,
        generator.super_resolution,
        generator.super_resolution_bg,
    ):
        monkeypatch.setattr(network, "forward", forbidden)
    assert torch.equal(generator.render(kept, cameras(1), raw=False).image, expected)


@pytest.mark.parametrize("lock_view", [True, False])
@torch.no_grad()
def test_one_scene_may_be_seen_by_many_cameras_at_once(lock_view):
    generator = model(lock_view=lock_view)
    kept = generator.represent(generator.map(latents(generator, 1)))
    together = generator.render(kept, cameras(3))
    for i, camera in enumerate(cameras(3)):
        alone = generator.render(kept, camera)
        torch.testing.assert_close(together.image[i : i + 1], alone.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.raw[i : i + 1], alone.raw, atol=1e-5, rtol=0)


# ------------------------------------------------------------ what depends on what


@torch.no_grad()
def test_maps_depend_on_the_camera_unless_views_are_locked():
    for lock_view in (True, False):
        generator = model(lock_view=lock_view)
        ws = generator.map(latents(generator, 1)).expand(4, -1, -1)
        for name in ("maps", "raw_maps"):
            maps = generator.render(ws, cameras()).extras[name]
            assert bool(torch.allclose(maps[:1].expand_as(maps), maps, atol=1e-6)) is lock_view, (
                name
            )


@torch.no_grad()
def test_the_camera_of_one_image_has_no_say_in_another_unless_origins_are_shared():
    for shared in (False, True):
        generator = model(shared_origin=shared)
        z, moved = latents(generator, 2), Camera.cat([cameras(4)[3], cameras(2)[1]])
        before, after = generator(z, cameras(2)), generator(z, moved)
        assert (before.image[0] - after.image[0]).abs().mean() > 1e-3
        assert torch.equal(before.image[1], after.image[1]) is not shared


@torch.no_grad()
def test_without_the_raw_image_the_image_is_the_same():
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
def test_a_kept_scene_is_shown_at_any_resolution(geometry):
    generator = model(lock_view=True, geometry=geometry)
    kept = generator.represent(generator.map(latents(generator, 1)))
    coarse, fine = (generator.render(kept, cameras(1), resolution=side) for side in (32, 96))
    assert fine.image.shape == (1, 3, 96, 96)
    assert fine.raw.shape == (1, 3, 16, 16)
    # A pixel of the coarse image is in the middle of 3 x 3 of the fine one.
    middle = fine.image[..., 1::3, 1::3]
    assert (middle - coarse.image).abs().mean() < 0.05 * coarse.image.std()


@torch.no_grad()
def test_aligned_lookups_find_contents_where_they_were_sampled():
    """A map x / e shown on a plane: exact if aligned; published lookups shrink contents by 1 - 1 /
    H.
    """
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
    """A camera straight before a lattice point sees all surfaces at its (x, y) in the middle."""
    generator = planes(lookup=lookup, geometry="exact", lock_view=True)
    kept = generator.represent(generator.map(latents(generator, 1)))
    surfaces = generator.surfaces(kept)
    assert [layer.name for layer in surfaces] == ["level 0", "level 1", "level 2", "background"]
    for i, j in ((4, 4), (2, 5), (1, 7)):
        x, y, _ = surfaces[0].points[i, j].tolist()
        expected, light = torch.zeros(3), 1.0
        for layer in surfaces[:-1]:
            torch.testing.assert_close(layer.points[i, j, :2], torch.tensor([x, y]))
            assert layer.valid.all()
            *color, alpha = fetch(layer.texture, layer.grid[i, j])
            expected, light = expected + light * alpha * torch.stack(color), light * (1 - alpha)
        behind = surfaces[-1]
        grid = background_coordinate(torch.tensor([x, y]), 1.0) * (
            17 / 18 if lookup == "aligned" else 1
        )
        color = fetch(behind.texture, grid)
        expected = expected + light * color[:3]
        assert color[3] == 1
        straight = Camera.from_angles(0.0, 0.0, target=(x, y, 0.0))
        image = generator.render(kept, straight, resolution=17, raw=False).image[0, :, 8, 8]
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        behind.points[..., :2], background_position(torch.linspace(-1, 1, 9), 1.0)[_pairs(9)]
    )
    assert generator.surfaces(kept, resolution=5)[0].points.shape == (5, 5, 3)
    with pytest.raises(ValueError, match="got 2 scenes"):
        generator.surfaces(generator.map(latents(generator, 2)))


def _pairs(side: int) -> torch.Tensor:
    """Indices (column, row) of a lattice, [side side 2]."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([column, row], -1)


# --------------------------------------------------------------------------------------------------
# stage 1


def test_a_gram_fits_in_by_name_and_shows_its_image_as_the_raw_one():
    sizes = {name: value for name, value in GRAMHD.tiny.items() if name in GRAM.tiny}
    torch.manual_seed(3)
    gram = GRAM(**sizes)
    own, generator = gram.state_dict(), model()
    parameters = dict(generator.named_parameters())
    assert all(parameters[name].shape == p.shape for name, p in gram.named_parameters())
    generator.load_state_dict(
        {name: own[name] for name, _ in gram.named_parameters()}, strict=False
    )
    z, camera = latents(generator), cameras()
    raw = generator(z, camera).raw
    torch.testing.assert_close(raw, gram(z, spanning_camera(camera, 32, 16), resolution=16).image)
    torch.testing.assert_close(generator.map(z)[:, :9, : gram.w_dim], gram.map(z))


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained(frozen):
    generator = model(frozen=frozen)
    everything = dict(generator.named_parameters())
    trained = {name for name, p in everything.items() if p.requires_grad}
    if frozen:
        assert trained == {
            n for n in everything if n.startswith(("radiance.output_feature.", "super_resolution"))
        }
    else:
        assert trained == {n for n in everything if not n.startswith("predictor.")}
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


def test_no_gradient_goes_to_the_geometry_unless_the_camera_wants_it():
    generator = model(lock_view=True)
    kept = generator.represent(generator.map(latents(generator, 1)).detach())
    with torch.no_grad():
        kept = RadianceMaps(*(part.detach() for part in kept))
    assert not generator.render(kept, cameras(1)).depth.requires_grad
    label = cameras(1).label().requires_grad_(True)
    generator.render(kept, Camera.from_label(label)).depth.sum().backward()
    assert label.grad.abs().max() > 0


# --------------------------------------------------------------------------------------------------
# sizes


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
    camera = Camera.from_angles(torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.0])).to(
        torch.float64
    )
    skewed = camera.intrinsics + torch.tensor([[0.0, 0.1, 0.05], [0.0, 0.2, -0.1], [0.0, 0.0, 0.0]])
    camera = Camera(camera.cam2world, skewed)

    def corners(rays, side):
        return rays.directions.unflatten(1, (side, side))[:, :: side - 1, :: side - 1]

    expected = corners(camera.rays(fine), fine)
    torch.testing.assert_close(
        corners(spanning_camera(camera, fine, coarse).rays(coarse), coarse), expected
    )


def test_a_spanning_camera_is_the_sphere_camera_of_its_own_size():
    fine, coarse = (Camera.from_sphere(1.4, 1.8, 12.0, resolution=side) for side in (256, 64))
    torch.testing.assert_close(spanning_camera(fine, 256, 64).intrinsics, coarse.intrinsics)


def test_wrong_arguments_are_refused():
    with pytest.raises(
        ValueError, match="img_resolution 48 is not lr_resolution 16 times a power of two"
    ):
        model(img_resolution=48)
    with pytest.raises(
        ValueError, match="geometry 'guessed' is unknown; choose upsampled or exact"
    ):
        model(geometry="guessed")
    with pytest.raises(ValueError, match="lookup 'nearest' is unknown"):
        model(lookup="nearest")
    generator = model()
    ws = generator.map(latents(generator))
    with pytest.raises(ValueError, match="renders from a camera"):
        generator.render(ws)
    with pytest.raises(ValueError, match="got 3 rays, but GRAMHD renders whole images"):
        generator.render(ws, cameras(), rays=torch.arange(3))
