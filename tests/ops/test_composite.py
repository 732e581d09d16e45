"""Compositing: closed-form scenes, the fast form against the reference, two derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F

from gan3d.ops.composite import (
    Composite,
    Samples,
    composite,
    interval_weights,
    optical_depths,
    reference,
)


def random_samples(
    *shape: int, channels: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Samples:
    """Random samples in order of depth, [*shape s]."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return Samples(draw(*shape).abs().cumsum(-1), 3 * draw(*shape), draw(*shape, channels))


def raw_density(density: float) -> float:
    """The raw value whose activation softplus(x - 1) is `density`."""
    return 1 + math.log(math.expm1(density))


def sorted_union(*blocks: Samples) -> Samples:
    depths = torch.cat([block.depths for block in blocks], -1)
    depths, order = depths.sort(-1)
    sigma = torch.cat([block.sigma for block in blocks], -1).gather(-1, order)
    rgb = torch.cat([block.rgb for block in blocks], -2)
    return Samples(depths, sigma, rgb.gather(-2, order[..., None].expand_as(rgb)))


def assert_same(actual: Composite, expected: Composite, tolerance: float = 1e-7) -> None:
    for name in Composite._fields:
        got, want = getattr(actual, name), getattr(expected, name)
        assert got.shape == want.shape
        assert (got - want).abs().max() < tolerance, name


FORMS = pytest.mark.parametrize("form", [reference, composite], ids=["reference", "fast"])


@FORMS
def test_homogeneous_medium_has_the_opacity_of_beers_law(form):
    generator = torch.Generator().manual_seed(0)
    depths = torch.rand(3, 40, generator=generator, dtype=torch.float64).cumsum(-1)
    length = depths[:, -1] - depths[:, 0]
    rgb = depths.new_full((3, 40, 2), 0.7)
    for density in (0.01, 0.3, 2.0):
        seen = form(Samples(depths, torch.full_like(depths, raw_density(density)), rgb))
        expected = 1 - torch.exp(-density * length)
        assert torch.allclose(seen.opacity, expected, atol=1e-7)
        assert torch.allclose(seen.rgb, 0.7 * expected[:, None].expand(-1, 2), atol=1e-7)


@FORMS
def test_depth_of_a_homogeneous_medium_is_its_mean_free_path(form):
    """In an infinite medium of density k, light travels 1 / k on average."""
    depths = torch.linspace(0, 40, 8001, dtype=torch.float64)[None]
    seen = form(Samples(depths, torch.full_like(depths, raw_density(0.5)), depths[..., None]))
    assert abs(seen.depth.item() - 2.0) < 1e-3
    assert abs(seen.rgb.item() - 2.0) < 1e-3


@FORMS
def test_opaque_plane_renders_its_own_depth_and_color(form):
    depths = torch.linspace(1, 3, 2001, dtype=torch.float64)[None]
    wall = torch.tensor([1.7], dtype=torch.float64)
    sigma = torch.where(depths < wall, -60.0, 1e5)
    front, back = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.25]], dtype=torch.float64)
    rgb = torch.where(depths[..., None] < wall, front, back)
    seen = form(Samples(depths, sigma, rgb))
    assert abs(seen.depth - wall) < 2e-3
    assert abs(seen.opacity - 1) < 1e-7
    # The interval at the wall averages the colors of its two ends.
    assert torch.allclose(seen.rgb, (front + back) / 2, atol=1e-6)


@FORMS
def test_empty_ray_shows_the_background_at_its_last_sample_without_nan(form):
    samples = random_samples(2, 9)
    sigma = torch.full_like(samples.sigma, -1e4).requires_grad_()
    seen = form(samples._replace(sigma=sigma), background=1.0)
    assert (seen.opacity == 0).all()
    assert (seen.rgb == 1).all()
    assert torch.equal(seen.depth, samples.depths[:, -1])
    (gradient,) = torch.autograd.grad(seen.depth.sum() + seen.rgb.sum(), sigma)
    assert gradient.isfinite().all()


@FORMS
def test_background_is_weighted_by_transparency(form):
    samples = random_samples(4, 7)
    black, white = form(samples), form(samples, background=1.0)
    assert torch.allclose(white.rgb - black.rgb, (1 - black.opacity)[:, None].expand(-1, 5))


def test_huge_optical_depths_leave_finite_weights_that_sum_to_one():
    tau = torch.tensor([1e3, 1e10, 3.0, 1e10])
    assert torch.equal(interval_weights(tau), torch.tensor([1.0, 0, 0, 0]))


def test_weights_and_transmittance_sum_to_one():
    tau = optical_depths(*random_samples(6, 30)[1::-1])
    assert torch.allclose(interval_weights(tau).sum(-1), 1 - torch.exp(-tau.sum(-1)))


@pytest.mark.parametrize("samples", [2, 3, 63, 100])
@pytest.mark.parametrize("leading", [(1,), (2, 3), (63,)])
@pytest.mark.parametrize("background", [None, 1.0])
def test_fast_form_is_the_reference(samples, leading, background):
    values = random_samples(*leading, samples, seed=samples)
    assert_same(composite(values, background=background), reference(values, background))


@pytest.mark.parametrize("sizes", [(4, 4), (48, 48), (7, 1), (1, 2, 5)])
def test_blocks_are_composited_as_their_sorted_union(sizes):
    blocks = [random_samples(2, 3, size, seed=seed) for seed, size in enumerate(sizes)]
    # Blocks need not be sorted.
    shuffled = [Samples(*(t.flip(2) for t in blocks[0])), *blocks[1:]]
    expected = reference(sorted_union(*blocks), 1.0)
    assert_same(composite(*blocks, background=1.0), expected)
    assert_same(composite(*shuffled, background=1.0), expected)


def test_float32_is_within_rounding_of_float64():
    blocks = [random_samples(50, 48, seed=seed) for seed in (0, 1)]
    exact = composite(*blocks)
    rough = composite(*(Samples(*(t.float() for t in block)) for block in blocks))
    assert_same(Composite(*(t.double() for t in rough)), exact, tolerance=1e-4)


def test_gradients_are_those_of_the_reference():
    blocks = [random_samples(3, 6, seed=0), random_samples(3, 5, seed=1)]
    for block in blocks:
        for tensor in block:
            tensor.requires_grad_()
    leaves = [tensor for block in blocks for tensor in block]
    cotangents = [torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    fast, slow = composite(*blocks, background=1.0), reference(sorted_union(*blocks), 1.0)
    for got, want in zip(
        torch.autograd.grad([fast.rgb, fast.depth], leaves, cotangents),
        torch.autograd.grad([slow.rgb, slow.depth], leaves, cotangents),
    ):
        assert torch.allclose(got, want, atol=1e-7)


@FORMS
def test_first_and_second_derivatives(form):
    samples = tuple(tensor.requires_grad_() for tensor in random_samples(2, 5, channels=2))
    run = lambda depths, sigma, rgb: tuple(form(Samples(depths, sigma, rgb), background=1.0))  # noqa: E731
    assert torch.autograd.gradcheck(run, samples)
    assert torch.autograd.gradgradcheck(run, samples)


def test_first_and_second_derivatives_of_merged_blocks():
    blocks = [random_samples(2, 4, channels=2, seed=0), random_samples(2, 3, channels=2, seed=1)]
    leaves = [tensor.requires_grad_() for block in blocks for tensor in block]
    run = lambda *t: tuple(composite(Samples(*t[:3]), Samples(*t[3:])))  # noqa: E731
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


def test_density_is_averaged_before_the_activation():
    """softplus is convex: averaging after it would give more than softplus((-9 + 3) / 2 - 1)."""
    tau = optical_depths(torch.tensor([-9.0, 3.0]), torch.tensor([1.0, 1.5]))
    assert torch.allclose(tau, 0.5 * F.softplus(torch.tensor([-4.0])))
