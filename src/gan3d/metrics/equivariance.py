"""Equivariance of a generator to translation and rotation of its picture.

Karras et al. 2021, appendix E. A generator whose input can be transformed is equivariant if moving
the input moves the picture:

    EQ = 20 log10(2) - 10 log10( sum mask (t(G(w; 1)) - G(w; t))^2 / sum mask )   decibels

This is the PSNR of pictures in [-1, 1] (peak to peak 2), with both sums taken over *all* pictures,
channels and known pixels before the ratio. EQ-T shifts by whole pixels, EQ-T_frac by any distance,
EQ-R rotates by any angle. All that is needed is a function (ws, transform) -> picture, so the
planes of a tri-plane backbone can be measured as well as RGB: fold the planes into the channels;
decibels are then relative to a range of 2, regardless of the range of the planes.

Convention: `transform` [3 3] maps output coordinates to input coordinates (the *inverse* of the
motion of the picture), in picture sizes, y down; `bandlimit` defines the directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from gan3d.metrics.bandlimit import (
    pseudo_rotate,
    rotate,
    rotation,
    shift_fractional,
    shift_integer,
    translation,
)
from gan3d.metrics.exact import exact
from gan3d.metrics.frechet import ExactMetric
from gan3d.randomness import Randomness

Kind = Literal["eqt", "eqt_frac", "eqr"]
Synthesize = Callable[[Tensor, Tensor], Tensor]  # ws [b n w], transform [3 3] -> picture [b c h w]
MAX_SHIFT = 0.125  # picture sizes, each axis
Sums = tuple[Tensor, Tensor]  # squared error, known values; float64 scalars


def draw_motion(
    kind: Kind, randomness: Randomness, size: tuple[int, int]
) -> tuple[float, float] | float:
    """Draws the motion of one batch, from the stream of its first image.

    Args:
        kind: kind of motion.
        randomness: randomness of the batch.
        size: h, w of the picture.

    Returns:
        (tx, ty) in picture sizes, whole pixels for "eqt"; an angle in radians for "eqr".
    """
    if kind == "eqr":
        return (2 * float(randomness.uniform("equivariance.angle")[0]) - 1) * math.pi
    uniform = randomness.uniform("equivariance.shift", 2)[0].double()
    tx, ty = ((2 * uniform - 1) * MAX_SHIFT).tolist()
    if kind == "eqt":
        tx = round(tx * size[1]) / size[1]
        ty = round(ty * size[0]) / size[0]
    return tx, ty


@torch.no_grad()
def translation_sums(
    synthesize: Synthesize,
    ws: Tensor,
    original: Tensor,
    shift: tuple[float, float],
    *,
    fractional: bool,
) -> Sums:
    """Squared error and number of known values of one batch, moved by `shift` = (tx, ty).

    Args:
        synthesize: (ws [b n w], transform [3 3]) -> pictures [b c h w].
        ws: latents [b n w].
        original: pictures of `ws` without motion, [b c h w].
        shift: (tx, ty) in picture sizes.
        fractional: interpolate the reference; False rounds to whole pixels.
    """
    tx, ty = shift
    moved = synthesize(ws, translation(-tx, -ty).to(ws))
    reference, mask = (shift_fractional if fractional else shift_integer)(original, tx, ty)
    return _sums(reference, moved, mask)


@torch.no_grad()
def rotation_sums(synthesize: Synthesize, ws: Tensor, original: Tensor, angle: float) -> Sums:
    """Squared error and number of known values of one batch, rotated by `angle` in radians.

    The reference lacks the frequencies that the rotated grid cannot hold; `pseudo_rotate` removes
    the same frequencies from the other side. Arguments as in `translation_sums`.
    """
    moved = synthesize(ws, rotation(-angle).to(ws))
    reference, known = rotate(original, angle)
    filtered, inside = pseudo_rotate(moved, angle)
    return _sums(reference, filtered, known * inside)


def _sums(reference: Tensor, moved: Tensor, mask: Tensor) -> Sums:
    if reference.shape != moved.shape:
        raise ValueError(
            f"the picture has shape {list(reference.shape)}, moved it has {list(moved.shape)}"
        )
    mask = exact(mask)
    return (mask * (exact(reference) - exact(moved)).square()).sum(), mask.sum()


def decibels(error: Tensor, known: Tensor) -> Tensor:
    """20 log10(2) - 10 log10(error / known); infinite for error 0, NaN if nothing is known."""
    return 20 * math.log10(2) - 10 * torch.log10(exact(error) / exact(known))


class Equivariance(ExactMetric):
    """EQ-T, EQ-T_frac or EQ-R over many batches, reduced exactly over processes.

    Args:
        synthesize: (ws [b n w], transform [3 3]) -> pictures [b c h w].
        kind: "eqt" (whole pixels), "eqt_frac" (any distance) or "eqr" (any angle).
    """

    higher_is_better = True
    error: Tensor
    known: Tensor

    def __init__(self, synthesize: Synthesize, kind: Kind = "eqt"):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind {kind!r} is not known; use one of {', '.join(get_args(Kind))}")
        self.synthesize = synthesize
        self.kind = kind
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("known", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, ws: Tensor, original: Tensor, motion: tuple[float, float] | float) -> None:
        """Adds one batch.

        Args:
            ws: latents [b n w].
            original: their pictures without motion, [b c h w].
            motion: the motion of all pictures of the batch, see `draw_motion`.
        """
        if isinstance(motion, tuple):
            error, known = translation_sums(
                self.synthesize, ws, original, motion, fractional=self.kind == "eqt_frac"
            )
        else:
            error, known = rotation_sums(self.synthesize, ws, original, motion)
        self.error = self.error + error.to(self.error.device)
        self.known = self.known + known.to(self.known.device)

    def compute(self) -> Tensor:
        """Equivariance in decibels, a float64 scalar.

        Raises:
            ValueError: no pixel is known.
        """
        if self.known == 0:
            raise ValueError(
                "no pixel is known after the motions so far; call update, with pictures of 16 px "
                "or more"
            )
        return decibels(self.error, self.known)


@torch.no_grad()
def measure_equivariance(
    synthesize: Synthesize,
    batches: Iterable[tuple[Tensor, Randomness]],
    kinds: Iterable[Kind] = ("eqt", "eqt_frac", "eqr"),
) -> dict[Kind, float]:
    """Measures several kinds of equivariance at once, in decibels.

    The pictures without motion are shared.

    Args:
        synthesize: (ws [b n w], transform [3 3]) -> pictures [b c h w].
        batches: latents, and the randomness of their images, which the motion is drawn from.
        kinds: the kinds to measure.
    """
    metrics = {kind: Equivariance(synthesize, kind) for kind in kinds}
    for ws, randomness in batches:
        original = synthesize(ws, torch.eye(3).to(ws))
        size = (original.shape[-2], original.shape[-1])
        for kind, metric in metrics.items():
            metric.update(ws, original, draw_motion(kind, randomness, size))
    return {kind: float(metric.compute()) for kind, metric in metrics.items()}
