"""Discriminators of GRAM (Deng et al. 2022, 3.4) and GRAM-HD (Xiang et al. 2023, 3.3).

The main network is pi-GAN's residual CoordConv network with three outputs: realness, and the
camera's pitch and yaw. GRAM-HD adds a PatchGAN (Isola et al. 2017, section 3.2.2), which judges
overlapping patches of the same image.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.discriminators.contract import Discriminator, DiscriminatorOutput, for_convolutions
from gan3d.discriminators.pigan import CoordResidualBlock, widths
from gan3d.layers.precision import full_precision
from gan3d.ops.bias_act import LRELU_SLOPE
from gan3d.randomness import Randomness


class PatchGAN(nn.Module):
    """Realness of patches: `num_layers` 4x4 convolutions of stride 2, then two of stride 1.

    All have padding 1. Only the first and the last have a bias (the others originally preceded a
    normalization). All but the last are followed by a leaky ReLU. Channels double with each
    convolution, up to eight times those of the first.

    Args:
        width: channels of the first convolution.
        num_layers: D, number of convolutions of stride 2.
    """

    def __init__(self, width: int, num_layers: int):
        super().__init__()
        channels = [3, *(width * min(2**k, 8) for k in range(num_layers + 1)), 1]
        self.convs = nn.ModuleList()
        for k, (i, o) in enumerate(pairwise(channels)):
            stride = 2 if k < num_layers else 1
            bias = k in (0, num_layers + 1)
            self.convs.append(nn.Conv2d(i, o, 4, stride=stride, padding=1, bias=bias))

    def forward(self, image: Tensor) -> Tensor:
        """[b 3 H W] -> [b 1 h w], h = H / 2^D - 2."""
        *hidden, last = self.convs
        for conv in hidden:
            image = F.leaky_relu(conv(image), LRELU_SLOPE)
        with full_precision(image):
            return last(image.to(next(last.parameters()).dtype))


class GRAMDiscriminator(Discriminator):
    """Realness and pose of images of one size; with `patch` also the realness of patches.

    The defaults are GRAM-HD's model for 256 px without its patch discriminator (12.4 million
    parameters, with it 15.2); img_resolution 64 is GRAM's model.

    Args:
        img_resolution: a power of two.
        patch: whether to add a patch discriminator (GRAM-HD).
        channels: channels of the main network at img_resolution, half of it, .., 2; None is
            min(400, 8192 / resolution).
        patch_width: channels of the patch discriminator's first layer; None is
            min(64, 16384 / img_resolution).
        patch_layers: number of its layers of stride 2; None is max(3, log2(img_resolution) - 6).

    Raises:
        ValueError: the sizes are invalid.
    """

    predicts_pose = True
    no_float16 = ""
    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "patch": True,
        "channels": (4, 8, 12, 12, 12),
        "patch_width": 4,
    }

    def __init__(
        self,
        *,
        img_resolution: int = 256,
        patch: bool = False,
        channels: tuple[int, ...] | None = None,
        patch_width: int | None = None,
        patch_layers: int | None = None,
    ):
        super().__init__()
        at = widths(img_resolution, channels)
        self.img_resolution = img_resolution
        self.predicts_patches = patch
        self.from_rgb = nn.Conv2d(3, at[0], 1)
        self.layers = nn.Sequential(*(CoordResidualBlock(i, o) for i, o in pairwise(at)))
        self.final_layer = nn.Conv2d(at[-1], 3, 2)

        # Patch discriminator.
        if patch_layers is None:
            patch_layers = max(3, img_resolution.bit_length() - 7)
        if patch and img_resolution < 4 * 2**patch_layers:
            raise ValueError(
                f"img_resolution {img_resolution} is too small for a patch discriminator of "
                f"{patch_layers} layers; use {4 * 2**patch_layers} px, fewer patch_layers or "
                "patch=False"
            )
        patch_width = min(64, 16384 // img_resolution) if patch_width is None else patch_width
        self.patchgan = PatchGAN(patch_width, patch_layers) if patch else None

    def forward(
        self,
        image: Tensor,
        *,
        raw: Tensor | None = None,
        camera: Camera | None = None,
        randomness: Randomness | None = None,
    ) -> DiscriminatorOutput:
        side = self.img_resolution
        if image.ndim != 4 or image.shape[2:] != (side, side):
            raise ValueError(
                f"{type(self).__name__} judges images of {side} px, got shape "
                f"{tuple(image.shape)}; resize them or set img_resolution"
            )
        image = for_convolutions(image)
        x = self.layers(F.leaky_relu(self.from_rgb(image), LRELU_SLOPE))
        with full_precision(x):
            out = self.final_layer(x.to(self.final_layer.weight.dtype)).flatten(1)
        logits, pose = out.split([1, 2], dim=1)
        patch_logits = None if self.patchgan is None else self.patchgan(image)
        return DiscriminatorOutput(logits.squeeze(1), pose=pose, patch_logits=patch_logits)
