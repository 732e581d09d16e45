"""What every discriminator is. Nothing here imports Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators.contract import GENERATORS, Generator, arguments_of, register
from gan3d.randomness import Randomness


@dataclass(frozen=True)
class DiscriminatorOutput:
    """A discriminator's answer.

    Attributes:
        logits: realness, [b]; > 0 says real.
        raw_logits: realness of the raw image, where it is judged on its own (CIPS-3D's auxiliary
            one), [b], or None.
        pose: predicted (pitch, yaw) in radians, [b 2], in the convention of Camera.sphere_pose, or
            None.
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
        """Logits of the images and, if they are judged separately, of the raw images, [b] or [2b]."""
        if self.raw_logits is None:
            return self.logits
        return torch.cat([self.logits, self.raw_logits])


DISCRIMINATORS: dict[str, type[Discriminator]] = {}


class Discriminator(nn.Module, ABC):
    """Base of all discriminators. Registration is the class statement.

    Facts: `img_resolution`; `img_resolutions`, all that it can judge, ascending (what only others
    use gets no gradient); `group_size`, how many images are judged together (minibatch standard
    deviation), 1 if each is judged alone. Capabilities: `needs_raw` (judges the raw image, too),
    `camera_conditioned`, `predicts_pose`, `predicts_patches`; `latent_dim` is the length of the z
    that it tells, 0 if none.
    `fade` is the share of the newest block of a progressive discriminator, 1 when it is faded in:
    the harness sets it from its schedule before an iteration.
    `tiny` are constructor arguments of an instance that runs in seconds on a CPU; `arguments` are
    those of this one.
    """

    img_resolution: int
    group_size: int = 1
    fade: float = 1.0
    needs_raw: bool = False
    camera_conditioned: bool = False
    predicts_pose: bool = False
    predicts_patches: bool = False
    latent_dim: int = 0
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
        return (self.img_resolution,)

    @abstractmethod
    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        """Judges images [b 3 H W]; `raw` [b 3 h w] where `needs_raw`, `camera` where
        `camera_conditioned`.
        """


def check_pair(generator: Generator, discriminator: Discriminator) -> None:
    """Refuses a pair that can not work, with what is missing and which choices fit."""
    g, d = type(generator).__name__, type(discriminator).__name__
    if generator.img_resolution not in discriminator.img_resolutions:
        raise ValueError(
            f"{g} makes images of {generator.img_resolution} px, {d} judges "
            f"{discriminator.img_resolution} px; give both the same img_resolution"
        )
    if discriminator.needs_raw and not generator.has_raw:
        fits_d = [
            name for name, cls in sorted(DISCRIMINATORS.items()) if not cls(**cls.tiny).needs_raw
        ]
        fits_g = [name for name, cls in sorted(GENERATORS.items()) if cls.has_raw]
        raise ValueError(
            f"{d} judges a raw image beside the final one, {g} renders none; choose a "
            f"discriminator of {', '.join(fits_d)} or a generator of {', '.join(fits_g)}"
        )
