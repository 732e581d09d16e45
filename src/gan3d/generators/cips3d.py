"""CIPS-3D: A 3D-Aware Generator of GANs Based on Conditionally-Independent Pixel Synthesis.

Zhou et al., 2021, arXiv:2110.09788.

    z = (z_nerf, z_inr) -> two mapping networks -> ws, one latent per layer
    ray     -> 12 + 12 points -> SIREN (shape latents) -> density, 32 features
            -> volume rendering -> feature of the pixel
    feature -> INR of nine blocks (appearance latents) -> image
            -> one linear layer, tanh                  -> auxiliary image (`raw`)

Pixels are independent: any subset of rays can be rendered, at any resolution. `CIPS3D()` is the
published full-size model (specs/cips3d.md 1); where paper and code disagree, it follows the code.

Convention: the scene is a cube of side `box_side` around the origin; cameras of the published
models are on the unit sphere, with the pixel grid of `Camera.from_sphere(.., resolution=..)`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering, cast_rays
from gan3d.host import constant
from gan3d.layers.film_siren import siren_head
from gan3d.layers.inr import BLOCKS, INRNetwork
from gan3d.layers.mean_latent import follow, mean_of_codes, truncated
from gan3d.layers.mod_fc import leaky_kaiming_
from gan3d.layers.multi_head_mapping import MultiHeadMapping
from gan3d.layers.precision import full_precision
from gan3d.layers.styled_siren import StyledSiren
from gan3d.randomness import Randomness
from gan3d.rendering.left_point import Clamp, Fill, LeftPointOptions, render_left_point
from gan3d.rendering.volume import free_chunk

Inputs = Literal["xyz", "xyz_posenc", "xyz_d_posenc", "xyz_d_sine"]

POINT_FREQUENCIES = 10
DIRECTION_FREQUENCIES = 4


class CIPS3DScene(NamedTuple):
    """A scene without a camera: the styles of all layers.

    Attributes:
        gains: gains of the SIREN layers, the color layer last, [b o] each.
        phases: phases of the SIREN layers, the color layer last, [b o] each.
        styles: styles of the INR's layers, [b i] each.
    """

    gains: tuple[Tensor, ...]
    phases: tuple[Tensor, ...]
    styles: tuple[Tensor, ...]


class SirenField(nn.Module):
    """Raw density and features at points of the unit box, by `layers` + 1 FiLM-SIREN layers.

        h_i = siren_i(h_{i-1}),   sigma = final(h_L),   features = linear(siren_rgb([d,] h_L))

    `inputs` selects h_0 and d (CIPS-3D, table 2):

        xyz             h_0 = x
        xyz_posenc      h_0 = PE(x; 10)
        xyz_d_posenc    h_0 = PE(x; 10),   d = PE(direction; 4)
        xyz_d_sine      h_0 = x,           d = sin(linear(direction))

    Args:
        hidden_dim: width of the layers; the color layer has half of it.
        layers: L, number of SIREN layers before the density.
        w_dim: size of the latents.
        feature_dim: number of features of a point.
        inputs: see above.

    Raises:
        ValueError: there is no layer, or `inputs` is unknown.
    """

    def __init__(self, hidden_dim: int, layers: int, w_dim: int, feature_dim: int, inputs: Inputs):
        super().__init__()
        if layers < 1:
            raise ValueError(f"nerf_layers is {layers}; the density needs 1 or more SIREN layers")
        if inputs not in get_args(Inputs):
            raise ValueError(
                f"inputs {inputs!r} is unknown; choose one of {', '.join(get_args(Inputs))}"
            )
        self.inputs = inputs
        point_dim = encoded_dim(POINT_FREQUENCIES) if "posenc" in inputs else 3
        direction_dim = encoded_dim(DIRECTION_FREQUENCIES) if "_d_" in inputs else 0
        widths = [point_dim] + [hidden_dim] * layers
        self.network = nn.ModuleList(
            StyledSiren(inside, out, w_dim) for inside, out in pairwise(widths)
        )
        self.final_layer = nn.Linear(hidden_dim, 1)
        self.color_layer_sine = StyledSiren(direction_dim + hidden_dim, hidden_dim // 2, w_dim)
        self.color_layer_linear = nn.Linear(hidden_dim // 2, feature_dim)
        leaky_kaiming_(self.color_layer_linear.weight)
        self.dir_emb = nn.Linear(3, direction_dim) if inputs == "xyz_d_sine" else None

    def styles(self, latents: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Latents [b w_dim] of the layers, the color layer last -> their gains and phases [b o]."""
        layers: list[Any] = [*self.network, self.color_layer_sine]
        pairs = [layer.style(w) for layer, w in zip(layers, latents, strict=True)]
        return tuple(gain for gain, _ in pairs), tuple(phase for _, phase in pairs)

    def forward(
        self, points: Tensor, directions: Tensor, scene: CIPS3DScene
    ) -> tuple[Tensor, Tensor]:
        """Density and features at points.

        Args:
            points: coordinates in the unit box, [b r s 3].
            directions: unit vectors, [b r 1 3].
            scene: gains and phases.

        Returns:
            sigma [b r s 1] and features [b r s f].
        """
        rays, samples = points.shape[1:3]
        h = rearrange(points, "b r s c -> b (r s) c")
        if "posenc" in self.inputs:
            h = positional_encoding(h, POINT_FREQUENCIES)
        for layer, gain, phase in zip(self.network, scene.gains, scene.phases):
            h = layer(h, gain, phase)
        sigma = self.final_layer(h)
        if (d := self._encode(directions)) is not None:
            d = d.expand(len(points), rays, samples, -1)
            h = torch.cat([rearrange(d, "b r s c -> b (r s) c"), h], -1)
        h = self.color_layer_sine(h, scene.gains[-1], scene.phases[-1])
        features = self.color_layer_linear(h)
        return sigma.unflatten(1, (rays, samples)), features.unflatten(1, (rays, samples))

    def _encode(self, directions: Tensor) -> Tensor | None:
        """The color layer's input d from directions, [.. 3] -> [.. d]; None if it has none."""
        if self.dir_emb is not None:
            return torch.sin(self.dir_emb(directions))
        if self.inputs == "xyz_d_posenc":
            return positional_encoding(directions, DIRECTION_FREQUENCIES)
        return None


def positional_encoding(x: Tensor, frequencies: int) -> Tensor:
    """[x, sin x, cos x, sin 2x, cos 2x, .., sin 2^(L-1) x, cos 2^(L-1) x] (NeRF eq. 4 without pi).

    Args:
        x: [.. c].
        frequencies: L.

    Returns:
        [.. c (1 + 2 L)].
    """
    encoding = [x]
    for k in range(frequencies):
        angle = x * 2.0**k
        encoding += [angle.sin(), angle.cos()]
    return torch.cat(encoding, -1)


def encoded_dim(frequencies: int) -> int:
    """Size of a position or direction after `positional_encoding`."""
    return 3 * (1 + 2 * frequencies)


# Parts that stylization mixes (section 3.6 of the paper): blocks of the INR, and optionally the
# mapping network.
STYLE_PARTS = {name: (f"inr_net.network.{name}.", f"inr_net.to_rgbs.{name}.") for name in BLOCKS}
STYLE_PARTS["mapping"] = ("mapping_network_inr.", "w_avg")


class CIPS3D(Generator):
    """CIPS-3D, its variant "v1" and the ablations of its table 2.

    z is z_nerf (shape) followed by z_inr (appearance). ws has one row per layer with a latent
    (`latent_names`); shorter latents are padded with zeros. Parameters have their published names
    (specs/cips3d.md, appendix A), except

        published                      here
        aux_to_rbg.0                   aux_to_rgb
        inr_net.tanh.0                 inr_net.to_image
        inr_net.to_rgbs.N.linear       inr_net.to_rgbs.N
        siren.color_layer_linear.0     siren.color_layer_linear
        siren.dir_emb.0                siren.dir_emb
        mapping_network_*.STYLE        mapping_network_*.heads.STYLE
        weights of ModFC, [1 in out]   [in out]

    unlike cips3d: without the unused parameters of the published model, inr_net.to_rgbs.4, .8 and
    .16 and the norms of the ModFC layers (inr_net.network.N.modK.norm), 22,089 numbers of
    11,287,743.

    Args:
        img_resolution: default side of the image and of the auxiliary image.
        z_nerf_dim: size of z_nerf.
        z_inr_dim: size of z_inr.
        nerf_w_dim: size of the SIREN layers' latents.
        nerf_hidden_dim: width of the SIREN layers.
        nerf_layers: number of SIREN layers before the density.
        feature_dim: number of features of a point and of a pixel.
        inputs: inputs of the SIREN layers, see `SirenField`.
        inr_w_dim: size of the INR layers' latents.
        inr_hidden_dim: width of the INR.
        pre_rgb_dim: channels in which the INR sums its colors.
        color_style: latent of the SIREN's color layer; "appearance" is the published v1.
        nerf_mapping_hidden_dim: width of the shape mapping network; None is nerf_w_dim.
        nerf_mapping_layers, nerf_mapping_head_layers, nerf_mapping_add_norm, nerf_mapping_norm_out:
            shape mapping network, see `layers.multi_head_mapping`.
        inr_mapping_hidden_dim: width of the appearance mapping network; None is inr_w_dim.
        inr_mapping_layers, inr_mapping_head_layers, inr_mapping_add_norm, inr_mapping_norm_out:
            appearance mapping network, see `layers.multi_head_mapping`.
        w_avg_beta: decay of the mean latents per `track`.
        box_side: side of the scene's cube; points are divided by half of it.
        ray_start, ray_end, num_steps, hierarchical, last_back, white_back, fill_mode, clamp_mode,
            ray_chunk: see `rendering.left_point.LeftPointOptions`.
        lock_view: whether the field receives view direction (0, 0, -1) everywhere.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    w_avg: Tensor
    has_field: ClassVar[bool] = True
    has_raw: ClassVar[bool] = True
    style_affine = "modulation.weight"
    any_resolution: ClassVar[bool] = True
    independent_pixels: bool = True
    parts = {
        "nerf": ("siren.", "mapping_network_nerf.", "aux_to_rgb."),
        "inr": ("inr_net.", "mapping_network_inr."),
    }
    style_parts = STYLE_PARTS
    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "z_nerf_dim": 12,
        "z_inr_dim": 16,
        "nerf_w_dim": 12,
        "nerf_hidden_dim": 32,
        "feature_dim": 8,
        "inr_w_dim": 16,
        "inr_hidden_dim": 24,
        "inr_mapping_layers": 3,
        "box_side": 1.0,
        "ray_start": 2.25,
        "ray_end": 3.3,
        "num_steps": 6,
    }

    def __init__(
        self,
        *,
        img_resolution: int = 256,
        z_nerf_dim: int = 256,
        z_inr_dim: int = 512,
        nerf_w_dim: int = 128,
        nerf_hidden_dim: int = 128,
        nerf_layers: int = 2,
        feature_dim: int = 32,
        inputs: Inputs = "xyz",
        inr_w_dim: int = 512,
        inr_hidden_dim: int = 512,
        pre_rgb_dim: int = 3,
        color_style: Literal["shape", "appearance"] = "shape",
        nerf_mapping_hidden_dim: int | None = None,
        nerf_mapping_layers: int = 4,
        nerf_mapping_head_layers: int = 0,
        nerf_mapping_add_norm: bool = False,
        nerf_mapping_norm_out: bool = False,
        inr_mapping_hidden_dim: int | None = None,
        inr_mapping_layers: int = 8,
        inr_mapping_head_layers: int = 0,
        inr_mapping_add_norm: bool = True,
        inr_mapping_norm_out: bool = True,
        w_avg_beta: float = 0.998,
        box_side: float = 0.24,
        ray_start: float = 0.88,
        ray_end: float = 1.12,
        num_steps: int = 12,
        hierarchical: bool = True,
        last_back: bool = False,
        white_back: bool = False,
        fill_mode: Fill | None = None,
        clamp_mode: Clamp = "relu",
        lock_view: bool = False,
        ray_chunk: int | None = None,
    ):
        super().__init__()
        if color_style not in ("shape", "appearance"):
            raise ValueError(f"color_style {color_style!r} is unknown; choose shape or appearance")
        for name, value in (("box_side", box_side), ("img_resolution", img_resolution)):
            if value <= 0:
                raise ValueError(
                    f"{name} {value} is not positive; the published values are 0.24 and 256"
                )
        self.z_dims = (z_nerf_dim, z_inr_dim)
        self.z_dim = sum(self.z_dims)
        self.w_dim = max(nerf_w_dim, inr_w_dim)
        self.img_resolution = self.raw_resolution = img_resolution
        self.scene_extent = box_side
        self.w_avg_beta = w_avg_beta
        self.lock_view = lock_view
        self.ray_limits = ray_start, ray_end
        self.options = LeftPointOptions(
            ray_start=ray_start,
            ray_end=ray_end,
            num_steps=num_steps,
            hierarchical=hierarchical,
            last_back=last_back,
            white_back=white_back,
            fill_mode=fill_mode,
            clamp_mode=clamp_mode,
            ray_chunk=ray_chunk,
        )
        self.siren = SirenField(nerf_hidden_dim, nerf_layers, nerf_w_dim, feature_dim, inputs)
        self.inr_net = INRNetwork(feature_dim, inr_hidden_dim, inr_w_dim, pre_rgb_dim)
        self.aux_to_rgb = siren_head(feature_dim, 3)

        # One latent per layer.
        nerf_names = tuple(f"nerf_w{i}" for i in range(nerf_layers))
        inr_names = self.inr_net.latent_names
        self.latent_names = (*nerf_names, "nerf_rgb", *inr_names)
        self.latent_dims = (nerf_w_dim,) * (nerf_layers + 1) + (inr_w_dim,) * len(inr_names)
        self.num_ws = len(self.latent_names)

        # The latent of the color layer, nerf_rgb, comes from one of the two mapping networks.
        by_appearance = color_style == "appearance"
        if by_appearance:
            inr_names = ("nerf_rgb", *inr_names)
        else:
            nerf_names = (*nerf_names, "nerf_rgb")
        self.mapping_network_nerf = MultiHeadMapping(
            z_nerf_dim,
            nerf_mapping_hidden_dim or nerf_w_dim,
            dict.fromkeys(nerf_names, nerf_w_dim),
            base_layers=nerf_mapping_layers,
            head_layers=nerf_mapping_head_layers,
            add_norm=nerf_mapping_add_norm,
            norm_out=nerf_mapping_norm_out,
        )
        self.mapping_network_inr = MultiHeadMapping(
            z_inr_dim,
            inr_mapping_hidden_dim or inr_w_dim,
            dict.fromkeys(inr_names, inr_w_dim),
            base_layers=inr_mapping_layers,
            head_layers=inr_mapping_head_layers,
            add_norm=inr_mapping_add_norm,
            norm_out=inr_mapping_norm_out,
        )
        self.nerf_rgb_mapping = nn.Linear(inr_w_dim, nerf_w_dim) if by_appearance else None
        # The features then depend on the appearance latents, so a frozen NeRF includes them.
        if by_appearance:
            nerf = (*type(self).parts["nerf"], "nerf_rgb_mapping.", "mapping_network_inr.")
            self.parts = {"nerf": nerf, "inr": ("inr_net.",)}
        self.register_buffer("w_avg", torch.zeros(self.num_ws, self.w_dim))

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(
                f"z has shape {tuple(z.shape)}; expected [b {self.z_dim}]: z_nerf, then z_inr"
            )
        z_nerf, z_inr = z.split(self.z_dims, dim=1)
        latents = self.mapping_network_nerf(z_nerf) | self.mapping_network_inr(z_inr)
        if self.nerf_rgb_mapping is not None:
            with full_precision(z):
                latents["nerf_rgb"] = self.nerf_rgb_mapping(latents["nerf_rgb"])
        rows = [latents[name] for name in self.latent_names]
        ws = torch.stack([F.pad(w, (0, self.w_dim - w.shape[1])) for w in rows], 1)  # b n w
        return truncated(ws, self.w_avg, truncation, truncation_cutoff)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> CIPS3DScene:
        """The scene of ws [b n w].

        If the INR is trained on top of a frozen NeRF (`parts`), the NeRF passes no gradient to
        mapped ws, as published, so that nothing of it is kept for the backward pass. Gradients
        still reach the camera, and ws that are leaves.
        """
        split = self.latent_names.index("nerf_rgb") + 1
        rows = list(ws.unbind(1))
        if not ws.is_leaf and not self._trains("nerf") and self._trains("inr"):
            rows[:split] = [row.detach() for row in rows[:split]]
        latents = [w[:, :width] for w, width in zip(rows, self.latent_dims, strict=True)]
        with full_precision(ws):
            gains, phases = self.siren.styles(latents[:split])
            return CIPS3DScene(gains, phases, self.inr_net.styles(latents[split:]))

    def render(
        self,
        representation: CIPS3DScene,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """Renders a scene.

        Args:
            representation: result of `represent`, b scenes, or one for all cameras.
            camera: b views.
            resolution: side of the images; None is `img_resolution`.
            rays: pixel indices [r] to render; all maps are then [b c r 1].
            raw: ignored, the auxiliary image is always rendered.
            randomness: jitter, importance and density noise, see `rendering.left_point`; None is
                deterministic.

        Returns:
            image (the INR's), raw (the auxiliary image), depth, opacity, and as extras "features"
            [b f h w] and "ray_depth" [b 1 h w], the published depth: the sum of weighted distances.
            `depth` also counts the light that is not absorbed, at the last sample.
        """
        view = cast_rays(self, camera, resolution or self.img_resolution, rays, randomness)

        def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            return self._query(representation, points, directions)

        # A gain of 30 before the sine needs full precision.
        with full_precision(view.rays.origins):
            seen = render_left_point(
                query,
                view.rays,
                self.options,
                view.randomness,
                density_noise=self.density_noise,
                lock_view=self.lock_view,
            )
            auxiliary = torch.tanh(self.aux_to_rgb(seen.features))
        image = self._inr_colors(seen.features, representation.styles).to(auxiliary.dtype)

        return Rendering(
            view.maps(image),
            view.maps(auxiliary),
            view.maps(seen.distance * view.rays.cosines),
            view.maps(seen.opacity),
            {"features": view.maps(seen.features), "ray_depth": view.maps(seen.depth)},
        )

    def field(
        self, representation: CIPS3DScene, points: Tensor, directions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw density [b p 1] and features [b p f] at world points [b p 3].

        Without `directions`, the view direction is (0, 0, -1).
        """
        if directions is None:
            directions = constant((0.0, 0.0, -1.0), points).expand_as(points)
        with full_precision(points):
            samples = points[:, :, None], directions[:, :, None]
            sigma, features = self._query(representation, *samples)
        return sigma[:, :, 0], features[:, :, 0]

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        follow(self.w_avg, ws, self.w_avg_beta)

    @torch.no_grad()
    def estimate_w_avg(self, num_codes: int = 10_000, seed: int = 0) -> None:
        """Sets w_avg to the mean latents of `num_codes` codes.

        The published code recomputes them in each truncated call.
        """
        self.w_avg.copy_(mean_of_codes(self.map, self.z_dim, self.w_avg, num_codes, seed))

    def encoding(self, representation: CIPS3DScene, points: Tensor) -> Tensor:
        """The learned position encoding (section 3.3): the first SIREN layer at world points.

        [b p 3] -> [b p c].
        """
        with full_precision(points):
            x = points * (2 / self.scene_extent)
            if "posenc" in self.siren.inputs:
                x = positional_encoding(x, POINT_FREQUENCIES)
            return self.siren.network[0](x, representation.gains[0], representation.phases[0])

    def _trains(self, part: str) -> bool:
        """Whether a parameter of the part requires a gradient."""
        return any(
            p.requires_grad for name, p in self.named_parameters() if self.is_part_of(name, [part])
        )

    def _query(
        self, scene: CIPS3DScene, points: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The field at world points [b r s 3] with directions [b r 1 3]."""
        return self.siren(points * (2 / self.scene_extent), directions, scene)

    def _inr_colors(self, features: Tensor, styles: tuple[Tensor, ...]) -> Tensor:
        """Pixel features [b r f] -> colors [b r 3]; without gradient, in chunks of pixels."""
        batch = len(features)
        styles = tuple(style.expand(batch, -1) for style in styles)
        if torch.is_grad_enabled():
            return self.inr_net(features, styles)
        chunk = self.options.ray_chunk or 8 * free_chunk(features.device)
        chunks = features.split(max(1, chunk // batch), 1)
        return torch.cat([self.inr_net(chunk, styles) for chunk in chunks], 1)
