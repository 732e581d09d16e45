"""A tri-plane's rays by one kernel, in Triton's interpreter, against samples one by one."""

from dataclasses import replace

import pytest
import torch

from gan3d.camera import Camera, Rays
from gan3d.generators.eg3d import EG3D
from gan3d.ops.render_triplane import DecoderWeights
from gan3d.ops.triplane import PlaneTable
from gan3d.randomness import Randomness
from gan3d.rendering import DensityPrior, RenderOptions, TriplaneField, render_rays

OPTIONS = RenderOptions(
    depth_samples=4, importance_samples=3, ray_start=2.2, ray_end=3.3, density_noise=0.5
)


def field(backend: str, prior: DensityPrior = DensityPrior()) -> TriplaneField:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 4, 6, 6), (5, 4), (5,), (4, 5), (4,))
    planes, *decoder = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    table = PlaneTable.of(planes.requires_grad_())
    return TriplaneField(table, DecoderWeights(*decoder), 1.0, prior, backend)


def rays() -> Rays:
    seen = Camera.from_angles(torch.tensor([0.3]), torch.tensor([0.1])).rays(3)
    return Rays(seen.origins.double(), seen.directions.double(), seen.cosines.double())


@pytest.mark.parametrize(
    ("options", "prior"),
    [
        (OPTIONS, DensityPrior()),
        (replace(OPTIONS, background="white", density_noise=0.0), DensityPrior("ball")),
        (replace(OPTIONS, importance_samples=0, ray_start="auto", ray_end="auto"), DensityPrior()),
    ],
    ids=["noise", "prior", "coarse"],
)
def test_the_kernel_renders_the_same_rays_from_the_same_draws(options, prior):
    pytest.importorskip("triton", reason="no Triton: pip install triton")
    found = []
    for backend in ("fast", "triton"):
        scene = field(backend, prior)
        assert scene.is_fused == (backend == "triton")
        randomness = Randomness(3, torch.tensor([7]))
        seen = render_rays(scene, rays(), options, randomness)
        found.append((*seen, *torch.autograd.grad(seen.features.sum(), scene.table.rows)))
    for samples, kernel in zip(*found):
        torch.testing.assert_close(kernel, samples, rtol=1e-5, atol=1e-6)


def test_eg3d_renders_its_rays_by_the_kernel(monkeypatch):
    pytest.importorskip("triton", reason="no Triton: pip install triton")
    torch.manual_seed(0)
    model = EG3D(**EG3D.tiny)
    camera = Camera.from_angles(torch.zeros(1), torch.zeros(1))
    ws = model.map(torch.randn(1, model.z_dim), camera)
    expected = model.render(model.represent(ws), camera, resolution=4)

    made, own = [], EG3D._field

    def by_kernel(*arguments) -> TriplaneField:
        made.append(replace(own(*arguments), backend="triton"))
        return made[-1]

    monkeypatch.setattr(EG3D, "_field", by_kernel)
    monkeypatch.setattr(TriplaneField, "__call__", None)
    found = model.render(model.represent(ws), camera, resolution=4)
    assert len(made) == 1
    for name in ("image", "raw", "depth", "opacity"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
