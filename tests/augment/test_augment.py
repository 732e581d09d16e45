"""ADA: the effect and probability of every transform, and the controller of p."""

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
# The center of mass of sym6 is not its middle: a picture that is mirrored between its two uses is
# 0.1 px off.
NEARLY_SYMMETRIC = 0.04
FLOATS = [field.name for field in fields(Transforms) if field.type in (float, "float")]
MULTIPLIERS = [name for name in FLOATS if "_" not in name]


def smooth(b: int, c: int, size: int, dtype=torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return filtered_resizing(torch.randn(b, c, 6, 6, dtype=dtype), size)


def waves(size: int) -> torch.Tensor:
    """An asymmetric picture of low frequencies that stays smooth when its border is mirrored."""
    t = torch.arange(size, dtype=torch.float64) / (size - 1) * math.pi
    x, y = t[None, :], t[:, None]
    first = x.cos() + (2 * y).cos() / 2 - y.cos() / 3
    second = x.cos() * y.cos() - (2 * x).cos()
    return torch.stack([first, second])[None]


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


# -- geometry --------------------------------------------------------------------------------------


def test_the_identity_gives_the_image_back():
    x = torch.randn(2, 3, 17, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = warp(x, torch.eye(3, dtype=torch.float64).repeat(2, 1, 1))
    assert (y - x).abs().max() < 1e-6  # the taps are float32


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

    def mirrored(i):
        return torch.where(i < 0, -i, torch.where(i > 15, 30 - i, i))

    source = torch.arange(16)
    expected = x[:, :, mirrored(source - dy)][..., mirrored(source - dx)]
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)


def test_shifts_of_whole_pixels_are_rounded_and_relative_to_the_side():
    draw = Recorded({"xint": torch.tensor([[0.72, 0.9]]).double(), "xint_gate": number(0.0)})
    G_inv = inverse_transform(Transforms(xint=1), 1.0, draw, 40, 24)  # of 5 x 3: 2.2, 2.4
    torch.testing.assert_close(G_inv, translation(number(-2), number(-2)))
    G_inv = inverse_transform(Transforms(xint=1), 1.0, draw, 80, 48)  # of 10 x 6: 4.4, 4.8
    torch.testing.assert_close(G_inv, translation(number(-4), number(-5)))


def test_mirroring_twice_restores_the_image():
    x = waves(24)
    flip = Recorded({"xflip": number(0.7), "xflip_gate": number(0.0)})
    once = augment(x, Transforms(xflip=1), 1.0, flip)
    torch.testing.assert_close(once, x.flip(3), atol=NEARLY_SYMMETRIC, rtol=0)
    twice = augment(once, Transforms(xflip=1), 1.0, flip)
    torch.testing.assert_close(twice, x, atol=2 * NEARLY_SYMMETRIC, rtol=0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_rotate_the_picture_counter_clockwise(turns):
    # G_inv rotates output positions from x (right) to y (down), so the picture rotates the other
    # way.
    x = waves(24)
    draw = Recorded({"rotate90": number((turns + 0.5) / 4), "rotate90_gate": number(0.0)})
    y = augment(x, Transforms(rotate90=1), 1.0, draw)
    torch.testing.assert_close(y, torch.rot90(x, turns, (2, 3)), atol=NEARLY_SYMMETRIC, rtol=0)


def test_zoom_and_rotation_of_a_linear_picture_are_the_linear_map():
    size = 32
    centered = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    across, down = centered.expand(size, size), centered[:, None].expand(size, size)
    rotated = rotation(number(0.3)) @ scaling(number(0.5), number(0.4))
    G_inv = rotated @ translation(number(0.7), number(-1.2))
    y = warp(torch.stack([across, down])[None], G_inv)
    position = torch.stack([across, down, torch.ones(size, size, dtype=torch.float64)])
    expected = torch.einsum("ij,jhw->ihw", G_inv[0, :2], position)
    inner = slice(6, -6)
    torch.testing.assert_close(y[0, :, inner, inner], expected[:, inner, inner], atol=0.05, rtol=0)


def test_the_order_of_geometric_steps_is_the_published_one():
    t = Transforms(xflip=1, xint=1, rotate=1, aniso=1, xfrac=1)
    q = Percentile(0.8, 1, dtype=torch.float64)
    normal = q.normal("any").item()
    angle = 0.6 * math.pi
    shift = round(0.6 * 0.125 * 40)
    expected = (
        scaling(number(-1), number(1))
        @ translation(number(-shift), number(-shift))
        @ rotation(number(angle))
        @ scaling(1 / number(2 ** (0.2 * normal)), number(2 ** (0.2 * normal)))
        @ translation(number(-0.125 * normal * 40), number(-0.125 * normal * 40))
    )
    torch.testing.assert_close(inverse_transform(t, 1.0, q, 40, 40), expected)


def test_a_zoom_comes_after_the_shift_by_whole_pixels():
    q = Percentile(0.8, 1, dtype=torch.float64)
    zoom = number(2 ** (0.2 * q.normal("any").item()))
    shift = number(-round(0.6 * 0.125 * 40))
    expected = translation(shift, shift) @ scaling(1 / zoom, 1 / zoom)
    G_inv = inverse_transform(Transforms(xint=1, scale=1), 1.0, q, 40, 40)
    torch.testing.assert_close(G_inv, expected)


# -- color -----------------------------------------------------------------------------------------


def colors_of(transforms: Transforms, **draws: float) -> torch.Tensor:
    recorded = {name: number(value) for name, value in draws.items()}
    gates = {f"{name}_gate": number(0.0) for name in draws}
    return color_transform(transforms, 1.0, Recorded(recorded | gates), 3)[0]


def test_color_matrices_agree_with_the_paper():
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


def test_rotations_of_colors_are_right_handed():
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(turn(axis, number(math.pi / 2))[0] @ x, y)


def test_six_channels_are_two_images_and_one_is_gray():
    C = color_transform(PRESETS["color"], 1.0, Randomness(0, range(2), dtype=torch.float64), 3)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    both = recolor(x, C)
    torch.testing.assert_close(both[:, :3], recolor(x[:, :3], C))
    torch.testing.assert_close(both[:, 3:], recolor(x[:, 3:], C))
    gray = x[:, :1]
    expected = recolor(gray.expand(-1, 3, -1, -1), C).mean(1, keepdim=True)
    torch.testing.assert_close(recolor(gray, C), expected)
    with pytest.raises(ValueError, match="4 channels"):
        recolor(x[:, :4], C)


# -- filtering, noise, cutout ----------------------------------------------------------------------


def test_the_bands_add_up_to_the_image():
    impulse = torch.zeros(43)
    impulse[21] = 1
    torch.testing.assert_close(filter_bank().sum(0), impulse, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("band", "gain"), [(0, 4 * 13 / (4 * 10 + 3)), (3, 13 / (10 + 2 + 4))])
def test_an_amplified_band_takes_its_power_from_the_others(band, gain):
    """Powers of the bands are 10, 1, 1, 1 of 13; a flat image lies in the lowest band, on both
    axes.
    """
    draws = {f"imgfilter_{i}": number(1.0) for i in range(4)}  # a factor of 2
    gates = {f"{name}_gate": number(0.0) for name in draws}
    only = tuple(float(i == band) for i in range(4))
    t = Transforms(imgfilter=1, imgfilter_bands=only)
    y = augment(torch.ones(1, 3, 44, 44).double(), t, 1.0, Recorded(draws | gates))
    torch.testing.assert_close(y, torch.full_like(y, gain), atol=1e-5, rtol=0)


def test_noise_has_the_standard_deviation_that_was_drawn():
    sigma = {"noise_sigma": number(-3.0), "noise_sigma_gate": number(0.0)}
    draw = Recorded(sigma | {"noise": torch.randn(1, 3, 64, 64).double()})
    noise = augment(torch.zeros(1, 3, 64, 64, dtype=torch.float64), Transforms(noise=1), 1.0, draw)
    assert noise.std().item() == pytest.approx(0.3, rel=0.03)


def test_cutout_sets_a_square_of_half_the_size_to_zero():
    draw = Recorded({"cutout": torch.tensor([[0.25, 0.5]]), "cutout_gate": torch.zeros(1)})
    y = augment(torch.ones(1, 3, 8, 8), Transforms(cutout=1), 1.0, draw)
    expected = torch.ones(1, 3, 8, 8)
    expected[:, :, 2:6, 0:4] = 0  # y around 1/2, x around 1/4
    assert torch.equal(y, expected)


# -- the pipe --------------------------------------------------------------------------------------


def test_p_zero_and_no_transforms_return_the_images_themselves():
    x, raw = smooth(2, 3, 16), smooth(2, 3, 8)
    draw = Randomness(0, range(2))
    assert augment(x, ALL, 0.0, draw) is x
    assert augment(x, Transforms(), 1.0, draw) is x
    assert augment_pair(x, raw, ALL, 0.0, draw) == (x, raw)
    assert not ADA().enabled


def test_a_small_p_changes_few_images_and_no_others():
    x = smooth(32, 3, 16)
    y = augment(x, PRESETS["bgc"], 0.02, Randomness(0, range(32)))
    same = (y - x).abs().amax((1, 2, 3)) < 1e-4
    assert 16 < int(same.sum()) < 32


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_every_transform_is_applied_with_its_multiplier_times_p(name):
    num, p = 600, 0.3
    t = replace(Transforms(), **{name: 0.5})
    size = 44 if name == "imgfilter" else 12
    x = smooth(1, 3, size).expand(num, -1, -1, -1) + 2
    difference = (augment(x, t, p, Randomness(1, range(num))) - x).abs().amax((1, 2, 3))
    changed = (difference > 1e-4).float().mean().item()
    applied = 0.5 * p
    # Half of all flips have no effect, nor has a quarter of the quarter turns; small shifts round
    # to zero pixels.
    shifted = 1 - (2 * 0.5 / 1.5 / 2) ** 2
    visible = {"xflip": 0.5, "lumaflip": 0.5, "rotate90": 0.75, "xint": shifted}
    if name == "imgfilter":
        applied = 1 - (1 - applied) ** 4
    expected = applied * visible.get(name, 1.0)
    assert changed == pytest.approx(expected, abs=3.5 * math.sqrt(expected * (1 - expected) / num))


def test_the_two_rotations_together_have_probability_p():
    num, p = 2000, 0.4
    G_inv = inverse_transform(Transforms(rotate=1), p, Randomness(0, range(num)), 8, 8)
    rotated = ((G_inv - torch.eye(3)).abs().amax((1, 2)) > 1e-6).float().mean().item()
    assert rotated == pytest.approx(p, abs=3.5 * math.sqrt(p * (1 - p) / num))


def test_the_mean_over_many_draws_has_no_preferred_direction():
    num = 400
    x = smooth(1, 3, 12).expand(num, -1, -1, -1)
    mean = augment(x, Transforms(xflip=1, rotate90=1), 1.0, Randomness(0, range(num))).mean(0)
    asymmetry = (x[0] - x[0].flip(2)).std().item()
    for moved in (mean.flip(2), mean.flip(1), mean.transpose(1, 2)):
        assert (mean - moved).std().item() < 0.2 * asymmetry


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_an_image_is_augmented_alike_alone_and_in_a_batch(p):
    indices = list(range(12))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = smooth(len(indices), 6, 20, dtype)
        together = augment(x, PRESETS["bgc"], p, Randomness(3, indices, dtype=dtype))
        for i in indices:
            alone = augment(x[i : i + 1], PRESETS["bgc"], p, Randomness(3, [i], dtype=dtype))
            largest = max(1, together[i].abs().max())
            assert (alone[0] - together[i]).abs().max() < tolerance * largest, (i, dtype)


def test_a_strongly_shrunk_image_does_not_see_its_neighbors_margins():
    x = smooth(2, 3, 24, torch.float64)
    small = scaling(number(2.2), number(2.2))
    far = translation(number(20.0), number(0.0))
    together = warp(x, torch.cat([small, far]))
    torch.testing.assert_close(together[:1], warp(x[:1], small), atol=1e-10, rtol=0)


def test_an_image_and_its_raw_image_are_transformed_alike():
    raw = smooth(4, 3, 16)
    image = filtered_resizing(raw, 32)
    draw = Randomness(5, range(4))
    image_y, raw_y = augment_pair(image, raw, PRESETS["bgc"], 1.0, draw)
    assert (image_y.shape, raw_y.shape) == (image.shape, raw.shape)
    torch.testing.assert_close(filtered_resizing(image_y, 16), raw_y, atol=1e-5, rtol=0)
    alone, none = augment_pair(image, None, PRESETS["bgc"], 1.0, draw)
    assert none is None
    torch.testing.assert_close(alone, image_y, atol=1e-5, rtol=0)


def test_a_pair_is_augmented_as_often_as_an_image_alone():
    raw = smooth(40, 3, 8)
    image, draw = filtered_resizing(raw, 16), Randomness(5, range(40))
    pair, _ = augment_pair(image, raw, PRESETS["bgc"], 0.05, draw)
    alone, _ = augment_pair(image, None, PRESETS["bgc"], 0.05, draw)
    torch.testing.assert_close(pair, alone, atol=1e-5, rtol=0)


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


# -- the controller --------------------------------------------------------------------------------


def drive(control: AdaptiveP, signs: list[float], batch_size: int = 8) -> list[float]:
    seen = []
    for iteration, sign in enumerate(signs):
        control.collect(torch.full((batch_size,), sign))
        control.update(control.take_signs(), iteration, batch_size)
        seen.append(control.probability)
    return seen


def test_p_follows_the_signs_at_its_rate_and_within_its_limits():
    ada = ADA(preset="bgc", target=0.6, kimg=0.08, interval=2)  # 16 images of 80: 0.2 per change
    assert drive(AdaptiveP(ada), [1.0] * 6) == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.6])
    assert drive(AdaptiveP(ada), [1.0] * 14)[-1] == 1.0
    assert drive(AdaptiveP(ada), [1.0] * 4 + [-1.0] * 8)[-1] == 0.0
    # A mean sign of 0.5 is below the target.
    control = AdaptiveP(ada)
    control.p.fill_(0.5)
    control.collect(torch.tensor([2.0, 0.1, 3.0, -1.0]))
    control.update(control.take_signs(), 1, 8)
    assert control.probability == pytest.approx(0.3)


def test_p_follows_all_signs_since_its_last_change():
    control = AdaptiveP(ADA(preset="bgc", target=0.5, kimg=0.08, interval=2))
    for iteration, (sign, num) in enumerate(((1.0, 8), (-1.0, 2))):  # a mean of 0.6
        control.collect(torch.full((num,), sign))
        control.update(control.take_signs(), iteration, 8)
    assert control.probability == pytest.approx(0.2)


def test_the_controller_counts_the_signs_of_all_processes():
    control = AdaptiveP(ADA(preset="bgc", target=0.0, kimg=0.08, interval=1))
    other = torch.tensor([-6.0, 6.0])
    control.collect(torch.ones(4))
    control.update((control.take_signs() + other) / 2, 0, 8)  # 4 against 6
    assert control.probability == 0.0
    assert control.signs.tolist() == [0, 0]


def test_a_controller_continues_from_its_state():
    ada = ADA(preset="bgc", kimg=0.08, interval=4)
    whole, first, second = AdaptiveP(ada), AdaptiveP(ada), AdaptiveP(ada)
    expected = drive(whole, [1.0] * 4)[-1]
    drive(first, [1.0] * 2)
    second.load_state_dict(first.state_dict())
    for iteration in (2, 3):
        second.collect(torch.ones(8))
        second.update(second.take_signs(), iteration, 8)
    assert second.probability == expected > 0


def test_a_fixed_p_depends_on_neither_signs_nor_checkpoint():
    control = AdaptiveP(ADA(preset="bgc", p=0.3))
    control.load_state_dict(AdaptiveP(ADA(preset="bgc", p=0.7)).state_dict())
    assert drive(control, [1.0] * 8) == [0.3] * 8
