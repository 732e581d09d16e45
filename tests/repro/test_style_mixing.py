"""Conditioning with swap 1 hides the rendering camera, with style mixing, too (trial 15)."""

import torch

from gan3d.camera import Camera, PosePrior
from gan3d.discriminators import DualDiscriminator
from gan3d.generators import EG3D
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import PoseConditioning


class Poses(PosePrior):
    yaw = 0.0

    def sample(self, randomness):  # the camera to swap with stays; the rendering camera is `yaw`
        yaw = 0.9 if "swap" in randomness.phase else self.yaw
        return Camera.from_angles(torch.full((len(randomness),), yaw), 0.0)


def test_latents_do_not_depend_on_the_rendering_camera():
    torch.manual_seed(0)
    generator, poses = EG3D(**EG3D.tiny), Poses()
    judge = DualDiscriminator(**DualDiscriminator.tiny | {"img_resolution": 32})
    for mixing in (0.0, 1.0):
        fakes = Fakes(poses, PoseConditioning(swap=1.0, fade_kimg=0), style_mixing=mixing)
        module, found = GAN(generator, judge, fakes=fakes), []
        for poses.yaw in (-0.4, 0.4):
            found.append(module.phases.latents(module.draws(range(4), "generator")).ws)
        assert (found[0] - found[1]).abs().max() <= 1e-6
