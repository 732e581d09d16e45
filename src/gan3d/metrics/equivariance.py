"""Equivariance of a generator to translation and rotation of its picture (Karras et al. 2021,
appendix E).

A generator whose input can be moved is equivariant if moving the input moves the picture:

    EQ = 20 log10(2) - 10 log10( sum mask (t(G(w; 1)) - G(w; t))^2 / sum mask )         decibels

This is the PSNR of pictures in [-1, 1] (peak to peak 2), with both sums over *all* pictures,
channels and known pixels before the ratio. EQ-T shifts by whole pixels, EQ-T_frac by any distance,
EQ-R turns by any angle. The equations need nothing but a function (ws, transform) -> picture: they
hold for RGB and for the planes of a tri-plane backbone alike (fold the planes into the channels;
decibels are then relative to a range of 2, whatever the planes' own range is).

Convention: `transform` [3 3] maps output coordinates to input coordinates (the *inverse* of the
motion of the picture), in picture sizes, y down; see `bandlimit` for the senses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from gan3d.metrics.bandlimit import (
    pseudo_rotate,
    rotate,
    rotation,
    shift_fractional,
    shift_integer,
    translation,
)
from gan3d.randomness import Randomness

Kind = Literal["eqt", "eqt_frac", "eqr"]
Synthesize = Callable[[Tensor, Tensor], Tensor]  # ws [b n w], transform [3 3] -> picture [b c h w]
MAX_SHIFT = 0.125  # picture sizes, each axis
Sums = tuple[Tensor, Tensor]  # squared error, known values; float64 scalars


def draw_motion(
    kind: Kind, randomness: Randomness, size: tuple[int, int]
) -> tuple[float, float] | float:
    """The motion of one batch, drawn with the stream of its first image.

    Args:
        kind: of motion.
        randomness: of the batch.
        size: h, w of the picture.

    Returns:
        (tx, ty) in picture sizes, of whole pixels for "eqt", or an angle in radians.
    """
    if kind == "eqr":
        return (2 * float(randomness.uniform("equivariance.angle")[0]) - 1) * math.pi
    tx, ty = (
        (2 * randomness.uniform("equivariance.shift", 2)[0].double() - 1) * MAX_SHIFT
    ).tolist()
    if kind == "eqt":
        tx, ty = round(tx * size[1]) / size[1], round(ty * size[0]) / size[0]
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
        synthesize: the generator.
        ws: latents [b n w].
        original: its pictures of these, [b c h w].
        shift: picture sizes.
        fractional: interpolate the reference; False rounds to whole pixels.
    """
    tx, ty = shift
    moved = synthesize(ws, translation(-tx, -ty).to(ws))
    reference, mask = (shift_fractional if fractional else shift_integer)(original, tx, ty)
    return _sums(reference, moved, mask)


@torch.no_grad()
def rotation_sums(synthesize: Synthesize, ws: Tensor, original: Tensor, angle: float) -> Sums:
    """Squared error and number of known values of one batch, turned by an angle (radians); see
    `translation_sums`.

    The turned original lacks what its pixel grid could not hold; `pseudo_rotate` takes the same
    from the other side.
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
    mask = mask.double()
    return (mask * (reference.double() - moved.double()).square()).sum(), mask.sum()


def decibels(error: Tensor, known: Tensor) -> Tensor:
    """20 log10(2) - 10 log10(error / known): infinite where nothing differs, NaN where nothing is
    known.
    """
    return 20 * math.log10(2) - 10 * torch.log10(error.double() / known.double())


class Equivariance(Metric):
    """EQ-T, EQ-T_frac or EQ-R over many batches, reduced exactly over processes.

    Args:
        synthesize: the generator: (ws [b n w], transform [3 3]) -> pictures [b c h w].
        kind: "eqt" (whole pixels), "eqt_frac" (any distance) or "eqr" (any angle).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    error: Tensor
    known: Tensor

    def __init__(self, synthesize: Synthesize, kind: Kind = "eqt"):
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind {kind!r} is not known; use one of {', '.join(get_args(Kind))}")
        self.synthesize, self.kind = synthesize, kind
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("known", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, ws: Tensor, original: Tensor, motion: tuple[float, float] | float) -> None:
        """Adds one batch, all of it moved alike: latents [b n w], their pictures [b c h w], and the
        motion.
        """
        if isinstance(motion, tuple):
            error, known = translation_sums(
                self.synthesize, ws, original, motion, fractional=self.kind == "eqt_frac"
            )
        else:
            error, known = rotation_sums(self.synthesize, ws, original, motion)
        self.error, self.known = (
            self.error + error.to(self.error.device),
            self.known + known.to(self.known.device),
        )

    def compute(self) -> Tensor:
        """Decibels, a float64 scalar."""
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
    """Several kinds at once, in decibels, sharing the pictures that are not moved.

    Args:
        synthesize: (ws [b n w], transform [3 3]) -> pictures [b c h w].
        batches: latents, and the randomness of their images, from which the motion of a batch is
            drawn.
        kinds: what to measure.
    """
    metrics = {kind: Equivariance(synthesize, kind) for kind in kinds}
    for ws, randomness in batches:
        original = synthesize(ws, torch.eye(3).to(ws))
        for kind, metric in metrics.items():
            metric.update(
                ws,
                original,
                draw_motion(kind, randomness, (original.shape[-2], original.shape[-1])),
            )
    return {kind: float(metric.compute()) for kind, metric in metrics.items()}
