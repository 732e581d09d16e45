"""StyleGAN2 (Karras et al. 2020): the 2D baseline, and the backbone of EG3D.

z, c --mapping--> ws --synthesis--> image
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import UNBOUNDED, Generator, Rendering, check_whole, label_of
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.layers.synthesis import Architecture, SynthesisNetwork
from gan3d.randomness import Randomness


class StyleGAN2(Generator):
    """StyleGAN2; its representation is the image itself, [b img_channels H W].

    The defaults are the FFHQ 256 model of the StyleGAN2-ADA and StyleGAN3 papers (channel_base
    16384, 24.8 million parameters); the 1024 px model has img_resolution 1024, channel_base 32768.
    Names in the state dict are the published ones.

    Args:
        z_dim: size of z.
        c_dim: 0, or 25 to condition on the camera's label (zeros without a camera).
        w_dim: size of a latent.
        img_resolution: a power of two.
        img_channels: 3, or more if the image is a feature image.
        channel_base: a layer has channel_base / resolution channels, at most channel_max.
        channel_max: largest number of channels.
        conv_clamp: largest magnitude of features; None does not clamp.
        architecture: "skip", "resnet" or "orig".
        mapping_layers: number of layers in the mapping network.
        mapping_lr_multiplier: learning rate multiplier of the mapping network.
        mapping_embed_features: size of the embedded label, w_dim by default.
        mapping_layer_features: width between mapping layers, w_dim by default.
        w_avg_beta: decay of the mean latent per `track`.
        use_noise: whether the layers have per-pixel noise; False also omits its parameters.
        noise: "auto" is random with a `randomness` and constant without, "const" is always
            constant, "none" adds no noise.
        fused: form of the modulated convolutions, see `layers.modulated`; None chooses.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    has_camera = False
    style_affine = "affine.weight"
    tiny: ClassVar[dict[str, Any]] = {
        "z_dim": 8,
        "w_dim": 16,
        "img_resolution": 32,
        "channel_base": 256,
        "channel_max": 16,
        "mapping_layers": 2,
    }

    def __init__(
        self,
        *,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: int = 256,
        img_channels: int = 3,
        channel_base: int = 16384,
        channel_max: int = 512,
        conv_clamp: float | None = 256,
        architecture: Architecture = "skip",
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        mapping_embed_features: int | None = None,
        mapping_layer_features: int | None = None,
        w_avg_beta: float = 0.998,
        use_noise: bool = True,
        noise: Literal["auto", "const", "none"] = "auto",
        fused: bool | None = None,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.camera_conditioned = c_dim > 0
        self.no_float16 = "" if conv_clamp is not None else UNBOUNDED
        if noise not in ("auto", "const", "none"):
            raise ValueError(f"noise {noise!r} is unknown; choose auto, const or none")
        self.noise: Literal["auto", "const", "none"] = noise
        self.synthesis = SynthesisNetwork(
            w_dim,
            img_resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            architecture=architecture,
            use_noise=use_noise,
            conv_clamp=conv_clamp,
            fused=fused,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim,
            c_dim,
            w_dim,
            self.num_ws,
            MappingOptions(
                num_layers=mapping_layers,
                embed_features=mapping_embed_features,
                layer_features=mapping_layer_features,
                lr_multiplier=mapping_lr_multiplier,
                w_avg_beta=w_avg_beta,
            ),
        )

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        c = label_of(z, camera, self.c_dim)
        return self.mapping(z, c, truncation=truncation, truncation_cutoff=truncation_cutoff)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Tensor:
        noise = None if self.noise == "auto" else self.noise
        return self.synthesis(ws, noise=noise, randomness=randomness)

    def render(
        self,
        representation: Tensor,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        check_whole(self, resolution, rays)
        return Rendering(representation)

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        self.mapping.track(ws)
