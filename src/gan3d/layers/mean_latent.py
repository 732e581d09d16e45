"""The mean latent, and truncation toward it: psi trades variety of samples for quality (StyleGAN,
appendix B).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def truncated(ws: Tensor, mean: Tensor, truncation: float, cutoff: int | None = None) -> Tensor:
    """mean + psi (ws - mean) for the first `cutoff` latents.

    Args:
        ws: [b n w].
        mean: [w] or, of each latent, [n w].
        truncation: psi; 1 leaves ws as they are.
        cutoff: None is all latents.

    Returns:
        [b n w].
    """
    if truncation == 1:
        return ws
    kept = ws[:, :0] if cutoff is None else ws[:, cutoff:]
    return torch.cat([mean.expand_as(ws[0])[:cutoff].lerp(ws[:, :cutoff], truncation), kept], 1)


@torch.no_grad()
def follow(mean: Tensor, ws: Tensor, beta: float) -> None:
    """mean <- m + beta (mean - m), in place; m the batch mean of freshly mapped ws [b n w], mean [n
    w].
    """
    mean.copy_(ws.mean(0).to(mean.dtype).lerp(mean, beta))


@torch.no_grad()
def mean_of_codes(
    latents: Callable[[Tensor], Tensor], z_dim: int, like: Tensor, num_codes: int, seed: int
) -> Tensor:
    """Mean latents [n w] of codes z ~ N(0, I), the same codes in every call and on every device.

    Args:
        latents: [b z_dim] -> [b n w].
        z_dim: length of a code.
        like: gives device and dtype.
        num_codes: how many; the published codes take 10,000.
        seed: of the codes.
    """
    z = torch.randn(num_codes, z_dim, generator=torch.Generator().manual_seed(seed))
    return torch.stack([latents(some.to(like)).sum(0) for some in z.split(1000)]).sum(0) / num_codes
