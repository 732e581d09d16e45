"""DiffAugment: the effect of each transform, its draws, and its derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gan3d.augment.diffaug import DiffAugment, diff_augment
from gan3d.randomness import Randomness, Recorded

NEUTRAL = {"brightness": 0.5, "saturation": 0.5, "contrast": 0.5}
COLOR_ONLY = {"translation": 0.0, "cutout": 0.0}
ON = DiffAugment(enabled=True)


def image(b: int = 1, size: int = 8) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return torch.randn(b, 3, size, size, dtype=torch.float64, generator=stream)


def draws(
    b: int = 1,
    *,
    translation: tuple[int, int] = (1, 1),
    cutout: tuple[int, int] = (0, 0),
    **u: float,
):
    """The given draws for each of b images, neutral colors by default.

    The default translation (1, 1) is t = 0: the largest shift of 8 pixels is 1.
    """
    uniform = NEUTRAL | u
    numbers = {name: torch.full([b], u, dtype=torch.float64) for name, u in uniform.items()}
    whole = {"translation": torch.tensor([translation] * b), "cutout": torch.tensor([cutout] * b)}
    return Recorded(numbers | whole)


def test_neutral_draws_change_nothing():
    x = image(2)
    torch.testing.assert_close(diff_augment(x, draws(2), cutout=0.0), x, rtol=0, atol=1e-12)


def test_without_enabled_it_returns_the_images_themselves_and_draws_nothing():
    x = image()
    assert DiffAugment()(x, Recorded({"nothing": torch.zeros(1)})) is x


# -- Color -----------------------------------------------------------------------------------------


def test_brightness_is_added():
    x = image()
    torch.testing.assert_close(diff_augment(x, draws(brightness=0.8), **COLOR_ONLY), x + 0.3)


def test_saturation_zero_is_gray_and_one_is_twice_as_colorful():
    x = image()
    gray = x.mean(1, keepdim=True)
    least = diff_augment(x, draws(saturation=0.0), **COLOR_ONLY)
    torch.testing.assert_close(least, gray.expand(-1, 3, -1, -1))
    most = diff_augment(x, draws(saturation=1.0), **COLOR_ONLY)
    torch.testing.assert_close(most, 2 * x - gray)


def test_contrast_zero_halves_the_distance_to_the_mean_of_each_image():
    x = image(2)
    mean = x.mean((1, 2, 3), keepdim=True)
    y = diff_augment(x, draws(2, contrast=0.0), **COLOR_ONLY)
    torch.testing.assert_close(y, (x + mean) / 2)


def test_colors_change_in_the_order_brightness_saturation_contrast():
    """One gray pixel among black ones: contrast is about the mean that brightness has moved."""
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    x[..., 0, 0] = 4
    y = diff_augment(x, draws(brightness=1.0, contrast=0.0), **COLOR_ONLY)
    # half the distance of (4.5, 0.5, 0.5, 0.5) to its mean 1.5
    assert y[0, 0].flatten().tolist() == [3.0, 1.0, 1.0, 1.0]


# -- Translation -----------------------------------------------------------------------------------


def test_translation_reads_at_an_offset_and_fills_with_zeros():
    x = image()
    y = diff_augment(x, draws(translation=(1 + 1, 1 - 1)), color=False, cutout=0.0)  # t = (1, -1)
    expected = torch.zeros_like(x)
    expected[..., :-1, 1:] = x[..., 1:, :-1]
    assert torch.equal(y, expected)


def test_the_largest_shift_is_the_rounded_fraction_of_the_side():
    x = torch.ones(400, 1, 20, 20)
    y = DiffAugment(enabled=True, color=False, cutout=0.0)(x, Randomness(0, range(400)))
    lost_rows, lost_columns = (20 - y.amax(dim).sum(-1)[:, 0] for dim in (3, 2))
    for lost in (lost_rows, lost_columns):
        assert lost.unique().tolist() == [0, 1, 2, 3]  # int(20 / 8 + 1/2)
        assert (lost == 0).float().mean().item() == pytest.approx(1 / 7, abs=0.07)
    assert not torch.equal(lost_rows, lost_columns)


# -- Cut-out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "share", "center", "rows", "columns"),
    [
        (8, 0.375, (3, 5), (2, 5), (4, 7)),  # a side of 3 about its center
        (8, 0.375, (0, 7), (0, 2), (6, 8)),  # partly outside at a corner
        (8, 0.5, (4, 4), (2, 6), (2, 6)),  # a side of 4 starts 2 pixels before its center
        (8, 0.5, (8, 0), (6, 8), (0, 2)),  # centers of even sides may be one beyond the last pixel
        (8, 1.0, (4, 4), (0, 8), (0, 8)),
    ],
)
def test_cutout_is_a_square_of_zeros(size, share, center, rows, columns):
    x = image(1, size).abs() + 1
    y = diff_augment(x, draws(cutout=center), color=False, translation=0.0, cutout=share)
    expected = x.clone()
    expected[..., slice(*rows), slice(*columns)] = 0
    assert torch.equal(y, expected)


@pytest.mark.parametrize(("share", "centers"), [(0.375, 8), (0.5, 9)])
def test_the_center_of_the_square_is_anywhere(share, centers):
    drawn = []

    class Watched(Randomness):
        def integers(self, name: str, high: int, *shape: int) -> Tensor:
            drawn.append((name, high, shape))
            return super().integers(name, high, *shape)

    diff_augment(image(2), Watched(0, range(2)), color=False, translation=0.0, cutout=share)
    assert drawn == [("cutout", centers, (2,))]


# -- Draws -----------------------------------------------------------------------------------------


def test_an_image_is_augmented_alike_in_any_batch_and_differently_from_others():
    x = image().expand(4, -1, -1, -1)
    together = ON(x, Randomness(3, [7, 8, 9, 10], "discriminator"))
    alone = ON(x[:1], Randomness(3, [9], "discriminator"))
    assert torch.equal(together[2:3], alone)
    assert len({tuple(y.flatten().tolist()) for y in together}) == 4


def test_the_raw_image_has_its_own_draws():
    x = image()
    draw = Randomness(3, [7])
    assert not torch.equal(ON(x, draw), ON(x, draw.in_phase("raw")))


def test_the_order_of_transforms_is_color_then_translation_then_cutout():
    """Pixels moved in from outside, and pixels cut out, are zero at any brightness."""
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    y = diff_augment(x, draws(brightness=1.0, translation=(2, 1), cutout=(0, 0)), cutout=0.375)
    expected = torch.full((8, 8), 0.5, dtype=torch.float64)
    expected[7] = 0  # t = (1, 0)
    expected[:2, :2] = 0
    assert torch.equal(y[0, 0], expected)


# -- Derivatives and refusals ----------------------------------------------------------------------


def test_it_can_be_differentiated_twice():
    x = image(2, 4).requires_grad_(True)

    def run(x):
        y = ON(x, Randomness(0, range(2), dtype=torch.float64))
        return y.square()  # y is linear in x: its second derivative is zero

    assert gradcheck(run, (x,))
    assert gradgradcheck(run, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_type_of_images_is_kept(dtype):
    assert ON(image().to(dtype), Randomness(0, [0])).dtype == dtype


@pytest.mark.parametrize("shape", [(1, 3, 8, 4), (2, 3, 8, 8), (3, 8, 8)])
def test_images_that_are_not_square_or_have_no_draws_are_refused(shape):
    with pytest.raises(ValueError, match="square images"):
        ON(torch.zeros(shape), Randomness(0, [0]))


@pytest.mark.parametrize("options", [{"cutout": 1.5}, {"translation": -0.1}])
def test_fractions_outside_of_0_to_1_are_refused(options):
    with pytest.raises(ValueError, match="fractions of the side"):
        DiffAugment(**options)
