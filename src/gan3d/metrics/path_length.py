"""Perceptual path length: change of the picture per small step between two latents.

Karras et al. 2019, 4.1:

    PPL = E[ d(G(a(t)), G(a(t + eps)))^2 ] / eps^2

a(t) is the straight line from w0 to w1, or the great circle from z0 to z1; d^2 is the squared
distance of perceptual embeddings. In W with t = 0 ("end") and the mean between the 1st and the 99th
percentile, it is `ppl2_wend` of StyleGAN2 and StyleGAN3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from einops import reduce
from torch import Tensor

from gan3d.metrics.exact import exact

Space = Literal["w", "z"]
Sampling = Literal["end", "full"]
EPSILON = 1e-4


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The point at t on the great circle from a to b (Shoemake 1985), of length 1.

        cos(t phi) a + sin(t phi) n,   cos phi = <a, b>,   n = (b - <a, b> a) / |b - <a, b> a|

    where a and b are normalized first.

    Args:
        a, b: [.. c]; if they are parallel, the result is a.
        t: [.. 1], 0 gives a and 1 gives b.
    """
    a = a / a.norm(dim=-1, keepdim=True)
    b = b / b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(dim=-1, keepdim=True).clamp(-1, 1)
    across = b - cosine * a
    normal = across / across.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
    angle = t * cosine.acos()
    point = angle.cos() * a + angle.sin() * normal
    return point / point.norm(dim=-1, keepdim=True)


def box_downsampled(images: Tensor, size: int = 256) -> Tensor:
    """Images [b c H W] averaged over square blocks, to `size` px or the next size above it.

    Smaller images are returned unchanged.
    """
    factor = max(images.shape[-1] // size, 1)
    if images.shape[-1] % factor or images.shape[-2] % factor:
        raise ValueError(
            f"images of {list(images.shape[-2:])} px cannot be averaged by {factor}; use powers "
            "of two"
        )
    return reduce(images, "b c (h y) (w x) -> b c h w", "mean", y=factor, x=factor)


@torch.no_grad()
def squared_steps(
    picture: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    *,
    epsilon: float = EPSILON,
    size: int = 256,
) -> Tensor:
    """d(G(start), G(end))^2 / eps^2 of every pair.

    Args:
        picture: latents -> images [b 3 H W] in [-1, 1], with the same camera and noise each time.
        embed: images [b 3 h w] in [-1, 1] -> perceptual embeddings [b c].
        start, end: latents at the ends of a step.
        epsilon: length of a step, relative to the path.
        size: side that images are first averaged down to, pixels.

    Returns:
        float64 [b].
    """

    def embedded(latents: Tensor) -> Tensor:
        return exact(embed(box_downsampled(picture(latents).float(), size)))

    return (embedded(start) - embedded(end)).square().sum(dim=1) / epsilon**2


def path_points(
    a: Tensor, b: Tensor, t: Tensor, space: Space = "w", epsilon: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """The points at t and t + eps on the path from a to b.

    Args:
        a, b: ws [b n w], or z [b c].
        t: position on the path in [0, 1], [b].
        space: "w" for a straight path, "z" for a great circle (StyleGAN's mapping normalizes z).
        epsilon: length of the step; 1 is the whole path.
    """
    if space not in get_args(Space):
        raise ValueError(f"space {space!r} is not known; use one of {', '.join(get_args(Space))}")
    t = t.to(a).reshape(len(a), *[1] * (a.ndim - 1))
    if space == "z":
        return slerp(a, b, t), slerp(a, b, t + epsilon)
    return torch.lerp(a, b, t), torch.lerp(a, b, t + epsilon)


def trimmed_mean(values: Tensor, low: float = 1.0, high: float = 99.0) -> Tensor:
    """Mean of `trimmed` values, a float64 scalar."""
    return trimmed(values, low, high).mean()


def trimmed(values: Tensor, low: float = 1.0, high: float = 99.0) -> Tensor:
    """The values between two percentiles, both included.

    Percentiles are not interpolated: the lower one is rounded down to a value, the upper one up.

    Args:
        values: [n].
        low, high: percentiles, in percent.

    Returns:
        float64 [m].
    """
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {list(values.shape)}, expected [n] with at least one")
    values = exact(values)
    bottom = torch.quantile(values, low / 100, interpolation="lower")
    top = torch.quantile(values, high / 100, interpolation="higher")
    return values[(values >= bottom) & (values <= top)]
