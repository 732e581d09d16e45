"""Walks through latents for videos: interpolation between scenes, and style mixing."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor


def closed_walk(keyframes: Tensor, num: int) -> Tensor:
    """A closed walk through some latents, the same time for each step, [num n w].

    A cubic spline with period k: smooth, through keyframe i at frame i num / k, and from the last
    keyframe back to the first.

    Args:
        keyframes: latents [k n w], 2 or more.
        num: frames.

    Raises:
        ValueError: there are fewer than two keyframes.
    """
    if len(keyframes) < 2:
        raise ValueError(
            f"got {len(keyframes)} keyframes; a walk needs 2 or more to go from one to the next"
        )
    closed = torch.cat([keyframes, keyframes[:1]]).double().cpu().numpy()
    spline = CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")
    times = np.arange(num) * len(keyframes) / num
    return torch.from_numpy(spline(times)).to(keyframes)


def mixed(ws: Tensor, styles: Tensor, cut: int | None = None) -> Tensor:
    """Latents whose later ones, from number `cut` on, are those of other scenes (style mixing,
    StyleGAN, section 3.1).

    The first latents are the coarse ones: shape, pose and hair; the later ones colors.

    Args:
        ws: latents [.. n w].
        styles: latents [.. n w] of the styles, of the same shape or one that broadcasts to it.
        cut: from 1 to n - 1; None is the middle.

    Raises:
        ValueError: the cut is none, or a model has a single latent.
    """
    num = ws.shape[-2]
    if num < 2:
        raise ValueError("a scene has a single latent, so that there is nothing to mix")
    cut = num // 2 if cut is None else cut
    if not 1 <= cut < num:
        raise ValueError(f"cut {cut} leaves no latents on one side; give one from 1 to {num - 1}")
    ws, styles = torch.broadcast_tensors(ws, styles)
    return torch.cat([ws[..., :cut, :], styles[..., cut:, :]], dim=-2)
