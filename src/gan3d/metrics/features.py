"""Feature networks of the published protocols.

All map images [b 3 H W] (or [b 1 H W]) in [-1, 1] to [b c], like `SmallFeatures`. The protocols of
StyleGAN2, StyleGAN3 and EG3D use two networks, which are distributed as TorchScript files:

    inception-2015-12-05.pt    InceptionV3 of the 2015 TensorFlow graph:
                               2048 features (FID, KID), 1008 classes (IS)
    vgg16.pt                   VGG16:
                               4096 features (precision, recall), LPIPS embeddings (path length)

gan3d downloads nothing. A TorchScript file is a program: open only files from sources you trust.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

FEATURES: Mapping[str, bool] = MappingProxyType({"return_features": True})
PROBABILITIES: Mapping[str, bool] = MappingProxyType({"no_output_bias": True})
LPIPS: Mapping[str, bool] = MappingProxyType({"resize_images": False, "return_lpips": True})


def quantized(images: Tensor) -> Tensor:
    """Images [b c H W] in [-1, 1] as 8 bits store them: floor(clip(127.5 x + 128, 0, 255))."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


class ScriptedFeatures(nn.Module):
    """A network from a TorchScript file.

    Args:
        path: the TorchScript file.
        flags: arguments of the network's `forward` beside the images. The default asks
            inception-2015-12-05.pt and vgg16.pt for features.
        rounded: pass 8-bit values, as for FID, KID, IS, precision and recall; False passes
            127.5 (x + 1) unrounded.

    Raises:
        ValueError: the file is missing or invalid, or the network does not take `flags`.
    """

    def __init__(
        self, path: str | Path, flags: Mapping[str, bool] = FEATURES, rounded: bool = True
    ):
        super().__init__()
        self.path = str(path)
        self.flags = dict(flags)
        self.rounded = rounded
        self.network = _load(Path(path))
        forward = cast(Any, self.network.forward)
        known = [argument.name for argument in forward.schema.arguments][2:]  # self, images
        unknown = [name for name in self.flags if name not in known]
        if unknown:
            raise ValueError(
                f"{path} takes {', '.join(known) or 'images alone'}, not {', '.join(unknown)}; "
                "give the file that this metric needs (gan3d.metrics.features), or other flags"
            )

    @property
    def description(self) -> str:
        """File and flags, to record with a result; results of two files are not comparable."""
        digest = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]
        flags = ", ".join(f"{name}={value}" for name, value in self.flags.items()) or "images alone"
        return f"{Path(self.path).name} (sha256 {digest}), {flags}"

    def forward(self, images: Tensor) -> Tensor:
        """Features [b c] of images [b 3 H W] in [-1, 1]."""
        images = _colored(images)
        x = quantized(images) if self.rounded else (images.float() + 1) * 127.5
        return self.network(x, **self.flags)


class FidelityFeatures(nn.Module):
    """The same InceptionV3 from the package torch-fidelity, which downloads and caches its weights.

    Args:
        layer: "2048" for FID and KID, "logits_unbiased" for the probabilities of IS.

    Raises:
        ValueError: package or weights are not available.
    """

    def __init__(self, layer: str = "2048"):
        super().__init__()
        self.layer = layer
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            # unlike torchmetrics: antialias False, because the 2015 graph resizes without it
            self.network = NoTrainInceptionV3("inception-v3-compat", [layer], antialias=False)
        except (ImportError, OSError) as error:
            raise ValueError(
                f"InceptionV3 is not available here: {error} Give the file inception-2015-12-05.pt "
                "(--inception FILE), or install torch-fidelity and let it fetch its weights once; "
                "--features small needs neither"
            ) from error

    @property
    def description(self) -> str:
        """Package and layer, to record with a result."""
        return f"torch-fidelity inception-v3-compat, {self.layer}"

    def forward(self, images: Tensor) -> Tensor:
        """Features (or probabilities) [b c] of images [b 3 H W] in [-1, 1]."""
        x = self.network(quantized(_colored(images)))
        return x.softmax(dim=1) if self.layer.startswith("logits") else x


def inception_features(path: str | Path | None = None) -> ScriptedFeatures | FidelityFeatures:
    """2048 features for FID and KID, from a file or from torch-fidelity."""
    return FidelityFeatures() if path is None else ScriptedFeatures(path)


def inception_probabilities(path: str | Path | None = None) -> ScriptedFeatures | FidelityFeatures:
    """Class probabilities for IS, from logits without the bias of the last layer, as published."""
    if path is None:
        return FidelityFeatures("logits_unbiased")
    return ScriptedFeatures(path, PROBABILITIES)


def vgg_features(path: str | Path | None = None) -> ScriptedFeatures:
    """4096 features for precision and recall."""
    return ScriptedFeatures(_vgg_file(path, "precision and recall"))


def vgg_embedding(path: str | Path | None = None) -> ScriptedFeatures:
    """LPIPS embeddings, whose squared distance is the LPIPS, for path lengths."""
    return ScriptedFeatures(_vgg_file(path, "path length"), LPIPS, rounded=False)


def _vgg_file(path: str | Path | None, purpose: str) -> str | Path:
    if path is None:
        raise ValueError(
            f"no VGG16 for {purpose}; give the file vgg16.pt (--vgg FILE), or use --features small"
        )
    return path


def _load(path: Path) -> torch.jit.ScriptModule:
    if not path.is_file():
        raise ValueError(
            f"there is no file {path}; expected a TorchScript network such as "
            "inception-2015-12-05.pt"
        )
    with warnings.catch_warnings():  # the published networks exist as TorchScript only
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            network = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{path} is not a TorchScript file ({first}); download it again"
            ) from error
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def _colored(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [b 3 H W] or [b 1 H W] in [-1, 1]"
        )
    return images.expand(-1, 3, -1, -1)
