"""On a GPU, every convolution of every discriminator reads channels last."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gan3d.camera import Camera
from gan3d.discriminators import DISCRIMINATORS
from gan3d.discriminators.contract import for_convolutions


class Convolutions(TorchDispatchMode):
    """Notes of each convolution whether it reads channels last."""

    def __init__(self):
        super().__init__()
        self.read = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            x = args[0]
            # Not the map of coordinates, which is one for all images, nor the last few pixels.
            if len(x) > 1 and x.shape[2] > 4:
                self.read.append(x.stride(1) == 1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS))
def test_what_begins_channels_last_stays_so(name, monkeypatch):
    def as_on_a_gpu(image):
        return image.contiguous(memory_format=torch.channels_last)

    for key, module in list(sys.modules.items()):
        if key.startswith("gan3d.") and hasattr(module, "for_convolutions"):
            monkeypatch.setattr(module, "for_convolutions", as_on_a_gpu)
    judge = DISCRIMINATORS[name](**DISCRIMINATORS[name].tiny)
    side, batch = judge.img_resolution, max(judge.group_size, 2)
    image, angles = torch.randn(batch, 3, side, side), torch.linspace(-0.3, 0.3, batch)
    raw = image if judge.needs_raw else None
    with Convolutions() as convolutions:
        judge(image, raw=raw, camera=Camera.from_angles(angles, angles))
    assert len(convolutions.read) >= 3
    assert all(convolutions.read), convolutions.read


def test_only_a_cpu_keeps_images_as_they_are():
    image = torch.randn(2, 3, 8, 8)
    assert for_convolutions(image) is image
    moved = for_convolutions(image.to("meta"))
    assert moved.is_contiguous(memory_format=torch.channels_last)
