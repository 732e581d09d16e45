"""Whether one scene explains the views of a head: fields of ours, fitted to them.

* Reconstruction: a field fitted to 30 views, compared with the model's own views from 8 other
  cameras. It stands in for NeuS, with which published work reconstructs (GRAM-HD section 4.2),
  and its numbers do not compare with those.
* Self-consistency: a field fitted to the 15 views from the left and another to the 15 from the
  right, compared with each other from 2 cameras in the middle. No network judges, and the model is
  not asked again.

Both by PSNR = 10 log10(4 / MSE) and SSIM (Wang et al. 2004, windows of 11 pixels), over the pixels
where the compared view is opaque, at the side of the fit.

The views of a scene agree, and both sides say the same. A picture that sticks to the screen looks
like a board that faces the viewer: the views from the left place it facing the left, those from the
right facing the right. From the middle the two differ, while a single field finds a compromise.
Views that contradict one another altogether blur both fields, which may then agree on the blur:
read self-consistency beside the reconstruction.

Convention: images in [-1, 1]; dB. The absolute values hold at one `FitOptions`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.data.heads import FOV, RADIUS
from gan3d.generators.contract import SURFACE_OPACITY, Rendering
from gan3d.metrics.exact import exact
from gan3d.metrics.fields import FitOptions, fit_field
from gan3d.metrics.reprojection import masked_psnr
from gan3d.metrics.views import ViewMetric, view_cameras

YAWS = (0.06, 0.18, 0.30, 0.42, 0.54)  # of the views that are fitted, radians, on either side
PITCHES = (-0.15, 0.0, 0.15)
HELD_YAWS, HELD_PITCHES = (0.12, 0.36), (-0.08, 0.08)  # of the views that are not fitted
SSIM_WINDOW = 11  # pixels

_LEFT = [(-yaw, pitch) for yaw in YAWS for pitch in PITCHES]
_RIGHT = [(yaw, pitch) for yaw in YAWS for pitch in PITCHES]
_MIDDLE = [(0.0, pitch) for pitch in HELD_PITCHES]
_BETWEEN = [(side * yaw, pitch) for yaw in HELD_YAWS for side in (-1, 1) for pitch in HELD_PITCHES]
_FITTED = slice(0, len(_LEFT + _RIGHT))


class _Refit(ViewMetric):
    """What both have in common: cameras, options, and the views at the side of the fit.

    Args:
        options: how fields are fitted.
        extent: side of the cube that holds the heads, world units.
        radius: of the cameras, world units.
        fov: degrees.

    Attributes:
        compared_at: (yaw, pitch) of the views that are compared, after those that are fitted.
    """

    compared_at: Sequence[tuple[float, float]]
    higher_is_better = True

    def __init__(
        self,
        options: FitOptions = FitOptions(),
        *,
        extent: float = 1.0,
        radius: float = RADIUS,
        fov: float = FOV,
    ):
        yaws, pitches = zip(*_LEFT, *_RIGHT, *self.compared_at)
        super().__init__(view_cameras(yaws, pitches, radius=radius, fov=fov))
        self.options, self.extent = options, extent

    def shown(self, image: Tensor, alpha: Tensor, fit: slice, held: slice) -> tuple[Tensor, Tensor]:
        """Images and opacity, from the cameras of `held`, of fields fitted to the views of `fit`,
        [b v 3 h h] and [b v 1 h h].
        """
        views = []
        for one, its_alpha in zip(image[:, fit], alpha[:, fit]):
            field = fit_field(
                one,
                its_alpha,
                self.camera[fit],
                extent=self.extent,
                options=self.options,
                seed=fit.start,
            )
            view = field.show(self.camera[held], image.shape[-1])
            assert view.opacity is not None
            views.append(torch.cat([view.image, view.opacity], dim=1))
        seen = torch.stack(views)
        return seen[:, :, :3], seen[:, :, 3:]


class Reconstruction(_Refit):
    """PSNR (dB) and SSIM of held-out views of heads against fields fitted to 30 views."""

    names = ("reconstruction_psnr", "reconstruction_ssim")
    compared_at = _BETWEEN

    def values(self, views: Rendering) -> dict[str, Tensor]:
        image, alpha = at_side(views, self.options.side)
        held = slice(_FITTED.stop, len(self.camera))
        seen, _ = self.shown(image, alpha, _FITTED, held)
        psnr, ssim = compared(seen, alpha[:, held] * image[:, held], alpha[:, held])
        return {"reconstruction_psnr": psnr, "reconstruction_ssim": ssim}


class SelfConsistency(_Refit):
    """PSNR (dB) and SSIM of fields fitted to the left views of heads against those of the right."""

    names = ("self_psnr", "self_ssim")
    compared_at = _MIDDLE

    def values(self, views: Rendering) -> dict[str, Tensor]:
        image, alpha = at_side(views, self.options.side)
        middle = slice(_FITTED.stop, len(self.camera))
        left, right = (
            self.shown(image, alpha, half, middle)
            for half in (slice(0, len(_LEFT)), slice(len(_LEFT), len(_LEFT + _RIGHT)))
        )
        psnr, ssim = compared(left[0], right[0], torch.maximum(left[1], right[1]))
        return {"self_psnr": psnr, "self_ssim": ssim}


def at_side(views: Rendering, side: int) -> tuple[Tensor, Tensor]:
    """Images [b v 3 s s] and opacity [b v 1 s s] of views, s = side or the image's if that is less.

    Without opacity, all is opaque.
    """
    b = len(views.image)
    side = min(side, views.image.shape[-1])
    image = _resized(views.image.flatten(0, 1), side).unflatten(0, (b, -1))
    if views.opacity is None:
        return image, torch.ones_like(image[:, :, :1])
    return image, _resized(views.opacity.flatten(0, 1), side).unflatten(0, (b, -1)).clamp(0, 1)


def compared(image: Tensor, reference: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR (dB) and SSIM of the views of b scenes, float64 [b] each.

    Args:
        image, reference: [b v 3 h w] in [-1, 1].
        opacity: [b v 1 h w]; pixels count where it exceeds 0.5. NaN where none does.
    """
    from kornia.metrics import ssim  # takes most of a second to import

    valid = opacity > SURFACE_OPACITY
    stacked = [rearrange(x, "b v c h w -> b c (v h) w") for x in (image, reference, valid)]
    psnr = masked_psnr(stacked[0], stacked[1], stacked[2])
    flat = [(x.flatten(0, 1) + 1) / 2 for x in (image, reference)]
    similar = exact(ssim(flat[0], flat[1], SSIM_WINDOW)).mean(1, keepdim=True)  # (b v) 1 h w
    similar = similar.unflatten(0, image.shape[:2])
    where = valid.to(similar)
    return psnr, (similar * where).sum((1, 2, 3, 4)) / where.sum((1, 2, 3, 4))


def _resized(x: Tensor, side: int) -> Tensor:
    if x.shape[-1] < side:
        return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(x, side)
