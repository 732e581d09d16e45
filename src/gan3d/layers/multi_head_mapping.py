"""CIPS-3D's mapping network: one latent z to the latents of many consumers (specs/cips3d.md 4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gan3d.layers.mapping import normalize_second_moment
from gan3d.layers.mod_fc import leaky_kaiming_
from gan3d.layers.precision import full_precision


class MultiHeadMapping(nn.Module):
    """w_k = head_k(base(z / sqrt(mean(z^2) + 1e-8))), one head per consumer k.

    base: `base_layers` linear layers of width `hidden_dim`, after each but the last [LayerNorm,]
        leaky ReLU (0.2).
    head_k: `head_layers` linear layers with leaky ReLUs between them, the last of the consumer's
    width. Without head layers all consumers share one vector. Latents are always in the precision
    of the parameters, also under autocast.

    Args:
        z_dim: length of z.
        hidden_dim: width of the base.
        heads: length of w_k by consumer; without head layers all of them must be hidden_dim.
        base_layers: linear layers of the base, 1 or more.
        head_layers: linear layers of each head; with them, the base's last layer is followed by
            norm and activation.
        add_norm: LayerNorm before the base's activations.
        norm_out: LayerNorm on the latents.
    """

    def __init__(
        self,
        z_dim: int,
        hidden_dim: int,
        heads: Mapping[str, int],
        *,
        base_layers: int,
        head_layers: int = 0,
        add_norm: bool = False,
        norm_out: bool = False,
    ):
        super().__init__()
        if base_layers < 1:
            raise ValueError(f"base_layers {base_layers} leaves nothing to share z; use 1 or more")
        other = {name: width for name, width in heads.items() if width != hidden_dim}
        if other and head_layers == 0:
            raise ValueError(
                f"without head layers all latents have length hidden_dim {hidden_dim}, expected "
                f"{other}; change hidden_dim or add head_layers"
            )
        self.z_dim, self.names = z_dim, tuple(heads)
        base: list[nn.Module] = []
        for i in range(base_layers):
            base.append(_linear(z_dim if i == 0 else hidden_dim, hidden_dim))
            if i < base_layers - 1 or head_layers > 0:
                base += [nn.LayerNorm(hidden_dim)] if add_norm else []
                base.append(nn.LeakyReLU(0.2))
        if head_layers == 0 and norm_out:
            base.append(nn.LayerNorm(hidden_dim))
        self.base_net = nn.Sequential(*base)
        self.heads = nn.ModuleDict()
        if head_layers > 0:
            for name, width in heads.items():
                self.heads[name] = _head(hidden_dim, width, head_layers, norm_out)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """z [b z_dim] -> w_k [b w_k] by consumer."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(
                f"the mapping network got z of shape {tuple(z.shape)}; expected [b {self.z_dim}]"
            )
        with full_precision(z):
            shared = self.base_net(normalize_second_moment(z))
            if not self.heads:
                return dict.fromkeys(self.names, shared)
            return {name: head(shared) for name, head in self.heads.items()}


def _linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    leaky_kaiming_(layer.weight)
    return layer


def _head(hidden_dim: int, width: int, layers: int, norm_out: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [_linear(hidden_dim, hidden_dim), nn.LeakyReLU(0.2)]
    modules.append(_linear(hidden_dim, width))
    return nn.Sequential(*modules, *([nn.LayerNorm(width)] if norm_out else []))
