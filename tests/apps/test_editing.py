"""Directions in latent space do what their names say."""

import pytest
import torch

import gan3d
from gan3d.apps.editing import (
    MappedLatents,
    mapped_latents,
    principal_direction,
    regressed_direction,
    style_direction,
)
from gan3d.apps.inversion import components
from gan3d.generators import GENERATORS, Generator


def tiny(name: str) -> Generator:
    torch.manual_seed(0)
    return GENERATORS[name](**GENERATORS[name].tiny).eval()


def known(m: int = 400, n: int = 3, seed: int = 0) -> MappedLatents:
    """One w for all latents, w = (3 a, 2 b, c) with independent a, b, c of variance 1."""
    w = torch.randn(m, 1, 3, generator=torch.Generator().manual_seed(seed))
    ws = (w * torch.tensor([3.0, 2.0, 1.0])).expand(-1, n, -1)
    return MappedLatents(ws, components(ws))


def test_principal_directions_are_the_axes_of_the_latents_in_standard_deviations():
    latents = known()
    for k, size in enumerate((3.0, 2.0, 1.0)):
        step = principal_direction(latents, k + 1)
        assert step.shape == (1, 3, 3)
        torch.testing.assert_close(step[0], step[0, :1].expand(3, -1))
        expected = torch.zeros(3)
        expected[k] = size
        torch.testing.assert_close(step[0, 0].abs(), expected, atol=0.4, rtol=0)
    with pytest.raises(ValueError, match=r"pca4 is not there; .* pca1 to pca3"):
        principal_direction(latents, 4)


def test_a_quantity_is_found_and_what_is_noise_is_said():
    latents = known()
    b = latents.ws[:, 0, 1] / 2
    step, r2 = regressed_direction(latents, latents.ws, 5 * b + 7)
    assert r2 > 0.95
    torch.testing.assert_close(step[0, 0], torch.tensor([0.0, 2.0, 0.0]), atol=0.2, rtol=0)
    backwards, _ = regressed_direction(latents, latents.ws, -b)
    torch.testing.assert_close(backwards, -step)
    noise = torch.randn(40, generator=torch.Generator().manual_seed(1))
    assert regressed_direction(latents, latents.ws[:40], noise)[1] < 0.1
    with pytest.raises(ValueError, match="the same in all scenes"):
        regressed_direction(latents, latents.ws, torch.ones(400))


@pytest.mark.parametrize("name", ["StyleGAN2", "StyleGAN3", "EG3D", "CIPS3D"])
def test_sefa_moves_the_styles_most(name):
    """No random direction of the same length changes the styles as much."""
    generator = tiny(name)
    condition = None if name != "EG3D" else gan3d.Camera.from_angles(0.0, 0.0)
    latents = mapped_latents(generator, condition, num=64)
    first, second = (style_direction(generator, latents, k) for k in (1, 2))
    weights = torch.cat([
        weight.detach()
        for key, weight in generator.named_parameters()
        if key.endswith(generator.style_affine) and weight.shape[-1] == generator.w_dim
    ])  # fmt: skip

    def moved(step: torch.Tensor) -> torch.Tensor:
        w = step[0, -1]
        return (weights @ (w / w.norm())).norm()

    others = torch.randn(20, generator.w_dim, generator=torch.Generator().manual_seed(0))
    assert moved(first) >= moved(second) > max(moved(w.expand(1, 1, -1)) for w in others)
    w = first[0, -1]
    along = latents.ws[:, -1] @ (w / w.norm())
    torch.testing.assert_close(w.norm(), along.std())
    # CIPS-3D's NeRF has latents of its own, which stay
    tied = (first[0] == first[0, -1]).all(dim=1)
    assert tied.all() == (name != "CIPS3D")
    if name == "CIPS3D":
        assert (first[0, ~tied] == 0).all()


def test_sefa_needs_affine_maps():
    generator = tiny("PiGAN")
    with pytest.raises(ValueError, match="PiGAN has no affine maps from w to styles"):
        style_direction(generator, mapped_latents(generator, num=8), 1)
    stylegan = tiny("StyleGAN2")
    with pytest.raises(ValueError, match="sefa99 is not there; StyleGAN2 has sefa1 to sefa"):
        style_direction(stylegan, mapped_latents(stylegan, num=8), 99)
