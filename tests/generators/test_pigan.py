"""pi-GAN: its field by hand, images of constant fields, ws, truncation, rays and memory."""

import math

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators import PiGAN
from gan3d.generators.pigan import PiGANField
from gan3d.randomness import Randomness

COLOR = (0.2, -1.0, 3.0)


def tiny(**options) -> PiGAN:
    torch.manual_seed(0)
    return PiGAN(**PiGAN.tiny | {"img_resolution": 8} | options)


def uniform(sigma: float, **options) -> PiGAN:
    """A model with a constant field of raw density sigma and color sigmoid(COLOR)."""
    model = tiny(**options)
    heads = ((model.siren.final_layer, [sigma]), (model.siren.color_layer_linear, COLOR))
    with torch.no_grad():
        for head, bias in heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor(bias))
    return model


def latents(model: PiGAN, b: int = 2) -> Tensor:
    return Randomness(0, range(b)).normal("z", model.z_dim)


def cameras(b: int = 2) -> Camera:
    return Camera.from_angles(torch.linspace(-0.3, 0.3, b), torch.linspace(0.1, -0.1, b))


def scene_of(model: PiGAN, b: int = 2) -> Tensor:
    return model.represent(model.map(latents(model, b)))


# -- The model's sizes -----------------------------------------------------------------------------


def test_the_published_model_has_its_parameters():
    model, with_grid = PiGAN(), PiGAN(grid_channels=32, grid_resolution=4)
    assert sum(p.numel() for p in model.parameters()) == 1_910_788
    assert sum(p.numel() for p in model.mapping_network.parameters()) == 1_381_632
    assert (model.num_ws, model.w_dim) == (9, 512)
    assert sum(p.numel() for p in with_grid.parameters()) == 1_910_788 + 32 * 4**3 + 32 * 256


def test_every_parameter_belongs_to_one_part():
    model = tiny()
    for name, _ in model.named_parameters():
        assert sum(name.startswith(beginnings) for beginnings in model.parts.values()) == 1, name


def test_initial_weights_fill_their_intervals():
    torch.manual_seed(0)
    siren = PiGAN(hidden_dim=64).siren
    limit = math.sqrt(6 / 64) / 25
    expected = [(siren.network[0], 1 / 3), (siren.color_layer_sine, math.sqrt(6 / 67) / 25)]
    for layer in (*siren.network[1:], siren.final_layer, siren.color_layer_linear):
        expected.append((layer, limit))
    for layer, largest in expected:
        assert 0.93 * largest < layer.weight.abs().max() <= largest


# -- The field -------------------------------------------------------------------------------------


def test_one_point_by_hand():
    siren = PiGANField(1, 1)
    with torch.no_grad():
        siren.network[0].weight.copy_(torch.tensor([[0.1, -0.2, 0.3]]))
        siren.network[0].bias.fill_(0.02)
        siren.final_layer.weight.fill_(2.0)
        siren.final_layer.bias.fill_(-0.5)
        # Inputs of the color layer: direction, then feature.
        siren.color_layer_sine.weight.copy_(torch.tensor([[0.01, 0.02, 0.03, 0.04]]))
        siren.color_layer_sine.bias.fill_(0.05)
        siren.color_layer_linear.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0]]))
        siren.color_layer_linear.bias.copy_(torch.tensor([0.0, 0.1, 0.2]))
    point, direction = (0.5, 0.25, -1.0), (0.6, 0.0, -0.8)
    ws = torch.tensor([[[0.2, 0.7], [-0.4, 0.3]]])  # gain, phase of each layer
    sigma, rgb = siren(torch.tensor([[point]]), torch.tensor([[direction]]), ws)

    h = math.sin((15 * 0.2 + 30) * (0.1 * 0.5 - 0.2 * 0.25 - 0.3 + 0.02) + 0.7)
    c = math.sin((15 * -0.4 + 30) * (0.01 * 0.6 - 0.03 * 0.8 + 0.04 * h + 0.05) + 0.3)
    assert sigma.item() == pytest.approx(2 * h - 0.5, abs=1e-5)
    expected = [1 / (1 + math.exp(-v)) for v in (c, -c + 0.1, 2 * c + 0.2)]
    assert rgb.flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_the_box_scales_points():
    points = 0.2 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    boxed, tall = tiny(box_side=0.5), tiny(box_side=2.0)
    expected = tall.field(scene_of(tall), 4 * points)
    torch.testing.assert_close(boxed.field(scene_of(boxed), points), expected)


def test_directions_change_colors_but_not_densities():
    model, points = tiny(), torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    sigma, rgb = model.field(scene_of(model), points)
    front = torch.tensor([0.0, 0.0, -1.0]).expand(2, 5, 3)
    assert torch.equal(rgb, model.field(scene_of(model), points, front)[1])
    turned_sigma, turned_rgb = model.field(scene_of(model), points, front.roll(1, -1))
    assert torch.equal(sigma, turned_sigma)
    assert (rgb - turned_rgb).abs().max() > 1e-4


def test_a_grid_is_interpolated_between_its_corners_and_zero_outside():
    features = PiGANField._grid_features
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, 4)] * 3, indexing="ij")
    grid = torch.stack([x, y, z, x * y * z])[None]
    corners = torch.tensor([[[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]])
    inside = 2 * torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(features(grid, inside)[..., :3], inside)
    torch.testing.assert_close(features(grid, corners)[0, :, 3], torch.tensor([-1.0, -1.0]))
    assert (features(grid, torch.full((1, 1, 3), 2.0)) == 0).all()


def test_grid_features_are_concatenated_before_the_point():
    siren, points = PiGANField(5, 1, grid_channels=2, grid_resolution=3), torch.rand(1, 4, 3)
    directions, ws = torch.zeros_like(points), torch.zeros(1, 2, 10)
    with_grid = siren(points, directions, ws)[0]
    with torch.no_grad():
        siren.network[0].weight[:, :2] = 0
    alone = PiGANField(5, 1)
    point_weight = siren.network[0].weight[:, 2:]
    alone.load_state_dict(siren.state_dict() | {"network.0.weight": point_weight}, strict=False)
    without = siren(points, directions, ws)[0]
    assert (with_grid - without).abs().max() > 1e-4
    torch.testing.assert_close(without, alone(points, directions, ws)[0])


# -- The image -------------------------------------------------------------------------------------


def test_an_opaque_field_has_its_color():
    shown = uniform(1.0)(latents(tiny()), cameras())
    expected = (2 * torch.sigmoid(torch.tensor(COLOR)) - 1)[:, None, None].expand(2, 3, 8, 8)
    torch.testing.assert_close(shown.image, expected)
    torch.testing.assert_close(shown.opacity, torch.ones(2, 1, 8, 8))


def test_an_empty_field_is_black_or_white_or_the_color_of_its_last_sample():
    last = tiny().options.ray_end
    distances = last * cameras().rays(8).cosines.unflatten(1, (8, 8)).movedim(-1, 1)
    color = (2 * torch.sigmoid(torch.tensor(COLOR)) - 1)[:, None, None].expand(2, 3, 8, 8)
    black, white = -torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    expected = (({}, black), ({"white_back": True}, white), ({"last_back": True}, color))
    for options, image in expected:
        shown = uniform(-1.0, **options)(latents(tiny()), cameras())
        torch.testing.assert_close(shown.image, image)
        assert (shown.opacity == 0).all()
        torch.testing.assert_close(shown.depth, distances)
    filled = uniform(1.0, fill_mode="weight")(latents(tiny()), cameras())
    torch.testing.assert_close(filled.image, white)


def test_the_clamp_mode_is_used():
    opacity = uniform(-1.0, clamp_mode="softplus")(latents(tiny()), cameras()).opacity
    assert (opacity > 0.99).all(), "softplus(-1) is positive, and the last interval is 1e10 long"


def test_with_a_locked_view_the_field_receives_one_direction():
    for lock in (False, True):
        model = uniform(1.0, lock_view=lock)
        with torch.no_grad():  # the color depends on the direction only
            model.siren.color_layer_linear.weight.fill_(1.0)
            model.siren.color_layer_sine.weight[:, 3:] = 0
        image = model.render(scene_of(model), cameras()).image
        directions = cameras().rays(8).directions
        if lock:
            directions = torch.tensor([0.0, 0.0, -1.0]).expand_as(directions)
        _, rgb = model.field(scene_of(model), torch.zeros_like(directions), directions)
        torch.testing.assert_close(image.flatten(2).mT, 2 * rgb - 1, atol=1e-4, rtol=1e-4)
        assert (image.flatten(2).std(-1).max() > 1e-3) is not lock


def test_some_rays_are_those_pixels_of_the_whole_image_with_their_draws():
    model, randomness, rays = tiny(), Randomness(3, range(2)), torch.tensor([63, 0, 17])
    model.density_noise = 0.5
    whole = model.render(scene_of(model), cameras(), randomness=randomness)
    some = model.render(scene_of(model), cameras(), rays=rays, randomness=randomness)
    for name in ("image", "depth", "opacity"):
        part, full = getattr(some, name), getattr(whole, name)
        assert part.shape == (2, full.shape[1], 3, 1)
        torch.testing.assert_close(part[..., 0], full.flatten(2)[..., rays], atol=1e-5, rtol=1e-5)


def test_density_noise_needs_randomness():
    model, randomness = tiny(), Randomness(3, range(2))
    quiet = [model(latents(model), cameras(), randomness=r).image for r in (None, randomness)]
    model.density_noise = 1.0
    loud = [model(latents(model), cameras(), randomness=r).image for r in (None, randomness)]
    assert torch.equal(quiet[0], loud[0])
    assert (quiet[1] - loud[1]).abs().max() > 1e-3


def test_the_image_has_the_requested_size():
    model = tiny()
    for side in (5, 11):
        shown = model.render(scene_of(model), cameras(), resolution=side)
        assert shown.image.shape == (2, 3, side, side)
        for values in (shown.depth, shown.opacity, shown.extras["ray_depth"]):
            assert values.shape == (2, 1, side, side)


def test_one_scene_from_many_cameras_equals_each_view_alone():
    model = tiny()
    scene = scene_of(model, 1)
    many = model.render(scene, cameras(3)).image
    alone = torch.cat([model.render(scene, cameras(3)[i]).image for i in range(3)])
    torch.testing.assert_close(many, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_gradient_rays_are_rendered_in_chunks():
    model = tiny(ray_chunk=10)
    points = []
    model.siren.register_forward_hook(
        lambda module, inputs, output: points.append(inputs[0].shape[:2].numel())
    )
    chunked = model(latents(model), cameras()).image
    assert max(points) == 10 * model.options.num_steps
    assert sum(points) == 2 * 64 * 2 * model.options.num_steps
    torch.testing.assert_close(chunked, tiny(ray_chunk=1000)(latents(model), cameras()).image)


def test_autocast_changes_nothing():
    model = tiny()
    exact = model(latents(model), cameras()).image
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(latents(model), cameras()).image, exact)


# -- The latents -----------------------------------------------------------------------------------


def test_a_row_of_ws_is_the_gain_and_phase_of_a_layer():
    model = tiny(hidden_dim=5)
    with torch.no_grad():
        last = model.mapping_network.network[-1]
        last.weight.zero_()
        last.bias.copy_(torch.arange(40))  # gains of four layers of five, then their phases
    rows = model.map(latents(model, 1))[0]
    for i, row in enumerate(rows):
        assert row.tolist() == [*range(5 * i, 5 * i + 5), *range(20 + 5 * i, 25 + 5 * i)]


def test_truncation_moves_the_first_rows_towards_the_mean():
    model = tiny()
    model.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    plain = model.map(latents(model))
    halfway = model.map(latents(model), truncation=0.5)
    torch.testing.assert_close(halfway, (plain + model.w_avg) / 2)
    some = model.map(latents(model), truncation=0.5, truncation_cutoff=1)
    assert torch.equal(some[:, 1:], plain[:, 1:])
    torch.testing.assert_close(some[:, :1], halfway[:, :1])


def test_tracking_is_a_decaying_mean():
    model = tiny(w_avg_beta=0.75)
    ws = model.map(latents(model))
    model.track(ws)
    model.track(2 * ws)
    torch.testing.assert_close(model.w_avg, (0.25 * 0.75 + 0.25 * 2) * ws.mean(0))


def test_the_mean_of_many_codes_is_reproducible_and_close_to_the_mean_of_others():
    model, twin, other = tiny(), tiny(), tiny()
    model.estimate_w_avg(2500)
    twin.estimate_w_avg(2500)
    other.estimate_w_avg(2500, seed=1)
    assert torch.equal(model.w_avg, twin.w_avg)
    fresh = model.map(torch.randn(2500, model.z_dim, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(model.w_avg, fresh.mean(0), atol=1e-5, rtol=1e-4)
    bound = 6 * fresh.std(0).max() * math.sqrt(2 / 2500)
    assert 0 < (model.w_avg - other.w_avg).abs().max() < bound


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"box_side": 0.0}, "box_side 0.0 is not positive"),
        ({"hidden_layers": 0}, "hidden_layers is 0; the density needs 1 or more"),
        ({"grid_channels": -1}, "use 32 x 96"),
        ({"num_steps": 2}, "num_steps 2 is less than 3"),
    ],
)
def test_impossible_arguments_are_refused_with_a_remedy(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny(**wrong)


def test_missing_cameras_and_incomplete_latents_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="give render\\(\\) a Camera"):
        model.render(scene_of(model))
    with pytest.raises(ValueError, match=r"ws has shape \(2, 3, 48\); expected \[b 4 48\]"):
        model.represent(model.map(latents(model))[:, :3])
