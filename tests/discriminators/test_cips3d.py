"""CIPS-3D's discriminators: image and raw image, resolutions, fading in."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.discriminators import CIPS3DDiscriminator

TINY = CIPS3DDiscriminator.tiny


def discriminator(**options) -> CIPS3DDiscriminator:
    torch.manual_seed(0)
    judge = CIPS3DDiscriminator(**{**TINY, **options}).double()
    for name, parameter in judge.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return judge


def normal(b: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, 3, side, side, dtype=torch.float64, generator=generator)


def unused(
    judge: CIPS3DDiscriminator, side: int, fade: float = 1.0, *, raw: bool = True
) -> set[str]:
    """Parameters without a gradient from images of this size."""
    judge.zero_grad()
    judge.fade = fade
    image = normal(1, side)
    judge(image, raw=image if raw else None).all_logits.sum().backward()
    return {name for name, parameter in judge.named_parameters() if parameter.grad is None}


def is_used(name: str, side: int, fade: float = 1.0) -> bool:
    """Whether a parameter is used for images of this size."""
    _, kind, size, *_ = name.split(".")
    if kind == "conv_in":
        return int(size) == side or (fade < 1 and int(size) == side // 2)
    return kind != "convs" or int(size) <= side


# -- Image and raw image ---------------------------------------------------------------------------


def test_image_and_raw_image_are_judged_separately():
    judge, image, raw = discriminator(), normal(2, 32), normal(2, 32, seed=1)
    output = judge(image, raw=raw)
    other_raw = judge(image, raw=-raw)
    other_image = judge(-image, raw=raw)
    assert output.logits.shape == output.raw_logits.shape == (2,)
    assert torch.equal(output.logits, other_raw.logits)
    assert torch.equal(output.raw_logits, other_image.raw_logits)
    assert ((output.logits - other_image.logits).abs() > 1e-6).all()
    assert ((output.raw_logits - other_raw.raw_logits).abs() > 1e-6).all()


def test_the_raw_image_may_have_another_size_than_the_image():
    judge, raw = discriminator(), normal(2, 8)
    large, small = (judge(normal(2, side), raw=raw).raw_logits for side in (32, 16))
    assert torch.equal(large, small)


def test_without_a_raw_image_the_auxiliary_discriminator_is_not_used():
    judge, image = discriminator(), normal(2, 16)
    assert judge.needs_raw
    output = judge(image)
    assert output.raw_logits is None
    assert torch.equal(output.logits, judge(image, raw=image).logits)
    auxiliary = {name for name, _ in judge.named_parameters() if name.startswith("aux_disc")}
    assert auxiliary <= unused(judge, 16, raw=False)


def test_without_an_auxiliary_discriminator_no_raw_image_is_needed():
    judge = discriminator(aux=False)
    assert not judge.needs_raw
    assert judge(normal(1, 16), raw=normal(1, 16)).raw_logits is None
    assert [name for name, _ in judge.named_parameters() if "aux" in name] == []


# -- Resolutions -----------------------------------------------------------------------------------


def test_powers_of_two_from_8_on_are_accepted_and_other_sizes_refused():
    judge = discriminator()
    assert judge.img_resolutions == (8, 16, 32)
    for side in judge.img_resolutions:
        assert judge(normal(2, side)).logits.isfinite().all()
    for shape in ((1, 3, 4, 4), (1, 3, 24, 24), (1, 3, 64, 64), (1, 3, 32, 16), (3, 32, 32)):
        with pytest.raises(ValueError, match="judges square images of 8, 16, 32 px"):
            judge(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("fade", [1.0, 0.5])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_parameters_of_unused_resolutions_have_no_gradient(side, fade):
    judge = discriminator()
    expected = {name for name, _ in judge.named_parameters() if not is_used(name, side, fade)}
    assert unused(judge, side, fade) == expected


def test_every_parameter_is_used_at_some_resolution():
    judge = discriminator()
    sides_and_fades = product(judge.img_resolutions, (1.0, 0.5))
    names = [unused(judge, side, fade) for side, fade in sides_and_fades]
    assert set.intersection(*names) == set()


def test_published_numbers_of_used_parameters():
    """Of 37,518,914 in total (main and auxiliary) at 64 and at 256 pixels, without fade."""
    with torch.device("meta"):
        judge = CIPS3DDiscriminator()
    sizes = {name: parameter.numel() for name, parameter in judge.named_parameters()}
    assert sum(sizes.values()) == 37_518_914
    for side, *expected in ((64, 26_484_225, 6_622_977), (256, 28_859_521, 8_343_681)):
        used = {name: number for name, number in sizes.items() if is_used(name, side)}
        for part, number in zip(("main_disc", "aux_disc"), expected, strict=True):
            assert sum(n for name, n in used.items() if name.startswith(part)) == number


# -- Fading in -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 32])
def test_at_fade_zero_the_image_is_used_at_half_its_size(side):
    judge, image = discriminator(), normal(2, side)
    small = judge(F.avg_pool2d(image, 2), raw=F.avg_pool2d(-image, 2))
    judge.fade = 0.0
    faded = judge(image, raw=-image)
    torch.testing.assert_close(faded.logits, small.logits)
    torch.testing.assert_close(faded.raw_logits, small.raw_logits)


def test_fading_is_continuous_and_ends_at_the_new_block():
    judge, image = discriminator(), normal(2, 32)
    grown = judge(image).logits
    judge.fade = 1 - 1e-9
    torch.testing.assert_close(judge(image).logits, grown, rtol=1e-6, atol=1e-6)
    judge.fade = 0.5
    assert ((judge(image).logits - grown).abs() > 1e-3).all()


# -- Networks --------------------------------------------------------------------------------------


def test_channels_follow_the_resolution_or_a_table():
    def input_channels(network) -> dict[str, int]:
        return {size: layer.weight.shape[0] for size, layer in network.conv_in.items()}

    judge = discriminator(channels=(5, 6, 7, 8))
    assert input_channels(judge.main_disc) == {"32": 5, "16": 6, "8": 7, "4": 8}
    assert input_channels(judge.aux_disc) == {"32": 8, "16": 8, "8": 8, "4": 8}
    judge = discriminator(channel_base=128, aux_channels=[3, 4, 5, 6])
    assert input_channels(judge.main_disc) == {"32": 4, "16": 8, "8": 16, "4": 16}
    assert input_channels(judge.aux_disc) == {"32": 3, "16": 4, "8": 5, "4": 6}


def test_main_blocks_halve_in_the_second_convolution_and_auxiliary_ones_in_the_first():
    judge = discriminator()
    block = judge.main_disc.convs["32"]
    assert (block.conv1.down, block.conv2.down, block.skip.down) == (1, 2, 2)
    block = judge.aux_disc.convs["32"]
    assert (block.conv1.down, block.conv2.down, block.skip.down) == (2, 1, 2)
    judge = discriminator(first_downsample=True, aux_first_downsample=False)
    assert (judge.main_disc.convs["32"].conv1.down, judge.aux_disc.convs["32"].conv1.down) == (2, 1)


@pytest.mark.parametrize("group_size", [0, 1])
def test_without_groups_images_are_judged_alone(group_size):
    judge, image = discriminator(group_size=group_size), normal(3, 16)
    assert judge.group_size == 1
    torch.testing.assert_close(judge(image).logits[:1], judge(image[:1]).logits)


def test_groups_are_strided():
    """Groups of two of four images: 0 with 2, 1 with 3, in both networks."""
    judge, image = discriminator(group_size=2), normal(4, 16)
    assert judge.group_size == 2
    output = judge(image, raw=image)
    changed = image.clone()
    changed[2] *= -1
    other = judge(changed, raw=changed)
    for before, after in ((output.logits, other.logits), (output.raw_logits, other.raw_logits)):
        assert ((after - before).abs() > 1e-9).tolist() == [True, False, True, False]


WRONG_NUMBER = "channels has 2 numbers, img_resolution 32 needs 4: those at 32, 16, 8, 4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 48}, "power of two"),
        ({"img_resolution": 4}, "smaller than one block"),
        ({"channels": (8, 8)}, WRONG_NUMBER),
        ({"aux_channels": (8, 8)}, f"aux_{WRONG_NUMBER}"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        discriminator(**options)


# -- Derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [0, 2])
@pytest.mark.parametrize(
    "name",
    [
        "main_disc.convs.8.conv1",
        "aux_disc.convs.8.conv2",
        "main_disc.conv_in.4",
        "aux_disc.epilogue.fc",
    ],
)
def test_the_gradient_of_r1_agrees_with_finite_differences(group_size, name):
    judge, image = discriminator(group_size=group_size), normal(2, 8).requires_grad_(True)
    judge.fade = 0.6

    def penalty() -> Tensor:
        value = judge(image, raw=image.flip(-1)).all_logits.sum()
        return torch.autograd.grad(value, image, create_graph=True)[0].square().sum()

    penalty().backward()
    weight, step = judge.get_parameter(f"{name}.weight"), 1e-5
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=generator)
    with torch.no_grad():
        weight += step * direction
    above = penalty().item()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = penalty().item()
    expected = (above - below) / (2 * step)
    assert (weight.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)


def test_bf16_autocast_stays_close_to_full_precision():
    judge, image = discriminator().float(), normal(4, 32).float()
    exact = judge(image, raw=image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = judge(image, raw=image)
    for a, b in ((exact.logits, rough.logits), (exact.raw_logits, rough.raw_logits)):
        assert (a - b.float()).abs().max() < 0.05 * a.abs().max()


# -- The pose --------------------------------------------------------------------------------------


def test_a_pose_is_predicted_from_images_of_every_size_and_from_no_raw_image():
    judge, plain = discriminator(predicts_pose=True), discriminator()
    assert (judge.predicts_pose, plain.predicts_pose) == (True, False)
    assert set(judge.state_dict()) - set(plain.state_dict()) == {"pose.weight", "pose.bias"}
    for side in judge.img_resolutions:
        image, raw = normal(2, side), normal(2, side, seed=1)
        output = judge(image, raw=raw)
        assert output.pose.shape == (2, 2)
        assert torch.equal(judge(image, raw=-raw).pose, output.pose)
        assert torch.equal(judge(image).pose, output.pose)
        assert ((judge(-image, raw=raw).pose - output.pose).abs() > 1e-6).all()
    assert plain(image, raw=raw).pose is None


def test_the_pose_loss_reaches_the_layers_before_it():
    judge = discriminator(predicts_pose=True)
    judge(normal(2, 32)).pose.square().sum().backward()
    for name in ("pose.weight", "main_disc.epilogue.fc.weight", "main_disc.conv_in.32.weight"):
        assert judge.get_parameter(name).grad.abs().max() > 0, name
    assert judge.main_disc.epilogue.out.weight.grad is None
