"""Equivariance: operators on pictures in closed form, decibels by hand, equivariant generators."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gan3d.generators import StyleGAN2, StyleGAN3
from gan3d.metrics.bandlimit import (
    band_limit_filter,
    pseudo_rotate,
    rotate,
    rotation,
    shift_fractional,
    shift_integer,
    translation,
)
from gan3d.metrics.equivariance import Equivariance, Synthesize, draw_motion, measure_equivariance
from gan3d.metrics.measure import Protocol, latent_batches, movable
from gan3d.randomness import Randomness

IDENTITY = torch.eye(3, dtype=torch.float64)
KINDS = ("eqt", "eqt_frac", "eqr")


def points(height: int, width: int, transform: Tensor) -> tuple[Tensor, Tensor]:
    """Input coordinates (x, y) of every output pixel."""
    y, x = torch.meshgrid(
        (torch.arange(height).double() + 0.5) / height - 0.5,
        (torch.arange(width).double() + 0.5) / width - 0.5,
        indexing="ij",
    )
    moved = torch.stack([x, y, torch.ones_like(x)], -1) @ transform.double().mT
    return moved[..., 0], moved[..., 1]


class Waves:
    """Samples of a continuous picture.

    Three waves per channel, of at most `bandwidth` periods per picture width.
    """

    def __init__(self, size: int = 64, bandwidth: float = 4.0, channels: int = 3):
        stream = torch.Generator().manual_seed(1)
        shape = (channels, 3, 1, 1)
        uniform = torch.rand(2, *shape, generator=stream, dtype=torch.float64)
        angle, self.phase = 2 * math.pi * uniform
        length = bandwidth * torch.rand(shape, generator=stream, dtype=torch.float64)
        self.fx = length * angle.cos()
        self.fy = length * angle.sin()
        self.size = size

    def __call__(self, ws: Tensor, transform: Tensor) -> Tensor:
        x, y = points(self.size, self.size, transform)
        waves = torch.sin(2 * math.pi * (self.fx * x + self.fy * y) + self.phase).sum(1) / 3
        return waves * ws[:, 0, 0].double()[:, None, None, None]


def sticking(ws: Tensor, transform: Tensor) -> Tensor:
    """A texture that ignores the transform."""
    return Waves()(ws, IDENTITY)


def rings(ws: Tensor, transform: Tensor) -> Tensor:
    """Rings about the center that ignore the transform: right for rotations only."""
    x, y = points(64, 64, IDENTITY)
    picture = torch.cos(2 * math.pi * 4 * torch.hypot(x, y))
    return picture[None, None] * ws[:, 0, 0].double()[:, None, None, None]


def batches(num: int = 3, size: int = 2) -> list[tuple[Tensor, Randomness]]:
    ws = torch.ones(size, 1, 1, dtype=torch.float64)
    return [(ws, Randomness(0, range(i * size, (i + 1) * size))) for i in range(num)]


# -- operators -------------------------------------------------------------------------------------


def test_shift_by_whole_pixels_is_a_shift_with_zeros_from_outside():
    x = torch.arange(12.0).reshape(1, 1, 3, 4) + 1
    z, mask = shift_integer(x, 0.25, -1 / 3)
    assert z[0, 0].tolist() == [[0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    assert torch.equal(mask, (z > 0).float())


def test_distances_between_two_pixels_are_rounded_half_to_even():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    for pixels, rounded in ((0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2)):
        assert torch.equal(shift_integer(x, pixels / 4, 0)[0], shift_integer(x, rounded / 4, 0)[0])


@pytest.mark.parametrize("shift", [(0.1, 0.0), (-0.04, 0.123), (0.25, -0.5)])
def test_fractional_shift_moves_a_slow_wave_to_where_it_should_be(shift):
    waves, ws = Waves(64, bandwidth=3), torch.ones(1, 1, 1)
    z, mask = shift_fractional(waves(ws, IDENTITY), *shift)
    exact = waves(ws, translation(-shift[0], -shift[1]))
    assert 0.2 < mask.mean() < 0.9
    assert ((z - exact) * mask).abs().max() < 4e-3  # the error of three lobes


def test_fractional_shift_by_whole_pixels_is_the_shift_by_whole_pixels():
    x = torch.randn(2, 3, 20, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, mask = shift_fractional(x, 3 / 16, -5 / 20)
    whole, known = shift_integer(x, 3 / 16, -5 / 20)
    assert torch.allclose(z, whole, atol=1e-12)
    assert (known >= mask).all()
    assert mask.sum() == 6 * (16 - 3 - 3) * (20 - 5 - 2)


@pytest.mark.parametrize("shift", [(2.0, 0.0), (0.0, -3.0), (-50.3, 50.2)])
def test_what_is_shifted_out_of_the_picture_leaves_nothing(shift):
    for move in (shift_integer, shift_fractional):
        z, mask = move(torch.ones(1, 1, 8, 8), *shift)
        assert z.abs().max() == 0
        assert mask.abs().max() == 0


def test_every_phase_of_the_band_limit_filter_passes_a_constant():
    f = band_limit_filter(rotation(0.7), a=3, amax=6, up=4)
    assert f.shape == (47, 47)
    for i in range(4):
        for j in range(4):
            assert f[i::4, j::4].sum().item() == pytest.approx(1 / 16, rel=1e-12)


def test_the_band_limit_filter_of_an_untouched_grid_is_an_impulse_at_its_pixels():
    f = band_limit_filter(IDENTITY, a=3, amax=6, up=1)
    impulse = torch.zeros_like(f)
    impulse[5, 5] = 1
    assert (f - impulse).abs().max() < 1e-3


def test_the_band_limit_filter_loses_most_diagonally_where_the_grids_differ_most():
    def passed(angle: float) -> float:
        return 16 * band_limit_filter(rotation(angle), a=3, amax=6, up=4).square().sum().item()

    octagon = 2 * (math.sqrt(2) - 1)  # common area of a square and the square rotated by 45 degrees
    assert passed(math.pi / 2) == pytest.approx(passed(0), rel=1e-6)
    assert passed(math.pi / 4) / passed(0) == pytest.approx(octagon, rel=0.1)


def test_a_quarter_turn_is_counter_clockwise_and_keeps_what_the_grid_holds():
    x = Waves(48)(torch.ones(1, 1, 1), IDENTITY)
    z, mask = rotate(x, math.pi / 2)
    assert ((z - torch.rot90(x, 1, (-2, -1))) * mask).abs().max() < 5e-3


@pytest.mark.parametrize("angle", [0.3, -2.2, 3.0])
def test_rotation_of_slow_waves_is_their_rotation_in_closed_form(angle):
    waves, ws = Waves(64), torch.ones(1, 1, 1)
    z, mask = rotate(waves(ws, IDENTITY), angle)
    assert 0.2 < mask.mean() < 0.9
    assert ((z - waves(ws, rotation(-angle))) * mask).abs().max() < 5e-3


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_pseudo_rotation_leaves_slow_waves_where_they_are(angle):
    x = Waves(64)(torch.ones(1, 1, 1), IDENTITY)
    z, mask = pseudo_rotate(x, angle)
    assert ((z - x) * mask).abs().max() < 5e-3
    assert mask.sum() == mask[0, 0].sum() * 3 == 3 * (64 - 2 * 5) ** 2


# -- decibels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [2.0, 1.0, 0.02])
def test_a_constant_error_has_the_decibels_of_its_size(difference):
    def brightening(ws: Tensor, transform: Tensor) -> Tensor:
        moved = not torch.equal(transform, torch.eye(3).to(transform))
        return torch.full((len(ws), 3, 32, 32), difference * moved)

    expected = 20 * math.log10(2 / difference)
    values = measure_equivariance(brightening, batches(1))
    assert values["eqt"] == pytest.approx(expected, abs=1e-5)
    assert values["eqt_frac"] == pytest.approx(expected, abs=1e-5)
    assert values["eqr"] == pytest.approx(expected, abs=1e-3)


def test_sums_over_all_pictures_come_before_the_ratio():
    """Two batches with different errors and numbers of known pixels: not a mean of two PSNRs."""
    metric = Equivariance(lambda ws, transform: ws.expand(-1, 1, 8 * 8).reshape(-1, 1, 8, 8), "eqt")
    metric.update(torch.full((1, 1, 1), 0.1), torch.zeros(1, 1, 8, 8), (0.0, 0.0))
    metric.update(torch.full((1, 1, 1), 0.5), torch.zeros(1, 1, 8, 8), (0.5, 0.0))
    error, known = 64 * 0.1**2 + 32 * 0.5**2, 96
    expected = 20 * math.log10(2) - 10 * math.log10(error / known)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_add_their_sums():
    whole = Equivariance(Waves(), "eqt_frac")
    parts = [Equivariance(Waves(), "eqt_frac") for _ in range(2)]
    for number, (ws, draw) in enumerate(batches(4)):
        motion = draw_motion("eqt_frac", draw, (64, 64))
        for metric in (whole, parts[number % 2]):
            metric.update(ws, Waves()(ws, IDENTITY), motion)
    merged = Equivariance(Waves(), "eqt_frac")
    for name, reduction in merged._reductions.items():  # what torchmetrics does between processes
        setattr(merged, name, reduction(torch.stack([getattr(part, name) for part in parts])))
    assert merged.compute().item() == pytest.approx(whole.compute().item(), rel=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_known_is_refused():
    with pytest.raises(ValueError, match="no pixel is known"):
        Equivariance(Waves()).compute()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'eqx' is not known; use one of eqt, eqt_frac, eqr"):
        Equivariance(Waves(), "eqx")


def test_planes_are_measured_like_pictures_and_anything_but_maps_is_refused():
    values = measure_equivariance(Waves(channels=12), batches(1), ["eqt"])
    assert values["eqt"] > 200

    def five_axes(ws: Tensor, transform: Tensor) -> Tensor:
        return torch.zeros(2, 3, 4, 64, 64)

    with pytest.raises(ValueError, match=r"\[2, 3, 4, 64, 64\], expected \[b c h w\]"):
        measure_equivariance(five_axes, batches(1), ["eqt"])


# -- equivariant generators, and others ------------------------------------------------------------


def test_a_continuous_picture_is_equivariant_to_everything():
    values = measure_equivariance(Waves(), batches())
    assert values["eqt"] > 250  # rounding of float64 alone
    assert values["eqt_frac"] > 50
    assert values["eqr"] > 50


def test_texture_that_sticks_to_the_pixels_is_equivariant_to_nothing():
    assert max(measure_equivariance(sticking, batches()).values()) < 20


def test_rings_turn_into_themselves_but_do_not_move():
    values = measure_equivariance(rings, batches())
    assert values["eqr"] > 45
    assert values["eqt"] < 15


def test_moving_the_wrong_way_is_noticed():
    def backwards(ws: Tensor, transform: Tensor) -> Tensor:
        return Waves()(ws, torch.linalg.inv(transform))

    assert max(measure_equivariance(backwards, batches()).values()) < 20


# -- protocol --------------------------------------------------------------------------------------


def test_motions_are_uniform_and_drawn_for_the_first_image_of_a_batch():
    draws = [Randomness(3, [i, i + 1000]) for i in range(400)]
    shifts = torch.tensor([draw_motion("eqt_frac", draw, (64, 64)) for draw in draws])
    angles = torch.tensor([draw_motion("eqr", draw, (64, 64)) for draw in draws])
    assert shifts.abs().max() <= 0.125
    assert angles.abs().max() <= math.pi
    for values, bound in ((shifts, 0.125), (angles, math.pi)):
        assert values.mean(0).abs().max() < 4 * bound / math.sqrt(3 * 400)
        assert values.std(0).min() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    first = draw_motion("eqr", Randomness(3, [7]), (32, 32))
    assert draw_motion("eqr", Randomness(3, [7, 5]), (64, 64)) == first


def test_whole_pixel_motions_are_the_fractional_ones_rounded():
    for index in range(20):
        draw = Randomness(0, [index])
        (tx, ty), (fx, fy) = (draw_motion(kind, draw, (32, 64)) for kind in ("eqt", "eqt_frac"))
        assert (tx * 64, ty * 32) == (round(fx * 64), round(fy * 32))


def test_a_generator_that_takes_no_transform_is_refused():
    with pytest.raises(ValueError, match=r"StyleGAN2 takes no transform of its picture.*StyleGAN3"):
        movable(StyleGAN2(**StyleGAN2.tiny))


def test_latents_of_an_image_do_not_depend_on_the_batch_size():
    generator = StyleGAN2(**StyleGAN2.tiny).eval()

    def latents(batch_size: int) -> Tensor:
        protocol = Protocol(num=6, batch_size=batch_size)
        return torch.cat([ws for ws, _ in latent_batches(generator, protocol)])

    alone = latents(1)
    assert torch.allclose(alone, latents(4), atol=1e-6)
    assert all(not torch.equal(a, b) for a, b in pairwise(alone))


# -- StyleGAN3 -------------------------------------------------------------------------------------


def random_pictures(config: str, seed: int) -> tuple[StyleGAN3, Synthesize]:
    """An untrained StyleGAN3, and its pictures scaled to a standard deviation of 0.5.

    Photographs have about the same. Decibels are relative to a range of 2, so any generator would
    score too well on pale pictures.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        sizes = {"img_resolution": 64, "channel_base": 512, "channel_max": 16, "num_layers": 8}
        generator = StyleGAN3(config=config, z_dim=16, w_dim=16, magnitude_ema_beta=0.0, **sizes)
        generator.eval()
        for _ in range(3):
            generator.settle(generator.map(torch.randn(4, 16)))
        contrast = generator.synthesize(generator.map(torch.randn(4, 16))).std(dim=(2, 3)).mean()
    synthesize = movable(generator)
    return generator, lambda ws, transform: synthesize(ws, transform) * (0.5 / contrast)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("config", ["T", "R"])
def test_random_stylegan3_moves_with_its_input_and_only_r_turns_with_it(config, seed):
    generator, synthesize = random_pictures(config, seed)
    latents = latent_batches(generator, Protocol(num=6, batch_size=2))
    values = measure_equivariance(synthesize, latents, ["eqt", "eqr"])
    assert values["eqt"] > 55
    if config == "R":
        assert values["eqr"] > 50
    else:
        assert values["eqr"] < 20
