"""The contract of all discriminators. Nothing here imports Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators.contract import (
    GENERATORS,
    UNPUBLISHED,
    Generator,
    arguments_of,
    register,
)
from gan3d.host import kind_of
from gan3d.randomness import Randomness


@dataclass(frozen=True)
class DiscriminatorOutput:
    """Output of a discriminator.

    Attributes:
        logits: realness, [b]; > 0 is real.
        raw_logits: realness of the raw image, if it is judged separately (CIPS-3D's auxiliary
            image), [b], or None.
        pose: predicted (pitch, yaw) in radians, in the convention of `Camera.sphere_pose`, [b 2],
            or None.
        latent: predicted z, [b z_dim], or None.
        patch_logits: realness per patch, [b 1 h w], or None.
    """

    logits: Tensor
    raw_logits: Tensor | None = None
    pose: Tensor | None = None
    latent: Tensor | None = None
    patch_logits: Tensor | None = None

    @property
    def all_logits(self) -> Tensor:
        """Logits of images and, if judged separately, of raw images, [b] or [2b]."""
        if self.raw_logits is None:
            return self.logits
        return torch.cat([self.logits, self.raw_logits])


DISCRIMINATORS: dict[str, type[Discriminator]] = {}


class Discriminator(nn.Module, ABC):
    """Base class of all discriminators. Subclasses are registered by their class statement.

    Attributes:
        img_resolution: largest accepted side of an image.
        img_resolutions: all accepted sides, ascending; parameters of other sides get no gradient.
        group_size: number of images that are compared with each other (minibatch standard
            deviation); 1 if images are independent.
        fade: weight of the newest block of a progressive discriminator, 1 when fully faded in. The
            harness sets it from its schedule before an iteration.
        needs_raw: whether it also judges the raw image.
        camera_conditioned: whether it uses the camera.
        predicts_pose: whether it predicts the pose of the camera.
        predicts_patches: whether it predicts the realness of patches.
        latent_dim: size of the z it predicts, 0 if it predicts none.
        no_float16: why it does not train in float16, as of `Generator`; "" is no reason.
        tiny: constructor arguments of an instance that runs in seconds on a CPU.
        arguments: constructor arguments of this instance, kept for checkpoints.
    """

    img_resolution: int
    group_size: int = 1
    fade: float = 1.0
    needs_raw: bool = False
    camera_conditioned: bool = False
    predicts_pose: bool = False
    predicts_patches: bool = False
    latent_dim: int = 0
    no_float16: str = UNPUBLISHED
    tiny: ClassVar[dict[str, Any]] = {}
    arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        register(cls, DISCRIMINATORS, "discriminator")

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls)
        instance.__dict__["arguments"] = arguments_of(cls, args, kwargs)
        return instance

    @cached_property
    def img_resolutions(self) -> tuple[int, ...]:
        """All accepted sides of images, ascending."""
        return (self.img_resolution,)

    def know_labels(self, std: Tensor) -> None:
        """Before training: the standard deviation of the labels of all cameras, [25].

        For models that add noise to labels: relative to the labels of a forward pass, it would
        depend on how a batch is split.
        """

    @abstractmethod
    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        """Logits and predictions of images.

        Args:
            image: [b 3 H W].
            raw: raw images [b 3 h w], if `needs_raw`.
            camera: b cameras, if `camera_conditioned`.
            randomness: draws of label noise; None is deterministic.
        """


def for_convolutions(image: Tensor) -> Tensor:
    """Images [b c h w] in the memory format in which their convolutions are fastest: channels last
    on a GPU, whose tensor cores read it so, and every layer keeps it. Else cuDNN transposes what
    enters and leaves each one.
    """
    return image if kind_of(image) == "cpu" else image.contiguous(memory_format=torch.channels_last)


def check_pair(generator: Generator, discriminator: Discriminator) -> None:
    """Checks that a generator and a discriminator fit together.

    Raises:
        ValueError: resolutions differ, or the raw image is missing; names choices that fit.
    """
    g, d = type(generator).__name__, type(discriminator).__name__
    if generator.img_resolution not in discriminator.img_resolutions:
        raise ValueError(
            f"{g} makes images of {generator.img_resolution} px, {d} judges "
            f"{discriminator.img_resolution} px; give both the same img_resolution"
        )
    if discriminator.needs_raw and not generator.has_raw:
        discriminators = sorted(DISCRIMINATORS.items())
        fits_d = [name for name, cls in discriminators if not cls(**cls.tiny).needs_raw]
        fits_g = [name for name, cls in sorted(GENERATORS.items()) if cls.has_raw]
        raise ValueError(
            f"{d} judges a raw image besides the final one, {g} renders none; choose a "
            f"discriminator of {', '.join(fits_d)} or a generator of {', '.join(fits_g)}"
        )
