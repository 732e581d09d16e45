"""The canvas of a browser: where its camera stands in our world, and where pictures stand on it.

Convention: viser's camera looks along +z, its y points down (OpenCV), and (wxyz, position) take it
to the world, as `cam2world` does; its world is ours if up is +y. A canvas has a vertical field of
view; pictures are squares in the middle of the canvas, beside each other, as large as fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gan3d.apps.pictures import PAPER
from gan3d.apps.video import resized
from gan3d.camera import Camera
from gan3d.camera.pinhole import focal_length, intrinsics_from_focal

MIN_SIDE = 256  # pixels of a picture on a canvas; smaller ones are enlarged, pixel by pixel


def client_camera(wxyz: Sequence[float], position: Sequence[float], fov: float) -> Camera:
    """The camera of a picture that is seen from where a browser's camera stands.

    Args:
        wxyz: unit quaternion from camera to world, real part first.
        position: in the world.
        fov: field of view of the picture, degrees.
    """
    w, x, y, z = wxyz
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.from_quat([x, y, z, w]).as_matrix())
    pose[:3, 3] = torch.as_tensor(np.asarray(position, dtype=np.float64))
    intrinsics = intrinsics_from_focal(focal_length(fov, None))
    return Camera(pose[None].float(), intrinsics.float().reshape(1, 3, 3))


def picture_height(num: int, aspect: float) -> float:
    """Height of each of `num` pictures, as a share of the canvas's.

    Args:
        num: of pictures.
        aspect: width of the canvas divided by its height.
    """
    return min(1.0, aspect / num)


def canvas_fov(fov: float, num: int, aspect: float) -> float:
    """Vertical field of view of a canvas on which `num` pictures have one of `fov` degrees,
    radians.
    """
    tangent = math.tan(math.radians(fov) / 2) / picture_height(num, aspect)
    return 2 * math.atan(tangent)


def on_canvas(pictures: Sequence[np.ndarray], aspect: float) -> np.ndarray:
    """Pictures in the middle of a white canvas, uint8 [h w 3].

    Args:
        pictures: uint8 [H W 3] each, squares; smaller ones are enlarged to the largest.
        aspect: width of the canvas divided by its height.
    """
    row = beside(pictures)
    height = round(len(row) / picture_height(len(pictures), aspect))
    width = max(row.shape[1], round(height * aspect))
    canvas = np.full((height, width, 3), PAPER, dtype=np.uint8)
    top, left = (height - row.shape[0]) // 2, (width - row.shape[1]) // 2
    canvas[top : top + row.shape[0], left : left + row.shape[1]] = row
    return canvas


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [H W 3] beside each other, each enlarged to the side of the largest."""
    side = max(MIN_SIDE, *(len(picture) for picture in pictures))
    return np.concatenate([resized(picture, (side, side)) for picture in pictures], axis=1)
