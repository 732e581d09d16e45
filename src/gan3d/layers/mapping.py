"""Mapping network: latent z and label c to the intermediate latent w (StyleGAN section 2;
StyleGAN2-ADA for labels).

w = fc_{L-1}(.. fc_0([n(z), n(embed(c))])),   n(x) = x / sqrt(mean(x^2) + 1e-8)
truncated:  w <- w_avg + psi (w - w_avg)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor, nn

from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mean_latent import truncated
from gan3d.layers.precision import full_precision
from gan3d.ops.bias_act import Activation

EPS = 1e-8


def normalize_second_moment(x: Tensor) -> Tensor:
    """n(x) = x / sqrt(mean over features of x^2 + 1e-8), [b c]."""
    return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt()


@dataclass(frozen=True)
class MappingOptions:
    """The layers of a mapping network, and its mean latent.

    Attributes:
        num_layers: number L of fully connected layers; EG3D has 2, StyleGAN2 and StyleGAN3 have 8
            and 2.
        embed_features: size of the embedded label; None is w_dim.
        layer_features: width between the layers; None is w_dim.
        lr_multiplier: learning-rate multiplier of every layer but the embedding.
        w_avg_beta: decay of the running mean of w per `track`; None keeps no mean.
    """

    num_layers: int = 2
    embed_features: int | None = None
    layer_features: int | None = None
    lr_multiplier: float = 0.01
    w_avg_beta: float | None = 0.998


class MappingNetwork(nn.Module):
    """(z, c) -> w, in the precision of its parameters, even under autocast.

    Args:
        z_dim: size of z; 0 for a network of the label only.
        c_dim: size of the label; 0 for an unconditional network.
        w_dim: size of w.
        num_ws: number of copies of w; None returns w without that dimension, and keeps no mean.
        options: layers and running mean.
        activation: activation of every layer.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        options: MappingOptions,
        *,
        activation: Activation = "lrelu",
    ):
        super().__init__()
        if z_dim + c_dim == 0:
            raise ValueError(
                "z_dim and c_dim are both 0; a mapping network needs a latent or a label"
            )
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = options.num_layers, options.w_avg_beta
        embedded = w_dim if options.embed_features is None else options.embed_features
        hidden = w_dim if options.layer_features is None else options.layer_features
        first = z_dim + embedded if c_dim > 0 else z_dim
        widths = [first] + [hidden] * (options.num_layers - 1) + [w_dim]
        if c_dim > 0:
            self.embed = EqualizedLinear(c_dim, embedded)
        for i, (inside, out) in enumerate(pairwise(widths)):
            layer = EqualizedLinear(
                inside, out, activation=activation, lr_multiplier=options.lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        self.tracks = num_ws is not None and options.w_avg_beta is not None
        if self.tracks:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Intermediate latents.

        Args:
            z: [b z_dim]; None if z_dim is 0.
            c: [b c_dim]; None if c_dim is 0.
            truncation: psi; 1 does not truncate.
            truncation_cutoff: number of leading ws that are truncated; None truncates all.

        Returns:
            [b num_ws w_dim], or [b w_dim] if num_ws is None.
        """
        parts = []
        dtype = self.get_parameter("fc0.weight").dtype
        for name, value, size in (("z", z, self.z_dim), ("c", c, self.c_dim)):
            if size > 0:
                if value is None or value.ndim != 2 or value.shape[1] != size:
                    got = "None" if value is None else f"shape {tuple(value.shape)}"
                    raise ValueError(f"the mapping network got {name}: {got}; expected [b {size}]")
                parts.append(value.to(dtype))
        with full_precision(parts[0]):
            if self.c_dim > 0:
                parts[-1] = self.embed(parts[-1])
            w = torch.cat([normalize_second_moment(part) for part in parts], 1)
            for i in range(self.num_layers):
                w = self.get_submodule(f"fc{i}")(w)
            if self.num_ws is None:
                return w
            ws = repeat(w, "b w -> b n w", n=self.num_ws)
            return ws if truncation == 1 else self.truncate(ws, truncation, truncation_cutoff)

    def truncate(self, ws: Tensor, truncation: float, cutoff: int | None = None) -> Tensor:
        """w_avg + psi (w - w_avg) in the first `cutoff` (None: all) of ws [b n w]."""
        if not self.tracks:
            raise ValueError(
                "this mapping network keeps no mean of w to truncate towards; give num_ws and "
                "w_avg_beta"
            )
        return truncated(ws, self.w_avg, truncation, cutoff)

    @torch.no_grad()
    def track(self, ws: Tensor) -> None:
        """w_avg <- m + beta (w_avg - m), m the batch mean of freshly mapped ws [b n w]."""
        if self.tracks and self.w_avg_beta is not None:
            mean = ws[:, 0].mean(0).to(self.w_avg.dtype)
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
