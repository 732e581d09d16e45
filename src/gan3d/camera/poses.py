"""Distributions of camera poses, from which the cameras of fakes are sampled."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gan3d.camera.camera import Camera
from gan3d.camera.labels import check_labels, check_views
from gan3d.camera.pinhole import field_of_view, focal_length
from gan3d.randomness import Randomness


class PosePrior(ABC):
    """A distribution of cameras.

    The camera of an image depends on draws of that image only, which are named `pose.*`.
    """

    @abstractmethod
    def sample(self, randomness: Randomness) -> Camera:
        """One camera per image of `randomness`, with its device and dtype."""

    def typical(self) -> tuple[float, float]:
        """Distance from the world's origin, and field of view in degrees: medians of its cameras,
        to five digits.
        """
        return typical_view(self.sample)


def typical_view(sample: Callable[[Randomness], Camera]) -> tuple[float, float]:
    """What `PosePrior.typical` says, of any function that draws one camera per image."""
    camera = sample(Randomness(0, range(1024)))
    distance = camera.origins.norm(dim=-1).median()
    fov = field_of_view(camera.intrinsics[:, 0, 0]).median()
    return float(f"{float(distance):.5g}"), float(f"{float(fov):.5g}")


@dataclass(frozen=True)
class FixedPose(PosePrior):
    """Always the mean pose; the priors below add deviations to it.

    Attributes:
        yaw_mean: radians.
        pitch_mean: radians.
        radius: distance from the target.
        fov: degrees; 18.83 if neither `fov` nor `focal` is given.
        focal: focal length in image widths, instead of `fov`.
        target: point to look at.

    Raises:
        ValueError: a number is out of range, or both `fov` and `focal` are given.
    """

    yaw_mean: float = 0.0
    pitch_mean: float = 0.0
    radius: float = 2.7
    fov: float | None = None
    focal: float | None = None
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        focal_length(self.fov, self.focal)
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius is {self.radius}; expected a positive distance")
        if not -math.pi / 2 <= self.pitch_mean <= math.pi / 2:
            raise ValueError(
                f"pitch_mean is {self.pitch_mean}; expected -pi/2 to pi/2 (radians, 0 is frontal)"
            )

    def _check_spreads(self, *names: str) -> None:
        """Raises if one of these fields is negative or not finite."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; expected 0 or more")

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        """Deviations (yaw [b], pitch [b]) from the mean."""
        zeros = torch.zeros(len(randomness), device=randomness.device, dtype=randomness.dtype)
        return zeros, zeros

    def sample(self, randomness: Randomness) -> Camera:
        yaw_offset, pitch_offset = self.offsets(randomness)
        yaw = self.yaw_mean + yaw_offset
        pitch = (self.pitch_mean + pitch_offset).clamp(-math.pi / 2, math.pi / 2)
        return Camera.from_angles(
            yaw, pitch, radius=self.radius, fov=self.fov, focal=self.focal, target=self.target
        )


@dataclass(frozen=True)
class UniformPose(FixedPose):
    """yaw ~ U(yaw_mean -+ yaw_range), pitch ~ U(pitch_mean -+ pitch_range); radians."""

    yaw_range: float = 0.5
    pitch_range: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_spreads("yaw_range", "pitch_range")

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        yaw = 2 * randomness.uniform("pose.yaw") - 1
        pitch = 2 * randomness.uniform("pose.pitch") - 1
        return self.yaw_range * yaw, self.pitch_range * pitch


@dataclass(frozen=True)
class GaussianPose(FixedPose):
    """yaw ~ N(yaw_mean, yaw_std²), pitch ~ N(pitch_mean, pitch_std²); radians.

    The defaults are those of CIPS-3D and GRAM for FFHQ.
    """

    yaw_std: float = 0.3
    pitch_std: float = 0.155

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_spreads("yaw_std", "pitch_std")

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        yaw = randomness.normal("pose.yaw")
        pitch = randomness.normal("pose.pitch")
        return self.yaw_std * yaw, self.pitch_std * pitch


@dataclass(frozen=True)
class TruncatedGaussianPose(FixedPose):
    """GaussianPose truncated at t = `bound` standard deviations.

    Offsets are Phi^-1(Phi(-t) + u (Phi(t) - Phi(-t))) standard deviations with u ~ U[0, 1).
    """

    yaw_std: float = 0.3
    pitch_std: float = 0.155
    bound: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_spreads("yaw_std", "pitch_std", "bound")

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        yaw = self._truncated(randomness.uniform("pose.yaw"))
        pitch = self._truncated(randomness.uniform("pose.pitch"))
        return self.yaw_std * yaw, self.pitch_std * pitch

    def _truncated(self, u: Tensor) -> Tensor:
        # unlike cips3d: not the first valid one of four draws, because the inverse distribution
        # function needs one draw per image and is never out of bounds.
        low = torch.special.ndtr(u.new_full((), -self.bound))
        return torch.special.ndtri(low + u * (1 - 2 * low)).clamp(-self.bound, self.bound)


@dataclass(frozen=True)
class SphereUniformPose(FixedPose):
    """Uniform by area on a band of the sphere: yaw ~ U(yaw_mean -+ yaw_range), uniform sin(pitch).

    The `spherical_uniform` of CIPS-3D and pi-GAN with v in [v0, v1] is sin(pitch) = 1 - 2 v. The
    default is CARLA's v in [0, 85/180]: pitch from 3.2 degrees to the pole, all yaws. `pitch_mean`
    must stay 0.

    Raises:
        ValueError: `pitch_mean` is not 0, or the limits of pitch are invalid.
    """

    yaw_range: float = math.pi
    pitch_min: float = math.asin(1 - 2 * 85 / 180)
    pitch_max: float = math.pi / 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_spreads("yaw_range")
        if self.pitch_mean != 0:
            raise ValueError(
                f"pitch_mean {self.pitch_mean} is not used here; set pitch_min and pitch_max"
            )
        if not -math.pi / 2 <= self.pitch_min <= self.pitch_max <= math.pi / 2:
            raise ValueError(
                f"got pitch_min {self.pitch_min} and pitch_max {self.pitch_max}; expected "
                "-pi/2 <= pitch_min <= pitch_max <= pi/2 (radians)"
            )

    def offsets(self, randomness: Randomness) -> tuple[Tensor, Tensor]:
        low, high = math.sin(self.pitch_min), math.sin(self.pitch_max)
        sine = low + (high - low) * randomness.uniform("pose.pitch")
        yaw = 2 * randomness.uniform("pose.yaw") - 1
        return self.yaw_range * yaw, sine.clamp(-1, 1).asin()


@dataclass(frozen=True)
class DatasetPoses(PosePrior):
    """The cameras of a data set, with equal probability.

    `bind` sets the labels [n 25], which YAML cannot contain. They are copied to the device once:
    cameras are drawn there.

    Attributes:
        mirror: whether half of the cameras are mirrored, as in a mirrored data set.
    """

    mirror: bool = False
    labels: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _copies: dict[torch.device, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def bind(self, labels: Tensor) -> DatasetPoses:
        """The prior of given labels [n 25].

        Raises:
            ValueError: a label is not a camera, or one that does not see the scene; see
                `check_labels` and `check_views`.
        """
        check_labels(labels)
        check_views(labels)
        bound = DatasetPoses(self.mirror)
        object.__setattr__(bound, "labels", labels)
        return bound

    def sample(self, randomness: Randomness) -> Camera:
        if self.labels is None:
            raise ValueError(
                "DatasetPoses has no labels; sample from DatasetPoses().bind(labels) with labels "
                "[n 25]"
            )
        device = randomness.device
        if device not in self._copies:
            self._copies[device] = self.labels.to(device)
        index = randomness.integers("pose.index", len(self.labels))
        camera = Camera.from_label(self._copies[device][index].to(randomness.dtype))
        if not self.mirror:
            return camera
        flip = randomness.uniform("pose.mirror")[:, None] < 0.5
        return Camera.from_label(torch.where(flip, camera.mirror().label(), camera.label()))
