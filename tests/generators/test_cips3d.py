"""CIPS3D: latents, independent rays, gradients in chunks, frozen parts, variants, scenes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from gan3d.camera import Camera
from gan3d.generators import CIPS3D, Rendering
from gan3d.generators.cips3d import positional_encoding
from gan3d.randomness import Randomness

DOUBLE = torch.float64
SIDE = 8


def model(**changes) -> CIPS3D:
    torch.manual_seed(0)
    generator = CIPS3D(**CIPS3D.tiny | {"img_resolution": SIDE} | changes).double()
    # More contrast, as in trained models.
    with torch.no_grad():
        generator.siren.final_layer.weight *= 15
        for layer in generator.inr_net.to_rgbs.values():
            layer.weight *= 30
    return generator


def latent(generator: CIPS3D, b: int = 2) -> Tensor:
    return Randomness(1, range(b), dtype=DOUBLE).normal("z", generator.z_dim)


def camera(b: int = 2, **options) -> Camera:
    yaw = torch.linspace(-0.3, 0.3, b, dtype=DOUBLE)
    return Camera.from_angles(yaw, 0.1, **{"radius": 2.7, "fov": 18} | options).to(DOUBLE)


def scene(generator: CIPS3D, b: int = 2):
    return generator.represent(generator.map(latent(generator, b)))


def maps(shown: Rendering) -> Tensor:
    """All maps of a rendering, [b c h w]."""
    names = "image", "raw", "depth", "opacity"
    return torch.cat([*(getattr(shown, name) for name in names), *shown.extras.values()], 1)


def draws(b: int = 2) -> Randomness:
    return Randomness(5, range(b), dtype=DOUBLE)


# -- Latents ---------------------------------------------------------------------------------------


def test_each_layer_has_a_row_of_ws_padded_with_zeros():
    generator = model(nerf_w_dim=5, inr_w_dim=9, nerf_layers=3)
    assert generator.latent_names[:5] == ("nerf_w0", "nerf_w1", "nerf_w2", "nerf_rgb", "inr_w4_0")
    ws = generator.map(latent(generator))
    assert ws.shape == (2, generator.num_ws, generator.w_dim) == (2, 4 + 18, 9)
    assert ws[:, :4, 5:].count_nonzero() == 0
    changed = ws.clone()
    changed[:, :4, 5:] = 100.0
    a, b = (generator.render(generator.represent(w), camera()) for w in (ws, changed))
    assert torch.equal(maps(a), maps(b))


def test_the_first_part_of_z_is_the_shape_and_the_second_the_appearance():
    generator = model()
    z = latent(generator, 1).repeat(3, 1)
    z[1, : generator.z_dims[0]] *= -1
    z[2, generator.z_dims[0] :] *= -1
    cameras = camera(1).select([0, 0, 0])
    base, other_shape, other_look = maps(generator(z, cameras)).unbind(0)
    assert (other_shape[3:] - base[3:]).abs().max() > 0.01  # auxiliary image, depth, ..
    assert torch.equal(other_look[3:], base[3:])
    assert (other_look[:3] - base[:3]).abs().max() > 0.01


def test_truncation_moves_each_row_towards_its_mean():
    generator = model()
    generator.estimate_w_avg(200)
    full = generator.map(latent(generator))
    half = generator.map(latent(generator), truncation=0.25)
    assert torch.allclose(half, generator.w_avg + 0.25 * (full - generator.w_avg))
    some = generator.map(latent(generator), truncation=0.25, truncation_cutoff=4)
    assert torch.equal(some[:, 4:], full[:, 4:])
    assert torch.equal(some[:, :4], half[:, :4])


def test_the_mean_latent_is_the_mean_of_many_codes_and_reproducible():
    generator = model()
    generator.estimate_w_avg(2500, seed=3)
    first = generator.w_avg.clone()
    z = torch.randn(2500, generator.z_dim, generator=torch.Generator().manual_seed(3))
    expected = generator.map(z.double()).mean(0)
    assert torch.allclose(first, expected, atol=1e-12)
    generator.estimate_w_avg(2500, seed=3)
    assert torch.equal(first, generator.w_avg)


def test_tracking_is_a_decaying_mean():
    generator = model(w_avg_beta=0.75)
    ws = generator.map(latent(generator, 5))
    generator.track(ws)
    generator.track(ws)
    assert torch.allclose(generator.w_avg, ws.mean(0) * (1 - 0.75**2))


def test_a_scene_is_a_tree_of_tensors():
    generator = model()
    whole = scene(generator, 3)
    second = pytree.tree_map(lambda t: t[1:2], whole)
    alone = maps(generator.render(second, camera(3)[1]))
    assert torch.allclose(alone, maps(generator.render(whole, camera(3)))[1:2], atol=1e-12)


def test_one_scene_from_many_cameras_equals_each_view_alone():
    generator = model()
    one = scene(generator, 1)
    together = maps(generator.render(one, camera(3)))
    for k in range(3):
        alone = maps(generator.render(one, camera(3)[k]))
        assert torch.allclose(together[k : k + 1], alone, atol=1e-12)


# -- Independent rays ------------------------------------------------------------------------------


@pytest.mark.parametrize("randomness", [None, draws()], ids=["still", "random"])
def test_some_rays_are_those_pixels_of_the_whole_image(randomness):
    generator = model()
    generator.density_noise = 0.5
    rays = torch.tensor([63, 0, 17, 18, 5])
    whole = maps(generator.render(scene(generator), camera(), randomness=randomness))
    some = maps(generator.render(scene(generator), camera(), rays=rays, randomness=randomness))
    assert torch.allclose(some, whole.flatten(2)[:, :, rays][..., None], atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 50, 100_000])
def test_chunks_of_rays_change_nothing(chunk):
    generator, chunked = model(), model(ray_chunk=chunk)
    whole = maps(generator.render(scene(generator), camera(), randomness=draws()))
    with torch.no_grad():
        parts = maps(chunked.render(scene(chunked), camera(), randomness=draws()))
    assert torch.allclose(parts, whole, atol=1e-12)


def test_gradients_of_chunks_of_rays_sum_to_the_whole_gradient():
    generator = model()
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 6, SIDE * SIDE, dtype=DOUBLE, generator=random)

    def gradients(chunks: list[Tensor]) -> dict[str, Tensor]:
        generator.zero_grad()
        for rays in chunks:
            shown = generator.render(scene(generator), camera(), rays=rays, randomness=draws())
            (torch.cat([shown.image, shown.raw], 1)[..., 0] * weights[:, :, rays]).sum().backward()
        return {name: p.grad.clone() for name, p in generator.named_parameters()}

    whole = gradients([torch.arange(SIDE * SIDE)])
    shuffled = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(1))
    parts = gradients(list(shuffled.split(13)))
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-9, atol=1e-12), name
        assert gradient.count_nonzero() > 0, name


def test_another_resolution_shows_the_same_scene():
    generator = model(num_steps=24)
    fine = generator.render(scene(generator), camera(), resolution=48)
    coarse = generator.render(scene(generator), camera(), resolution=16)
    assert fine.image.shape == (2, 3, 48, 48)
    for a, b in ((fine.image, coarse.image), (fine.raw, coarse.raw), (fine.depth, coarse.depth)):
        difference = (F.avg_pool2d(a, 3) - b).abs().mean()
        assert difference < 0.1 * b.std(), difference / b.std()
    # Pixel (1, 1) of every 3 x 3 pixels has the ray of the coarse pixel.
    assert torch.allclose(fine.image[:, :, 1::3, 1::3], coarse.image, atol=1e-9)


# -- Frozen parts ----------------------------------------------------------------------------------


def test_a_frozen_nerf_gets_no_gradient_and_saves_nothing_for_it():
    generator = model()
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not generator.is_part_of(name, ["nerf"]))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        shown = generator.render(scene(generator), camera(), randomness=draws())
    samples = 2 * generator.options.num_steps
    nerf_sizes = {SIDE * SIDE * samples // 2, samples // 2, samples}
    assert not shown.extras["features"].requires_grad
    assert not shown.raw.requires_grad
    assert not [shape for shape in saved if nerf_sizes & set(shape)]
    shown.image.sum().backward()
    for name, parameter in generator.named_parameters():
        trained = name.startswith(("inr_net.", "mapping_network_inr."))
        assert (parameter.grad is not None) == trained, name


def test_a_frozen_nerf_passes_gradients_to_the_camera_and_to_latents_that_are_leaves():
    generator = model()
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not generator.is_part_of(name, ["nerf"]))
    label = camera(1).label().requires_grad_()
    ws = generator.map(latent(generator, 1)).detach().requires_grad_()
    generator.render(generator.represent(ws), Camera.from_label(label)).raw.sum().backward()
    assert label.grad[:, :16].abs().max() > 1e-6
    shape = generator.latent_names.index("nerf_rgb") + 1
    assert all(row.count_nonzero() > 0 for row in ws.grad[0, :shape])


def test_a_frozen_model_gives_gradients_to_z():
    generator = model().requires_grad_(False)
    z = latent(generator, 1).requires_grad_()
    generator(z, camera(1)).image.sum().backward()
    assert (z.grad != 0).all()


@pytest.mark.parametrize("color_style", ["shape", "appearance"])
def test_parts_are_disjoint_and_cover_the_model(color_style):
    generator = model(color_style=color_style)
    for name, _ in generator.named_parameters():
        assert generator.is_part_of(name, ["nerf"]) != generator.is_part_of(name, ["inr"]), name
    # The image of the NeRF depends on its part only.
    before = generator.render(scene(generator), camera())
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if generator.is_part_of(name, ["inr"]):
                parameter += 0.1
    after = generator.render(scene(generator), camera())
    assert torch.equal(before.raw, after.raw)
    assert (before.image - after.image).abs().max() > 0.01


def test_in_v1_the_appearance_colors_the_features_but_not_the_shape():
    generator = model(color_style="appearance")
    z = latent(generator, 1).repeat(2, 1)
    z[1, generator.z_dims[0] :] *= -1
    shown = generator(z, camera(1).select([0, 0]))
    assert torch.equal(shown.depth[0], shown.depth[1])
    assert (shown.raw[0] - shown.raw[1]).abs().max() > 1e-4


# -- Renderings ------------------------------------------------------------------------------------


def uniform(generator: CIPS3D, sigma: float) -> CIPS3D:
    """Makes the density constant."""
    with torch.no_grad():
        generator.siren.final_layer.weight.zero_()
        generator.siren.final_layer.bias.fill_(sigma)
    return generator


def test_depth_is_along_the_viewing_axis():
    generator = uniform(model(ray_start=2.0, ray_end=3.0), 1e7)
    shown = generator.render(scene(generator), camera())
    cosines = camera().rays(SIDE).cosines
    assert torch.allclose(shown.depth.flatten(2).mT, 2.0 * cosines)
    assert torch.allclose(shown.extras["ray_depth"], torch.full_like(shown.depth, 2.0))
    assert torch.allclose(shown.opacity, torch.ones_like(shown.depth))


def test_an_empty_field_has_the_depth_of_the_last_sample_and_no_features():
    generator = uniform(model(ray_start=2.0, ray_end=3.0), -1.0)
    shown = generator.render(scene(generator), camera())
    assert shown.opacity.count_nonzero() == 0
    assert shown.extras["features"].count_nonzero() == 0
    assert torch.allclose(shown.depth.flatten(2).mT, 3.0 * camera().rays(SIDE).cosines)


def test_a_larger_box_contains_the_scaled_scene():
    small, large = model(), model(box_side=2.0, ray_start=4.5, ray_end=6.6)
    with torch.no_grad():  # twice the distance, half the density
        large.siren.final_layer.weight /= 2
        large.siren.final_layer.bias /= 2
    a, b = small.render(scene(small), camera()), large.render(scene(large), camera(radius=5.4))
    assert torch.allclose(a.image, b.image, atol=1e-9)
    assert torch.allclose(2 * a.depth, b.depth, atol=1e-9)


def test_density_noise_needs_a_randomness():
    generator = model()

    def render(randomness: Randomness | None) -> Tensor:
        return maps(generator.render(scene(generator), camera(), randomness=randomness))

    still, random = render(None), render(draws())
    generator.density_noise = 1.0
    assert torch.equal(still, render(None))
    assert (random - render(draws())).abs().max() > 0.01


def test_field_returns_the_rendered_values():
    generator = model()
    views, one = camera().rays(SIDE), scene(generator)
    points = views.origins + 2.5 * views.directions
    sigma, features = generator.field(one, points)
    assert sigma.shape == (2, SIDE * SIDE, 1)
    assert features.shape == (2, SIDE * SIDE, 8)
    expected, _ = generator.siren(2 * points[:, :, None], views.directions[:, :, None], one)
    assert torch.allclose(sigma, expected[:, :, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "directed"),
    [("xyz", False), ("xyz_posenc", False), ("xyz_d_posenc", True), ("xyz_d_sine", True)],
)
def test_only_features_of_inputs_with_d_depend_on_the_direction(inputs, directed):
    generator = model(inputs=inputs)
    one, points = scene(generator), torch.rand(2, 9, 3, dtype=DOUBLE) - 0.5
    here, there = F.normalize(torch.randn(2, 2, 9, 3, dtype=DOUBLE), dim=-1)
    sigma, features = generator.field(one, points, here)
    other_sigma, other_features = generator.field(one, points, there)
    assert torch.equal(sigma, other_sigma)
    assert torch.equal(features, other_features) != directed
    ahead = torch.tensor([0.0, 0.0, -1.0], dtype=DOUBLE).expand(2, 9, 3)
    assert torch.equal(generator.field(one, points)[1], generator.field(one, points, ahead)[1])
    free, locked = model(inputs=inputs), model(inputs=inputs, lock_view=True)
    assert torch.equal(*(maps(g.render(scene(g), camera())) for g in (free, locked))) != directed


def test_positional_encoding_by_hand():
    x = torch.tensor([[0.5, 1.0]], dtype=DOUBLE)
    expected = [0.5, 1.0]
    for scale in (1, 2, 4):
        expected += [math.sin(scale * 0.5), math.sin(scale * 1.0)]
        expected += [math.cos(scale * 0.5), math.cos(scale * 1.0)]
    assert positional_encoding(x, 3)[0].tolist() == pytest.approx(expected)


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": "rgb"}, "inputs 'rgb' is unknown"),
        ({"color_style": "both"}, "color_style 'both' is unknown"),
        ({"nerf_layers": 0}, "nerf_layers is 0"),
        ({"nerf_mapping_hidden_dim": 7}, "hidden_dim 7"),
        ({"box_side": 0.0}, "box_side 0.0 is not positive"),
        ({"img_resolution": 0}, "img_resolution 0 is not positive"),
    ],
)
def test_invalid_arguments_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        CIPS3D(**CIPS3D.tiny | changes)


def test_invalid_calls_are_refused():
    generator = model()
    with pytest.raises(ValueError, match="z_nerf, then z_inr"):
        generator.map(torch.zeros(2, 3, dtype=DOUBLE))
    with pytest.raises(ValueError, match="renders from a camera, got None"):
        generator.render(scene(generator))
