"""Pose error, depth error and drift of readings that are known."""

import pytest
import torch
from torch import nn

from gan3d.generators import Rendering
from gan3d.metrics.headnet import GRID
from gan3d.metrics.readings import (
    POSES,
    DepthError,
    PoseError,
    attribute_drift,
    depth_error,
    pose_error,
)


class Reader(nn.Module):
    """Stands in for HeadNet: the first pixels are yaw and pitch; depth is a ramp over half of the
    picture.
    """

    def forward(self, images):
        reading = nn.Module()
        reading.yaw, reading.pitch = images[:, 0, 0, 0], images[:, 1, 0, 0]
        reading.mask = torch.zeros(len(images), 1, GRID, GRID)
        reading.mask[..., : GRID // 2] = 1
        reading.depth = ramp(GRID).expand(len(images), 1, -1, -1)
        return reading


def ramp(side: int) -> torch.Tensor:
    return ((torch.arange(side) + 0.5) / side).expand(side, side)


def test_the_pose_error_is_the_mean_square_over_angles_and_views():
    yaw, pitch = torch.tensor([0.0, 0.5]), torch.tensor([0.1, -0.1])
    read = torch.stack([yaw, -yaw, yaw]), torch.stack([pitch, pitch, pitch + 0.2])
    error = pose_error(*read, yaw, pitch)
    torch.testing.assert_close(error, torch.tensor([0, 0.25, 0.02]).double(), rtol=1e-5, atol=1e-9)


def test_the_pose_error_compares_with_the_cameras_of_the_views():
    metric = PoseError(network=Reader())
    images = torch.zeros(1, len(POSES), 3, 4, 4)
    images[0, :, :2, 0, 0] = torch.tensor(POSES)
    metric.update(Rendering(images))
    assert metric.compute()["pose_error"].item() == pytest.approx(0, abs=1e-9)
    metric.update(Rendering(images.neg()))  # mirrored in both
    assert metric.per_head()["pose_error"][1] > 0.1


def test_the_depth_error_knows_no_scale_and_no_shift_but_a_sign():
    truth = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1)
    depth = truth.clone()
    depth[1] = 3 + 0.2 * truth[1]
    depth[2] = -truth[2]
    depth[3] = 2.7
    error = depth_error(depth, truth, torch.ones_like(truth))
    torch.testing.assert_close(error, torch.tensor([0, 0, 4, 1]).double(), rtol=1e-5, atol=1e-9)
    assert depth_error(depth, truth, torch.zeros_like(truth)).isnan().all()


def test_depth_counts_where_the_reading_has_a_head_and_the_model_a_surface():
    side = 4 * GRID
    depth = ramp(side).expand(1, len(POSES), 1, -1, -1).clone()
    depth[..., side // 2 :] = 100  # not of the head
    depth[..., :8, :] = torch.inf  # no surface
    views = Rendering(torch.zeros(1, len(POSES), 3, side, side), depth=depth)
    metric = DepthError(network=Reader())
    metric.update(views)
    assert metric.compute()["depth_error"].item() == pytest.approx(0, abs=1e-9)
    opacity = torch.ones_like(depth)
    depth[..., 8:16, :] = 50
    opacity[..., 8:16, :] = 0.2
    metric.update(Rendering(views.image, depth=depth, opacity=opacity))
    assert metric.per_head()["depth_error"][1].item() == pytest.approx(0, abs=1e-9)


def test_drift_is_the_deviation_over_views():
    attributes = torch.zeros(2, 4, 3)
    attributes[1, :, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    attributes[:, :, 1] = 5
    drift = attribute_drift(attributes)
    torch.testing.assert_close(drift, torch.tensor([0, 1 / 3**0.5]).double())
