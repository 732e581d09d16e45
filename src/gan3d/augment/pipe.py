"""The augmentation pipe of ADA (Karras et al. 2020, "Training GANs with limited data").

    augment(x) = cutout(noise(filter(recolor(warp(x)))))

Every transform is applied to every image with a probability proportional to p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.augment.color import color_transform, recolor
from gan3d.augment.corruption import add_noise, cut_out, filter_bands
from gan3d.augment.geometry import inverse_transform, warp
from gan3d.augment.transforms import Transforms
from gan3d.layers.precision import full_precision
from gan3d.layers.resize import filtered_resizing
from gan3d.randomness import Randomness


def augment(images: Tensor, transforms: Transforms, p: float, draw: Randomness) -> Tensor:
    """Augments images; differentiable any number of times.

    Computes without autocast, in float32 or more. Returns the images themselves if p is 0 or there
    are no transforms.

    Args:
        images: [b c h w] in [-1, 1]; 1 (gray), 3 (RGB) or a multiple of 3 channels, all transformed
            alike.
        transforms: the transforms.
        p: their probability, in [0, 1].
        draw: one stream per image and transform, on the CPU: the matrices are made there, and go to
            the device of the images without waiting for it.

    Returns:
        [b c h w], not confined to [-1, 1].

    Raises:
        ValueError: images and draws differ in number.
    """
    if images.ndim != 4 or len(images) != len(draw):
        raise ValueError(
            f"augment got images of shape {tuple(images.shape)} and draws for {len(draw)}; "
            "expected [b c h w] and b"
        )
    if p <= 0 or not transforms.any:
        return images
    t = transforms
    channels, h, w = images.shape[1:]
    with full_precision(images):
        x = images.to(torch.promote_types(images.dtype, torch.float32))
        if t.geometric:
            x = warp(x, inverse_transform(t, p, draw, w, h))
        if t.coloring:
            x = recolor(x, color_transform(t, p, draw, channels))
        if t.imgfilter > 0:
            x = filter_bands(x, t, p, draw)
        if t.noise > 0:
            x = add_noise(x, t, p, draw)
        if t.cutout > 0:
            x = cut_out(x, t, p, draw)
        return x.to(images.dtype)


def augment_pair(
    image: Tensor, raw: Tensor | None, transforms: Transforms, p: float, draw: Randomness
) -> tuple[Tensor, Tensor | None]:
    """Augments images and their raw images alike (dual discrimination).

    The raw image is resized to the size of the image, augmented as three more channels of it, and
    resized back.

    Args:
        image: [b 3 H W].
        raw: [b 3 h w], or None.
        transforms: the transforms.
        p: their probability, in [0, 1].
        draw: one stream per image and transform.
    """
    if p <= 0 or not transforms.any:
        return image, raw
    if raw is None:
        return augment(image, transforms, p, draw), None
    both = torch.cat([image, filtered_resizing(raw, image.shape[-1])], dim=1)
    image, large = augment(both, transforms, p, draw).split([image.shape[1], raw.shape[1]], dim=1)
    return image, filtered_resizing(large, raw.shape[-1])


class Percentile(Randomness):
    """Draws for debugging: every transform is applied, with parameters at percentile q.

    This is `debug_percentile` of the published code. As there, a normal parameter is erfinv(2q - 1)
    times its standard deviation, which lacks a factor sqrt(2), the second rotation is off, and the
    standard deviation of the noise is erfinv(q).

    Args:
        q: percentile of all parameters, in [0, 1]; 0.5 is neutral for most.
        num: number of images.
    """

    def __init__(self, q: float, num: int, *, dtype: torch.dtype = torch.float32):
        super().__init__(0, range(num), "percentile", dtype=dtype)
        self.q = q

    def uniform(self, name: str, *shape: int) -> Tensor:
        q = 0.0 if name.endswith("_gate") else 0.5 if name == "post_rotate" else self.q
        return torch.full((len(self), *shape), q, dtype=self.dtype)

    def normal(self, name: str, *shape: int) -> Tensor:
        if name == "noise":
            return super().normal(name, *shape)
        q = self.q if name == "noise_sigma" else 2 * self.q - 1
        return torch.erfinv(torch.tensor(q, dtype=self.dtype)).expand(len(self), *shape)
