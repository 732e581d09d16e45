"""gan3d.augment: what every transform does, how often, and the controller of p. (Blur: see
tests/test_losses.py.)
"""

import math
from dataclasses import fields, replace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gan3d.augment import ADA, PRESETS, AdaptiveP, Percentile, Transforms, augment, augment_pair
from gan3d.augment.color import color_transform, recolor, turn
from gan3d.augment.corruption import filter_bank
from gan3d.augment.geometry import SYM6, inverse_transform, rotation, scaling, translation, warp
from gan3d.layers.resize import filtered_resizing
from gan3d.randomness import Randomness, Recorded

ALL = PRESETS["bgcfnc"]
# sym6's center of mass is not its middle: what is turned over between its two uses ends 0.1 px
# beside its place.
NEARLY_SYMMETRIC = 0.04
MULTIPLIERS = [
    f.name for f in fields(Transforms) if f.type in (float, "float") and "_" not in f.name
]


def smooth(b: int, c: int, size: int, dtype=torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return filtered_resizing(torch.randn(b, c, 6, 6, dtype=dtype), size)


def waves(size: int) -> torch.Tensor:
    """A picture of low frequencies that goes on smoothly where it is mirrored, and is no mirror
    image of itself.
    """
    t = torch.arange(size, dtype=torch.float64) / (size - 1) * math.pi
    x, y = t[None, :], t[:, None]
    return torch.stack(
        [x.cos() + (2 * y).cos() / 2 - y.cos() / 3, x.cos() * y.cos() - (2 * x).cos()]
    )[None]


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


# ------------------------------------------------------------ geometry


def test_the_identity_gives_the_image_back():
    x = torch.randn(2, 3, 17, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (
        warp(x, torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)) - x
    ).abs().max() < 1e-6  # taps are float32


def test_the_geometric_filter_is_orthogonal():
    f = torch.tensor(SYM6, dtype=torch.float64)
    f = f / f.square().sum().sqrt()
    for shift in range(0, 12, 2):
        expected = 1.0 if shift == 0 else 0.0
        assert (f[shift:] * f[: 12 - shift]).sum().item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 5)])
def test_a_shift_by_whole_pixels_moves_pixels_and_mirrors_the_border(dx, dy):
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = warp(x, translation(number(-dx), number(-dy)))
    source = torch.arange(16)
    mirrored = lambda i: torch.where(i < 0, -i, torch.where(i > 15, 30 - i, i))  # noqa: E731
    expected = x[:, :, mirrored(source - dy)][..., mirrored(source - dx)]
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)


def test_a_mirror_image_is_one_and_twice_is_none():
    x = waves(24)
    flip = Recorded({"xflip": number(0.7), "xflip_gate": number(0.0)})
    y = augment(x, Transforms(xflip=1), 1.0, flip)
    torch.testing.assert_close(y, x.flip(3), atol=NEARLY_SYMMETRIC, rtol=0)
    torch.testing.assert_close(
        augment(y, Transforms(xflip=1), 1.0, flip), x, atol=2 * NEARLY_SYMMETRIC, rtol=0
    )


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_turn_the_picture_to_the_left(turns):
    # G_inv turns output positions from x (right) to y (down), so the picture turns the other way.
    x = waves(24)
    draw = Recorded({"rotate90": number((turns + 0.5) / 4), "rotate90_gate": number(0.0)})
    y = augment(x, Transforms(rotate90=1), 1.0, draw)
    torch.testing.assert_close(y, torch.rot90(x, turns, (2, 3)), atol=NEARLY_SYMMETRIC, rtol=0)


def test_zoom_and_turn_of_a_linear_picture_are_the_linear_map():
    size = 32
    centered = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    x = torch.stack([centered.expand(size, size), centered[:, None].expand(size, size)])[
        None
    ]  # x and y as colors
    G_inv = (
        rotation(number(0.3))
        @ scaling(number(0.5), number(0.4))
        @ translation(number(0.7), number(-1.2))
    )
    y = warp(x, G_inv)
    position = torch.stack([x[0, 0], x[0, 1], torch.ones(size, size, dtype=torch.float64)])
    expected = torch.einsum("ij,jhw->ihw", G_inv[0, :2], position)
    inner = slice(6, -6)
    torch.testing.assert_close(y[0, :, inner, inner], expected[:, inner, inner], atol=0.05, rtol=0)


def test_the_order_of_geometric_steps_is_the_published_one():
    t = Transforms(xflip=1, xint=1, rotate=1, aniso=1, xfrac=1)
    q = Percentile(0.8, 1, dtype=torch.float64)
    normal = q.normal("any").item()
    angle, shift = 0.6 * math.pi, round(0.6 * 0.125 * 40)
    expected = (
        scaling(number(-1), number(1))
        @ translation(number(-shift), number(-shift))
        @ rotation(number(angle))
        @ scaling(1 / number(2 ** (0.2 * normal)), number(2 ** (0.2 * normal)))
        @ translation(number(-0.125 * normal * 40), number(-0.125 * normal * 40))
    )
    torch.testing.assert_close(inverse_transform(t, 1.0, q, 40, 40), expected)


# ------------------------------------------------------------ color


def colors_of(transforms: Transforms, **draws: float) -> torch.Tensor:
    recorded = {name: number(value) for name, value in draws.items()}
    gates = {f"{name}_gate": number(0.0) for name in draws}
    return color_transform(transforms, 1.0, Recorded(recorded | gates), 3)[0]


def test_color_matrices_are_those_of_the_paper():
    one = torch.eye(4, dtype=torch.float64)
    brighter = one.clone()
    brighter[:3, 3] = 0.3
    torch.testing.assert_close(colors_of(Transforms(brightness=1), brightness=1.5), brighter)
    stronger = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(colors_of(Transforms(contrast=1), contrast=2.0), stronger)
    flipped = one.clone()
    flipped[:3, :3] -= 2 / 3
    torch.testing.assert_close(colors_of(Transforms(lumaflip=1), lumaflip=0.6), flipped)
    turned = one[[2, 0, 1, 3]]  # a third of a turn: red to green to blue
    torch.testing.assert_close(colors_of(Transforms(hue=1), hue=0.5 + 1 / 3), turned)
    gray = colors_of(replace(Transforms(saturation=1), saturation_std=100), saturation=-1.0)
    third = one.clone()
    third[:3, :3] = 1 / 3
    torch.testing.assert_close(gray[:3], third[:3])


def test_later_color_steps_act_on_the_result_of_earlier_ones():
    C = colors_of(Transforms(brightness=1, contrast=1), brightness=1.0, contrast=2.0)
    x = torch.tensor([0.1, 0.2, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close((C @ x)[:3], 2 * (x[:3] + 0.2))


def test_a_turn_is_right_handed():
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(turn(axis, number(math.pi / 2))[0] @ x, y)


def test_six_channels_are_two_images_and_one_is_a_grey_one():
    C = color_transform(PRESETS["color"], 1.0, Randomness(0, range(2), dtype=torch.float64), 3)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    both = recolor(x, C)
    torch.testing.assert_close(both[:, :3], recolor(x[:, :3], C))
    torch.testing.assert_close(both[:, 3:], recolor(x[:, 3:], C))
    gray = x[:, :1]
    torch.testing.assert_close(
        recolor(gray, C), recolor(gray.expand(-1, 3, -1, -1), C).mean(1, keepdim=True)
    )
    with pytest.raises(ValueError, match="4 channels"):
        recolor(x[:, :4], C)


# ------------------------------------------------------------ filtering, noise, cutout


def test_the_bands_add_up_to_the_image():
    impulse = torch.zeros(43)
    impulse[21] = 1
    torch.testing.assert_close(filter_bank().sum(0), impulse, atol=1e-6, rtol=0)


def test_noise_has_the_deviation_that_was_drawn():
    draw = Recorded(
        {
            "noise_sigma": number(-3.0),
            "noise_sigma_gate": number(0.0),
            "noise": torch.randn(1, 3, 64, 64).double(),
        }
    )
    noise = augment(torch.zeros(1, 3, 64, 64, dtype=torch.float64), Transforms(noise=1), 1.0, draw)
    assert noise.std().item() == pytest.approx(0.3, rel=0.03)


def test_cutout_sets_a_square_of_half_the_size_to_zero():
    draw = Recorded({"cutout": torch.tensor([[0.25, 0.5]]), "cutout_gate": torch.zeros(1)})
    y = augment(torch.ones(1, 3, 8, 8), Transforms(cutout=1), 1.0, draw)
    expected = torch.ones(1, 3, 8, 8)
    expected[:, :, 2:6, 0:4] = 0  # y around 1/2, x around 1/4
    assert torch.equal(y, expected)


# ------------------------------------------------------------ the pipe


def test_p_zero_and_no_transforms_cost_and_change_nothing():
    x, raw = smooth(2, 3, 16), smooth(2, 3, 8)
    draw = Randomness(0, range(2))
    assert augment(x, ALL, 0.0, draw) is x
    assert augment(x, Transforms(), 1.0, draw) is x
    assert augment_pair(x, raw, ALL, 0.0, draw) == (x, raw)
    assert not ADA().enabled


def test_a_small_p_changes_few_images_and_leaves_the_others_as_they_are():
    x = smooth(32, 3, 16)
    y = augment(x, PRESETS["bgc"], 0.02, Randomness(0, range(32)))
    same = (y - x).abs().amax((1, 2, 3)) < 1e-4
    assert 16 < int(same.sum()) < 32


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_every_transform_happens_as_often_as_its_multiplier_and_p_say(name):
    num, p = 600, 0.3
    t = replace(Transforms(), **{name: 0.5})
    size = 44 if name == "imgfilter" else 12
    x = smooth(1, 3, size).expand(num, -1, -1, -1) + 2
    changed = (
        ((augment(x, t, p, Randomness(1, range(num))) - x).abs().amax((1, 2, 3)) > 1e-4)
        .float()
        .mean()
        .item()
    )
    happens = 0.5 * p
    # Half of all flips do nothing, so do a quarter of the quarter turns; a small shift rounds to no
    # pixel.
    visible = {
        "xflip": 0.5,
        "lumaflip": 0.5,
        "rotate90": 0.75,
        "xint": 1 - (2 * 0.5 / 1.5 / 2) ** 2,
    }
    if name == "imgfilter":
        happens = 1 - (1 - happens) ** 4
    expected = happens * visible.get(name, 1.0)
    assert changed == pytest.approx(expected, abs=3.5 * math.sqrt(expected * (1 - expected) / num))


def test_turns_happen_with_probability_p_in_all():
    num, p = 2000, 0.4
    G_inv = inverse_transform(Transforms(rotate=1), p, Randomness(0, range(num)), 8, 8)
    turned = ((G_inv - torch.eye(3)).abs().amax((1, 2)) > 1e-6).float().mean().item()
    assert turned == pytest.approx(p, abs=3.5 * math.sqrt(p * (1 - p) / num))


def test_the_mean_over_many_draws_has_lost_the_directions():
    num = 400
    x = smooth(1, 3, 12).expand(num, -1, -1, -1)
    mean = augment(x, Transforms(xflip=1, rotate90=1), 1.0, Randomness(0, range(num))).mean(0)
    spread = lambda a: a.std().item()  # noqa: E731
    for same in (mean.flip(2), mean.flip(1), mean.transpose(1, 2)):
        assert spread(mean - same) < 0.2 * spread(x[0] - x[0].flip(2))


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_an_image_is_augmented_alike_alone_and_in_a_batch(p):
    indices = list(range(12))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = smooth(len(indices), 6, 20, dtype)
        together = augment(x, PRESETS["bgc"], p, Randomness(3, indices, dtype=dtype))
        for i in indices:
            alone = augment(x[i : i + 1], PRESETS["bgc"], p, Randomness(3, [i], dtype=dtype))
            assert (alone[0] - together[i]).abs().max() < tolerance * max(
                1, together[i].abs().max()
            ), (i, dtype)


def test_a_strongly_shrunk_image_does_not_see_its_neighbors_margins():
    x = smooth(2, 3, 24, torch.float64)
    small, far = scaling(number(2.2), number(2.2)), translation(number(20.0), number(0.0))
    together = warp(x, torch.cat([small, far]))
    torch.testing.assert_close(together[:1], warp(x[:1], small), atol=1e-10, rtol=0)


def test_an_image_and_its_raw_image_undergo_the_same():
    raw = smooth(4, 3, 16)
    image = filtered_resizing(raw, 32)
    draw = Randomness(5, range(4))
    image_y, raw_y = augment_pair(image, raw, PRESETS["bgc"], 1.0, draw)
    assert (image_y.shape, raw_y.shape) == (image.shape, raw.shape)
    torch.testing.assert_close(filtered_resizing(image_y, 16), raw_y, atol=1e-5, rtol=0)
    alone, none = augment_pair(image, None, PRESETS["bgc"], 1.0, draw)
    assert none is None
    torch.testing.assert_close(alone, image_y, atol=1e-5, rtol=0)


def test_all_transforms_are_differentiable_twice():
    p = 0.9
    geometry_and_color = replace(PRESETS["bgc"], noise=1.0, cutout=1.0)
    x = smooth(2, 3, 5, torch.float64).requires_grad_()
    draw = Randomness(2, range(2), dtype=torch.float64)
    assert gradcheck(lambda x: augment(x, geometry_and_color, p, draw), (x,))
    assert gradgradcheck(lambda x: augment(x, geometry_and_color, p, draw).square(), (x,))


def test_low_precision_images_are_augmented_in_float32():
    x = smooth(2, 3, 16)
    draw = Randomness(0, range(2))
    full = augment(x, PRESETS["bgc"], 1.0, draw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(x, PRESETS["bgc"], 1.0, draw), full)
    half = augment(x.bfloat16(), PRESETS["bgc"], 1.0, draw)
    assert half.dtype == torch.bfloat16
    assert (half - full).abs().max() < 0.1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="draws for 3"):
        augment(smooth(2, 3, 16), ALL, 0.5, Randomness(0, range(3)))
    with pytest.raises(ValueError, match="mirrors 21 pixels"):
        augment(smooth(2, 3, 16), ALL, 0.5, Randomness(0, range(2)))
    with pytest.raises(ValueError, match="four multipliers"):
        Transforms(imgfilter_bands=(1.0, 1.0))
    with pytest.raises(ValueError, match="give one of them"):
        ADA(preset="bgc", transforms=Transforms(xflip=1))
    with pytest.raises(ValueError, match="nothing to do"):
        ADA(p=0.2)


# ------------------------------------------------------------ the controller


def drive(control: AdaptiveP, signs: list[float], batch_size: int = 8) -> list[float]:
    seen = []
    for iteration, sign in enumerate(signs):
        control.collect(torch.full((batch_size,), sign))
        control.update(lambda x: x, iteration, batch_size)
        seen.append(control.probability)
    return seen


def test_p_follows_the_signs_at_its_speed_and_keeps_to_its_limits():
    ada = ADA(preset="bgc", target=0.6, kimg=0.08, interval=2)  # 16 images of 80: 0.2 per change
    assert drive(AdaptiveP(ada), [1.0] * 6) == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.6])
    assert drive(AdaptiveP(ada), [1.0] * 14)[-1] == 1.0
    assert drive(AdaptiveP(ada), [1.0] * 4 + [-1.0] * 8)[-1] == 0.0
    # A mean sign of 0.5 lies below the target.
    control = AdaptiveP(ada)
    control.p.fill_(0.5)
    control.collect(torch.tensor([2.0, 0.1, 3.0, -1.0]))
    control.update(lambda x: x, 1, 8)
    assert control.probability == pytest.approx(0.3)


def test_the_controller_counts_the_signs_of_all_processes():
    control = AdaptiveP(ADA(preset="bgc", target=0.0, kimg=0.08, interval=1))
    other = torch.tensor([-6.0, 6.0])
    control.collect(torch.ones(4))
    control.update(lambda mine: (mine + other) / 2, 0, 8)  # 4 against 6
    assert control.probability == 0.0
    assert control.signs.tolist() == [0, 0]


def test_a_controller_goes_on_from_its_state():
    ada = ADA(preset="bgc", kimg=0.08, interval=4)
    whole, first, second = AdaptiveP(ada), AdaptiveP(ada), AdaptiveP(ada)
    expected = drive(whole, [1.0] * 4)[-1]
    drive(first, [1.0] * 2)
    second.load_state_dict(first.state_dict())
    for iteration in (2, 3):
        second.collect(torch.ones(8))
        second.update(lambda x: x, iteration, 8)
    assert second.probability == expected > 0


def test_a_fixed_p_stays_whatever_the_signs_and_the_checkpoint_say():
    control = AdaptiveP(ADA(preset="bgc", p=0.3))
    control.load_state_dict(AdaptiveP(ADA(preset="bgc", p=0.7)).state_dict())
    assert drive(control, [1.0] * 8) == [0.3] * 8
