"""pi-GAN's discriminators: kinds, outputs of encoders, resolutions, fading in."""

import math
import subprocess
import sys
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.discriminators import PiGANDiscriminator
from gan3d.discriminators.pigan import CoordResidualBlock
from gan3d.layers.coord_conv import CoordConv2d

KINDS = pytest.mark.parametrize(
    "kind", ["CCSEncoder", "CCS", "Strided", "ProgressiveEncoder", "Progressive"]
)


def discriminator(**options) -> PiGANDiscriminator:
    torch.manual_seed(0)
    return PiGANDiscriminator(**{**PiGANDiscriminator.tiny, **options}).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def image(b: int, side: int) -> Tensor:
    return normal(b, 3, side, side)


def unused(judge: PiGANDiscriminator, side: int, fade: float) -> set[str]:
    """Parameters without a gradient from images of this size."""
    judge.zero_grad()
    judge.fade = fade
    judge(image(1, side)).logits.sum().backward()
    return {name for name, parameter in judge.named_parameters() if parameter.grad is None}


# -- Kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "published", "dead"),
    [("CCSEncoder", 13_291_075, 0), ("CCS", 12_879_217, 1200), ("Strided", 12_805_489, 1200)],
)
def test_published_numbers_of_parameters_except_the_unused_layer(kind, published, dead):
    with torch.device("meta"):
        judge = PiGANDiscriminator(kind=kind)
    assert sum(p.numel() for p in judge.parameters()) == published - dead


@KINDS
def test_the_kind_selects_convolutions_strides_and_projections(kind):
    judge = discriminator(kind=kind)
    pool = kind.startswith("Progressive")
    convs = [conv for block in judge.layers for conv in block.network[::2]]
    assert {type(conv) for conv in convs} == {torch.nn.Conv2d if kind == "Strided" else CoordConv2d}
    strides = [conv.stride for conv in convs]
    assert strides == [(1, 1), (1, 1) if pool else (2, 2)] * len(judge.layers)
    projects = [hasattr(block.proj, "weight") for block in judge.layers]
    # Channels are 4, 8, 12, 12, 12: with pooling only changing widths need a projection.
    assert projects == ([True, True, False, False] if pool else [True] * 4)


@KINDS
def test_encoders_also_predict_pose_and_code(kind):
    judge = discriminator(kind=kind)
    output = judge(image(3, 32))
    assert output.logits.shape == (3,)
    assert judge.predicts_pose == kind.endswith("Encoder")
    if judge.predicts_pose:
        assert output.pose.shape == (3, 2)
        assert output.latent.shape == (3, 16)
    else:
        assert output.pose is None
        assert output.latent is None


def test_outputs_are_logit_then_code_then_pose():
    judge = discriminator(z_dim=4)
    torch.nn.init.zeros_(judge.final_layer.weight)
    judge.final_layer.bias.data = torch.arange(7, dtype=torch.float64)
    output = judge(image(1, 8))
    assert output.logits.tolist() == [0]
    assert output.latent.tolist() == [[1, 2, 3, 4]]
    assert output.pose.tolist() == [[5, 6]]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'Plain' is unknown; choose one of CCSEncoder"):
        discriminator(kind="Plain")


def test_convolutions_are_initialized_by_leaky_kaiming_and_the_rest_as_usual():
    torch.manual_seed(0)
    judge = PiGANDiscriminator(img_resolution=8, channels=(64, 64, 64), kind="CCS")
    conv = judge.layers[0].network[0]
    fan_in = 66 * 9
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 1.04 / fan_in), rel=0.02)
    assert conv.weight.abs().max() > 3.5 * conv.weight.std()  # normal, not uniform
    assert judge.layers[0].proj.weight.abs().max() <= 1 / math.sqrt(64)


# -- Blocks ----------------------------------------------------------------------------------------


def test_a_block_without_its_convolutions_is_its_shortcut():
    """The mean of 2x2 pixels, or every second pixel projected, over sqrt(2)."""
    x = normal(1, 2, 4, 4)
    for pool, expected in ((True, F.avg_pool2d(x, 2)), (False, x[..., ::2, ::2])):
        block = CoordResidualBlock(2, 2, pool=pool).double()
        for parameter in block.network.parameters():
            torch.nn.init.zeros_(parameter)
        if not pool:
            block.proj.weight.data = torch.eye(2, dtype=torch.float64)[:, :, None, None]
            torch.nn.init.zeros_(block.proj.bias)
        torch.testing.assert_close(block(x), expected / math.sqrt(2))


def test_channels_last_pictures_train_narrow_blocks():
    """In a process of its own: a strided 1x1 convolution of torch ended it by a broken heap."""
    code = """
import torch
from gan3d.discriminators import PiGANDiscriminator
torch.set_num_threads(1)
judge = PiGANDiscriminator(img_resolution=64, z_dim=8, channels=(12, 16, 16, 16, 16, 16))
for _ in range(10):
    judge(torch.randn(4, 64, 64, 3).permute(0, 3, 1, 2)).all_logits.sum().backward()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_block_without_its_shortcut_is_its_convolutions():
    """Two convolutions that negate, each with a leaky ReLU of slope 0.2, scale x by 0.2."""
    x = normal(1, 1, 4, 4)
    for pool, halved in ((True, lambda y: F.avg_pool2d(y, 2)), (False, lambda y: y[..., ::2, ::2])):
        block = CoordResidualBlock(1, 1, coordinates=False, pool=pool).double()
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
        for conv in block.network[::2]:
            conv.weight.data[0, 0, 1, 1] = -1
        shortcut = halved(x) if pool else 0
        expected = halved(0.2 * x)
        torch.testing.assert_close(block(x) * math.sqrt(2), expected + shortcut)


# -- Resolutions and fading in ---------------------------------------------------------------------


@KINDS
def test_powers_of_two_are_accepted_and_other_sizes_refused(kind):
    judge = discriminator(kind=kind)
    assert judge.img_resolutions == (2, 4, 8, 16, 32)
    for side in judge.img_resolutions:
        assert judge(image(2, side)).logits.isfinite().all()
    for shape in ((1, 3, 24, 24), (1, 3, 64, 64), (1, 3, 32, 16), (3, 32, 32)):
        with pytest.raises(ValueError, match="judges square images of 2, 4, 8, 16, 32 px"):
            judge(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("side", [8, 16, 32])
def test_at_fade_zero_every_second_pixel_is_used(side):
    judge, x = discriminator(), image(2, side)
    small = judge(x[..., ::2, ::2])
    judge.fade = 0.0
    torch.testing.assert_close(judge(x).logits, small.logits)
    torch.testing.assert_close(judge(x).pose, small.pose)


def test_with_a_single_block_there_is_nothing_to_fade():
    judge, x = discriminator(), image(2, 4)
    grown = judge(x).logits
    judge.fade = 0.3
    assert torch.equal(judge(x).logits, grown)


def test_fading_is_a_mean_of_features_before_the_second_block():
    judge, x = discriminator(kind="Strided"), image(1, 8)
    judge.fade = 0.25
    (first, second), (large, small) = judge.layers[-2:], judge.from_rgb[-3:-1]
    old, new = F.leaky_relu(small(x[..., ::2, ::2]), 0.2), first(F.leaky_relu(large(x), 0.2))
    expected = judge.final_layer(second(0.25 * new + 0.75 * old)).flatten()
    torch.testing.assert_close(judge(x).logits, expected)


@pytest.mark.parametrize("fade", [1.0, 0.5])
@pytest.mark.parametrize("side", [4, 8, 32])
def test_parameters_of_unused_resolutions_have_no_gradient(side, fade):
    judge = discriminator()
    first = 5 - int(math.log2(side))
    inputs = {first, first + 1} if fade < 1 and side > 4 else {first}

    def is_used(name: str) -> bool:
        kind, index, *_ = name.split(".")
        if kind == "from_rgb":
            return int(index) in inputs
        return kind != "layers" or int(index) >= first

    expected = {name for name, _ in judge.named_parameters() if not is_used(name)}
    assert unused(judge, side, fade) == expected


def test_every_parameter_is_used_at_some_resolution():
    judge = discriminator()
    sides_and_fades = product(judge.img_resolutions, (1.0, 0.5))
    names = [unused(judge, side, fade) for side, fade in sides_and_fades]
    assert set.intersection(*names) == set()


def test_a_wrong_number_of_channels_is_refused():
    message = "channels has 2 numbers, img_resolution 32 needs 5: those at 32, 16, 8, 4, 2"
    with pytest.raises(ValueError, match=message):
        discriminator(channels=(4, 4))


# -- Derivatives -----------------------------------------------------------------------------------


@KINDS
def test_the_gradient_of_r1_agrees_with_finite_differences(kind):
    judge, x = discriminator(kind=kind), image(2, 8).requires_grad_(True)
    judge.fade = 0.6

    def penalty() -> Tensor:
        return torch.autograd.grad(judge(x).logits.sum(), x, create_graph=True)[0].square().sum()

    penalty().backward()
    for name in ("layers.2.network.0.weight", "layers.3.network.2.weight", "from_rgb.3.weight"):
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
