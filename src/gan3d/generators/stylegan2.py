"""StyleGAN2 (Karras et al. 2020): a 2D baseline, and the tri-plane backbone of EG3D."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering
from gan3d.layers.mapping import MappingNetwork
from gan3d.layers.synthesis import Architecture, Noise, SynthesisNetwork
from gan3d.randomness import Randomness


class StyleGAN2(Generator):
    """Mapping network and synthesis network; the defaults are the published FFHQ 1024 model (config F).

    A scene is its latents: `represent` returns the finished image, `render` shows it.

    Args:
        z_dim: of the latent z.
        w_dim: of the latent w.
        c_dim: 25 conditions on the camera label, 0 on nothing.
        img_resolution: power of two.
        img_channels: 3, or the planes of a tri-plane backbone.
        mapping_layers: of the mapping network.
        mapping_lr_multiplier: of the mapping network.
        channel_base: channels at a resolution are channel_base / resolution ..
        channel_max: .. but at most these.
        architecture: of the synthesis blocks.
        conv_clamp: bound of all layers' outputs; None is none.
        w_avg_beta: decay of the mean latent.
    """

    has_camera = False
    tiny = {"z_dim": 8, "w_dim": 16, "img_resolution": 32, "channel_base": 256, "channel_max": 16, "mapping_layers": 2}

    def __init__(
        self,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        img_resolution: int = 1024,
        img_channels: int = 3,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "skip",
        conv_clamp: float | None = None,
        w_avg_beta: float = 0.998,
    ):
        super().__init__()
        if c_dim not in (0, 25):
            raise ValueError(f"c_dim {c_dim}; use 25 to condition on the camera label, or 0")
        self.z_dim, self.w_dim, self.c_dim, self.img_resolution = z_dim, w_dim, c_dim, img_resolution
        self.camera_conditioned = c_dim > 0
        self.synthesis = SynthesisNetwork(
            w_dim,
            img_resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            architecture=architecture,
            conv_clamp=conv_clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim,
            c_dim,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            lr_multiplier=mapping_lr_multiplier,
            w_avg_beta=w_avg_beta,
        )

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        label = None
        if self.c_dim:
            label = z.new_zeros(len(z), self.c_dim) if camera is None else camera.label()
        return self.mapping(z, label, truncation=truncation, truncation_cutoff=truncation_cutoff)

    def track(self, ws: Tensor) -> None:
        self.mapping.track(ws)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Tensor:
        return self.synthesis(ws, Noise.of(randomness))

    def render(
        self,
        representation: Any,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        randomness: Randomness | None = None,
    ) -> Rendering:
        if rays is not None or resolution not in (None, self.img_resolution):
            raise ValueError(f"StyleGAN2 has no rays: it renders whole images of {self.img_resolution} px only")
        return Rendering(image=representation)
