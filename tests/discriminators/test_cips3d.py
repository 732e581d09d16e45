"""CIPS-3D's discriminators: who judges what, at which resolutions, and how a new resolution is
faded in.
"""

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
    return torch.randn(
        b, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def idle(judge: CIPS3DDiscriminator, side: int, fade: float = 1.0, *, raw: bool = True) -> set[str]:
    """Parameters that one judgement of images of this size gives no gradient."""
    judge.zero_grad()
    judge.fade = fade
    image = normal(1, side)
    judged = judge(image, raw=image if raw else None)
    (
        judged.logits.sum() + (judged.raw_logits.sum() if judged.raw_logits is not None else 0)
    ).backward()
    return {name for name, parameter in judge.named_parameters() if parameter.grad is None}


def in_use(name: str, side: int, fade: float = 1.0) -> bool:
    """Whether a parameter takes part in judging images of this size."""
    _, kind, size, *_ = name.split(".")
    if kind == "conv_in":
        return int(size) == side or (fade < 1 and int(size) == side // 2)
    return kind != "convs" or int(size) <= side


# -- Who judges what
# --------------------------------------------------------------------------------------------------


def test_image_and_raw_image_are_judged_each_on_its_own():
    judge, image, raw = discriminator(), normal(2, 32), normal(2, 32, seed=1)
    judged, other_raw, other_image = (
        judge(image, raw=raw),
        judge(image, raw=-raw),
        judge(-image, raw=raw),
    )
    assert judged.logits.shape == judged.raw_logits.shape == (2,)
    assert torch.equal(judged.logits, other_raw.logits)
    assert torch.equal(judged.raw_logits, other_image.raw_logits)
    assert ((judged.logits - other_image.logits).abs() > 1e-6).all()
    assert ((judged.raw_logits - other_raw.raw_logits).abs() > 1e-6).all()


def test_the_raw_image_may_have_a_size_of_its_own():
    judge, raw = discriminator(), normal(2, 8)
    assert torch.equal(
        judge(normal(2, 32), raw=raw).raw_logits, judge(normal(2, 16), raw=raw).raw_logits
    )


def test_without_a_raw_image_the_auxiliary_discriminator_is_silent():
    judge, image = discriminator(), normal(2, 16)
    assert judge.needs_raw
    judged = judge(image)
    assert judged.raw_logits is None
    assert torch.equal(judged.logits, judge(image, raw=image).logits)
    assert {name for name in idle(judge, 16, raw=False) if name.startswith("aux_disc")} == {
        name for name, _ in judge.named_parameters() if name.startswith("aux_disc")
    }


def test_without_an_auxiliary_discriminator_no_raw_image_is_needed():
    judge = discriminator(aux=False)
    assert not judge.needs_raw
    assert judge(normal(1, 16), raw=normal(1, 16)).raw_logits is None
    assert [name for name, _ in judge.named_parameters() if "aux" in name] == []


# -- Resolutions
# --------------------------------------------------------------------------------------------------


def test_powers_of_two_from_8_on_are_judged_and_nothing_else():
    judge = discriminator()
    assert judge.img_resolutions == (8, 16, 32)
    for side in judge.img_resolutions:
        assert judge(normal(2, side)).logits.isfinite().all()
    for shape in ((1, 3, 4, 4), (1, 3, 24, 24), (1, 3, 64, 64), (1, 3, 32, 16), (3, 32, 32)):
        with pytest.raises(ValueError, match="judges square images of 8, 16, 32 px"):
            judge(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("fade", [1.0, 0.5])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_those_parameters_have_no_gradient_that_the_resolution_does_not_use(side, fade):
    judge = discriminator()
    unused = {name for name, _ in judge.named_parameters() if not in_use(name, side, fade)}
    assert idle(judge, side, fade) == unused


def test_every_parameter_is_used_at_some_resolution():
    judge = discriminator()
    assert (
        set.intersection(
            *(idle(judge, side, fade) for side in judge.img_resolutions for fade in (1.0, 0.5))
        )
        == set()
    )


def test_published_numbers_of_parameters_in_use():
    """Of 37,518,914 in all (main and auxiliary) at 64 and at 256 pixels, without fade."""
    with torch.device("meta"):
        judge = CIPS3DDiscriminator()
    sizes = {name: parameter.numel() for name, parameter in judge.named_parameters()}
    assert sum(sizes.values()) == 37_518_914
    for side, *expected in ((64, 26_484_225, 6_622_977), (256, 28_859_521, 8_343_681)):
        used = {name: number for name, number in sizes.items() if in_use(name, side)}
        for part, number in zip(("main_disc", "aux_disc"), expected, strict=True):
            assert sum(n for name, n in used.items() if name.startswith(part)) == number


# -- Fading in
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [16, 32])
def test_at_fade_zero_the_image_is_judged_at_half_its_size(side):
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


# -- Networks
# --------------------------------------------------------------------------------------------------


def test_channels_follow_the_resolution_or_a_table():
    def entrances(network) -> dict[str, int]:
        return {size: layer.weight.shape[0] for size, layer in network.conv_in.items()}

    judge = discriminator(channels=(5, 6, 7, 8))
    assert entrances(judge.main_disc) == {"32": 5, "16": 6, "8": 7, "4": 8}
    assert entrances(judge.aux_disc) == {"32": 8, "16": 8, "8": 8, "4": 8}
    judge = discriminator(channel_base=128, aux_channels=[3, 4, 5, 6])
    assert entrances(judge.main_disc) == {"32": 4, "16": 8, "8": 16, "4": 16}
    assert entrances(judge.aux_disc) == {"32": 3, "16": 4, "8": 5, "4": 6}


def test_the_main_discriminator_halves_in_the_second_convolution_the_auxiliary_one_in_the_first():
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
    judged, image = judge(image, raw=image), image.clone()
    image[2] *= -1
    other = judge(image, raw=image)
    for before, after in ((judged.logits, other.logits), (judged.raw_logits, other.raw_logits)):
        assert ((after - before).abs() > 1e-9).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_resolution": 48}, "power of two"),
        ({"img_resolution": 4}, "smaller than one block"),
        (
            {"channels": (8, 8)},
            "channels has 2 numbers, img_resolution 32 needs 4: those at 32, 16, 8, 4",
        ),
        ({"aux_channels": (8, 8)}, "aux_channels has 2 numbers"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        discriminator(**options)


# -- Derivatives
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [0, 2])
def test_the_gradient_of_r1_is_that_of_finite_differences(group_size):
    judge, image = discriminator(group_size=group_size), normal(2, 8).requires_grad_(True)
    judge.fade = 0.6

    def penalty() -> Tensor:
        judged = judge(image, raw=image.flip(-1))
        value = (judged.logits + judged.raw_logits).sum()
        return torch.autograd.grad(value, image, create_graph=True)[0].square().sum()

    penalty().backward()
    for name in (
        "main_disc.convs.8.conv1",
        "aux_disc.convs.8.conv2",
        "main_disc.conv_in.4",
        "aux_disc.epilogue.fc",
    ):
        weight, step = judge.get_parameter(f"{name}.weight"), 1e-5
        direction = torch.randn(
            weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(2)
        )
        with torch.no_grad():
            weight += step * direction
        above = penalty().item()
        with torch.no_grad():
            weight -= 2 * step * direction
        below = penalty().item()
        with torch.no_grad():
            weight += step * direction
        assert (weight.grad * direction).sum().item() == pytest.approx(
            (above - below) / (2 * step), rel=1e-4
        )


def test_bf16_autocast_runs_and_stays_near():
    judge, image = discriminator().float(), normal(4, 32).float()
    exact = judge(image, raw=image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = judge(image, raw=image)
    for a, b in ((exact.logits, rough.logits), (exact.raw_logits, rough.raw_logits)):
        assert (a - b.float()).abs().max() < 0.05 * a.abs().max()
