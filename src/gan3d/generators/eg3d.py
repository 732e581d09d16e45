"""EG3D: Efficient Geometry-aware 3D Generative Adversarial Networks (Chan et al., CVPR 2022,
arXiv:2112.07945).

    z, camera -> StyleGAN2 (or 3) mapping -> ws -> synthesis -> three planes -> per point: mean of
    plane features -> decoder -> (sigma, 32 features) -> volume rendering -> feature image, its
    first three channels the raw image -> super-resolution -> image

`EG3D()` is the published ffhq512-128 model (30,662,136 parameters), with its parameter names.
Deviations are marked `unlike eg3d` here, in `rendering` and in `layers.superresolution`; those that
change numbers can be switched back (`render.depth_clamp`, `render.auto_limits`,
`superresolution.legacy_raw`).

Convention: the scene is the cube of side `box_warp` about the origin, seen from outside; directions
are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import LABEL_DIM, Camera
from gan3d.generators.contract import (
    UNBOUNDED,
    Generator,
    Rendering,
    background_color,
    cast_rays,
)
from gan3d.layers.alias_free import AliasFreeSynthesis, Picture
from gan3d.layers.alias_free_filters import AliasFreeLayers
from gan3d.layers.backdrop import Backdrop
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.layers.precision import without_float16
from gan3d.layers.superresolution import SuperResolution, SuperResolutionOptions
from gan3d.layers.synthesis import SynthesisNetwork
from gan3d.ops.field_decoder import decode
from gan3d.ops.render_triplane import DecoderWeights
from gan3d.ops.triplane import PROJECTIONS, PlaneAxes, PlaneTable
from gan3d.randomness import Randomness
from gan3d.rendering import DensityPrior, RenderOptions, TriplaneField, render_rays

# Images after which the StyleGAN3 backbone's old magnitudes weigh half.
MAGNITUDE_HALF_LIFE = 20_000


@dataclass(frozen=True)
class PlaneOptions:
    """The three feature planes of a scene.

    Attributes:
        resolution: side of the planes, a power of two.
        channels: features per plane.
        axes: "official" (as all published weights: nothing sees y with z) or "fixed".
    """

    resolution: int = 256
    channels: int = 32
    axes: PlaneAxes = "official"

    def __post_init__(self) -> None:
        if self.axes not in PROJECTIONS:
            raise ValueError(
                f"planes.axes {self.axes!r} is unknown; choose {' or '.join(PROJECTIONS)}"
            )


@dataclass(frozen=True)
class BackboneOptions:
    """The network that makes the planes.

    Attributes:
        network: StyleGAN2 as in the paper, or StyleGAN3, configuration T or R (StyleGAN3-R). One
            canvas of StyleGAN3 carries all three planes: its motion within the canvas is not a
            rigid motion of the scene. Its planes are not scaled down as its images are
            (output_scale 1).
        num_layers: layers of a StyleGAN3 network.
        num_critical: how many of the last layers of StyleGAN3 are critically sampled; planes are
            interpolated, so 0 or 1 may do.
        channel_base: width rule: min(channel_base / resolution, channel_max) channels.
        channel_max: see channel_base.
        conv_clamp: bound of the activations; None is off.
        use_noise: whether the layers of StyleGAN2 have per-pixel noise, as published. It is drawn
            anew in training and constant afterwards, a pattern at fixed places of the planes that
            super-resolution may show as dots; False also omits its parameters.
    """

    network: Literal["StyleGAN2", "StyleGAN3", "StyleGAN3-R"] = "StyleGAN2"
    num_layers: int = 14
    num_critical: int = 2
    channel_base: int = 32768
    channel_max: int = 512
    conv_clamp: float | None = None
    use_noise: bool = True

    def __post_init__(self) -> None:
        if self.network not in ("StyleGAN2", "StyleGAN3", "StyleGAN3-R"):
            raise ValueError(
                f"backbone.network {self.network!r} is unknown; choose StyleGAN2, StyleGAN3 or "
                "StyleGAN3-R"
            )

    def synthesis(
        self, w_dim: int, resolution: int, channels: int
    ) -> SynthesisNetwork | AliasFreeSynthesis:
        """A new synthesis network: ws -> [b channels resolution resolution]."""
        if self.network == "StyleGAN2":
            return SynthesisNetwork(
                w_dim,
                resolution,
                channels,
                channel_base=self.channel_base,
                channel_max=self.channel_max,
                use_noise=self.use_noise,
                conv_clamp=self.conv_clamp,
            )
        layers = AliasFreeLayers(
            self.channel_base, self.channel_max, self.num_layers, self.num_critical
        )
        return AliasFreeSynthesis(
            w_dim,
            resolution,
            channels,
            layers.turning() if self.network == "StyleGAN3-R" else layers,
            output_scale=1.0,
            conv_clamp=self.conv_clamp,
        )


@dataclass(frozen=True)
class DecoderOptions:
    """The network from plane features to density and color.

    Attributes:
        hidden_dim: width of the hidden layer.
        feature_channels: number of rendered features; the first three are the raw image.
        lr_multiplier: learning-rate multiplier.
    """

    hidden_dim: int = 64
    feature_channels: int = 32
    lr_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.feature_channels < 3:
            raise ValueError(
                f"decoder.feature_channels {self.feature_channels} is less than 3, the raw image's "
                "colors"
            )


@dataclass(frozen=True, eq=False)
class TriPlanes:
    """Scenes without a camera: may be kept and rendered from anywhere; one scene may be rendered
    from many cameras at once.

    Attributes:
        planes: [b 3 c h w].
        w: the latent that styles super-resolution (the last of ws), [b w].
        axes: which two coordinates each plane sees (`ops.triplane`).
        magnitudes: mean squares of the StyleGAN3 backbone's activations, for `track`, [b k].
        table: the planes packed for fast lookup.
    """

    planes: Tensor
    w: Tensor
    axes: PlaneAxes = "official"
    magnitudes: Tensor | None = None
    table: PlaneTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", PlaneTable.of(self.planes, self.axes))

    def __len__(self) -> int:
        return len(self.planes)


class Decoder(nn.Module):
    """Mean plane features -> (raw density, color features); one hidden layer (EG3D section 3.2).

    sigma = o_0,   rgb = 1.002 sigmoid(o_1..) - 0.001  (Mip-NeRF's widened sigmoid).
    """

    def __init__(self, in_channels: int, options: DecoderOptions):
        super().__init__()
        hidden, multiplier = options.hidden_dim, options.lr_multiplier
        self.net = nn.Sequential(
            EqualizedLinear(in_channels, hidden, lr_multiplier=multiplier),
            nn.Softplus(),
            EqualizedLinear(hidden, 1 + options.feature_channels, lr_multiplier=multiplier),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[.. c] -> sigma [.. 1], rgb [.. f]."""
        return decode(features, *self.weights(features.dtype))

    def weights(self, dtype: torch.dtype) -> DecoderWeights:
        """Matrices and biases, with the gains of equalized learning rates."""
        layers = (layer for layer in self.net if isinstance(layer, EqualizedLinear))
        (w1, b1), (w2, b2) = (layer.scaled(dtype) for layer in layers)
        assert b1 is not None
        assert b2 is not None
        return DecoderWeights(w1, b1, w2, b2)


class Backbone(nn.Module):
    """The two networks of StyleGAN2 or StyleGAN3: (z, label) -> ws -> planes in 3 c channels."""

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork | AliasFreeSynthesis):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def planes(self, ws: Tensor, randomness: Randomness | None) -> Picture:
        """Planes [b 3c h w] and the magnitudes of StyleGAN3's activations [b k], [b 0] for
        StyleGAN2. Never in float16, as published: their activations are not bounded.
        """
        with without_float16(ws):
            if isinstance(self.synthesis, AliasFreeSynthesis):
                return self.synthesis.picture(ws)
            return Picture(self.synthesis(ws, randomness=randomness), ws.new_empty(len(ws), 0))


class EG3D(Generator):
    """EG3D with tri-planes from StyleGAN2 or StyleGAN3 and a dual (raw and super-resolved) image.

    Args:
        z_dim: size of z.
        w_dim: size of each latent of ws.
        img_resolution: side of the image: 4 (layouts 8X, 8XDC) or 2 (2X, 4X) times
            `superresolution.input_resolution`.
        raw_resolution: side of the rendered image unless `render` is given another; any size works.
        c_scale: factor of the conditioning camera; 1 conditions on the pose, 0 does not.
        planes: size and axes of the tri-planes.
        backbone: the network that makes the planes.
        mapping: the mapping network, from (z, camera) to w.
        decoder: the network from plane features to density and color.
        render: how rays are sampled and composited.
        superresolution: how the rendered features become the image.
        density_prior: a solid that stands in the scene from the start; unlike eg3d, which has none.
    """

    has_field: ClassVar[bool] = True
    has_raw: ClassVar[bool] = True
    style_affine = "affine.weight"
    parts = {
        "mapping": ("backbone.mapping.",),
        "planes": ("backbone.synthesis.",),
        "decoder": ("decoder.",),
        "superresolution": ("superresolution.",),
    }
    camera_conditioned: bool = True
    tiny: ClassVar[dict[str, Any]] = {
        "z_dim": 16,
        "w_dim": 16,
        "img_resolution": 32,
        "raw_resolution": 16,
        "planes": PlaneOptions(resolution=16, channels=8),
        "backbone": BackboneOptions(channel_base=128, channel_max=16),
        "decoder": DecoderOptions(hidden_dim=16, feature_channels=8),
        "render": RenderOptions(depth_samples=6, importance_samples=6),
        "superresolution": SuperResolutionOptions(layout="2X", channels=(8, 8)),
    }

    def __init__(
        self,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        img_resolution: int = 512,
        raw_resolution: int = 128,
        c_scale: float = 1.0,
        planes: PlaneOptions = PlaneOptions(),
        backbone: BackboneOptions = BackboneOptions(),
        mapping: MappingOptions = MappingOptions(),
        decoder: DecoderOptions = DecoderOptions(),
        render: RenderOptions = RenderOptions(),
        superresolution: SuperResolutionOptions = SuperResolutionOptions(),
        density_prior: DensityPrior = DensityPrior(),
    ):
        super().__init__()
        # Facts of the contract.
        self.z_dim, self.w_dim = z_dim, w_dim
        self.img_resolution, self.raw_resolution = img_resolution, raw_resolution
        self.scene_extent = render.box_warp
        if not render.automatic:
            self.ray_limits = float(render.ray_start), float(render.ray_end)
        self.camera_conditioned = c_scale != 0
        self.independent_pixels = superresolution.layout == "none"
        self.movable = backbone.network != "StyleGAN2"
        is_bounded = superresolution.layout == "none" or superresolution.conv_clamp is not None
        self.no_float16 = "" if is_bounded else UNBOUNDED
        if superresolution.layout == "none" and img_resolution != raw_resolution:
            raise ValueError(
                f"img_resolution {img_resolution} is not raw_resolution {raw_resolution}; without "
                "super-resolution the image is the raw image: make them equal"
            )

        self.c_scale, self.plane_axes, self.options = c_scale, planes.axes, render
        self.background = None if render.background == "learned" else render.background
        self.strict_3d = superresolution.layout == "none" and self.background is not None
        self.density_prior = density_prior
        self.legacy_raw = superresolution.legacy_raw

        # Parameters are drawn in this order.
        synthesis = backbone.synthesis(w_dim, planes.resolution, 3 * planes.channels)
        self.num_ws = synthesis.num_ws
        network = MappingNetwork(z_dim, LABEL_DIM, w_dim, self.num_ws, mapping)
        self.backbone = Backbone(network, synthesis)
        self.decoder = Decoder(planes.channels, decoder)
        self.superresolution: SuperResolution | None = None
        if superresolution.layout != "none":
            self.superresolution = SuperResolution(
                img_resolution,
                superresolution,
                in_channels=decoder.feature_channels,
                w_dim=w_dim,
            )
        # unlike eg3d: a backdrop, if asked for.
        self.backdrop: Backdrop | None = None
        if render.background == "learned":
            self.backdrop = Backdrop(w_dim, decoder.feature_channels)
            self.parts = {**self.parts, "backdrop": ("backdrop.",)}
        # Spread of the data set's labels, which published training stores with the weights.
        self.register_buffer("dataset_label_std", torch.zeros(LABEL_DIM))

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        label = z.new_zeros(len(z), LABEL_DIM) if camera is None else camera.label().to(z)
        return self.backbone.mapping(
            z, self.c_scale * label, truncation=truncation, truncation_cutoff=truncation_cutoff
        )

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> TriPlanes:
        made = self.backbone.planes(ws, randomness)
        planes = rearrange(made.image, "b (k c) h w -> b k c h w", k=3)
        return TriPlanes(planes, ws[:, -1], self.plane_axes, made.magnitudes)

    def synthesize(self, ws: Tensor, transform: Tensor | None = None) -> Tensor:
        """Planes as one image, [b 3c h w], moved by a transform of their canvas, [3 3] or [b 3 3].

        Used to measure equivariance in the image plane; only a StyleGAN3 backbone takes a transform
        (`movable`).
        """
        if not isinstance(self.backbone.synthesis, AliasFreeSynthesis):
            return super().synthesize(ws, transform)
        return self.backbone.synthesis(ws, transform)

    def render(
        self,
        representation: TriPlanes,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """Renders a scene from b cameras; one scene may be rendered from many cameras.

        Args:
            representation: result of `represent`, b scenes or one.
            camera: b views.
            resolution: side of the raw image; None is `raw_resolution`. The image keeps its size.
            rays: pixel indices [r] of the raw image; every result is then [b c r 1]. Only a model
                without super-resolution renders a subset, since super-resolution needs all pixels.
            raw: has no effect; the raw image is always rendered.
            randomness: jitter of samples, density noise and noise of super-resolution; None is
                deterministic.

        Returns:
            image, raw, depth and opacity. The extras are "features" [b f h w], in [-1, 1] like the
            raw image, and "ray_depth" [b 1 h w], the distance along the ray (image_depth in the
            published code).
        """
        if rays is not None and self.superresolution is not None:
            raise ValueError(
                f"got {rays.numel()} rays, but super-resolution needs the whole image; leave out "
                "`rays` or build EG3D with superresolution.layout 'none'"
            )
        sight = cast_rays(self, camera, resolution or self.raw_resolution, rays, randomness)
        # Densities and transmittances need float32, even under autocast.
        with torch.autocast(representation.planes.device.type, enabled=False):
            options = self.options
            if self.density_noise:
                options = replace(options, density_noise=self.density_noise)

            field = self._field(representation)
            seen = render_rays(field, sight.rays, options, sight.randomness)

            # Black features lie at -1: what shows behind the scene is added.
            features = 2 * seen.features - 1  # b r f
            if self.background == "random":
                color = background_color("random", randomness, len(features)).to(features)
                behind = F.pad(color + 1, (0, features.shape[2] - 3))
                features = features + (1 - seen.opacity) * behind[:, None]
            if self.backdrop is not None:
                behind = 2 * self.backdrop(representation.w, sight.places())
                features = features + (1 - seen.opacity) * behind
        features = sight.maps(features)
        image = low = features[:, :3]
        if self.superresolution is not None:
            w = representation.w.expand(len(features), -1)
            image, first = self.superresolution(low, features, w, randomness=randomness)
            if self.legacy_raw and self.superresolution.first_up == 1 and first.shape == low.shape:
                low = first
        extras = {"features": features, "ray_depth": sight.maps(seen.depth)}
        return Rendering(
            image,
            low,
            sight.maps(seen.depth * sight.rays.cosines),
            sight.maps(seen.opacity),
            extras,
        )

    def field(
        self, representation: TriPlanes, points: Tensor, directions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw density [b p 1] and features [b p f] in about [0, 1] at points [b p 3]; directions
        have no effect.
        """
        with torch.autocast(points.device.type, enabled=False):
            return self._field(representation)(points)

    def batch_bound(self) -> str:
        official = self.options.automatic and self.options.auto_limits == "official"
        return "render.auto_limits official" if official else ""

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        self.backbone.mapping.track(ws)
        if isinstance(self.backbone.synthesis, AliasFreeSynthesis) and statistics is not None:
            self.backbone.synthesis.track(statistics, 0.5 ** (batch_size / MAGNITUDE_HALF_LIFE))

    def statistics(self, representation: TriPlanes) -> Tensor | None:
        magnitudes = representation.magnitudes
        return None if magnitudes is None or magnitudes.shape[1] == 0 else magnitudes

    def _field(self, representation: TriPlanes) -> TriplaneField:
        decoder = self.decoder.weights(representation.planes.dtype)
        return TriplaneField(
            representation.table, decoder, self.options.box_warp, self.density_prior
        )
