"""The mean latent, and the truncation trick (StyleGAN, appendix B): variety against quality."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def truncated(ws: Tensor, mean: Tensor, truncation: float, cutoff: int | None = None) -> Tensor:
    """mean + psi (ws - mean) for the first `cutoff` latents.

    Args:
        ws: [b n w].
        mean: [w], or [n w] with one mean per latent.
        truncation: psi; 1 leaves ws unchanged.
        cutoff: number of latents to truncate; None for all.

    Returns:
        [b n w].

    Raises:
        ValueError: the cutoff is negative.
    """
    if cutoff is not None and cutoff < 0:
        raise ValueError(
            f"truncation_cutoff is {cutoff}; expected the number of latents to truncate, 0 or more,"
            " or None for all"
        )
    if truncation == 1:
        return ws
    kept = ws[:, :0] if cutoff is None else ws[:, cutoff:]
    mean = mean.expand_as(ws[0])[:cutoff]
    return torch.cat([mean.lerp(ws[:, :cutoff], truncation), kept], 1)


@torch.no_grad()
def follow(mean: Tensor, ws: Tensor, beta: float) -> None:
    """Moves a running mean in place: mean <- m + beta (mean - m), m the batch mean of ws.

    Args:
        mean: [n w].
        ws: newly mapped latents, [b n w].
        beta: decay.
    """
    mean.copy_(ws.mean(0).to(mean.dtype).lerp(mean, beta))


@torch.no_grad()
def mean_of_codes(
    latents: Callable[[Tensor], Tensor], z_dim: int, like: Tensor, num_codes: int, seed: int
) -> Tensor:
    """Mean latents [n w] of codes z ~ N(0, I), the same codes in every call and on every device.

    Args:
        latents: the mapping [b z_dim] -> [b n w].
        z_dim: size of a code.
        like: a tensor with the device and dtype to use.
        num_codes: number of codes; the published code takes 10,000.
        seed: seed of the codes.
    """
    z = torch.randn(num_codes, z_dim, generator=torch.Generator().manual_seed(seed))
    sums = [latents(chunk.to(like)).sum(0) for chunk in z.split(1000)]
    return torch.stack(sums).sum(0) / num_codes
