"""Style mixing (StyleGAN, section 3.1): an image whose later latents come from a second z."""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.randomness import Randomness


def mix_styles(ws: Tensor, other: Tensor, randomness: Randomness, probability: float) -> Tensor:
    """Takes `other` from a random cut on, for each image with the given probability.

    unlike eg3d: each image has its own coin and cut (the published code draws them once for the
    batch), so that no image depends on its batch.

    Args:
        ws: latents [b n w].
        other: latents of a second z, [b n w].
        randomness: one stream per image; draws "mix" and "mix_cut", uniform in 1 .. n - 1.
        probability: probability of mixing.
    """
    num_ws = ws.shape[1]
    if num_ws < 2:
        return ws
    cut = 1 + randomness.integers("mix_cut", num_ws - 1, 1)  # b 1
    later = torch.arange(num_ws, device=ws.device) >= cut  # b n
    mixed = later & (randomness.uniform("mix", 1) < probability)
    return torch.where(mixed[..., None], other, ws)
