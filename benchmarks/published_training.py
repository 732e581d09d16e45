"""The published order of operations for training: the baseline of `train_step.py`.

Written from the papers. `operations()` puts it in the place of gan3d's own in networks that exist,
so that both train the same weights through the same harness with the same draws:

    styles     scale the input and the result of a shared kernel; demodulation from one scaled
               kernel per sample; channels first throughout
    FIR        on the zero-inserted signal, one 4 x 4 kernel
    bias_act   bias, activation, gain and clamp are one operation each
    renderer   planes by grid_sample, all rays at once, features sorted with the depths
    SIREN      product, bias, frequency, phase and sine are one operation each
    ModFC      one weight matrix per sample, demodulated where it stands
    StyleGAN3  one kernel per sample in a grouped convolution; filters on zero-inserted signals
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import published
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.generators.eg3d import Decoder
from gan3d.layers.synthesis import SynthesisBlock
from gan3d.ops import resample
from gan3d.ops.bias_act import GAINS
from gan3d.ops.filtered_lrelu import filtered_lrelu_reference
from gan3d.ops.resample import conv2d_resample, upfirdn2d_reference

WITH_BIAS_ACT = ("layers.convolution", "layers.linear", "layers.synthesis", "ops.filtered_lrelu")
IN_CHUNKS = ("generators.cips3d", "rendering.left_point")


@contextmanager
def operations() -> Iterator[None]:
    """Within it, networks compute in the published order: StyleGAN2, StyleGAN3-T, EG3D, CIPS-3D,
    pi-GAN, GRAM, and their discriminators.
    """
    with ExitStack() as stack:

        def put(place: object, name: str, ours: object) -> None:
            stack.enter_context(patch.object(place, name, ours))

        replaced = {f"{file}.bias_act": bias_act for file in WITH_BIAS_ACT}
        replaced |= {f"{file}.free_chunk": lambda device: 1 << 40 for file in IN_CHUNKS}
        replaced |= {
            "layers.synthesis.modulated_conv2d": modulated_conv2d,
            "generators.eg3d.render_rays": published.render_rays,
            "generators.eg3d.PlaneTable": Planes,
            "layers.film_siren.film_siren": film_siren,
            "layers.mod_fc.modfc": modfc,
            "layers.alias_free.modulated_conv": modulated_conv,
            "layers.alias_free.filtered_lrelu": filtered_lrelu_reference,
        }
        for name, theirs in replaced.items():
            stack.enter_context(patch(f"gan3d.{name}", theirs))
        put(resample, "upfirdn2d", upfirdn2d_reference)
        put(resample, "is_product", lambda x: False)
        put(SynthesisBlock, "forward", _block)
        put(Decoder, "forward", _decode)
        yield


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Each step a pass of its own; lrelu and linear."""
    if b is not None:
        x = x + b.reshape([-1 if dim == 1 else 1 for dim in range(x.ndim)])
    x = F.leaky_relu(x, 0.2 if alpha is None else alpha) if act == "lrelu" else x
    gain = GAINS[act] if gain is None else gain
    x = x * gain if gain != 1 else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool | None = None,
) -> Tensor:
    """The form that the published code trains with: a shared kernel, scaled input and result."""
    y = conv2d_resample(
        x * styles[:, :, None, None],
        weight,
        resample_filter,
        up=up,
        padding=padding,
        flip_weight=flip_weight,
    )
    if not demodulate:
        return y
    each = weight * styles[:, None, :, None, None]  # b o i k k
    d = (each.square().sum([2, 3, 4]) + 1e-8).rsqrt()[:, :, None, None]
    return y * d if noise is None else torch.addcmul(noise, y, d)


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, gain: Tensor, *, demodulate: bool = True
) -> Tensor:
    """StyleGAN3's: one kernel per sample, in one grouped convolution."""
    if demodulate:
        weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
    each = weight * styles[:, None, :, None, None]  # b o i k k
    if demodulate:
        each = each * (each.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    each, k = each * gain, each.shape[-1]
    y = F.conv2d(x.flatten(0, 1)[None], each.flatten(0, 1), padding=k - 1, groups=len(x))
    return y[0].unflatten(0, (len(x), -1))


def film_siren(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, phase: Tensor) -> Tensor:
    """A linear layer, then frequencies and phases, then the sine."""
    return torch.sin((15 * gain + 30)[:, None] * F.linear(x, weight, bias) + phase[:, None])


def modfc(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    slope: float | None = None,
) -> Tensor:
    """One weight matrix per sample, and a batched product."""
    each = weight * style[:, :, None]  # b i o
    if demodulate:
        each = each * (each.square().sum(1, keepdim=True) + 1e-8).rsqrt()
    y = x @ each
    return y if slope is None else F.leaky_relu_(y, slope)


def _block(self, x, img, ws, *, noise=None, randomness=None):
    """`SynthesisBlock.forward` of the "skip" architecture, channels first."""
    latents = iter(ws.unbind(1))
    if x is None:
        x = self.const[None].repeat(len(ws), 1, 1, 1)
    else:
        x = self.conv0(x, next(latents), noise=noise, randomness=randomness)
    x = self.conv1(x, next(latents), noise=noise, randomness=randomness)
    if img is not None and self.up > 1:
        img = resample.upsample2d(img, self.resample_filter, up=self.up)
    rgb = self.torgb(x, next(latents))
    return x, rgb if img is None else img + rgb


def _decode(self: Decoder, features: Tensor) -> tuple[Tensor, Tensor]:
    """`Decoder.forward`, of all points at once."""
    out = self.net(features)
    return out[..., :1], 1.002 * torch.sigmoid(out[..., 1:]) - 0.001


@dataclass(frozen=True)
class Planes:
    """Tri-planes that are looked up by grid_sample, one after the other: [b 3 c h w]."""

    planes: Tensor

    @classmethod
    def of(cls, planes: Tensor, axes: str) -> Planes:
        assert axes == "official"
        return cls(planes)

    def features(self, points: Tensor, *, box_warp: float) -> Tensor:
        return published.plane_features(self.planes, points, box_warp)


def adam(parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam as the published code makes it: on a CPU a series of operations per parameter."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.99), eps=1e-8)


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, beta: float) -> None:
    """The average, one parameter after the other."""
    for old, new in zip(average.parameters(), network.parameters(), strict=True):
        old.copy_(new.lerp(old, beta))
    for old, new in zip(average.buffers(), network.buffers(), strict=True):
        old.copy_(new)
