"""Fakes: where the cameras and latents of generated images come from during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gan3d.camera import PosePrior
from gan3d.schedules import Ramp
from gan3d.training.losses import PoseConditioning


@dataclass(frozen=True)
class Fakes:
    """How fakes are drawn and rendered during training.

    Args:
        poses: distribution of the rendering cameras; None draws them from the data set's labels.
        conditioning: pose conditioning of the generator, for camera-conditioned ones.
        style_mixing: probability that the later latents of an image come from a second z.
        style_mixing_camera: camera that the second z is mapped with: the conditioning camera, as
            the first z, or the rendering camera, as published, which tells the generator the pose
            that swapping hides.
        raw_resolution: side of the volume-rendered image, a ramp in kimg; the generator's own if
            not given.
        density_noise: standard deviation of noise on densities, a ramp in kimg.
        views: views of each scene in the generator phase; its gradient is the mean over them. More
            than 1 needs a strictly 3D generator.
    """

    poses: PosePrior | None = None
    conditioning: PoseConditioning = PoseConditioning()
    style_mixing: float = 0.0
    style_mixing_camera: Literal["conditioning", "rendering"] = "conditioning"
    raw_resolution: Ramp = Ramp()
    density_noise: Ramp = Ramp()
    views: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.style_mixing <= 1:
            raise ValueError(f"style_mixing is {self.style_mixing}; expected a probability")
        if self.views < 1:
            raise ValueError(f"views is {self.views}; expected at least 1 view per scene")
