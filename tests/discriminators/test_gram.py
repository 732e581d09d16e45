"""GRAM's discriminators: realness and pose of the image, realness of its patches."""

import pytest
import torch
from torch import Tensor

from gan3d.discriminators import GRAMDiscriminator
from gan3d.discriminators.gram import PatchGAN


def discriminator(**options) -> GRAMDiscriminator:
    torch.manual_seed(0)
    return GRAMDiscriminator(**{**GRAMDiscriminator.tiny, **options}).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- Outputs ---------------------------------------------------------------------------------------


def test_the_output_is_a_logit_a_pose_and_a_map_of_patches():
    output = discriminator()(normal(3, 3, 32, 32))
    assert output.logits.shape == (3,)
    assert output.pose.shape == (3, 2)
    assert output.patch_logits.shape == (3, 1, 2, 2)
    assert output.latent is None


def test_outputs_are_logit_then_pitch_and_yaw():
    judge = discriminator()
    torch.nn.init.zeros_(judge.final_layer.weight)
    judge.final_layer.bias.data = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)
    output = judge(normal(1, 3, 32, 32))
    assert output.logits.tolist() == [3]
    assert output.pose.tolist() == [[4, 5]]
    assert judge.predicts_pose


def test_without_the_patch_discriminator_only_patches_are_missing():
    whole, main = discriminator(), discriminator(patch=False)
    assert main(normal(1, 3, 32, 32)).patch_logits is None
    names = set(dict(whole.named_parameters()))
    patch_names = {name for name in names if name.startswith("patchgan.")}
    assert patch_names != set()
    assert names - set(dict(main.named_parameters())) == patch_names


def test_every_parameter_has_a_gradient():
    judge = discriminator()
    output = judge(normal(1, 3, 32, 32))
    (output.logits.sum() + output.pose.sum() + output.patch_logits.sum()).backward()
    for name, parameter in judge.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


# -- Sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "main", "patch", "patches"),
    [
        (64, 12_098_003, None, None),
        (128, 12_332_115, None, None),
        (256, 12_391_827, 2_763_841, 30),
        (512, 12_407_347, 693_793, 62),
        (1024, 12_411_523, 437_009, 62),
    ],
)
def test_published_numbers_of_parameters_and_patches(side, main, patch, patches):
    with torch.device("meta"):
        judge = GRAMDiscriminator(img_resolution=side, patch=patch is not None)
        output = judge(torch.empty(2, 3, side, side))
    total = sum(p.numel() for p in judge.parameters())
    if patch is None:
        assert total == main
        return
    assert sum(p.numel() for p in judge.patchgan.parameters()) == patch
    assert total == main + patch
    assert output.patch_logits.shape == (2, 1, patches, patches)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 3, 32, 16), (3, 32, 32)])
def test_images_of_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="GRAMDiscriminator judges images of 32 px, got shape"):
        discriminator()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 48}, "power of two"),
        ({"channels": (4, 4)}, "channels has 2 numbers, img_resolution 32 needs 5"),
        ({"patch_layers": 4}, "32 is too small for a patch discriminator of 4 layers; use 64 px"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        discriminator(**options)


def test_fewer_patch_layers_fit_a_smaller_image():
    judge = discriminator(img_resolution=16, channels=(4, 4, 4, 4), patch_layers=2)
    assert judge(normal(1, 3, 16, 16)).patch_logits.shape == (1, 1, 2, 2)


# -- Patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_layers", "field"), [(1, 16), (3, 70)])
def test_a_patch_is_as_large_as_in_the_paper(num_layers, field):
    """Isola et al. 2017, appendix 6.1.2: patches of 16 and of 70 pixels."""
    torch.manual_seed(0)
    patchgan, image = PatchGAN(2, num_layers).double(), normal(1, 3, 160, 160).requires_grad_(True)
    logits = patchgan(image)
    center = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, center, center], image)
    receptive = gradient[0].abs().sum(0) > 0
    for line in (receptive.any(0), receptive.any(1)):
        where = line.nonzero().flatten()
        assert where[-1] - where[0] + 1 == field


def test_biases_channels_and_strides_of_the_patch_discriminator():
    patchgan = PatchGAN(4, 5)
    assert [conv.bias is not None for conv in patchgan.convs] == [True, *[False] * 5, True]
    assert [conv.out_channels for conv in patchgan.convs] == [4, 8, 16, 32, 32, 32, 1]
    assert [conv.stride[0] for conv in patchgan.convs] == [2, 2, 2, 2, 2, 1, 1]


# -- Derivatives -----------------------------------------------------------------------------------


def test_the_gradient_of_r1_agrees_with_finite_differences():
    judge, image = discriminator(), normal(2, 3, 32, 32).requires_grad_(True)

    def penalty() -> Tensor:
        output = judge(image)
        value = output.logits.sum() + 0.1 * output.patch_logits.mean((1, 2, 3)).sum()
        return torch.autograd.grad(value, image, create_graph=True)[0].square().sum()

    penalty().backward()
    for name in ("from_rgb.weight", "layers.1.network.0.weight", "patchgan.convs.2.weight"):
        weight, step = judge.get_parameter(name), 1e-6
        direction = normal(*weight.shape, seed=2)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
            values.append(penalty().item())
            with torch.no_grad():
                weight -= sign * step * direction
        expected = (values[0] - values[1]) / (2 * step)
        assert (weight.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)
