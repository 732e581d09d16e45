"""Cameras: hand-placed points, rotations, areas, and round trips of random poses."""

import math
import pickle

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from gan3d.camera import (
    Camera,
    DatasetPoses,
    FixedPose,
    GaussianPose,
    PosePrior,
    SphereUniformPose,
    TruncatedGaussianPose,
    UniformPose,
    check_labels,
    eg3d_wiggle,
    flip_camera_axes,
    intrinsics_from_eg3d_fov,
    intrinsics_from_focal,
    intrinsics_from_fov,
    look_at,
    orbit,
    wiggle,
)
from gan3d.randomness import Randomness, Recorded

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
PRIORS: list[PosePrior] = [
    FixedPose(),
    UniformPose(),
    GaussianPose(),
    TruncatedGaussianPose(),
    SphereUniformPose(),
]


def forall(**strategies):
    return lambda test: hypothesis.settings(max_examples=40, deadline=None)(
        hypothesis.given(**strategies)(test)
    )


yaws = st.floats(-3.1, 3.1)
pitches = st.floats(-1.5, 1.5)
radii = st.floats(0.5, 5)
targets = st.tuples(*[st.floats(-0.5, 0.5)] * 3)
dtypes = st.sampled_from([torch.float32, torch.float64])


def near(got, expected, tolerance: float = 1e-6) -> None:
    if not isinstance(expected, torch.Tensor):
        expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected.to(got), rtol=tolerance, atol=tolerance)


@st.composite
def cameras(draw, dtype=torch.float64) -> Camera:
    """Cameras at any position, rolled, with skew and an off-center principal point."""
    number = lambda low, high: draw(st.floats(low, high))  # noqa: E731
    yaw = torch.tensor([draw(yaws)], dtype=dtype)
    camera = Camera.from_angles(yaw, draw(pitches), radius=draw(radii), target=draw(targets))

    angle = number(-3, 3)
    roll = torch.eye(4, dtype=dtype)
    roll[0, 0] = roll[1, 1] = math.cos(angle)
    roll[0, 1], roll[1, 0] = -math.sin(angle), math.sin(angle)
    lens = [
        [number(0.5, 5), number(-0.1, 0.1), number(0.3, 0.7)],
        [0, number(0.5, 5), number(0.3, 0.7)],
        [0, 0, 1],
    ]
    return Camera(camera.cam2world @ roll, torch.tensor([lens], dtype=dtype))


# -- By hand ---------------------------------------------------------------------------------------


def test_the_frontal_camera_is_on_plus_z_and_looks_back():
    camera = Camera.from_angles(0.0, 0.0, radius=2.7)
    near(camera.cam2world[0], [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]])


def test_positive_yaw_goes_to_plus_x_and_positive_pitch_up():
    yaw, pitch = torch.tensor([math.pi / 2, 0.0, 0.3]), torch.tensor([0.0, math.pi / 2, 0.4])
    camera = Camera.from_angles(yaw, pitch, radius=2.0)
    x = 2 * math.cos(0.4) * math.sin(0.3)
    y = 2 * math.sin(0.4)
    z = 2 * math.cos(0.4) * math.cos(0.3)
    near(camera.origins, [[2, 0, 0], [0, 2, 0], [x, y, z]])


def test_the_middle_pixel_looks_forward_and_the_others_to_their_side():
    camera = Camera.from_angles(0.0, 0.0)
    directions = camera.rays(3).directions[0].reshape(3, 3, 3)
    near(directions[1, 1], camera.forward[0])
    assert directions[1, 0, 0] < 0 < directions[1, 2, 0], "left pixel left, right pixel right"
    assert directions[2, 1, 1] < 0 < directions[0, 1, 1], "row 0 on top"


def test_outer_pixel_edges_lie_on_the_field_of_view():
    # The edge of the image, where the tangent is tan(fov / 2), is half a pixel outside the first
    # center of a row of 4.
    camera = Camera.from_angles(0.0, 0.0, fov=50.0)
    tangents = -camera.rays(4).directions[0, :, 0] / camera.rays(4).directions[0, :, 2]
    edge = math.tan(math.radians(25))
    near(tangents[:4], [-0.75 * edge, -0.25 * edge, 0.25 * edge, 0.75 * edge])
    near(camera.fov, [50.0], 1e-5)


def test_skew_and_principal_point_move_the_ray_according_to_the_matrix():
    # K (x, y, 1) = (2 x + 0.5 y + 0.4, 4 y + 0.6) = (0.5, 0.5) at y = -0.025, x = 0.05625.
    lens = torch.tensor([[[2.0, 0.5, 0.4], [0.0, 4.0, 0.6], [0.0, 0.0, 1.0]]])
    rays = Camera(torch.eye(4)[None], lens).rays(1)
    near(rays.directions[0, 0] / rays.directions[0, 0, 2], [0.05625, -0.025, 1.0])


def test_the_two_fields_of_view_differ_as_documented():
    near(intrinsics_from_fov(90.0), [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]])
    focal = intrinsics_from_eg3d_fov(18.837)[0, 0]
    near(focal, 4.26339, 2e-6)
    near(Camera.from_angles(0.0, 0.0, focal=focal).fov, [13.378], 1e-3)


def test_both_fov_and_focal_are_refused():
    with pytest.raises(ValueError, match="give one"):
        Camera.from_angles(0.0, 0.0, fov=12.0, focal=4.0)
    with pytest.raises(ValueError, match="give one"):
        GaussianPose(fov=12.0, focal=4.0)


def test_eg3d_vertical_coordinate_is_an_area_and_not_an_angle():
    _, pitch = Camera.from_eg3d_angles(math.pi / 2, math.pi / 2 - 0.2).yaw_pitch()
    near(pitch, [0.1277], 2e-4)


def test_sphere_yaw_grows_towards_minus_x_and_sphere_pitch_downwards():
    camera = Camera.from_sphere(math.pi / 2 + 0.1, math.pi / 2 + 0.3, 12, resolution=8)
    assert camera.origins[0, 0] < 0
    assert camera.origins[0, 1] < 0
    near(camera.sphere_pose(), [[math.pi / 2 + 0.1, math.pi / 2 + 0.3]])


def test_sphere_poses_put_outer_pixel_centers_on_the_field_of_view():
    rays = Camera.from_sphere(math.pi / 2, math.pi / 2, 30, resolution=5).rays(5)
    corner = rays.directions[0, 0] / -rays.directions[0, 0, 2]
    near(corner, [-math.tan(math.radians(15)), math.tan(math.radians(15)), -1])
    with pytest.raises(ValueError, match="resolution 1"):
        Camera.from_sphere(1.5, 1.5, 30, resolution=1)


# -- Round trips -----------------------------------------------------------------------------------


@forall(camera=cameras(), dtype=dtypes)
def test_labels_round_trip_exactly(camera, dtype):
    label = camera.to(dtype).label()
    assert label.shape == (1, 25)
    assert torch.equal(Camera.from_label(label).label(), label)
    check_labels(label)


@forall(yaw=yaws, pitch=pitches, radius=radii, target=targets, dtype=dtypes)
def test_angles_round_trip(yaw, pitch, radius, target, dtype):
    angles = torch.tensor([yaw, pitch], dtype=dtype)
    camera = Camera.from_angles(angles[:1], angles[1:], radius=radius, target=target)
    got_yaw, got_pitch = camera.yaw_pitch(target)
    # The yaw of a position loses digits towards the poles.
    tolerance = TOLERANCE[dtype] / math.cos(pitch)
    near(torch.stack([got_yaw, got_pitch]), angles[:, None], tolerance)
    assert camera.dtype == dtype


@forall(
    pitch=st.floats(0.05, 3.09),
    yaw=st.floats(-1.5, 4.6),
    fov=st.floats(5, 90),
    size=st.integers(2, 300),
)
def test_sphere_poses_round_trip(pitch, yaw, fov, size):
    pose = torch.tensor([pitch, yaw, fov], dtype=torch.float64)[:, None]
    camera = Camera.from_sphere(*pose, resolution=size, radius=1.7)
    near(torch.stack(camera.to_sphere(resolution=size)), pose, 1e-9)
    near(camera.origins.norm(dim=-1), [1.7], 1e-12)


@forall(h=st.floats(-1.5, 4.6), v=st.floats(0.01, 3.13))
def test_eg3d_angles_round_trip(h, v):
    angles = torch.tensor([h, v], dtype=torch.float64)[:, None]
    camera = Camera.from_eg3d_angles(*angles, target=(0.0, 0.0, 0.2))
    near(torch.stack(camera.to_eg3d_angles()), angles, 1e-9)


@forall(camera=cameras())
def test_flipping_camera_axes_negates_two_axes_and_twice_is_the_identity(camera):
    flipped = flip_camera_axes(camera.cam2world)
    near(flipped[:, :3, 1], -camera.down)
    near(flipped[:, :3, 2], -camera.forward)
    assert torch.equal(flip_camera_axes(flipped), camera.cam2world)


# -- Handedness and look-at ------------------------------------------------------------------------


def assert_right_handed(cam2world: torch.Tensor, tolerance: float = 1e-9) -> None:
    rotation = cam2world[:, :3, :3]
    right, down, forward = rotation.unbind(dim=-1)
    near(torch.linalg.cross(right, down), forward, tolerance)
    near(torch.linalg.det(rotation), torch.ones(len(rotation)), tolerance)
    near(torch.linalg.vector_norm(rotation, dim=1), torch.ones(len(rotation), 3), tolerance)


@forall(yaw=yaws, pitch=st.floats(-math.pi / 2, math.pi / 2), radius=radii, target=targets)
def test_cameras_of_angles_are_right_handed_level_and_aimed(yaw, pitch, radius, target):
    yaw = torch.tensor([yaw], dtype=torch.float64)
    camera = Camera.from_angles(yaw, pitch, radius=radius, target=target)
    assert_right_handed(camera.cam2world)
    near(camera.right[:, 1], [0.0])
    assert camera.down[0, 1] <= 1e-12, "down points down"
    near(camera.origins + radius * camera.forward, [target], 1e-9)


@forall(yaw=yaws, pitch=pitches, target=targets)
def test_look_at_agrees_with_the_rotation_computed_from_angles(yaw, pitch, target):
    camera = Camera.from_angles(torch.tensor([yaw], dtype=torch.float64), pitch, target=target)
    near(look_at(camera.origins, target), camera.cam2world, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("height", [2.0, -2.0])
def test_looking_straight_up_or_down_continues_the_camera_of_yaw_zero(dtype, height):
    position = torch.tensor([[0.0, height, 0.0]], dtype=dtype, requires_grad=True)
    cam2world = look_at(position)
    assert_right_handed(cam2world, 1e-6)
    limit = Camera.from_angles(0.0, math.copysign(math.pi / 2, height), radius=2.0)
    near(cam2world.detach(), limit.cam2world)
    cam2world.sum().backward()
    assert position.grad.isfinite().all()


def test_looking_along_an_up_vector_that_is_x_is_finite():
    assert_right_handed(look_at(torch.tensor([[3.0, 0.0, 0.0]]), up=(1.0, 0.0, 0.0)), 1e-6)


def test_a_camera_on_its_target_is_refused():
    position = torch.tensor([[0.0, 0.0, 1.0], [0.1, 0.2, 0.3]])
    with pytest.raises(ValueError, match="position of a camera is its target"):
        look_at(position, target=position[1])


# -- Mirroring and projecting ----------------------------------------------------------------------


@forall(camera=cameras())
def test_mirroring_twice_is_the_identity(camera):
    near(camera.mirror().mirror().label(), camera.label(), 1e-12)
    assert_right_handed(camera.mirror().cam2world)


@forall(camera=cameras(), point=targets)
def test_the_mirrored_camera_sees_the_mirrored_point_at_the_mirrored_pixel(camera, point):
    # Points in front of the camera, mostly in view.
    world = camera.origins + camera.forward + torch.tensor([point], dtype=torch.float64)
    pixel, depth = camera.project(world[None])
    u, v = pixel[0, 0]
    mirrored = world * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    mirrored_pixel, mirrored_depth = camera.mirror().project(mirrored[None])
    near(mirrored_pixel[0, 0], torch.stack([1 - u, v]), 1e-8)
    near(mirrored_depth, depth, 1e-12)


@forall(camera=cameras(), size=st.sampled_from([1, 2, 7]), distance=st.floats(0.1, 10))
def test_points_on_a_ray_project_to_its_pixel_at_distance_times_cosine(camera, size, distance):
    rays = camera.rays(size)
    pixels, depth = camera.project(rays.origins + distance * rays.directions)
    centers = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    rows, columns = torch.meshgrid(centers, centers, indexing="ij")
    near(pixels[0], torch.stack([columns.flatten(), rows.flatten()], dim=-1), 1e-8)
    near(depth, distance * rays.cosines, 1e-8)
    near(torch.linalg.vector_norm(rays.directions, dim=-1), torch.ones(1, size * size), 1e-12)


@forall(camera=cameras(), factor=st.floats(0.1, 5), point=targets)
def test_scaling_world_and_camera_changes_no_pixel(camera, factor, point):
    world = (camera.origins + camera.forward)[None] + torch.tensor(point, dtype=torch.float64)
    pixels, depth = camera.project(world)
    scaled, scaled_depth = camera.scale(factor).project(factor * world)
    near(scaled, pixels, 1e-7)
    near(scaled_depth, factor * depth, 1e-9)


# -- Rays ------------------------------------------------------------------------------------------


def test_rays_of_indices_are_a_subset_of_all_rays():
    camera = Camera.from_angles(torch.tensor([0.1, -0.4]), 0.2)
    all_rays = camera.rays(5)
    shared, own = torch.tensor([24, 3, 3]), torch.tensor([[0, 7], [12, 24]])
    near(camera.rays(5, shared).directions, all_rays.directions[:, shared], 0)
    near(camera.rays(5, own).directions[1], all_rays.directions[1, own[1]], 0)
    near(camera.rays(5, own).cosines[0], all_rays.cosines[0, own[0]], 0)
    with pytest.raises(ValueError, match="b = 2"):
        camera.rays(5, torch.zeros(3, 4, dtype=torch.long))


def test_rays_are_differentiable_in_pose_and_lens():
    angles = torch.tensor([0.3, -0.2, 30.0], dtype=torch.float64)

    def rays(yaw, pitch, fov):
        rays = Camera.from_angles(yaw[None], pitch[None], fov=fov[None]).rays(3)
        return rays.origins, rays.directions, rays.cosines

    assert torch.autograd.gradcheck(rays, tuple(angles.requires_grad_().unbind()))


def test_rays_keep_their_precision_under_autocast():
    camera = Camera.from_angles(0.3, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = camera.rays(4)
    assert torch.equal(lowered.directions, camera.rays(4).directions)


# -- Batches ---------------------------------------------------------------------------------------


def test_a_camera_batch_is_indexed_concatenated_moved_and_pickled():
    camera = Camera.from_angles(torch.tensor([0.0, 0.1, 0.2]), 0.0)
    assert len(camera) == 3
    parts = camera[1], camera[-1], camera[1:], camera[[0, 2]]
    assert [len(part) for part in parts] == [1, 1, 2, 2]
    for number in (np.int64(1), torch.tensor(1)):
        assert torch.equal(camera[number].label(), camera[1].label())
    assert torch.equal(camera[torch.tensor([True, False, True])].label(), camera[[0, 2]].label())
    assert torch.equal(camera.select([2, 2, 0]).label(), camera.label()[[2, 2, 0]])
    assert torch.equal(Camera.cat(list(camera)).label(), camera.label())
    assert torch.equal(pickle.loads(pickle.dumps(camera)).label(), camera.label())
    assert camera.to(torch.float64).dtype == torch.float64
    assert camera.to("cpu", torch.float64).intrinsics.dtype == torch.float64
    with pytest.raises(IndexError):
        camera[3]


def test_wrong_shapes_are_refused_with_the_expected_ones():
    with pytest.raises(ValueError, match=r"\(25,\).*expected \[b 25\]"):
        Camera.from_label(torch.zeros(25))
    with pytest.raises(ValueError, match=r"\[b 4 4\] and \[b 3 3\]"):
        Camera(torch.eye(4)[None], torch.eye(3))
    with pytest.raises(ValueError, match="expected numbers or"):
        Camera.from_angles(torch.zeros(2, 1), 0.0)
    with pytest.raises(ValueError, match="expected \\[3\\]"):
        Camera.from_angles(0.0, 0.0, target=(0.0, 1.0))


def test_half_precision_angles_give_single_precision_cameras():
    assert Camera.from_angles(torch.tensor([0.5], dtype=torch.bfloat16), 0.0).dtype == torch.float32


AIMED = Camera.from_angles(0.1, 0.1)
ROLLED = look_at(torch.tensor([[0.0, 0.0, 1.0]]), up=(0.3, 1.0, 0.0))
OFF_CENTER = torch.tensor([[[2.0, 0, 0.6], [0, 2, 0.5], [0, 0, 1]]])


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera.from_angles(0.1, 0.1, target=(0.0, 0.0, 0.2)), "looks past"),
        (Camera(ROLLED, intrinsics_from_focal(2.0)[None]), "rolled"),
        (Camera(AIMED.cam2world, OFF_CENTER), "off-center"),
    ],
)
def test_a_camera_without_a_sphere_pose_is_refused(camera, message):
    with pytest.raises(ValueError, match=message):
        camera.to_sphere(resolution=8)


# -- Priors ----------------------------------------------------------------------------------------


def dataset_poses() -> DatasetPoses:
    return DatasetPoses().bind(Camera.from_angles(torch.linspace(-1, 1, 9), 0.1).label())


@pytest.mark.parametrize(
    "prior", [*PRIORS, dataset_poses()], ids=lambda prior: type(prior).__name__
)
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(prior):
    whole = prior.sample(Randomness(3, range(8), "D"))
    indices = [0, 1, 2], [3], [4, 5, 6, 7]
    parts = Camera.cat([prior.sample(Randomness(3, part, "D")) for part in indices])
    assert torch.equal(whole.label(), parts.label())
    check_labels(whole.label())
    assert prior.sample(Randomness(3, range(2), dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    "prior", [p for p in PRIORS if type(p) is not FixedPose], ids=lambda p: type(p).__name__
)
def test_images_and_phases_have_different_cameras(prior):
    labels = prior.sample(Randomness(3, range(8), "D")).label()
    assert len(labels.unique(dim=0)) == 8
    assert not torch.equal(labels, prior.sample(Randomness(3, range(8), "G")).label())


def angles(prior: PosePrior, num: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    return prior.sample(Randomness(0, range(num), dtype=torch.float64)).yaw_pitch()


def test_fixed_poses_are_those_of_from_angles():
    options = {"radius": 1.5, "focal": 4.2647, "target": (0.0, 0.1, 0.2)}
    prior = FixedPose(yaw_mean=0.2, pitch_mean=-0.1, **options)
    expected = Camera.from_angles(torch.full((3,), 0.2), -0.1, **options)
    near(prior.sample(Randomness(0, range(3))).label(), expected.label())


def test_gaussian_poses_have_their_mean_and_spread():
    yaw, pitch = angles(GaussianPose(yaw_mean=0.2, pitch_mean=-0.1, yaw_std=0.3, pitch_std=0.15))
    # Five standard errors of mean and of standard deviation.
    for got, mean, std in ((yaw, 0.2, 0.3), (pitch, -0.1, 0.15)):
        assert abs(got.mean() - mean) < 5 * std / 4000**0.5
        assert abs(got.std() - std) < 5 * std / 8000**0.5
    assert abs(torch.corrcoef(torch.stack([yaw, pitch]))[0, 1]) < 5 / 4000**0.5


def test_truncated_poses_stay_within_their_bound_and_follow_the_truncated_law():
    yaw, _ = angles(TruncatedGaussianPose(yaw_std=0.3, bound=2.0))
    assert yaw.abs().max() <= 0.6 + 1e-12
    # Var of N(0, 1) cut at t: 1 - 2 t phi(t) / (2 Phi(t) - 1) = 0.7737 for t = 2.
    assert abs(yaw.std() - 0.3 * 0.7737**0.5) < 5 * 0.3 / 8000**0.5
    prior = TruncatedGaussianPose(yaw_std=1.0, pitch_std=1.0, bound=1.0)
    draws = {"pose.yaw": torch.tensor([0.0, 0.5, 0.75]), "pose.pitch": torch.full((3,), 0.5)}
    yaw, _ = prior.sample(Recorded(draws)).yaw_pitch()
    # Phi^-1(0.5 + 0.25 * 0.6826895) = 0.44178: the upper quartile within one standard deviation.
    near(yaw, [-1.0, 0.0, 0.44178], 1e-4)


def test_uniform_poses_fill_their_box_evenly():
    yaw, pitch = angles(UniformPose(yaw_mean=0.1, yaw_range=0.5, pitch_range=0.25))
    for got, mean, half in ((yaw, 0.1, 0.5), (pitch, 0.0, 0.25)):
        assert (got - mean).abs().max() <= half + 1e-12
        share = torch.histc(got, 4, mean - half, mean + half) / 4000
        near(share, [0.25] * 4, 5 * (0.25 * 0.75 / 4000) ** 0.5)


def test_sphere_uniform_poses_are_uniform_by_area():
    # Archimedes: equal areas of a sphere have equal heights.
    prior = SphereUniformPose(pitch_min=-math.pi / 2, radius=1.0)
    camera = prior.sample(Randomness(0, range(4000)))
    share = torch.histc(camera.origins[:, 1], 5, -1, 1) / 4000
    near(share, [0.2] * 5, 5 * (0.2 * 0.8 / 4000) ** 0.5)
    assert camera.origins.mean(dim=0).abs().max() < 5 / 12000**0.5


def test_sphere_uniform_poses_refuse_invalid_limits():
    with pytest.raises(ValueError, match="expected -pi/2 <= pitch_min <= pitch_max <= pi/2"):
        SphereUniformPose(pitch_min=0.5, pitch_max=0.1)
    with pytest.raises(ValueError, match="pitch_mean"):
        SphereUniformPose(pitch_mean=0.1)


def test_dataset_poses_are_the_labels_with_equal_probability():
    prior = dataset_poses()
    drawn = prior.sample(Randomness(0, range(1800))).label()
    values, counts = drawn.unique(dim=0, return_counts=True)
    assert {tuple(row.tolist()) for row in values} == {tuple(row.tolist()) for row in prior.labels}
    near(counts / 1800, [1 / 9] * 9, 5 * (8 / 81 / 1800) ** 0.5)


def test_mirrored_dataset_poses_are_half_mirrored():
    label = Camera.from_angles(0.4, 0.1).label()
    yaw, pitch = DatasetPoses(mirror=True).bind(label).sample(Randomness(0, range(400))).yaw_pitch()
    near(yaw.abs(), torch.full((400,), 0.4))
    near(pitch, torch.full((400,), 0.1))
    assert abs((yaw > 0).float().mean() - 0.5) < 5 * 0.5 / 20


def test_dataset_poses_without_labels_or_with_bad_ones_are_refused():
    with pytest.raises(ValueError, match="bind"):
        DatasetPoses().sample(Randomness(0, range(2)))
    bad = Camera.from_angles(torch.zeros(3), 0.1).label()
    bad[1, 16] = -1.0
    with pytest.raises(ValueError, match="focal"):
        DatasetPoses().bind(bad)
    away = Camera.from_opengl(bad[:1, :16].view(1, 4, 4), bad[:1, 16:].view(1, 3, 3))
    with pytest.raises(ValueError, match="does not see the scene"):
        DatasetPoses().bind(away.label())


@pytest.mark.parametrize(
    ("prior", "arguments", "message"),
    [
        (FixedPose, {"radius": 0.0}, "radius is 0.0"),
        (FixedPose, {"radius": -2.7}, "radius is -2.7"),
        (FixedPose, {"pitch_mean": 1.6}, "pitch_mean is 1.6"),
        (FixedPose, {"fov": 0.0}, "fov is 0.0; expected an angle between 0 and 180"),
        (FixedPose, {"fov": 180.0}, "fov is 180.0"),
        (FixedPose, {"focal": -3.0}, "focal is -3.0"),
        (UniformPose, {"yaw_range": -0.1}, "yaw_range is -0.1; expected 0 or more"),
        (UniformPose, {"pitch_range": math.nan}, "pitch_range is nan"),
        (GaussianPose, {"yaw_std": -0.3}, "yaw_std is -0.3"),
        (GaussianPose, {"pitch_std": math.inf}, "pitch_std is inf"),
        (TruncatedGaussianPose, {"bound": -1.0}, "bound is -1.0"),
        (TruncatedGaussianPose, {"pitch_std": -0.1}, "pitch_std is -0.1"),
        (SphereUniformPose, {"yaw_range": -1.0}, "yaw_range is -1.0"),
    ],
)
def test_a_prior_with_a_number_out_of_range_is_refused(prior, arguments, message):
    with pytest.raises(ValueError, match=message):
        prior(**arguments)


def test_a_field_of_view_of_0_degrees_is_refused_with_the_range():
    for make in (intrinsics_from_fov, lambda fov: Camera.from_angles(0.0, 0.0, fov=fov)):
        with pytest.raises(ValueError, match="fov is 0; expected an angle between 0 and 180"):
            make(0)


# -- Trajectories ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [orbit, wiggle, lambda num: orbit(num, full_circle=True, pitch=0.2)],
    ids=["orbit", "wiggle", "circle"],
)
def test_paths_are_closed_without_a_jump(path):
    camera = path(120)
    assert len(camera) == 120
    steps = torch.linalg.vector_norm(camera.origins - camera.origins.roll(1, dims=0), dim=-1)
    neighbors = torch.stack([steps[-1], steps[1]])
    jumps = (steps[0] - neighbors).abs()
    assert steps[0] > 0, "the first frame is repeated at the end"
    assert (jumps < 0.1 * steps.max()).all(), "the step from last to first frame is a jump"
    check_labels(camera.label())


def test_paths_reach_the_angles_of_their_arguments():
    yaw, pitch = orbit(8, yaw=0.5, pitch=0.2, target=(0.0, 0.1, 0.0)).yaw_pitch((0.0, 0.1, 0.0))
    near(yaw[[0, 2, 4, 6]], [0.0, 0.5, 0.0, -0.5], 1e-5)
    near(pitch, [0.2] * 8, 1e-5)
    circle = orbit(4, full_circle=True, radius=1.0)
    near(circle.origins, [[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]])
    yaw, pitch = wiggle(8, yaw=0.3, pitch=0.1, pitch_mean=0.05).yaw_pitch()
    near(torch.stack([yaw, pitch])[:, [0, 2]], [[0.0, 0.3], [0.15, 0.05]], 1e-5)


def test_the_eg3d_path_circles_the_front():
    yaw, pitch = eg3d_wiggle(120).yaw_pitch()
    near(yaw.max(), 0.35, 2e-3)
    assert yaw.min() < -0.34
    assert pitch.min() < 0 < pitch.max()


@pytest.mark.parametrize("prior", [GaussianPose(radius=1.0, fov=12.0), *PRIORS])
def test_a_typical_camera_of_a_prior_has_its_distance_and_field_of_view(prior):
    radius, fov = prior.typical()
    assert fov == (18.83 if prior.fov is None else prior.fov)
    if not any(prior.target):
        assert radius == prior.radius


def test_a_typical_camera_of_labels_is_their_median():
    near = [Camera.from_angles(0.1 * k, 0.0, radius=1.0, fov=12.0).label() for k in range(5)]
    far = Camera.from_angles(0.0, 0.0, radius=3.0, fov=20.0).label()
    assert DatasetPoses().bind(torch.cat([*near, far])).typical() == (1.0, 12.0)
