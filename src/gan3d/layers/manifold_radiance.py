"""The radiance generator of GRAM and GRAM-HD: a FiLM-SIREN with output heads on every layer.

    x_0 = film_0(2 x / E),   x_i = film_i(x_{i-1}),   i = 1..7

    sigma    = softplus(sum_j sigma_j(x_j)),   j = 1..7
    features = sum_j feature_j(x_j)
    rgb      = 1.002 sigmoid(sum_{j<7} color_j(x_j) + color_7(film_color([d, x_7]))) - 0.001

(GRAM, section 3.3.)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.film_siren import FiLMSiren, siren_head
from gan3d.layers.precision import full_precision

NUM_TRUNK = 8
NUM_HEADS = NUM_TRUNK - 1
NUM_FILM = NUM_TRUNK + 1

ColorActivation = Literal["widen_sigmoid", "sigmoid"]
DensityActivation = Literal["softplus", "relu"]


class RadianceSample(NamedTuple):
    """Radiance at points; quantities that were not requested are None.

    Attributes:
        rgb: color in about [0, 1], [b p 3].
        sigma: density, not negative, [b p 1].
        features: [b p f].
    """

    rgb: Tensor
    sigma: Tensor | None
    features: Tensor | None


class ManifoldRadiance(nn.Module):
    """Color, density and features from points, view directions and latents.

    ws [b 9 2h] holds a gain and a phase [h] for each FiLM layer, the color layer last.

    Args:
        hidden_dim: h, width of the FiLM layers.
        feature_dim: f, size of the features; 0 for no feature heads.
        extent: E, side of the scene's cube, which is scaled to [-1, 1].
        color_activation: "widen_sigmoid" (1.002 sigmoid - 0.001) or "sigmoid".
        density_activation: "softplus" or "relu".

    Raises:
        ValueError: an activation is unknown.
    """

    def __init__(
        self,
        hidden_dim: int = 256,
        feature_dim: int = 0,
        *,
        extent: float = 0.24,
        color_activation: ColorActivation = "widen_sigmoid",
        density_activation: DensityActivation = "softplus",
    ):
        super().__init__()
        if color_activation not in ("widen_sigmoid", "sigmoid"):
            raise ValueError(
                f"color_activation {color_activation!r} is unknown; choose widen_sigmoid or sigmoid"
            )
        if density_activation not in ("softplus", "relu"):
            raise ValueError(
                f"density_activation {density_activation!r} is unknown; choose softplus or relu"
            )
        self.hidden_dim = hidden_dim
        self.feature_dim = feature_dim
        self.extent = extent
        self.color_activation = color_activation
        self.density_activation = density_activation

        trunk = [FiLMSiren(3, hidden_dim, first=True)]
        trunk += [FiLMSiren(hidden_dim, hidden_dim) for _ in range(NUM_HEADS)]
        self.network = nn.ModuleList(trunk)
        self.color_layer = FiLMSiren(hidden_dim + 3, hidden_dim)
        self.output_sigma = nn.ModuleList(siren_head(hidden_dim, 1) for _ in range(NUM_HEADS))
        self.output_color = nn.ModuleList(siren_head(hidden_dim, 3) for _ in range(NUM_HEADS))
        self.output_feature = nn.ModuleList(
            siren_head(hidden_dim, feature_dim) for _ in range(NUM_HEADS if feature_dim else 0)
        )

    def forward(
        self,
        points: Tensor,
        directions: Tensor,
        ws: Tensor,
        *,
        sigma: bool = True,
        features: bool = False,
    ) -> RadianceSample:
        """Radiance of b scenes at p points each.

        Args:
            points: world coordinates, [b p 3].
            directions: view directions of unit length, [b p 3].
            ws: [b 9 2h].
            sigma: whether to compute density.
            features: whether to compute features.

        Raises:
            ValueError: ws and points do not match, or there are no feature heads.
        """
        if ws.shape[1:] != (NUM_FILM, 2 * self.hidden_dim) or len(ws) != len(points):
            raise ValueError(
                f"ws {tuple(ws.shape)} for points {tuple(points.shape)}; expected [{len(points)} "
                f"{NUM_FILM} {2 * self.hidden_dim}], a gain and a phase for each FiLM layer"
            )
        if features and not self.feature_dim:
            raise ValueError(
                "features were requested from a radiance generator without feature heads; build "
                "it with feature_dim > 0"
            )
        films = [ws[:, i].chunk(2, -1) for i in range(NUM_FILM)]

        # The first layer multiplies coordinates by 30, too much for bfloat16.
        with full_precision(points):
            x = self.network[0](points * (2 / self.extent), *films[0])

        # All layers but the last add color, density and features at once.
        total: Tensor | int = 0  # b p (3 + 1 + f)
        for j in range(NUM_HEADS - 1):
            x = self.network[j + 1](x, *films[j + 1])
            heads = [self.output_color[j], *self._view_independent_heads(j, sigma, features)]
            total = total + _fused_linear(x, heads)

        # The last color depends on the view direction.
        x = self.network[NUM_HEADS](x, *films[NUM_HEADS])
        colored = self.color_layer(torch.cat([directions.to(x), x], -1), *films[-1])
        last = [self.output_color[-1](colored)]
        if sigma or features:
            last.append(_fused_linear(x, self._view_independent_heads(-1, sigma, features)))

        with full_precision(points):
            return self._activate((total + torch.cat(last, -1)).to(ws.dtype), sigma, features)

    def _view_independent_heads(self, j: int, sigma: bool, features: bool) -> list[nn.Module]:
        """The requested heads of layer j for density and features."""
        heads = []
        if sigma:
            heads.append(self.output_sigma[j])
        if features:
            heads.append(self.output_feature[j])
        return heads

    def _activate(self, total: Tensor, sigma: bool, features: bool) -> RadianceSample:
        rgb = total[..., :3].sigmoid()
        if self.color_activation == "widen_sigmoid":
            rgb = 1.002 * rgb - 0.001
        density = None
        if sigma:
            raw = total[..., 3:4]
            density = F.softplus(raw) if self.density_activation == "softplus" else raw.relu()
        return RadianceSample(rgb, density, total[..., 3 + sigma :] if features else None)


def _fused_linear(x: Tensor, heads: list[nn.Module]) -> Tensor:
    """The concatenated outputs of several linear layers, as one product."""
    weight = torch.cat([head.get_parameter("weight") for head in heads])
    bias = torch.cat([head.get_parameter("bias") for head in heads])
    return F.linear(x, weight, bias)
