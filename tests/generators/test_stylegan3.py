"""StyleGAN3 as a generator: published sizes, contract, magnitudes, equivariance."""

import math

import pytest
import torch

from gan3d.camera import Camera
from gan3d.generators import StyleGAN3
from gan3d.layers.alias_free import Picture
from gan3d.randomness import Randomness


def tiny(**changes) -> StyleGAN3:
    torch.manual_seed(0)
    return StyleGAN3(**{**StyleGAN3.tiny, **changes})


def latents(generator: StyleGAN3, b: int = 3) -> torch.Tensor:
    return Randomness(1, range(b)).normal("z", generator.z_dim)


def count(**arguments) -> int:
    with torch.device("meta"):
        generator = StyleGAN3(**arguments)
    return sum(p.numel() for p in generator.parameters())


@pytest.mark.parametrize(
    ("img_resolution", "channel_base", "translation", "rotation"),
    [
        (128, 16384, 27_034_685, 18_019_940),
        (128, 32768, 32_833_523, 21_366_701),
        (256, 16384, 23_320_443, 15_779_565),
        (256, 32768, 28_472_133, 18_816_387),
        (512, 16384, 20_418_155, 14_008_547),
        (512, 32768, 24_873_519, 16_665_594),
        (1024, 16384, 18_144_449, 12_616_713),
        (1024, 32768, 22_313_167, 15_093_151),
    ],
)
def test_stylegan3_has_the_published_number_of_parameters(
    img_resolution, channel_base, translation, rotation
):
    sizes = {"img_resolution": img_resolution, "channel_base": channel_base}
    assert count(**sizes) == translation
    assert count(config="R", **sizes) == rotation


@pytest.mark.parametrize(("config", "buffers"), [("T", 2_456), ("R", 5_576)])
def test_stylegan3_has_the_published_number_of_buffer_values(config, buffers):
    with torch.device("meta"):
        generator = StyleGAN3(config=config, channel_base=16384)
    assert sum(b.numel() for b in generator.buffers()) == buffers


def test_as_a_tri_plane_backbone_it_has_the_published_number_of_parameters():
    assert count(img_channels=96, c_dim=25) == 28_759_586
    assert count(config="R", img_channels=96, c_dim=25) == 19_115_744


def test_options_override_the_configuration():
    mixed = tiny(config="R", conv_kernel=3, use_radial_filters=False)
    layer = mixed.synthesis.layers[0]
    assert layer.weight.shape[-1] == 3
    assert layer.down_filter.ndim == 1
    assert layer.weight.shape[0] == 2 * tiny().synthesis.layers[0].weight.shape[0]
    with pytest.raises(ValueError, match="config 'X' is unknown; choose T or R"):
        tiny(config="X")


def test_rendering_returns_the_image_and_no_depth():
    generator = tiny()
    scene = generator.represent(generator.map(latents(generator)))
    assert isinstance(scene, Picture)
    shown = generator.render(scene)
    assert torch.equal(shown.image, scene.image)
    assert shown.depth is None
    with pytest.raises(ValueError, match="whole images of 32 px, got resolution 16"):
        generator.render(scene, resolution=16)


def test_tracking_averages_latents_and_magnitudes_with_a_half_life_in_images():
    generator = tiny(magnitude_half_life_kimg=0.008)
    ws = generator.map(latents(generator))
    scene = generator.represent(ws)
    statistics = generator.statistics(scene)
    assert statistics.shape == (3, len(generator.synthesis.layers))
    generator.track(ws, statistics, batch_size=8)
    means = [layer.magnitude_ema.item() for layer in generator.synthesis.layers]
    assert means == pytest.approx([0.5 + 0.5 * m for m in statistics.mean(0).tolist()])
    torch.testing.assert_close(generator.mapping.w_avg, 0.002 * ws[:, 0].mean(0))
    generator.track(ws)
    assert means == [layer.magnitude_ema.item() for layer in generator.synthesis.layers]


def test_tracking_accepts_the_mean_of_all_processes_instead_of_the_batch():
    one, other = tiny(), tiny()
    ws = one.map(latents(one))
    statistics = one.statistics(one.represent(ws))
    one.track(ws, statistics, batch_size=3)
    other.track(ws.mean(0, keepdim=True), statistics.mean(0, keepdim=True), batch_size=3)
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_fixed_decay_replaces_the_half_life():
    assert tiny(magnitude_ema_beta=0.9).magnitude_decay(64) == 0.9
    assert tiny().magnitude_decay(20_000) == 0.5
    assert tiny().magnitude_decay(32) == pytest.approx(0.5 ** (32 / 20_000))


@torch.no_grad()
def test_settling_calibrates_an_untrained_network():
    generator = tiny(magnitude_ema_beta=0.0)
    ws = generator.map(latents(generator, 8))
    image = generator.settle(ws)
    torch.testing.assert_close(generator.represent(ws).image, image)
    assert 0.05 < image.std() < 1


def decibels(expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Peak signal to noise ratio for a range of [-1, 1]."""
    return (10 * torch.log10(4 / (expected - actual).square().mean())).item()


def synthesized(config: str, transform: torch.Tensor | None = None) -> torch.Tensor:
    generator = tiny(config=config, num_layers=7, magnitude_ema_beta=0.0)
    ws = generator.map(latents(generator, 4))
    generator.settle(ws)
    return generator.synthesize(ws, transform)


@torch.no_grad()
@pytest.mark.parametrize("config", ["T", "R"])
def test_a_translation_moves_the_image(config):
    transform = torch.eye(3)
    transform[:2, 2] = -torch.tensor([4.0, -3.0]) / 32
    still, moved = synthesized(config), synthesized(config, transform)
    assert decibels(still[:, :, 3:, :-4], moved[:, :, :-3, 4:]) > 45
    assert decibels(still, moved) < 35


@torch.no_grad()
def test_a_quarter_turn_rotates_the_image_of_configuration_r_and_not_of_t():
    transform = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    quality = {}
    for config in ("T", "R"):
        still, turned = synthesized(config), synthesized(config, transform)
        quality[config] = max(decibels(still.rot90(turns, (2, 3)), turned) for turns in (1, 3))
    assert quality["R"] > 60
    assert quality["T"] < 35


def test_a_label_conditioned_model_without_a_camera_gets_the_zero_label():
    generator = tiny(c_dim=25)
    assert generator.camera_conditioned
    z = latents(generator, 2)
    front = Camera.from_angles(torch.zeros(2), torch.zeros(2))
    assert (generator.map(z, front) - generator.map(z)).abs().max() > 1e-4
    zero = Camera(torch.zeros(2, 4, 4), torch.zeros(2, 3, 3))
    assert torch.equal(generator.map(z, zero), generator.map(z))


def test_path_length_is_differentiable():
    generator = tiny()
    ws = generator.map(latents(generator, 2))
    image = generator.render(generator.represent(ws)).image
    direction = Randomness(1, [0, 1]).normal("direction", *image.shape[1:]) / 32
    (gradient,) = torch.autograd.grad((image * direction).sum(), ws, create_graph=True)
    gradient.square().sum(2).mean(1).sqrt().sum().backward()
    for name, parameter in generator.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_the_rotation_of_the_input_is_computed_from_w():
    generator = tiny()
    ws = generator.map(latents(generator, 2))
    still = generator.synthesize(ws)
    rotation = torch.tensor([math.cos(0.5), math.sin(0.5), 0.0, 0.0])
    with torch.no_grad():
        generator.synthesis.input.affine.bias.copy_(rotation)
    assert (generator.synthesize(ws) - still).abs().mean() > 1e-3
