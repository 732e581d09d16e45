"""CIPS-3D's mapping network: from one z to the latents of several layers (specs/cips3d.md 4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gan3d.layers.mapping import normalize_second_moment
from gan3d.layers.mod_fc import leaky_kaiming_
from gan3d.layers.precision import full_precision


class MultiHeadMapping(nn.Module):
    """w_k = head_k(base(z / sqrt(mean(z^2) + 1e-8))), one latent per name k.

    base: `base_layers` linear layers of width `hidden_dim`; each but the last is followed by a
        LayerNorm (if `add_norm`) and a leaky ReLU (0.2).
    head_k: `head_layers` linear layers with leaky ReLUs between them; the last has the size of w_k.

    Without head layers all names share one latent. Latents have the precision of the parameters
    also under autocast.

    Args:
        z_dim: size of z.
        hidden_dim: width of the base.
        heads: size of w_k by name; without head layers all must be hidden_dim.
        base_layers: number of linear layers in the base, 1 or more.
        head_layers: number of linear layers in each head; if positive, the last layer of the base
            is also followed by norm and activation.
        add_norm: LayerNorm before the activations of the base.
        norm_out: LayerNorm on the latents.

    Raises:
        ValueError: the base has no layer, or the sizes do not match.
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
            raise ValueError(f"base_layers is {base_layers}; the base needs 1 or more layers")
        other = {name: width for name, width in heads.items() if width != hidden_dim}
        if other and head_layers == 0:
            raise ValueError(
                f"got latents of sizes {other}; without head layers all have size hidden_dim "
                f"{hidden_dim}: change hidden_dim or add head_layers"
            )
        self.z_dim = z_dim
        self.names = tuple(heads)

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
        """z [b z_dim] -> the latents w_k by name, each [b heads[k]]."""
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
