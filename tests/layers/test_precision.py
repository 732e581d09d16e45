"""gan3d.layers.precision: what computes in float16, and what does not."""

from typing import Any

import pytest
import torch
from torch import nn

from gan3d.camera import Camera
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.discriminators.stylegan2 import DiscriminatorBlock
from gan3d.generators import EG3D, StyleGAN2
from gan3d.layers.precision import coarsest_in_float16, without_float16
from gan3d.layers.synthesis import SynthesisBlock

FULL, HALF = torch.float32, torch.float16


def of_blocks(network: nn.Module, run: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each block's features under autocast."""
    found: dict[str, torch.dtype] = {}
    for name, block in network.named_modules():
        if isinstance(block, (SynthesisBlock, DiscriminatorBlock)):
            note = lambda _, __, made, name=name: found.update({name: made[0].dtype})  # noqa: E731
            block.register_forward_hook(note)
    with torch.autocast("cpu", dtype), torch.no_grad():
        run()
    return found


@pytest.mark.parametrize(
    ("finest", "coarsest"), [(8, 8), (32, 8), (64, 8), (128, 16), (256, 32), (512, 64), (1024, 128)]
)
def test_four_resolutions_but_none_below_8_compute_in_float16(finest, coarsest):
    assert coarsest_in_float16(finest) == coarsest


def test_the_four_finest_blocks_of_stylegan2_are_float16_and_all_are_bfloat16():
    sides = {"img_resolution": 128}
    generator = StyleGAN2(**StyleGAN2.tiny | sides)
    z = torch.randn(2, generator.z_dim)
    found = of_blocks(generator, lambda: generator(z), HALF)
    names = [f"synthesis.b{side}" for side in (4, 8, 16, 32, 64, 128)]
    assert found == dict(zip(names, [FULL, FULL, HALF, HALF, HALF, HALF], strict=True))
    assert {*of_blocks(generator, lambda: generator(z), torch.bfloat16).values()} == {
        torch.bfloat16
    }

    discriminator = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | sides)
    image = torch.randn(2, 3, 128, 128)
    found = of_blocks(discriminator, lambda: discriminator(image), HALF)
    names = [f"b{side}" for side in (128, 64, 32, 16, 8)]
    assert found == dict(zip(names, [HALF, HALF, HALF, HALF, FULL], strict=True))
    with torch.autocast("cpu", HALF):
        assert discriminator(image).logits.dtype == FULL


def test_of_eg3d_only_super_resolution_is_float16():
    generator = EG3D(**EG3D.tiny)
    camera = Camera.from_angles(torch.zeros(1), torch.zeros(1))
    z = torch.randn(1, generator.z_dim)
    found = of_blocks(generator, lambda: generator(z, camera), HALF)
    assert {name.split(".")[0]: dtype for name, dtype in found.items()} == {
        "backbone": FULL,
        "superresolution": HALF,
    }
    assert FULL not in of_blocks(generator, lambda: generator(z, camera), torch.bfloat16).values()


def test_a_context_keeps_float16_away_and_lets_bfloat16_pass():
    x = torch.ones(2, 2)
    for dtype, inside in ((HALF, FULL), (torch.bfloat16, torch.bfloat16)):
        with torch.autocast("cpu", dtype):
            with without_float16(x):
                assert (x @ x).dtype == inside
            assert (x @ x).dtype == dtype
    with without_float16(x):
        assert (x @ x).dtype == FULL
