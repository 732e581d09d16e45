"""Feature networks, memory, float64 and labels of 2D models (trials 03, 21, 27, 30)."""

import resource
import sys
import types

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gan3d.camera import Camera, DatasetPoses
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2
from gan3d.metrics.frechet import FrechetDistance, SmallFeatures
from gan3d.training.callbacks import Evaluation, Snapshots
from gan3d.training.gan import GAN
from gan3d.training.running_means import peak_memory_gib


def test_a_conditional_2d_model_is_evaluated_and_shown_with_labels():
    torch.manual_seed(0)
    generator = StyleGAN2(**{**StyleGAN2.tiny, "c_dim": 25})
    discriminator = StyleGAN2Discriminator(**{**StyleGAN2Discriminator.tiny, "c_dim": 25})
    module = GAN(generator, discriminator)
    cameras = Camera.from_angles(torch.linspace(-0.5, 0.5, 9), 0.1)
    module.phases.poses = DatasetPoses().bind(cameras.label())
    given, real_map = [], module.generator_ema.map

    def spied(z, camera=None, **options):
        given.append(camera is not None)
        return real_map(z, camera, **options)

    module.generator_ema.map = spied

    module.sample(range(4))  # what `lightning validate` shows
    assert given == [True]
    given.clear()

    callback = Evaluation(num_images=4)
    callback._num_real = 4
    callback.distance = types.SimpleNamespace(
        reset=lambda: 0, update=lambda *a, **k: 0, compute=lambda: 0.0, _is_synced=False
    )
    callback._of_fakes(types.SimpleNamespace(world_size=1, global_rank=0), module)
    assert given
    assert all(given)
    given.clear()

    shots = Snapshots(num_heads=4)
    z, labels = shots._heads(module)
    shots._views(module, z, labels, conditioning=labels)
    assert given
    assert all(given)


def test_a_feature_network_for_32_px_makes_a_metric():
    FrechetDistance(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16)))


def test_half_a_gib_on_macos_is_half_a_gib(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    usage = types.SimpleNamespace(ru_maxrss=2**29)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    assert abs(peak_memory_gib(torch.device("cpu")) - 0.5) <= 0.01


class AppleGPU(TorchFunctionMode):
    """Stands in for one: moving float64 to the device (here: meta) raises, as torch does on MPS."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        to = map(str, (*args[1:], *(kwargs or {}).values()))
        if func is torch.Tensor.to and args[0].dtype == torch.float64 and "meta" in to:
            raise TypeError("the MPS framework does not support float64")
        return func(*args, **(kwargs or {}))


def test_the_states_of_the_distance_need_no_float64_on_the_device():
    with AppleGPU():
        FrechetDistance(SmallFeatures()).to("meta")
