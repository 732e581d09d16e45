"""GRAM on tiny models: hand-made scenes, dependences, gradients, errors."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators import GENERATORS, GRAM
from gan3d.randomness import Randomness


def tiny(seed: int = 0, **changes) -> GRAM:
    torch.manual_seed(seed)
    return GRAM(**{**GRAM.tiny, "img_resolution": 12, **changes})


def cameras(num: int = 2, **options) -> Camera:
    yaw, pitch = torch.linspace(-0.4, 0.4, num), torch.linspace(0.1, -0.1, num)
    return Camera.from_angles(yaw, pitch, **options)


def latents(generator: GRAM, num: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(num, generator.z_dim, generator=torch.Generator().manual_seed(seed))


class Planes(nn.Module):
    """s = 10 z: its level l is the plane z = l / 10."""

    def forward(self, points: Tensor) -> Tensor:
        return 10 * points[..., 2]


def wall(**changes) -> GRAM:
    """Two opaque planes, z = 0.3 and z = 0."""
    options = {"num_manifolds": 3, "levels_start": 3.0, "levels_end": 0.0, "num_samples": 40}
    generator = tiny(**options, **changes).requires_grad_(False)
    generator.predictor = Planes()
    generator.radiance.output_sigma[0].bias.fill_(1e4)
    return generator


@pytest.fixture(scope="module")
def generator() -> GRAM:
    return tiny().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scene(generator) -> Tensor:
    return generator.represent(generator.map(latents(generator)))


def test_is_registered_under_its_name():
    assert GENERATORS["GRAM"] is GRAM


def test_published_size():
    with torch.device("meta"):
        generator = GRAM()
    assert sum(p.numel() for p in generator.parameters()) == 1_950_621
    assert (generator.num_ws, generator.w_dim, generator.img_resolution) == (9, 512, 64)


def test_every_parameter_is_in_one_part(generator):
    for name, _ in generator.named_parameters():
        assert sum(name.startswith(starts) for starts in generator.parts.values()) == 1, name


def test_an_opaque_wall_has_its_depth():
    generator = wall()
    front = Camera.from_angles(torch.zeros(1), torch.zeros(1), radius=2.7, fov=12.0)
    seen = generator(latents(generator, 1), front)
    assert torch.allclose(seen.depth, torch.tensor(2.4), atol=1e-4)
    assert torch.allclose(seen.opacity, torch.ones(()), atol=1e-4)
    cosines = front.rays(12).cosines.reshape(1, 1, 12, 12)
    assert torch.allclose(seen.extras["ray_depth"], 2.4 / cosines, atol=1e-4)


def test_colors_are_those_of_the_radiance_on_the_wall():
    generator, camera = wall(), cameras(1)
    ws = generator.map(latents(generator, 1))
    rays = camera.rays(12)
    distance = (0.3 - rays.origins[..., 2:]) / rays.directions[..., 2:]
    rgb = generator.radiance(rays.origins + distance * rays.directions, rays.directions, ws).rgb
    image = generator.render(ws, camera).image
    assert torch.allclose(image.flatten(2).mT, 2 * rgb - 1, atol=2e-4)


def test_scaling_scene_and_cameras_together_does_not_change_the_image():
    far = {"scene_extent": 1.0, "ray_start": 2.2, "ray_end": 3.2}
    near = {name: 0.24 * value for name, value in far.items()}
    images = []
    for scale, sizes in ((1.0, far), (0.24, near)):
        generator = tiny(**sizes).double().requires_grad_(False)
        camera = cameras(radius=2.7 * scale).to(torch.float64)
        images.append(generator(latents(generator).double(), camera))
    assert torch.allclose(images[0].image, images[1].image, atol=1e-6)
    assert torch.allclose(0.24 * images[0].depth, images[1].depth, atol=1e-6)


def test_some_rays_are_those_pixels_of_the_whole_image(generator, scene):
    rays = torch.tensor([3, 77, 143, 0])
    whole = generator.render(scene, cameras())
    some = generator.render(scene, cameras(), rays=rays, randomness=Randomness(0, [0, 1]))
    for name in ("image", "depth", "opacity"):
        got, want = getattr(some, name), getattr(whole, name)
        assert got.shape == (2, want.shape[1], 4, 1)
        assert torch.allclose(got[..., 0], want.flatten(2)[..., rays], atol=1e-5)


def test_any_resolution(generator, scene):
    for resolution in (3, 20):
        seen = generator.render(scene, cameras(), resolution=resolution)
        assert seen.image.shape == (2, 3, resolution, resolution)
        assert seen.depth.shape == seen.opacity.shape == (2, 1, resolution, resolution)
    assert generator.render(scene, cameras()).image.shape[-1] == 12


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_of_rays_change_nothing(gradient):
    generator = tiny()
    options = generator.options
    results = []
    for chunk in (None, 50):
        generator.options = replace(options, ray_chunk=chunk)
        generator.zero_grad()
        with torch.set_grad_enabled(gradient):
            seen = generator(latents(generator), cameras())
        if gradient:
            seen.image.square().mean().backward()
        gradients = [p.grad for p in generator.parameters() if p.grad is not None]
        results.append([seen.image, seen.depth, *gradients])
    for whole, chunked in zip(*results, strict=True):
        assert torch.allclose(whole, chunked, rtol=1e-3, atol=1e-5)


def test_one_scene_from_many_cameras_equals_each_view_alone(generator, scene):
    many = generator.render(scene[:1], cameras(3))
    for i in range(3):
        alone = generator.render(scene[:1], cameras(3)[i])
        assert torch.allclose(many.image[i : i + 1], alone.image, atol=1e-4)
        assert torch.allclose(many.depth[i : i + 1], alone.depth, atol=1e-5)


def test_sharing_an_origin_gives_other_views_the_distances_of_the_first(generator, scene):
    shared = tiny(shared_origin=True).eval().requires_grad_(False)
    own, first = generator.render(scene, cameras()), shared.render(scene, cameras())
    assert torch.allclose(own.depth[:1], first.depth[:1], atol=1e-5)
    assert (own.depth[1:] - first.depth[1:]).abs().max() > 1e-2


def test_with_a_locked_view_a_point_has_one_color():
    free, locked = wall(), wall(lock_view=True)
    ws = free.map(latents(free, 1))
    # Two cameras look at one point; their only ray goes to it.
    yaw, pitch = torch.tensor([-0.3, 0.4]), torch.zeros(2)
    views = Camera.from_angles(yaw, pitch, target=torch.tensor([0.05, -0.1, 0.3]), radius=2.7)
    differences = {}
    for name, generator in (("free", free), ("locked", locked)):
        left, right = generator.render(ws, views, resolution=1).image.flatten(1)
        differences[name] = (left - right).abs().max()
    assert differences["locked"] < 1e-3
    assert differences["free"] > 10 * differences["locked"]
    free.lock_view = True
    assert torch.equal(free.render(ws, cameras(1)).image, locked.render(ws, cameras(1)).image)


def test_without_background_rays_may_pass_all_surfaces():
    def seen(**options):
        generator = tiny(background=False, delta_alpha=1e-6, **options).requires_grad_(False)
        return generator(latents(generator), cameras())

    black = seen()
    assert black.opacity.max() < 1e-3
    assert torch.allclose(black.image, torch.tensor(-1.0), atol=1e-2)
    assert torch.allclose(seen(white_back=True).image, torch.tensor(1.0), atol=1e-2)
    assert torch.allclose(seen(last_back=True).opacity, torch.ones(()), atol=1e-3)


def test_gains_are_first_in_the_output_of_the_mapping_and_in_every_latent(generator):
    z = latents(generator)
    ws, out = generator.map(z), generator.mapping(z)
    for i in range(9):
        assert torch.equal(ws[:, i, :16], out[:, 16 * i : 16 * i + 16])
        assert torch.equal(ws[:, i, 16:], out[:, 144 + 16 * i : 144 + 16 * i + 16])


def test_the_mean_latent_is_tracked_or_estimated_and_is_the_target_of_truncation():
    generator = tiny()
    ws = generator.map(latents(generator, 8))
    for _ in range(3):
        generator.track(ws)
    assert torch.allclose(generator.w_avg, ws.mean(0) * (1 - 0.998**3), rtol=1e-3, atol=1e-7)
    generator.estimate_w_avg(500, seed=3)
    estimated = generator.w_avg.clone()
    z = torch.randn(500, 16, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(estimated, generator.map(z).mean(0), atol=1e-5)
    torch.randn(7)
    generator.estimate_w_avg(500, seed=3)
    assert torch.equal(generator.w_avg, estimated)
    half = generator.map(latents(generator, 8), truncation=0.5, truncation_cutoff=2)
    assert torch.allclose(half[:, :2], (ws + estimated)[:, :2] / 2, atol=1e-6)
    assert torch.equal(half[:, 2:], ws[:, 2:])


def test_every_parameter_receives_a_finite_gradient():
    generator = tiny()
    generator(latents(generator), cameras()).image.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_path_lengths_are_differentiable():
    generator = tiny(img_resolution=4)
    ws = generator.map(latents(generator)).detach().requires_grad_()
    image = generator.render(generator.represent(ws), cameras()).image
    (gradient,) = torch.autograd.grad(image.square().sum(), ws, create_graph=True)
    gradient.square().sum().backward()
    for weight in (generator.predictor.output_layer.weight, generator.radiance.network[3].weight):
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().max() > 0


def test_rendering_without_a_camera_is_refused(generator, scene):
    with pytest.raises(ValueError, match="give render\\(\\) a Camera"):
        generator.render(scene)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_manifolds": 1}, "one surface besides the background"),
        ({"color_activation": "tanh"}, "choose widen_sigmoid or sigmoid"),
        ({"predictor_layers": 0}, "expected 1 or more"),
        ({"ray_start": 4.0}, "expected 0 <= start < end"),
    ],
)
def test_impossible_arguments_are_refused_with_a_remedy(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny(**wrong)
