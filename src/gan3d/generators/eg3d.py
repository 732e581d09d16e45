"""EG3D: Efficient Geometry-aware 3D Generative Adversarial Networks (Chan et al., CVPR 2022,
arXiv:2112.07945).

    z, camera -> StyleGAN2 (or 3) mapping -> ws -> synthesis -> three planes -> per point: mean of
    plane features -> decoder -> (sigma, 32 features) -> volume rendering -> feature image, its
    first three channels the raw image -> super-resolution -> image

`EG3D()` is the published ffhq512-128 model (30,662,136 parameters), with its parameter names.
Deviations are marked `unlike eg3d` here, in `rendering` and in `layers.superresolution`; those that
change numbers can be switched back (`depth_clamp`, `auto_limits`, `legacy_raw`).

Convention: the scene is the cube of side `box_warp` about the origin, seen from outside; directions
are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import LABEL_DIM, Camera
from gan3d.generators.contract import Generator, Rendering, cast_rays
from gan3d.layers.alias_free import AliasFreeSynthesis, Picture
from gan3d.layers.alias_free_filters import AliasFreeLayers
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.mapping import MappingNetwork
from gan3d.layers.superresolution import Layout, SuperResolution
from gan3d.layers.synthesis import Noise, SynthesisNetwork
from gan3d.ops.triplane import PROJECTIONS, PlaneAxes, PlaneTable
from gan3d.randomness import Randomness
from gan3d.rendering import RenderOptions, render_rays

MAGNITUDE_HALF_LIFE = (
    20_000  # images after which the StyleGAN3 backbone's old magnitudes weigh half
)


@dataclass(frozen=True, eq=False)
class TriPlanes:
    """Scenes without a camera: may be kept and rendered from anywhere, one scene also from many
    cameras at once.

    Attributes:
        planes: [b 3 c h w].
        w: the latent that styles super-resolution (the last of ws), [b w].
        axes: which two coordinates each plane sees (`ops.triplane`).
        magnitudes: of the StyleGAN3 backbone's activations, for `track`, [b k].
        table: the planes made ready for lookups.
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

    def __init__(
        self, in_channels: int, hidden_channels: int, out_channels: int, lr_multiplier: float
    ):
        super().__init__()
        self.net = nn.Sequential(
            EqualizedLinear(in_channels, hidden_channels, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            EqualizedLinear(hidden_channels, 1 + out_channels, lr_multiplier=lr_multiplier),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[.. c] -> sigma [.. 1], rgb [.. f]."""
        out = self.net(features)
        return out[..., :1], 1.002 * torch.sigmoid(out[..., 1:]) - 0.001


class Backbone(nn.Module):
    """The two networks of StyleGAN2 or StyleGAN3: (z, label) -> ws -> planes in 3 c channels."""

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork | AliasFreeSynthesis):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def planes(self, ws: Tensor, randomness: Randomness | None) -> Picture:
        """Planes [b 3c h w] and, of StyleGAN3, the magnitudes of its activations; StyleGAN2's have
        no columns.
        """
        if isinstance(self.synthesis, AliasFreeSynthesis):
            return self.synthesis.picture(ws)
        return Picture(self.synthesis(ws, randomness=randomness), ws.new_empty(len(ws), 0))


class EG3D(Generator):
    """EG3D with tri-planes from StyleGAN2 or StyleGAN3 and a dual (raw and super-resolved) image.

    Args:
        z_dim: length of z.
        w_dim: length of each latent of ws.
        img_resolution: side of the image: 4 (layouts 8X, 8XDC) or 2 (2X, 4X) times
            `sr_input_resolution`.
        raw_resolution: side of the rendered image when `render` is not told another; any size
            works.
        plane_resolution: side of the planes, a power of two.
        plane_channels: features per plane.
        backbone: the network that makes the planes: StyleGAN2 as in the paper, or StyleGAN3,
            configuration T or R (StyleGAN3-R). One canvas of StyleGAN3 carries all three planes:
            that it moves and turns within the canvas is no rigid motion of the scene. Its planes
            are not scaled down as its images are (output_scale 1).
        backbone_layers: of a StyleGAN3 backbone.
        backbone_critical: how many of its last layers are critically sampled; planes are
            interpolated: 0 or 1 may do.
        channel_base: width rule of the backbone: min(channel_base / resolution, channel_max)
            channels.
        channel_max: see channel_base.
        conv_clamp: the backbone's activations are clamped to this; None is off.
        mapping_layers: fully connected layers from (z, camera) to w.
        mapping_embed_dim: length of the embedded camera; None is w_dim.
        mapping_hidden_dim: width of the mapping network; None is w_dim.
        mapping_lr_multiplier: learning-rate multiplier of the mapping network.
        w_avg_beta: decay of the mean latent per `track`.
        plane_axes: "official" (as all published weights: nothing sees y with z) or "fixed".
        c_scale: the conditioning camera is multiplied by this; 1 is pose-conditioned, 0 is not.
        decoder_hidden_dim: width of the decoder's hidden layer.
        decoder_lr_multiplier: learning-rate multiplier of the decoder.
        feature_channels: rendered features; the first three are the raw image.
        depth_samples, importance_samples, ray_start, ray_end, box_warp, disparity,
            white_background, density_noise, depth_clamp, auto_limits, ray_chunk: see
            `rendering.RenderOptions`.
        superresolution: layout (see `layers.superresolution`), or "none": the image is the raw
            image.
        sr_channels: widths of the two blocks; None is the layout's own.
        sr_input_resolution: what features are resized to first; None follows from img_resolution.
        sr_noise: noise of the blocks: "none", "const", or "random" (constant without a
            `randomness`).
        sr_antialias: whether resizing that shrinks is low-pass filtered.
        sr_clamp: activations of super-resolution are clamped to this; None is off.
        legacy_raw: with a 2X or 4X layout and no resizing, the published code adds block0's image
            to the raw image in place and returns that; set it for official 2X and 4X weights.
    """

    has_field: ClassVar[bool] = True
    has_raw: ClassVar[bool] = True
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
        "plane_resolution": 16,
        "plane_channels": 8,
        "feature_channels": 8,
        "decoder_hidden_dim": 16,
        "channel_base": 128,
        "channel_max": 16,
        "depth_samples": 6,
        "importance_samples": 6,
        "superresolution": "2X",
        "sr_channels": (8, 8),
    }

    def __init__(
        self,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        img_resolution: int = 512,
        raw_resolution: int = 128,
        plane_resolution: int = 256,
        plane_channels: int = 32,
        backbone: Literal["StyleGAN2", "StyleGAN3", "StyleGAN3-R"] = "StyleGAN2",
        backbone_layers: int = 14,
        backbone_critical: int = 2,
        channel_base: int = 32768,
        channel_max: int = 512,
        conv_clamp: float | None = None,
        mapping_layers: int = 2,
        mapping_embed_dim: int | None = None,
        mapping_hidden_dim: int | None = None,
        mapping_lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        plane_axes: PlaneAxes = "official",
        c_scale: float = 1.0,
        decoder_hidden_dim: int = 64,
        decoder_lr_multiplier: float = 1.0,
        feature_channels: int = 32,
        depth_samples: int = 48,
        importance_samples: int = 48,
        ray_start: float | Literal["auto"] = 2.25,
        ray_end: float | Literal["auto"] = 3.3,
        box_warp: float = 1.0,
        disparity: bool = False,
        white_background: bool = False,
        density_noise: float = 0.0,
        depth_clamp: Literal["batch", "ray"] = "ray",
        auto_limits: Literal["clipped", "official"] = "clipped",
        ray_chunk: int | None = None,
        superresolution: Layout | Literal["none"] = "8XDC",
        sr_channels: tuple[int, int] | None = None,
        sr_input_resolution: int | None = None,
        sr_noise: Noise = "none",
        sr_antialias: bool = True,
        sr_clamp: float | None = 256.0,
        legacy_raw: bool = False,
    ):
        super().__init__()
        if feature_channels < 3:
            raise ValueError(
                f"feature_channels {feature_channels} is less than 3, the raw image's colors"
            )
        self.z_dim, self.w_dim = z_dim, w_dim
        self.img_resolution, self.raw_resolution = img_resolution, raw_resolution
        self.plane_channels, self.plane_axes = plane_channels, plane_axes
        self.scene_extent, self.c_scale, self.camera_conditioned = box_warp, c_scale, c_scale != 0
        self.legacy_raw = legacy_raw
        self.options = RenderOptions(
            depth_samples=depth_samples,
            importance_samples=importance_samples,
            ray_start=ray_start,
            ray_end=ray_end,
            box_warp=box_warp,
            disparity=disparity,
            white_background=white_background,
            density_noise=density_noise,
            depth_clamp=depth_clamp,
            auto_limits=auto_limits,
            ray_chunk=ray_chunk,
        )
        synthesis: SynthesisNetwork | AliasFreeSynthesis
        if backbone == "StyleGAN2":
            synthesis = SynthesisNetwork(
                w_dim,
                plane_resolution,
                3 * plane_channels,
                channel_base=channel_base,
                channel_max=channel_max,
                conv_clamp=conv_clamp,
            )
        elif backbone not in ("StyleGAN3", "StyleGAN3-R"):
            raise ValueError(
                f"backbone {backbone!r} is unknown; choose StyleGAN2, StyleGAN3 or StyleGAN3-R"
            )
        else:
            schedule = AliasFreeLayers(
                channel_base, channel_max, backbone_layers, backbone_critical
            )
            schedule = schedule.turning() if backbone == "StyleGAN3-R" else schedule
            synthesis = AliasFreeSynthesis(
                w_dim,
                plane_resolution,
                3 * plane_channels,
                schedule,
                output_scale=1.0,
                conv_clamp=conv_clamp,
            )
        self.num_ws = synthesis.num_ws
        mapping = MappingNetwork(
            z_dim,
            LABEL_DIM,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            embed_features=mapping_embed_dim,
            layer_features=mapping_hidden_dim,
            lr_multiplier=mapping_lr_multiplier,
            w_avg_beta=w_avg_beta,
        )
        self.backbone = Backbone(mapping, synthesis)
        self.decoder = Decoder(
            plane_channels, decoder_hidden_dim, feature_channels, decoder_lr_multiplier
        )
        self.superresolution: SuperResolution | None = None
        self.independent_pixels, self.movable = superresolution == "none", backbone != "StyleGAN2"
        if superresolution == "none" and img_resolution != raw_resolution:
            raise ValueError(
                f"img_resolution {img_resolution} is not raw_resolution {raw_resolution}; without "
                "super-resolution the image is the raw image: make them equal"
            )
        if plane_axes not in PROJECTIONS:
            raise ValueError(
                f"plane_axes {plane_axes!r} is unknown; choose {' or '.join(PROJECTIONS)}"
            )
        if superresolution != "none":
            self.superresolution = SuperResolution(
                superresolution,
                img_resolution,
                input_resolution=sr_input_resolution,
                in_channels=feature_channels,
                channels=sr_channels,
                w_dim=w_dim,
                noise=sr_noise,
                antialias=sr_antialias,
                conv_clamp=sr_clamp,
            )
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
        """The planes side by side, [b 3c h w], moved by a transform of their canvas, [3 3] or [b 3
        3].

        For measures of equivariance in the image plane; only a StyleGAN3 backbone takes a transform
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
        """Shows a scene; one scene may be rendered from many cameras.

        Args:
            representation: what `represent` returned, b scenes or one.
            camera: b views.
            resolution: side of the raw image; None is `raw_resolution`. The image keeps its size.
            rays: pixel indices [r] of the raw image. Super-resolution needs all of them, so only a
                model without it renders some: then everything in the result is [b c r 1].
            randomness: jitter of samples, density noise and super-resolution's noise; None is
                deterministic.

        Returns:
            image, raw, depth and opacity, and as extras "features" [b f h w] (in [-1, 1], like the
            raw image) and "ray_depth" [b 1 h w], distance along the ray, which the published code
            calls image_depth.
        """
        if rays is not None and self.superresolution is not None:
            raise ValueError(
                f"got {rays.numel()} rays, but super-resolution needs the whole image; leave out "
                "`rays` or build EG3D with superresolution 'none'"
            )
        sight = cast_rays(self, camera, resolution or self.raw_resolution, rays, randomness)
        # Densities and transmittances need float32 also where the networks do not.
        with torch.autocast(representation.planes.device.type, enabled=False):
            options = (
                replace(self.options, density_noise=self.density_noise)
                if self.density_noise
                else self.options
            )
            field = lambda points, _: self._query(representation, points)  # noqa: E731
            seen = render_rays(field, sight.rays, options, sight.randomness)

        features = sight.maps(2 * seen.features - 1)
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
        make no difference.
        """
        with torch.autocast(points.device.type, enabled=False):
            return self._query(representation, points)

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        self.backbone.mapping.track(ws)
        if isinstance(self.backbone.synthesis, AliasFreeSynthesis) and statistics is not None:
            self.backbone.synthesis.track(statistics, 0.5 ** (batch_size / MAGNITUDE_HALF_LIFE))

    def statistics(self, representation: TriPlanes) -> Tensor | None:
        magnitudes = representation.magnitudes
        return None if magnitudes is None or magnitudes.shape[1] == 0 else magnitudes

    def _query(self, representation: TriPlanes, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder(representation.table.features(points, box_warp=self.options.box_warp))
