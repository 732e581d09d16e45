"""StyleGAN2 as a generator: published sizes, contract, noise, conditioning, path length."""

import pytest
import torch

from gan3d.camera import Camera
from gan3d.generators import StyleGAN2
from gan3d.randomness import Randomness


def tiny(**changes) -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(**{**StyleGAN2.tiny, **changes})


def latents(generator: StyleGAN2, b: int = 3) -> torch.Tensor:
    return Randomness(1, range(b)).normal("z", generator.z_dim)


@pytest.mark.parametrize(
    ("img_resolution", "channel_base", "num_parameters"),
    [
        (128, 16384, 24_525_213),
        (256, 16384, 24_767_458),
        (512, 32768, 30_276_583),
        (1024, 32768, 30_370_060),
    ],
)
def test_stylegan2_has_the_published_number_of_parameters(
    img_resolution, channel_base, num_parameters
):
    with torch.device("meta"):
        generator = StyleGAN2(img_resolution=img_resolution, channel_base=channel_base)
    assert sum(p.numel() for p in generator.parameters()) == num_parameters


def test_stylegan2_defaults_are_the_ffhq_256_model():
    with torch.device("meta"):
        generator = StyleGAN2()
    assert (generator.img_resolution, generator.num_ws) == (256, 14)
    assert sum(p.numel() for p in generator.parameters()) == 24_767_458


def test_as_eg3ds_backbone_it_has_the_published_number_of_parameters():
    options = {"c_dim": 25, "img_channels": 96, "channel_base": 32768}
    with torch.device("meta"):
        backbone = StyleGAN2(**options, conv_clamp=None, mapping_layers=2)
    assert sum(p.numel() for p in backbone.parameters()) == 29_008_301


def test_rendering_returns_the_representation_and_no_depth():
    generator = tiny()
    image = generator.represent(generator.map(latents(generator)))
    shown = generator.render(image)
    assert torch.equal(shown.image, image)
    assert shown.depth is None
    assert shown.raw is None


def test_rays_and_other_resolutions_are_refused():
    generator = tiny()
    image = generator.represent(generator.map(latents(generator)))
    with pytest.raises(ValueError, match="whole images of 32 px, got resolution 16"):
        generator.render(image, resolution=16)
    with pytest.raises(ValueError, match="chosen rays"):
        generator.render(image, rays=torch.arange(4))


def test_noise_is_constant_without_randomness_and_different_per_image_with_it():
    generator = tiny().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(1.0)
    ws = generator.map(latents(generator, 1)).expand(2, -1, -1)
    constant = generator.represent(ws)
    torch.testing.assert_close(constant[0], constant[1])
    noisy = generator.represent(ws, randomness=Randomness(0, [5, 6]))
    assert (noisy[0] - noisy[1]).abs().mean() > 1e-3
    alone = generator.represent(ws[:1], randomness=Randomness(0, [6]))
    torch.testing.assert_close(noisy[1:], alone, atol=1e-4, rtol=1e-4)


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
    image = generator.render(generator.represent(ws, randomness=Randomness(0, [0, 1]))).image
    direction = Randomness(1, [0, 1]).normal("direction", *image.shape[1:]) / 32
    (gradient,) = torch.autograd.grad((image * direction).sum(), ws, create_graph=True)
    gradient.square().sum(2).mean(1).sqrt().sum().backward()
    for name, parameter in generator.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_noise_modes():
    images = {}
    draws = (None, Randomness(0, [0]), Randomness(1, [0]))
    for mode in ("auto", "const", "none"):
        generator = tiny(noise=mode)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if name.endswith("noise_strength"):
                    parameter.fill_(0.5)
        ws = generator.map(torch.ones(1, generator.z_dim))
        images[mode] = [generator.represent(ws, randomness=draw) for draw in draws]
    still, one, other = images["auto"]
    assert not torch.equal(still, one)
    assert not torch.equal(one, other)
    assert all(torch.equal(image, still) for image in images["const"])
    assert all(torch.equal(image, images["none"][0]) for image in images["none"])
    assert not torch.equal(images["none"][0], still)
    with pytest.raises(ValueError, match="noise 'loud' is unknown"):
        StyleGAN2(**StyleGAN2.tiny, noise="loud")
