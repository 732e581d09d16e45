"""Settings of ADA, and the controller of its strength p (Karras et al. 2020, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gan3d.augment.transforms import Transforms
from gan3d.host import note_number, number

_BLIT = ("xflip", "rotate90", "xint")
_GEOM = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")


def _all_of(*names: str) -> Transforms:
    return replace(Transforms(), **dict.fromkeys(names, 1.0))  # type: ignore[arg-type]


# The published pipes; EG3D's is bgc.
PRESETS: dict[str, Transforms] = {
    "none": _all_of(),
    "blit": _all_of(*_BLIT),
    "geom": _all_of(*_GEOM),
    "color": _all_of(*_COLOR),
    "filter": _all_of("imgfilter"),
    "noise": _all_of("noise"),
    "cutout": _all_of("cutout"),
    "bg": _all_of(*_BLIT, *_GEOM),
    "bgc": _all_of(*_BLIT, *_GEOM, *_COLOR),
    "bgcf": _all_of(*_BLIT, *_GEOM, *_COLOR, "imgfilter"),
    "bgcfn": _all_of(*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise"),
    "bgcfnc": _all_of(*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise", "cutout"),
}


@dataclass(frozen=True)
class ADA:
    """Adaptive augmentation of everything the discriminator sees.

    Its strength p follows how much the discriminator overfits to the real images.

    Args:
        preset: set of transforms: b is blit, g geom, c color, f filter, n noise, c cutout. EG3D:
            bgc.
        transforms: custom transforms, instead of a preset.
        p: fixed probability; None adapts it, starting from 0.
        target: mean sign of D(real) at which p is stationary. EG3D: 0.6.
        kimg: kimg in which p grows from 0 to 1 at most. EG3D: 500, and 100 when fine-tuning.
        interval: iterations between two changes of p.
    """

    # fmt: off
    preset: Literal[
        "none", "blit", "geom", "color", "filter", "noise", "cutout",
        "bg", "bgc", "bgcf", "bgcfn", "bgcfnc",
    ] = "none"
    # fmt: on
    transforms: Transforms | None = None
    p: float | None = None
    target: float = 0.6
    kimg: float = 500.0
    interval: int = 4

    def __post_init__(self) -> None:
        if self.preset != "none" and self.transforms is not None:
            raise ValueError(
                f"augment got preset {self.preset} and custom transforms; give one of them"
            )
        if self.p is not None and not 0 <= self.p <= 1:
            raise ValueError(f"augment.p is {self.p}; give a probability, or null to adapt it")
        if self.p and not self.pipe.any:
            raise ValueError(
                f"augment.p is {self.p}, and there is nothing to do; set augment.preset, for "
                "example to bgc"
            )
        if self.kimg <= 0 or self.interval < 1:
            raise ValueError(
                f"augment got kimg {self.kimg} and interval {self.interval}; both must be positive"
            )

    @property
    def pipe(self) -> Transforms:
        """The transforms of the preset, or the custom ones."""
        return self.transforms or PRESETS[self.preset]

    @property
    def enabled(self) -> bool:
        return self.pipe.any and self.p != 0

    @property
    def adaptive(self) -> bool:
        return self.enabled and self.p is None


class AdaptiveP(nn.Module):
    """The controller: p grows while D(real) is positive too often (overfitting), else it falls.

        p <- clamp(p + sign(mean(sign(D(real))) - target) * images / (1000 kimg), 0, 1)

    over the signs and images since the last change. The state is in buffers, on the device. The
    host is told p with the values it reads at the end of an iteration, so that nothing waits for p.

    unlike eg3d: p is at most 1, because values above have no effect but take time to come down from
    again; and p changes at the end of its interval, so that every change is based on the same
    number of iterations.

    Args:
        ada: the settings.
    """

    p: Tensor
    signs: Tensor

    def __init__(self, ada: ADA):
        super().__init__()
        self.ada = ada
        self.register_buffer("p", torch.tensor(ada.p or 0.0))
        # sum and number of the signs since the last change
        self.register_buffer("signs", torch.zeros(2))
        self._fresh: list[Tensor] = []

    @property
    def probability(self) -> float:
        """The current p; a fixed p is read from the settings, not from a checkpoint."""
        if not self.ada.enabled:
            return 0.0
        return number(self.p) if self.ada.p is None else self.ada.p

    def value(self) -> Tensor:
        """`probability` on the device, a scalar."""
        return self.p if self.ada.adaptive else torch.full_like(self.p, self.probability)

    def collect(self, real_logits: Tensor) -> None:
        """Records the discriminator's logits of real images, [b]."""
        if self.ada.adaptive:
            signs = real_logits.detach().sign().to(self.signs.dtype)
            self._fresh.append(torch.stack([signs.sum(), torch.ones_like(signs).sum()]))

    def take_signs(self) -> Tensor:
        """Sum and number of the signs that this process collected in an iteration, [2]."""
        fresh, self._fresh = self._fresh, []
        return torch.stack(fresh).sum(dim=0) if fresh else torch.zeros_like(self.signs)

    @torch.no_grad()
    def update(self, signs: Tensor, iteration: int, batch_size: int) -> None:
        """Ends an iteration, and changes p if the interval is over; identical on every process.

        Args:
            signs: `take_signs`, mean (or sum) over all processes. Reduced at every iteration, so
                that the checkpoint of one process is valid for all.
            iteration: number of the iteration, from 0.
            batch_size: images per iteration, over all processes.
        """
        if not self.ada.adaptive:
            return
        self.signs += signs
        if (iteration + 1) % self.ada.interval:
            return

        total, count = self.signs
        step = batch_size * self.ada.interval / (self.ada.kimg * 1000)
        self.p.copy_((self.p + (total / count - self.ada.target).sign() * step).clamp(0, 1))
        self.signs.zero_()

    def told(self, p: float) -> None:
        """The host has read that the buffer p holds this."""
        if self.ada.adaptive:
            note_number(self.p, p)
