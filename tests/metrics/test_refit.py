"""Fields fitted to the views of a sphere that is known, and to views that no scene has."""

import pytest
import torch
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators import Rendering
from gan3d.metrics.fields import FitOptions, fit_field
from gan3d.metrics.refit import (
    PITCHES,
    YAWS,
    Reconstruction,
    SelfConsistency,
    at_side,
    compared,
)

SIDE, RADIUS = 16, 0.35
QUICK = FitOptions(side=SIDE, steps=80, planes=16)
FEW = FitOptions(side=SIDE, steps=5, planes=8)  # where only the way of the views matters


def sphere(camera: Camera) -> Rendering:
    """A sphere about the origin in bands of longitude, as every camera sees it, [1 v ..]."""
    rays = camera.rays(SIDE)
    along = -(rays.origins * rays.directions).sum(-1)
    off = rays.origins.square().sum(-1) - along.square()
    hit = off < RADIUS**2
    points = (
        rays.origins + rays.directions * (along - (RADIUS**2 - off).clamp(min=0).sqrt())[..., None]
    )
    x, y, z = points.unbind(-1)
    bands = (6 * torch.atan2(x, z)).sin()
    color = torch.stack([bands, -bands, y / RADIUS], -1) * 0.8
    color = torch.where(hit[..., None], color, 0.6)  # the background is not of the scene
    maps = [color, hit[..., None].float()]
    image, opacity = (rearrange(m, "v (h w) c -> 1 v c h w", h=SIDE) for m in maps)
    return Rendering(image, opacity=opacity)


def stuck(views: Rendering) -> Rendering:
    """The first view from every camera."""
    return Rendering(
        views.image[:, :1].expand_as(views.image),
        opacity=views.opacity[:, :1].expand_as(views.opacity),
    )


def back(metric) -> Rendering:
    """The sphere as seen from the mirrored cameras."""
    return sphere(metric.camera.mirror())


def both(views: Rendering, *others: Rendering) -> Rendering:
    """Several heads."""
    every = (views, *others)
    return Rendering(
        torch.cat([v.image for v in every]), opacity=torch.cat([v.opacity for v in every])
    )


def test_a_scene_is_explained_by_a_field_and_a_stuck_picture_or_one_that_turns_back_is_not():
    values = {}
    for metric in (Reconstruction(QUICK), SelfConsistency(QUICK)):
        metric.update(both(sphere(metric.camera), stuck(sphere(metric.camera)), back(metric)))
        values |= metric.per_head()
    for name, (true, stays, turns_back) in values.items():
        print(f"{name}: sphere {true:.3f}, stuck {stays:.3f}, turns back {turns_back:.3f}")
    # two fields may agree on a blur of what turns back: then the reconstruction tells
    for name, of_stuck, of_back in (
        ("reconstruction_psnr", 2, 6),
        ("reconstruction_ssim", 0.04, 0.3),
        ("self_psnr", 5, 0),
        ("self_ssim", 0.04, 0),
    ):
        true, stays, turns_back = values[name].tolist()
        assert true > stays + of_stuck, name
        assert true > turns_back + of_back, name
    assert values["reconstruction_psnr"][0] > 20
    assert values["self_psnr"][0] > 20


def test_the_background_does_not_count():
    metric = SelfConsistency(FEW)
    views = sphere(metric.camera)
    other = Rendering(torch.where(views.opacity > 0, views.image, -1.0), opacity=views.opacity)
    metric.update(both(views, other))
    assert torch.equal(*metric.per_head()["self_psnr"])


def test_the_sides_are_disjoint_and_the_held_out_views_are_new():
    num = len(YAWS) * len(PITCHES)
    for metric, held in ((SelfConsistency(QUICK), 2), (Reconstruction(QUICK), 8)):
        yaw, pitch = metric.camera.yaw_pitch()
        assert len(yaw) == 2 * num + held
        assert yaw[:num].max() < 0 < yaw[num : 2 * num].min()
        fitted = torch.stack([yaw, pitch], 1)[: 2 * num]
        new = torch.stack([yaw, pitch], 1)[2 * num :]
        assert torch.cdist(new, fitted).min() > 0.05


def test_a_fit_is_the_same_again_and_another_seed_gives_another_field():
    camera = SelfConsistency(QUICK).camera[:4]
    views = sphere(camera)

    def planes(seed: int) -> Tensor:
        return fit_field(views.image[0], views.opacity[0], camera, options=FEW, seed=seed).planes

    assert torch.equal(planes(0), planes(0))
    assert not torch.equal(planes(0), planes(1))


def test_the_cube_may_be_of_any_size():
    """A world twice as large, seen from twice as far, gives the same values."""
    once, twice = Reconstruction(FEW), Reconstruction(FEW, extent=2.0, radius=5.4)
    views = sphere(once.camera)
    for metric in (once, twice):
        metric.update(views)
    torch.testing.assert_close(
        twice.compute()["reconstruction_psnr"],
        once.compute()["reconstruction_psnr"],
        rtol=0.08,
        atol=0,
    )


def test_compared_is_psnr_and_ssim_over_opaque_pixels():
    image = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    opacity = torch.zeros(2, 3, 1, 16, 16)
    opacity[0, ..., :8] = 1
    wrong = image.clone()
    wrong[..., 8:] += 1  # not opaque
    wrong[0, 0, :, :, :8] += 0.2  # in one of three views
    psnr, ssim = compared(wrong, image, opacity)
    assert psnr[0].item() == pytest.approx(10 * torch.log10(torch.tensor(4 * 3 / 0.04)).item())
    assert ssim[0] < 1
    assert psnr[1].isnan()
    assert ssim[1].isnan()
    _, same = compared(image, image, opacity)
    assert same[0].item() == pytest.approx(1, abs=1e-5)


def test_views_are_reduced_by_area_and_without_opacity_all_is_opaque():
    image = torch.rand(1, 2, 3, 8, 8)
    small, alpha = at_side(Rendering(image), 4)
    torch.testing.assert_close(small[0, 1, 2, 3, 3], image[0, 1, 2, 6:, 6:].mean())
    assert torch.equal(alpha, torch.ones(1, 2, 1, 4, 4))
    same, coarse = at_side(Rendering(image, opacity=torch.full((1, 2, 1, 4, 4), 0.5)), 64)
    assert torch.equal(same, image)
    assert torch.equal(coarse, torch.full((1, 2, 1, 8, 8), 0.5))


def test_shapes_and_sizes_that_do_not_fit_are_refused():
    camera = SelfConsistency(QUICK).camera
    with pytest.raises(ValueError, match=r"expected \[v 3 h h\]"):
        fit_field(torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 8, 8), camera)
    with pytest.raises(ValueError, match="steps is 0, expected 1 or more"):
        FitOptions(steps=0)
