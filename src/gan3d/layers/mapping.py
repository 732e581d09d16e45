"""Mapping network z, c -> ws (Karras et al. 2019; conditioning as in StyleGAN2-ADA)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan3d.layers.linear import FullyConnected, normalise_second_moment


class MappingNetwork(nn.Module):
    """z, label -> w, by fully connected leaky-ReLU layers on normalised inputs.

    Args:
        z_dim: 0 is none.
        c_dim: size of the label; 0 is none.
        w_dim: of the output.
        num_ws: copies of w; None gives [b w].
        num_layers: fully connected layers.
        embed_features: size of the embedded label; None is w_dim.
        layer_features: width; None is w_dim.
        lr_multiplier: of all layers but the label's.
        w_avg_beta: decay of the mean latent; None keeps none.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        *,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.998,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embedded = (w_dim if embed_features is None else embed_features) if c_dim else 0
        if z_dim + embedded == 0:
            raise ValueError("a mapping network needs a latent or a label: z_dim and c_dim are both 0")
        width = w_dim if layer_features is None else layer_features
        if c_dim:
            self.embed = FullyConnected(c_dim, embedded)
        sizes = [z_dim + embedded, *[width] * (num_layers - 1), w_dim]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            layer = FullyConnected(inputs, outputs, activation="lrelu", lr_multiplier=lr_multiplier)
            setattr(self, f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Latents.

        Args:
            z: [b z].
            label: [b c].
            truncation: psi of the truncation trick, 1 is none.
            truncation_cutoff: truncates the first so many ws only.

        Returns:
            [b n w], or [b w] without num_ws.
        """
        with torch.autocast((z if z is not None else label).device.type, enabled=False):
            inputs = []
            if self.z_dim:
                inputs.append(normalise_second_moment(z.to(self.fc0.weight.dtype)))
            if self.c_dim:
                inputs.append(normalise_second_moment(self.embed(label.to(self.fc0.weight.dtype))))
            w = torch.cat(inputs, dim=1)
            for i in range(self.num_layers):
                w = getattr(self, f"fc{i}")(w)
            if self.num_ws is None:
                return w
            ws = w[:, None].repeat(1, self.num_ws, 1)  # b n w
            if truncation != 1:
                first = slice(None, truncation_cutoff)
                truncated = self.w_avg.lerp(ws[:, first], truncation)
                ws = torch.cat([truncated, ws[:, truncated.shape[1] :]], dim=1)
            return ws

    @torch.no_grad()
    def track(self, ws: Tensor) -> None:
        """w_avg <- mean + beta (w_avg - mean), mean over the batch of ws [b n w], first slot."""
        mean = ws.detach()[:, 0].mean(dim=0)
        self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
