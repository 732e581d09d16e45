"""TorchScript networks that stand in for the published ones."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class Stub(nn.Module):
    """Has the arguments of the published networks and returns its input: mean, is uint8, flags."""

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        no_output_bias: bool = False,
        resize_images: bool = True,
        return_lpips: bool = False,
    ) -> Tensor:
        mean = img.float().mean(dim=(1, 2, 3))
        kind = torch.full_like(mean, float(img.dtype == torch.uint8))
        flags = torch.tensor([return_features, no_output_bias, resize_images, return_lpips]).float()
        return torch.cat([torch.stack([mean, kind], 1), flags.expand(len(mean), 4)], 1)


class Plain(nn.Module):
    """Takes only images and returns their mean colors."""

    def forward(self, img: Tensor) -> Tensor:
        return img.float().mean(dim=(2, 3))


def _write(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture(scope="session")
def stub(tmp_path_factory) -> Path:
    return _write(Stub(), tmp_path_factory.mktemp("networks") / "stub.pt")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    return _write(Plain(), tmp_path_factory.mktemp("networks") / "plain.pt")
