"""Where the cameras of fakes come from: distributions of poses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gan3d.camera.camera import Camera, check_labels
from gan3d.camera.pinhole import focal_length
from gan3d.randomness import Randomness


class PosePrior(ABC):
    """A distribution of cameras. A sample is one camera per image, from draws named `pose.*` of
    that image alone.
    """

    @abstractmethod
    def sample(self, randomness: Randomness) -> Camera:
        """len(randomness) cameras, on its device and of its dtype."""


@dataclass(frozen=True)
class FixedPose(PosePrior):
    """Always the mean pose, as `Camera.from_angles` has it; the priors below add a spread to it."""

    yaw_mean: float = 0.0
    pitch_mean: float = 0.0
    radius: float = 2.7
    fov: float | None = None
    focal: float | None = None
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        focal_length(self.fov, self.focal)

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        """Deviations (yaw [b], pitch [b]) from the mean."""
        zeros = torch.zeros(len(randomness), device=randomness.device, dtype=randomness.dtype)
        return zeros, zeros

    def sample(self, randomness: Randomness) -> Camera:
        yaw, pitch = self.offsets(randomness)
        pitch = (self.pitch_mean + pitch).clamp(-math.pi / 2, math.pi / 2)
        return Camera.from_angles(
            self.yaw_mean + yaw,
            pitch,
            radius=self.radius,
            fov=self.fov,
            focal=self.focal,
            target=self.target,
        )


@dataclass(frozen=True)
class UniformPose(FixedPose):
    """yaw ~ U(yaw_mean -+ yaw_range), pitch ~ U(pitch_mean -+ pitch_range), half-widths in
    radians.
    """

    yaw_range: float = 0.5
    pitch_range: float = 0.25

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        yaw, pitch = (
            2 * randomness.uniform("pose.yaw") - 1,
            2 * randomness.uniform("pose.pitch") - 1,
        )
        return self.yaw_range * yaw, self.pitch_range * pitch


@dataclass(frozen=True)
class GaussianPose(FixedPose):
    """yaw ~ N(yaw_mean, yaw_std²), pitch ~ N(pitch_mean, pitch_std²); the defaults are FFHQ's in
    CIPS-3D and GRAM.
    """

    yaw_std: float = 0.3
    pitch_std: float = 0.155

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        return self.yaw_std * randomness.normal("pose.yaw"), self.pitch_std * randomness.normal(
            "pose.pitch"
        )


@dataclass(frozen=True)
class TruncatedGaussianPose(FixedPose):
    """GaussianPose within `bound` standard deviations t: Phi^-1(Phi(-t) + u (Phi(t) - Phi(-t))), u
    ~ U[0, 1).
    """

    yaw_std: float = 0.3
    pitch_std: float = 0.155
    bound: float = 2.0

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        yaw, pitch = (
            self._truncated(randomness.uniform(name)) for name in ("pose.yaw", "pose.pitch")
        )
        return self.yaw_std * yaw, self.pitch_std * pitch

    def _truncated(self, u: Tensor) -> Tensor:
        # unlike cips3d: not the first valid of four draws, because so one draw per image does and
        # never lies outside
        low = torch.special.ndtr(u.new_tensor(-self.bound))
        return torch.special.ndtri(low + u * (1 - 2 * low)).clamp(-self.bound, self.bound)


@dataclass(frozen=True)
class SphereUniformPose(FixedPose):
    """Uniform by area on a band of the sphere: yaw ~ U(yaw_mean -+ yaw_range), sin(pitch) uniform
    between its limits.

    The `spherical_uniform` of CIPS-3D and pi-GAN with v in [v0, v1] is sin(pitch) = 1 - 2 v, so
    that CARLA's v in [0, 85/180] is the default: pitch from 3.2 degrees to the pole, all around.
    `pitch_mean` must stay 0.
    """

    yaw_range: float = math.pi
    pitch_min: float = math.asin(1 - 2 * 85 / 180)
    pitch_max: float = math.pi / 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pitch_mean != 0:
            raise ValueError(
                f"pitch_mean {self.pitch_mean} has no meaning here; give pitch_min and pitch_max"
            )
        if not -math.pi / 2 <= self.pitch_min <= self.pitch_max <= math.pi / 2:
            raise ValueError(
                f"pitch limits {self.pitch_min}, {self.pitch_max} are not ordered within -+pi/2 "
                "radians"
            )

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        low, high = math.sin(self.pitch_min), math.sin(self.pitch_max)
        sine = low + (high - low) * randomness.uniform("pose.pitch")
        return self.yaw_range * (2 * randomness.uniform("pose.yaw") - 1), sine.clamp(-1, 1).asin()


@dataclass(frozen=True)
class DatasetPoses(PosePrior):
    """The cameras of a data set, all equally likely; `mirror`: half of the draws mirrored, as a
    mirrored data set has.

    `bind` gives it the labels [n 25], which YAML cannot carry.
    """

    mirror: bool = False
    labels: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def bind(self, labels: Tensor) -> DatasetPoses:
        """The prior of these labels [n 25]; they are checked."""
        check_labels(labels)
        bound = DatasetPoses(self.mirror)
        object.__setattr__(bound, "labels", labels)
        return bound

    def sample(self, randomness: Randomness) -> Camera:
        if self.labels is None:
            raise ValueError(
                "DatasetPoses has no labels yet; sample from DatasetPoses().bind(labels), labels "
                "[n 25]"
            )
        index = randomness.integers("pose.index", len(self.labels)).to(self.labels.device)
        camera = Camera.from_label(
            self.labels[index].to(device=randomness.device, dtype=randomness.dtype)
        )
        if not self.mirror:
            return camera
        flip = randomness.uniform("pose.mirror")[:, None] < 0.5
        return Camera.from_label(torch.where(flip, camera.mirror().label(), camera.label()))
