"""HeadNet reads heads that it has not seen as well as its metadata says."""

import pytest
import torch
import torch.nn.functional as F

from gan3d.data.heads import ATTRIBUTE_NAMES, head_camera, render_heads, sample_angles, sample_heads
from gan3d.metrics import HeadNet
from gan3d.metrics.headnet import IDENTITY_NAMES, WEIGHTS, headnet

NUM, SEED = 24, 4711  # of neither training nor test
# Largest errors of yaw and pitch, degrees, and of depth, world units.
YAW, PITCH, DEPTH = 2.5, 2.0, 0.013


@pytest.fixture(scope="module")
def heads():
    """Two views of heads from cameras like those of FFHQ."""
    attributes = sample_heads(SEED, range(NUM)).select(torch.arange(NUM).repeat(2))
    yaw, pitch = (angles.T.flatten() for angles in sample_angles(SEED, range(NUM), 2))
    return yaw, pitch, render_heads(attributes, head_camera(yaw, pitch), 64)


@pytest.mark.parametrize("side", [64, 32, 128])
def test_it_reads_pose_depth_mask_and_identity_of_new_heads(heads, side):
    yaw, pitch, views = heads
    images = F.interpolate(views.image, size=(side, side), mode="area")
    reading = headnet()(images)
    errors = [torch.rad2deg((read - true).abs()).mean() for read, true in
              ((reading.yaw, yaw), (reading.pitch, pitch))]  # fmt: skip
    depth = F.avg_pool2d(views.depth, 4)
    known = depth.isfinite()
    deviation = (reading.depth - depth)[known].abs().mean()
    outline = (reading.mask - F.avg_pool2d(views.mask, 4)).abs().mean()
    unit = F.normalize(reading.identity, dim=1)
    found = ((unit[:NUM] @ unit[NUM:].mT).argmax(1) == torch.arange(NUM)).float().mean()
    print(f"{side} px: yaw {errors[0]:.2f}, pitch {errors[1]:.2f} degrees, depth {deviation:.4f}, "
          f"mask {outline:.3f}, retrieval among {NUM} {found:.2f}")  # fmt: skip
    assert errors[0] <= YAW
    assert errors[1] <= PITCH
    assert deviation <= DEPTH
    assert outline <= 0.04
    assert found >= 0.7


def test_a_mirrored_picture_is_read_as_the_other_yaw(heads):
    yaw, _, views = heads
    read, mirrored = headnet()(views.image).yaw, headnet()(views.image.flip(3)).yaw
    assert torch.rad2deg((read + mirrored).abs()).mean() < 4
    assert torch.corrcoef(torch.stack([read.double(), yaw]))[0, 1] > 0.95


def test_the_file_is_small_and_says_how_it_was_made_and_what_it_reaches():
    assert WEIGHTS.stat().st_size <= 4e6
    facts = headnet().facts
    assert facts["command"].startswith("python benchmarks/headnet.py")
    assert facts["commit"]
    assert tuple(facts["attributes"]) == ATTRIBUTE_NAMES
    at64 = facts["heldout"]["narrow_64"]
    assert at64["yaw_degrees"] <= YAW
    assert at64["pitch_degrees"] <= PITCH
    assert at64["depth"] <= DEPTH < at64["depth_of_mean_map"]
    gallery = facts["heldout"]["gallery_64"]
    assert gallery["retrieval"] >= 0.6 > gallery["retrieval_by_pixels"]
    assert headnet().true_slope(32) == facts["true_slope"]["32"]
    assert headnet().true_slope(64) == headnet().true_slope(512) == facts["true_slope"]["64"]


def test_identity_leaves_out_light_color_and_clothes():
    assert {"skull_w", "glasses", "long"} <= set(IDENTITY_NAMES)
    left_out = set(ATTRIBUTE_NAMES) - set(IDENTITY_NAMES)
    assert {"key_az", "skin_tone", "hair_r", "back_low_g", "stripes", "collar"} <= left_out


def test_pictures_of_another_shape_are_refused():
    for shape in ((1, 3, 32, 48), (3, 32, 32), (1, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"expected \[b 3 H W\] with H = W"):
            HeadNet()(torch.zeros(shape))
