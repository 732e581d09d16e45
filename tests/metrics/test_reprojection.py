"""Reprojection of analytic scenes: textured surfaces are consistent, a sticking texture is not."""

import math

import pytest
import torch

from gan3d.camera import Camera
from gan3d.generators import Rendering
from gan3d.metrics.reprojection import masked_psnr, pairwise_reprojection, reproject

SIDE = 64
FOV = 14.0


def cameras(yaws=(-0.2, 0.0, 0.25), pitches=(0.1, 0.0, -0.1)) -> Camera:
    return Camera.from_angles(torch.tensor(yaws), torch.tensor(pitches), fov=FOV)


def texture(points):
    """A smooth color at every point of the world, [b 3 h w]."""
    x, y, z = points.unbind(-1)
    colors = [(9 * x + 2 * z).sin(), (8 * y).cos() * 0.9, (5 * (x - y) + 4 * z).sin()]
    return torch.stack(colors, dim=1)


def sphere(camera: Camera, side: int = SIDE, radius: float = 0.25) -> Rendering:
    """Texture on a sphere at the origin, on a white background at infinite depth."""
    rays = camera.rays(side)
    along = -(rays.origins * rays.directions).sum(-1)
    inside = radius**2 - (rays.origins.square().sum(-1) - along**2)
    distance = along - inside.clamp(min=0).sqrt()
    hit = (inside > 0).reshape(-1, 1, side, side)
    points = (rays.origins + rays.directions * distance[..., None]).unflatten(1, (side, side))
    depth = (distance[..., None] * rays.cosines).reshape(-1, 1, side, side)
    image = torch.where(hit, texture(points), 1.0)
    return Rendering(image, depth=torch.where(hit, depth, torch.inf), opacity=hit.float())


def plane(camera: Camera, side: int = SIDE) -> Rendering:
    """Texture on the plane z = -0.5, everywhere."""
    rays = camera.rays(side)
    distance = (-0.5 - rays.origins[..., 2:]) / rays.directions[..., 2:]
    points = (rays.origins + rays.directions * distance).unflatten(1, (side, side))
    return Rendering(texture(points), depth=(distance * rays.cosines).reshape(-1, 1, side, side))


def sticking(views: Rendering) -> Rendering:
    """The same geometry, with the picture of the first view in all views."""
    image = views.image[:1].expand_as(views.image)
    return Rendering(image, depth=views.depth, opacity=views.opacity)


@pytest.mark.parametrize(("scene", "least"), [(plane, 50.0), (sphere, 38.0)])
def test_a_surface_with_a_texture_agrees_with_itself_and_a_sticking_texture_does_not(scene, least):
    camera = cameras()
    views = scene(camera)
    honest = pairwise_reprojection(views, camera)
    stuck = pairwise_reprojection(sticking(views), camera)
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    assert honest.psnr.diagonal().isnan().all()
    assert honest.psnr[off_diagonal].min() > least
    assert stuck.psnr[off_diagonal].max() < 20
    assert honest.share[off_diagonal].min() > 0.55
    assert honest.mean_psnr == pytest.approx(honest.psnr[off_diagonal].mean().item())


def test_finer_views_agree_better():
    """The error of bilinear resampling grows with the square of the pixel: 12 dB per octave."""
    coarse = pairwise_reprojection(plane(cameras(), 32), cameras()).mean_psnr
    fine = pairwise_reprojection(plane(cameras(), 64), cameras()).mean_psnr
    assert fine - coarse == pytest.approx(12, abs=2)


def test_the_same_view_is_warped_onto_itself():
    camera = cameras()
    views = sphere(camera)
    warped = reproject(views, camera, views, camera)
    assert torch.equal(warped.visible, views.opacity > 0.5)
    # Inside the disk every sample falls on its own pixel; at its rim, rounding may read the
    # background.
    assert warped.valid.sum() > 0.93 * warped.visible.sum()
    valid = warped.valid.expand(-1, 3, -1, -1)
    torch.testing.assert_close(warped.image[valid], views.image[valid], atol=2e-3, rtol=0)


def test_points_that_the_source_does_not_see_are_not_compared():
    """From the side, points beyond the source's horizon (n . s < r / d) are occluded."""
    front = Camera.from_angles(0.0, 0.0, fov=FOV)
    side = Camera.from_angles(1.0, 0.0, fov=FOV)
    target = sphere(side)
    warped = reproject(sphere(front), front, target, side, tolerance=1e-3)
    rays = side.rays(SIDE)
    distance = target.depth.flatten(1)[..., None] / rays.cosines
    points = (rays.origins + rays.directions * distance).nan_to_num(0.0, 0.0, 0.0)
    to_source = torch.nn.functional.normalize(front.origins, dim=-1)
    facing = (points / 0.25 * to_source).sum(-1)  # cosine of the normal to the source
    hidden = (facing < 0.25 / 2.7 - 0.05).reshape(1, 1, SIDE, SIDE) & warped.visible
    seen = (facing > 0.25 / 2.7 + 0.3).reshape(1, 1, SIDE, SIDE) & warped.visible
    assert hidden.sum() > 100
    assert not (warped.valid & hidden).any()
    assert (warped.valid & seen).sum() > 0.98 * seen.sum()


@pytest.mark.parametrize("tolerance", [0.01, 0.5])
def test_points_outside_of_the_source_picture_are_not_compared(tolerance):
    """A camera is moved to the right by 0.1: the mask has the exact columns out of its frame."""
    straight = Camera.from_angles(0.0, 0.0, fov=FOV)
    shifted = Camera.from_angles(0.0, 0.0, fov=FOV, target=(0.1, 0.0, 0.0))
    target = plane(straight)
    warped = reproject(plane(shifted), shifted, target, straight, tolerance=tolerance)
    width = 2 * (2.7 + 0.5) * math.tan(math.radians(FOV / 2))  # of the picture, on the plane
    u = (torch.arange(SIDE) + 0.5) / SIDE - 0.1 / width  # in the picture of the shifted camera
    expected = (u >= 0.5 / SIDE) & (u <= 1 - 0.5 / SIDE)
    rows = warped.valid[0, 0, 1:-1]  # the first and last rows are on the edge, up to rounding
    assert torch.equal(rows, expected.expand_as(rows))


def test_points_behind_the_source_camera_are_not_compared():
    front = Camera.from_angles(0.0, 0.0, fov=FOV)
    beyond = Camera.from_angles(0.0, 0.0, fov=FOV, target=(0.0, 0.0, -5.7))  # at z = -3, looking on
    source = Rendering(torch.zeros(1, 3, SIDE, SIDE), depth=torch.ones(1, 1, SIDE, SIDE))
    warped = reproject(source, beyond, plane(front), front)
    assert warped.visible.all()
    assert not warped.valid.any()


def test_a_depth_in_front_of_the_source_surface_counts_as_an_error():
    camera = cameras((0.0, 0.3), (0.0, 0.0))
    views = plane(camera)
    source = Rendering(views.image[:1], depth=views.depth[:1])
    wrong = Rendering(views.image[1:], depth=views.depth[1:] * 0.9)
    warped = reproject(source, camera[0], wrong, camera[1])
    assert warped.valid.float().mean() > 0.3
    assert masked_psnr(warped.image, views.image[1:], warped.valid).item() < 20


def test_coarse_depth_is_enlarged_to_the_image():
    camera = cameras()
    fine, coarse = plane(camera, 64), plane(camera, 32)
    mixed = Rendering(fine.image, depth=coarse.depth)
    assert pairwise_reprojection(mixed, camera).mean_psnr > 45
    fine, coarse = sphere(camera, 64), sphere(camera, 32)
    mixed = Rendering(fine.image, depth=coarse.depth, opacity=coarse.opacity)
    assert pairwise_reprojection(mixed, camera).mean_psnr > 30


def test_psnr_is_computed_over_the_valid_pixels():
    image = torch.zeros(2, 3, 4, 4)
    reference = torch.zeros(2, 3, 4, 4)
    image[:, :, 0] = 0.2
    image[:, :, 1] = 77.0
    valid = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    valid[0, :, [0, 2]] = True
    psnr = masked_psnr(image, reference, valid)
    assert psnr[0].item() == pytest.approx(10 * math.log10(4 / (0.2**2 / 2)))
    assert psnr[1].isnan()
    assert masked_psnr(reference, reference, ~valid).isinf().all()


def test_what_cannot_be_compared_is_refused():
    camera = cameras()
    views = plane(camera)
    with pytest.raises(ValueError, match="no depth"):
        pairwise_reprojection(Rendering(views.image), camera)
    with pytest.raises(ValueError, match="expected at least two"):
        pairwise_reprojection(Rendering(views.image[:1], depth=views.depth[:1]), camera[0])
    with pytest.raises(ValueError, match="3 cameras"):
        pairwise_reprojection(Rendering(views.image[:2], depth=views.depth[:2]), camera)
    with pytest.raises(ValueError, match="differ"):
        reproject(plane(camera, 32), camera, views, camera)
