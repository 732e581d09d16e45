"""EG3D on tiny models: shapes, what depends on what, gradients, other sizes, and refusals that say
how to go on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators import EG3D, GENERATORS
from gan3d.generators.eg3d import MappingOptions, SuperResolutionOptions
from gan3d.randomness import Randomness
from gan3d.rendering import DensityPrior


def changed(arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with changes; a dictionary changes fields of the dataclass of its name."""
    defaults = {"mapping": MappingOptions(), **arguments}
    made = {
        name: replace(defaults[name], **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return {**arguments, **made}


def tiny(seed: int = 0, **changes) -> EG3D:
    torch.manual_seed(seed)
    return EG3D(**changed(EG3D.tiny, changes))


def cameras(num: int = 2) -> Camera:
    return Camera.from_angles(torch.linspace(-0.4, 0.4, num), torch.linspace(0.1, -0.1, num))


def latents(generator: EG3D, num: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(num, generator.z_dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scene(generator):
    return generator.represent(generator.map(latents(generator), cameras()))


def test_is_registered_by_its_name():
    assert GENERATORS["EG3D"] is EG3D


def test_shapes_and_ranges(generator):
    seen = generator(latents(generator), cameras())
    assert seen.image.shape == (2, 3, 32, 32)
    assert seen.raw.shape == (2, 3, 16, 16)
    assert (
        seen.depth.shape == seen.opacity.shape == seen.extras["ray_depth"].shape == (2, 1, 16, 16)
    )
    assert seen.extras["features"].shape == (2, 8, 16, 16)
    assert torch.equal(seen.raw, seen.extras["features"][:, :3])
    assert ((seen.opacity >= 0) & (seen.opacity <= 1)).all()
    assert ((seen.extras["ray_depth"] >= 2.25) & (seen.extras["ray_depth"] <= 3.5)).all()
    assert seen.raw.abs().max() <= 1.002


def test_depth_is_measured_along_the_viewing_axis(generator, scene):
    seen = generator.render(scene, cameras())
    cosines = (cameras().rays(16).directions * cameras().forward[:, None]).sum(-1)
    assert torch.allclose(
        seen.depth.flatten(1), seen.extras["ray_depth"].flatten(1) * cosines, atol=1e-5
    )


def test_image_keeps_its_size_at_any_raw_resolution(generator, scene):
    for resolution in (8, 11, 24):
        seen = generator.render(scene, cameras(), resolution=resolution)
        assert seen.image.shape == (2, 3, 32, 32)
        assert seen.raw.shape == (2, 3, resolution, resolution)
    assert generator.render(scene, cameras()).raw.shape[-1] == 16  # nothing is remembered


@pytest.mark.parametrize(
    ("layout", "img_resolution"),
    [("2X", 32), ("2X", 44), ("4X", 48), ("8X", 64), ("8XDC", 64), ("8XDC", 72)],
)
def test_layouts_make_square_images_of_any_multiple(layout, img_resolution):
    generator = tiny(
        superresolution={"layout": layout}, img_resolution=img_resolution, raw_resolution=6
    ).requires_grad_(False)
    seen = generator(latents(generator), cameras())
    assert seen.image.shape == (2, 3, img_resolution, img_resolution)


def test_default_widths_of_superresolution_are_those_of_the_layout():
    sides = {"8XDC": 512, "8X": 512, "4X": 256, "2X": 128}
    with torch.device("meta"):
        models = {
            layout: EG3D(superresolution=SuperResolutionOptions(layout), img_resolution=side)
            for layout, side in sides.items()
        }
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts == {"8XDC": 30_662_136, "8X": 29_587_512, "4X": 29_587_512, "2X": 29_587_512}


def test_without_superresolution_the_image_is_the_raw_image_and_some_rays_can_be_rendered():
    generator = tiny(superresolution={"layout": "none"}, img_resolution=16).requires_grad_(False)
    scene = generator.represent(generator.map(latents(generator)))
    whole = generator.render(scene, cameras())
    assert torch.equal(whole.image, whole.raw)
    rays = torch.tensor([3, 100, 255])
    some = generator.render(scene, cameras(), rays=rays)
    for got, want in (
        (some.image, whole.image),
        (some.depth, whole.depth),
        (some.opacity, whole.opacity),
    ):
        assert got.shape == (2, want.shape[1], 3, 1)
        assert torch.allclose(got[..., 0], want.flatten(2)[..., rays], atol=1e-5)


def test_rays_with_superresolution_are_refused(generator, scene):
    with pytest.raises(ValueError, match=r"superresolution\.layout 'none'"):
        generator.render(scene, cameras(), rays=torch.arange(4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"superresolution": {"layout": "8XDC"}, "img_resolution": 30},
            "img_resolution 30 is not 4 times superresolution.input_resolution 7",
        ),
        ({"img_resolution": 33}, "img_resolution 33 is not 2 times"),
        ({"superresolution": {"input_resolution": 8}}, "use img_resolution 16"),
        ({"superresolution": {"layout": "16X"}}, "superresolution.layout '16X' .* choose none, 2X"),
        ({"decoder": {"feature_channels": 2}}, "decoder.feature_channels 2 is less than 3"),
        ({"planes": {"axes": "eg3d"}}, "planes.axes 'eg3d' .* choose official or fixed"),
        ({"backbone": {"network": "StyleGAN"}}, "backbone.network 'StyleGAN' .* choose StyleGAN2"),
        ({"superresolution": {"layout": "none"}, "img_resolution": 32}, "raw_resolution"),
    ],
)
def test_impossible_arguments_are_refused_with_a_way_out(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny(**wrong)


def test_a_camera_is_needed(generator, scene):
    with pytest.raises(ValueError, match="give render\\(\\) a Camera"):
        generator.render(scene)


def test_one_scene_from_many_cameras_is_as_each_scene_alone(generator, scene):
    one = replace(scene, planes=scene.planes[:1], w=scene.w[:1])
    many = generator.render(one, cameras(3))
    for i in range(3):
        alone = generator.render(one, cameras(3)[i])
        assert torch.allclose(many.image[i : i + 1], alone.image, atol=1e-4)
        assert torch.allclose(many.depth[i : i + 1], alone.depth, atol=1e-5)


@pytest.mark.parametrize("limits", [{}, {"ray_start": "auto", "ray_end": "auto"}])
def test_an_image_does_not_depend_on_the_others_of_its_batch(limits):
    generator = tiny(render=limits).requires_grad_(False)
    z, camera = (
        latents(generator, 3),
        Camera.from_angles(torch.tensor([0.0, 0.5, 1.0]), 0.1, fov=40.0),
    )
    together = generator(z, camera, randomness=Randomness(0, [4, 5, 6]))
    alone = generator(z[1:2], camera[1], randomness=Randomness(0, [5]))
    for name in ("image", "raw", "depth", "opacity"):
        assert torch.allclose(getattr(together, name)[1:2], getattr(alone, name), atol=1e-4), name


def test_deterministic_without_randomness_and_jittered_with(generator, scene):
    first, second = (generator.render(scene, cameras()) for _ in range(2))
    assert torch.equal(first.image, second.image)
    jittered = [
        generator.render(scene, cameras(), randomness=Randomness(seed, [0, 1])).depth
        for seed in (0, 0, 1)
    ]
    assert torch.equal(jittered[0], jittered[1])
    assert not torch.allclose(jittered[0], jittered[2])


def test_conditioning_camera_moves_the_latents_unless_scaled_to_zero():
    for c_scale, moves in ((1.0, True), (0.0, False)):
        generator = tiny(c_scale=c_scale)
        assert generator.camera_conditioned is moves
        z = latents(generator)
        left, right = (
            generator.map(z, cameras(2)),
            generator.map(z, Camera.from_angles(torch.ones(2), 0.0)),
        )
        assert torch.allclose(left, right) is not moves
        if not moves:
            assert torch.equal(left, generator.map(z))  # without a camera: the neutral label


def test_truncation_moves_latents_towards_the_tracked_mean(generator):
    generator = tiny()
    ws = generator.map(latents(generator, 8), cameras(8))
    for _ in range(3):
        generator.track(ws)
    mean = generator.backbone.mapping.w_avg
    assert torch.allclose(mean, ws[:, 0].mean(0) * (1 - 0.998**3), rtol=1e-3, atol=1e-6)
    none = generator.map(latents(generator, 8), cameras(8), truncation=0.0)
    assert torch.allclose(none, mean.expand_as(none), atol=1e-6)
    some = generator.map(latents(generator, 8), cameras(8), truncation=0.0, truncation_cutoff=2)
    assert torch.allclose(some[:, 2:], ws[:, 2:])
    assert torch.allclose(some[:, :2], none[:, :2])


def test_forward_and_render_change_no_state(generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    generator(latents(generator), cameras(), randomness=Randomness(0, [0, 1]), resolution=8)
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_every_parameter_receives_a_finite_gradient():
    generator = tiny()
    seen = generator(latents(generator), cameras(), randomness=Randomness(0, [0, 1]))
    (seen.image.square().mean() + seen.raw.square().mean()).backward()
    silent = {name for name, p in generator.named_parameters() if p.grad is None}
    # Without noise in super-resolution its strengths are not used.
    assert all(
        name.startswith("superresolution") and name.endswith("noise_strength") for name in silent
    )
    assert all(p.grad.isfinite().all() for p in generator.parameters() if p.grad is not None)
    assert all(
        p.grad.abs().max() > 0 for n, p in generator.named_parameters() if n.endswith("weight")
    )


def test_path_lengths_can_be_differentiated():
    """Second order through planes, decoder, compositing and super-resolution: grad |d image / d
    ws|.
    """
    generator = tiny(render={"depth_samples": 4, "importance_samples": 2}, raw_resolution=4)
    ws = generator.map(latents(generator), cameras()).detach().requires_grad_()
    image = generator.render(generator.represent(ws), cameras()).image
    (gradient,) = torch.autograd.grad(image.square().sum(), ws, create_graph=True)
    gradient.square().sum().backward()
    decoder = generator.decoder.net[0].weight.grad
    assert decoder is not None
    assert decoder.isfinite().all()
    assert decoder.abs().max() > 0


def test_field_is_what_rendering_composites(generator, scene):
    points = 0.4 * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    sigma, rgb = generator.field(scene, points)
    assert sigma.shape == (2, 50, 1)
    assert rgb.shape == (2, 50, 8)
    assert ((rgb >= -0.001) & (rgb <= 1.001)).all()


def test_density_gradient_is_that_of_finite_differences():
    generator = tiny().double().requires_grad_(False)
    scene = generator.represent(generator.map(latents(generator).double()))
    points = 0.3 * torch.randn(
        2, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(generator.field(scene, points)[0].sum(), points)
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    density = lambda p: generator.field(scene, p)[0][..., 0]  # noqa: E731
    differences = torch.stack(
        [(density(points + h) - density(points - h)) / 2e-6 for h in step], -1
    )
    assert torch.allclose(gradient, differences, atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_of_rays_change_nothing(gradient):
    generator = tiny()
    whole_options = generator.options
    results = []
    for chunk in (None, 50):
        generator.options = replace(whole_options, ray_chunk=chunk)
        generator.zero_grad()
        with torch.set_grad_enabled(gradient):
            seen = generator(latents(generator), cameras(), randomness=Randomness(0, [0, 1]))
        if gradient:
            seen.image.square().mean().backward()
        results.append(
            [seen.image, *(p.grad for p in generator.parameters() if p.grad is not None)]
        )
    for whole, chunked in zip(*results):
        assert torch.allclose(whole, chunked, rtol=1e-3, atol=1e-5)


def test_legacy_raw_is_the_raw_image_after_the_first_block():
    legacy, plain = tiny(superresolution={"legacy_raw": True}), tiny()
    scene = plain.represent(plain.map(latents(plain)))
    with torch.no_grad():
        first, second = legacy.render(scene, cameras()), plain.render(scene, cameras())
        assert torch.equal(first.image, second.image)
        assert (first.raw - second.raw).abs().max() > 1e-3
        # Resized raw images were never written to.
        first, second = (g.render(scene, cameras(), resolution=12) for g in (legacy, plain))
        assert torch.equal(first.raw, second.raw)


def test_a_random_background_is_a_color_per_scene_behind_it():
    torch.manual_seed(0)
    black, random = tiny(), tiny(render={"background": "random"})
    draw = Randomness(5, [3, 4], "generator")
    z, camera = latents(black), cameras()
    plain, shown = black(z, camera, randomness=draw), random(z, camera, randomness=draw)
    color = 2 * draw.uniform("background", 3) - 1
    # In [-1, 1] black is -1: what shines through turns from it to the color.
    behind = (1 - plain.opacity) * (color + 1)[:, :, None, None]
    assert torch.allclose(shown.raw, plain.raw + behind, atol=1e-5)
    assert torch.equal(shown.depth, plain.depth)
    still = random(z, camera)
    assert torch.allclose(still.raw, black(z, camera).raw + 1 - black(z, camera).opacity, atol=1e-5)
    with pytest.raises(ValueError, match="background 'pink' is unknown; choose one of black"):
        tiny(render={"background": "pink"})


def test_white_background_is_seen_where_nothing_is():
    generator = tiny(render={"background": "white"}).requires_grad_(False)
    generator.decoder.net[2].bias[0] = -50.0
    seen = generator(latents(generator), cameras())
    assert seen.opacity.max() < 1e-3
    assert torch.allclose(seen.raw, torch.ones_like(seen.raw), atol=1e-2)


def test_random_noise_of_superresolution_follows_the_randomness():
    generator = tiny(superresolution={"noise": "random"}).requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength") and name.startswith("superresolution"):
            parameter.fill_(0.3)
    z = latents(generator)
    images = [
        generator(z, cameras(), randomness=Randomness(seed, [0, 1])).image for seed in (0, 0, 1)
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.allclose(images[0], images[2])


@pytest.fixture(params=["StyleGAN3", "StyleGAN3-R"])
def alias_free(request) -> EG3D:
    return tiny(backbone={"network": request.param, "num_layers": 5, "num_critical": 1})


def test_a_stylegan3_backbone_makes_planes_as_lively_as_stylegan2_does(alias_free):
    assert alias_free.num_ws == 7  # the input, five layers, and the one that makes the planes
    z = Randomness(0, range(4)).normal("z", alias_free.z_dim)
    ws = alias_free.map(z, cameras().select([0, 1, 0, 1]))
    for _ in range(5):
        alias_free.backbone.synthesis.settle(ws, beta=0.0)
    scene = alias_free.represent(ws)
    assert 0.3 < scene.planes.std() < 3
    shown = alias_free.render(scene, cameras().select([0, 1, 0, 1]))
    assert shown.image.shape == (4, 3, 32, 32)


def test_magnitudes_of_a_stylegan3_backbone_move_by_tracking_alone(alias_free):
    scene = alias_free.represent(
        alias_free.map(Randomness(0, [0, 1]).normal("z", alias_free.z_dim))
    )
    magnitudes = {
        name: b for name, b in alias_free.named_buffers() if name.endswith("magnitude_ema")
    }
    assert all(b == 1 for b in magnitudes.values())
    statistics = alias_free.statistics(scene)
    assert statistics.shape == (2, 6)
    alias_free.track(
        torch.zeros(1, alias_free.num_ws, alias_free.w_dim), statistics, batch_size=20_000
    )
    expected = (1 + statistics.mean(0)) / 2  # one half-life
    assert torch.allclose(torch.stack(list(magnitudes.values())), expected, rtol=1e-5)


def test_planes_of_a_stylegan3_backbone_can_be_moved_those_of_stylegan2_cannot(
    alias_free, generator
):
    ws = alias_free.map(Randomness(0, [0]).normal("z", alias_free.z_dim))
    planes = alias_free.synthesize(ws)
    assert torch.equal(planes, alias_free.represent(ws).planes.flatten(1, 2))
    moved = alias_free.synthesize(ws, torch.tensor([[1.0, 0, -0.25], [0, 1, 0], [0, 0, 1]]))
    side = planes.shape[-1] // 4
    middle = slice(side, 3 * side)
    assert (moved[..., 2 * side :] - planes[..., side:-side])[
        ..., middle, :
    ].std() < 0.5 * planes.std()
    with pytest.raises(ValueError, match="EG3D with a StyleGAN3 backbone"):
        generator.synthesize(ws)
    assert (
        generator.statistics(generator.represent(generator.map(torch.zeros(1, generator.z_dim))))
        is None
    )


def test_the_harness_density_noise_is_honored(generator, scene):
    quiet = generator.render(scene, cameras(), randomness=Randomness(0, [0, 1])).raw
    generator.density_noise = 5.0
    noisy = generator.render(scene, cameras(), randomness=Randomness(0, [0, 1])).raw
    assert (quiet - noisy).abs().mean() > 1e-4
    assert torch.equal(
        generator.render(scene, cameras()).raw, generator.render(scene, cameras()).raw
    )


def test_without_super_resolution_all_views_show_one_scene():
    layout = {"layout": "none"}
    assert tiny(raw_resolution=32, superresolution=layout).strict_3d
    assert not tiny().strict_3d


# -- a backdrop and a ball: unlike the published model ---------------------------------------------


def backed(**changes) -> EG3D:
    return tiny(render={"background": "learned"}, **changes)


def test_a_learned_backdrop_shows_where_the_scene_does_not():
    plain, generator = tiny().requires_grad_(False), backed().requires_grad_(False)
    generator.load_state_dict(plain.state_dict(), strict=False)
    z, camera = latents(generator), cameras()
    black, seen = plain(z, camera), generator(z, camera)
    # (u, v) of the pixels of a 16 px picture, row by row
    line = (torch.arange(16) + 0.5) / 8 - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([u, v], -1).view(1, 256, 2).expand(2, -1, -1)
    w = generator.map(z, camera)[:, -1]
    backdrop = generator.backdrop(w, places).transpose(1, 2).unflatten(2, (16, 16))
    behind = (1 - black.opacity) * 2 * backdrop
    expected = black.extras["features"] + behind
    assert torch.allclose(seen.extras["features"], expected, atol=1e-5)
    assert torch.equal(seen.raw, seen.extras["features"][:, :3])
    assert torch.equal(seen.depth, black.depth)


def test_a_backdrop_hangs_in_the_picture_and_is_part_of_no_other_background():
    generator = backed().requires_grad_(False)
    generator.decoder.net[2].bias[0] = -50.0  # nothing stands in front of it
    scene = generator.represent(generator.map(latents(generator, 1)))
    left, right = generator.render(scene, cameras()).raw
    assert torch.allclose(left, right, atol=1e-4)
    assert left.std() > 0.05
    assert generator.background is None  # masked reals keep theirs
    assert not backed(superresolution={"layout": "none"}, img_resolution=16).strict_3d


def test_single_rays_see_the_backdrop_of_the_whole_picture():
    generator = backed(
        superresolution={"layout": "none"}, img_resolution=16, density_prior=DensityPrior("ball")
    ).requires_grad_(False)
    scene = generator.represent(generator.map(latents(generator)))
    whole = generator.render(scene, cameras())
    rays = torch.tensor([3, 100, 255])
    some = generator.render(scene, cameras(), rays=rays)
    assert torch.allclose(some.image[..., 0], whole.image.flatten(2)[..., rays], atol=1e-5)


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_of_rays_change_nothing_with_a_backdrop_and_a_ball(gradient):
    generator = backed(density_prior=DensityPrior("ball"))
    plain_options, results = generator.options, []
    for chunk in (None, 50):
        generator.options = replace(plain_options, ray_chunk=chunk)
        generator.zero_grad()
        with torch.set_grad_enabled(gradient):
            image = generator(latents(generator), cameras()).image
        if gradient:
            image.square().mean().backward()
        results.append([image, *(p.grad for p in generator.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for whole, chunked in zip(*results):
        assert torch.allclose(whole, chunked, rtol=1e-3, atol=1e-5)


def test_a_ball_is_convex_before_anything_is_learnt_and_part_of_the_field():
    fine = {"depth_samples": 24, "importance_samples": 24}
    plain, ball = tiny(render=fine), tiny(render=fine, density_prior=DensityPrior("ball"))
    assert list(plain.state_dict()) == list(ball.state_dict())
    z = latents(ball)
    scene = ball.represent(ball.map(z))
    points = torch.zeros(2, 1, 3)
    height = ball.field(scene, points)[0] - plain.field(scene, points)[0]
    assert torch.allclose(height, torch.full_like(height, 4.0), atol=0.01)
    # a field that has learnt nothing: the ball alone, round from wherever it is seen
    for parameter in ball.decoder.net[2].parameters():
        parameter.data.zero_()
    seen = ball(z, cameras())
    depth, opacity = seen.depth[:, 0], seen.opacity[:, 0]
    for i, j in ((8, 2), (8, 13), (2, 8), (13, 8)):
        assert (depth[:, 8, 8] < depth[:, i, j] - 0.02).all()
        assert (opacity[:, 8, 8] > opacity[:, i, j] + 0.5).all()


def test_without_the_options_there_is_nothing_more_in_the_file():
    assert not [name for name in tiny().state_dict() if "backdrop" in name]
    more = set(backed().state_dict()) - set(tiny().state_dict())
    assert more == {"backdrop.affine.weight", "backdrop.affine.bias"}
    assert set(backed().parts) - set(tiny().parts) == {"backdrop"}  # may be frozen and mixed


@pytest.mark.parametrize("use_noise", [True, False])
def test_planes_have_noise_only_where_it_is_asked_for(use_noise):
    generator = tiny(backbone={"use_noise": use_noise}).eval().requires_grad_(False)
    strengths = [w for name, w in generator.named_parameters() if name.endswith("noise_strength")]
    assert len(strengths) == (9 if use_noise else 4)  # 4 of them in the super-resolution
    for strength in strengths:
        strength.fill_(1.0)
    ws = generator.map(latents(generator), cameras())
    planes = [
        generator.represent(ws, randomness=Randomness(seed, [0, 1])).table.rows for seed in (0, 1)
    ]
    assert torch.equal(*planes) is not use_noise
