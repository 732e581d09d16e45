"""HeadNet: a small network that reads pose, attributes, depth and mask of a procedural head.

It was trained on the truth of `gan3d.data.heads` by benchmarks/headnet.py and comes with gan3d. It
knows these heads only: what it says of photographs, or of heads seen by a camera with another field
of view, means nothing.

Convention: angles as in `gan3d.data.heads`, radians: yaw > 0 is a camera at +x, pitch > 0 one
above. Depths are camera z in world units of the heads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from gan3d.data.heads import ATTRIBUTE_NAMES, RADIUS
from gan3d.data.heads.attributes import SHAPES, STYLES, SWITCHES

SIDE = 64  # of the image that the network sees
GRID = 16  # side of depth and mask
WEIGHTS = Path(__file__).parent / "weights" / "headnet.safetensors"
# Shapes and switches that are not of the head itself: light, clothes.
_NOT_OF_THE_HEAD = (
    "key_az", "key_el", "key_i", "ambient", "warmth",
    "neckline", "collar", "stripes", "stripe_f", "gray", "dyed",
)  # fmt: skip
IDENTITY_NAMES = tuple(
    name for name in (*SHAPES, *SWITCHES, *STYLES) if name not in _NOT_OF_THE_HEAD
)


@dataclass(frozen=True)
class HeadReading:
    """What HeadNet reads from b images.

    Attributes:
        yaw: of the camera around the head, radians [b].
        pitch: radians [b].
        attributes: in the order of `ATTRIBUTE_NAMES`, each in standard deviations from its mean
            over all heads, [b a]. What cannot be read is about 0.
        depth: camera z [b 1 16 16], where the mask is above 0.5.
        mask: share of the cell that the head covers, in [0, 1], [b 1 16 16].
    """

    yaw: Tensor
    pitch: Tensor
    attributes: Tensor
    depth: Tensor
    mask: Tensor

    @property
    def identity(self) -> Tensor:
        """The attributes of the head's own shape, without color, light and clothes, [b k].

        Compare heads by the cosine.
        """
        columns = [ATTRIBUTE_NAMES.index(name) for name in IDENTITY_NAMES]
        return self.attributes[:, columns]


class HeadNet(nn.Module):
    """Convolutions from 64x64 to 4x4, then 160 features for pose and attributes; depth and mask
    from the 16x16 and 8x8 maps and the features.

    Images of another size are resized to 64 px: larger ones by area, smaller ones bilinearly.

    Attributes:
        mean: of the attributes over all heads, [a].
        std: their standard deviations, [a].
        facts: how the weights were trained and what they reach on held-out heads; empty for new
            weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {}
        self.to16 = nn.Sequential(_conv(3, 24, 5, 2), _conv(24, 48, 3, 2), _Residual(48))
        self.to8 = nn.Sequential(_conv(48, 96, 3, 2), _Residual(96))
        self.to4 = nn.Sequential(_conv(96, 112, 3, 2), _conv(112, 112, 3, 1))
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(112 * 16, 160), nn.LeakyReLU(0.1))
        self.drop = nn.Dropout(0.2)
        self.pose = nn.Linear(160, 2)
        self.attributes = nn.Linear(160, len(ATTRIBUTE_NAMES))
        self.everywhere = nn.Linear(160, 32)
        self.maps = nn.Sequential(_conv(48 + 96 + 32, 48, 1, 1), nn.Conv2d(48, 2, 3, padding=1))
        self.register_buffer("mean", torch.zeros(len(ATTRIBUTE_NAMES)))
        self.register_buffer("std", torch.ones(len(ATTRIBUTE_NAMES)))

    def forward(self, images: Tensor) -> HeadReading:
        """Reads images [b 3 H W] in [-1, 1].

        Raises:
            ValueError: they are no square color images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [b 3 H W] with H = W, in [-1, 1]"
            )
        at16 = self.to16(sized(images.to(self.mean)))  # b 48 16 16
        at8 = self.to8(at16)  # b 96 8 8
        features = self.drop(self.features(self.to4(at8)))  # b 160
        pose = self.pose(features)

        # maps
        whole = self.everywhere(features)[:, :, None, None].expand(-1, -1, GRID, GRID)
        fine = F.interpolate(at8, size=(GRID, GRID), mode="bilinear", align_corners=False)
        depth, mask = self.maps(torch.cat([at16, fine, whole], dim=1)).split(1, dim=1)
        return HeadReading(
            yaw=pose[:, 0],
            pitch=pose[:, 1],
            attributes=self.attributes(features),
            depth=RADIUS + 0.1 * depth,
            mask=mask.sigmoid(),
        )

    def embed(self, images: Tensor) -> Tensor:
        """The 160 features that pose and attributes are read from, [b 160], of images
        [b 3 H W] in [-1, 1].
        """
        return self.features(self.to4(self.to8(self.to16(sized(images.to(self.mean))))))

    def true_slope(self, side: int) -> float:
        """Yaw that is read of true heads per yaw of the camera, at images of about this side."""
        return self.facts["true_slope"]["32" if side < 48 else "64"]

    @classmethod
    def load(cls, path: Path | str = WEIGHTS) -> HeadNet:
        """The network of a file, in evaluation mode, without gradients; the one of gan3d by
        default.
        """
        network = cls()
        with safe_open(str(path), framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            network.facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        return network.eval().requires_grad_(False)


@cache
def headnet() -> HeadNet:
    """The HeadNet of gan3d, on the CPU, loaded once."""
    return HeadNet.load()


def sized(images: Tensor) -> Tensor:
    """Images [b c H W] at the side that HeadNet sees, [b c 64 64]."""
    if images.shape[-1] > SIDE:
        return F.interpolate(images, size=(SIDE, SIDE), mode="area")
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


class _Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, channels, 3, 1), _conv(channels, channels, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
