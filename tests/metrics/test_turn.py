"""Turn and identity of readings that are known."""

import pytest
import torch
from torch import nn

from gan3d.metrics.headnet import IDENTITY_NAMES
from gan3d.metrics.turn import YAWS, HeadTurn, turn_slope


class Reader(nn.Module):
    """Stands in for HeadNet: the first pixel is the yaw, the second the number of the head."""

    def __init__(self, slope: float = 1.0):
        super().__init__()
        self.slope = slope

    def forward(self, images):
        reading = nn.Module()
        reading.yaw = images[:, 0, 0, 0]
        reading.identity = nn.functional.one_hot(
            images[:, 0, 0, 1].long(), len(IDENTITY_NAMES)
        ).float()
        return reading

    def true_slope(self, side):
        assert side == 8
        return self.slope


def pictures(turns, heads) -> torch.Tensor:
    """[b y 3 8 8]: heads that turn by a share of the camera's yaw, beside a yaw of their own."""
    images = torch.zeros(len(turns), len(YAWS), 3, 8, 8)
    own = 0.1 * torch.arange(len(turns))[:, None]
    images[..., 0, 0, 0] = torch.tensor(turns)[:, None] * torch.tensor(YAWS) + own
    images[..., 0, 0, 1] = torch.as_tensor(heads).float()
    return images


def test_the_slope_is_that_of_a_line_whatever_its_offset():
    yaw = torch.tensor([-0.4, 0.0, 0.1, 0.6])
    read = torch.stack([0.8 * yaw + 0.3, -yaw, 0 * yaw + 0.2])
    torch.testing.assert_close(turn_slope(read, yaw), torch.tensor([0.8, -1, 0]).double())
    # least squares: a deviation counts by its lever
    bent = 0.8 * yaw + torch.tensor([0.0, 0.0, 0.0, 0.1])
    lever = (0.6 - yaw.mean()) / (yaw - yaw.mean()).square().sum()
    assert turn_slope(bent[None], yaw).item() == pytest.approx(0.8 + 0.1 * lever.item())
    with pytest.raises(ValueError, match="at least two different ones"):
        turn_slope(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected \[b y\] and \[y\]"):
        turn_slope(torch.zeros(2, 3), yaw)


def test_the_turn_is_the_mean_over_heads_in_units_of_true_heads():
    metric = HeadTurn(network=Reader(slope=0.9))
    metric.update(pictures([0.9, 0.0, -0.9], torch.arange(3)[:, None]))
    metric.update(pictures([0.45], [[3]]))
    assert metric.compute()["turn"].item() == pytest.approx(0.125)


def test_identity_is_one_for_heads_that_stay_and_zero_for_heads_that_change_like_any_other():
    stays = HeadTurn(network=Reader())
    for head in range(3):
        stays.update(pictures([1.0], [[head]]))
    assert stays.compute()["identity"].item() == pytest.approx(1)
    # two of four turned views show the head of the front; different heads are never alike
    half = HeadTurn(network=Reader())
    half.update(pictures([1.0, 1.0], [[0, 0, 0, 9, 9], [1, 1, 1, 8, 8]]))
    assert half.compute()["identity"].item() == pytest.approx(0.5)
    # all heads are the same one: nothing tells whether it stays
    changes = HeadTurn(network=Reader())
    changes.update(pictures([1.0] * 3, [[1, 2, 0, 2, 1], [2, 0, 1, 0, 2], [0, 1, 2, 1, 0]]))
    assert changes.compute()["identity"].item() == pytest.approx((0 - 0.5) / (1 - 0.5))


def test_too_few_heads_and_other_shapes_are_refused():
    metric = HeadTurn(network=Reader())
    metric.update(pictures([1.0], [[0]]))
    with pytest.raises(ValueError, match="1 heads; identity compares at least 2"):
        metric.compute()
    with pytest.raises(ValueError, match=r"expected \[b 5 3 H W\]"):
        metric.update(torch.zeros(2, 4, 3, 8, 8))
    with pytest.raises(ValueError, match="expected 0 and at least one other"):
        HeadTurn([-0.5, 0.5], network=Reader())
