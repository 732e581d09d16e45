"""Generators compile, with all their draws, and give the numbers that they give without.

Backend "eager": what is tried is that torch traces them, whole (`fullgraph`) but for the filters of
StyleGAN3 on a CPU, which break its graph.
"""

import pytest
import torch

from gan3d.camera import GaussianPose
from gan3d.generators import GENERATORS
from gan3d.generators.eg3d import TriPlanes
from gan3d.randomness import Randomness

FAST = ("PiGAN",)


def named() -> list:
    marked = pytest.mark.slow
    return [
        name if name in FAST else pytest.param(name, marks=marked) for name in sorted(GENERATORS)
    ]


@pytest.mark.parametrize("name", named())
def test_scenes_and_views_compile_with_all_their_draws(name):
    torch.manual_seed(0)
    generator = GENERATORS[name](**GENERATORS[name].tiny).eval()
    draw = Randomness(0, range(2))
    z, camera = draw.normal("z", generator.z_dim), None
    if generator.has_camera:
        camera = GaussianPose().sample(draw)
    ws = generator.map(z, camera)

    def scene(ws):
        made = generator.represent(ws, randomness=Randomness(3, [1, 2], "scene"))
        # A compiled function cannot return the table that `TriPlanes` makes of its planes.
        return made.planes if isinstance(made, TriPlanes) else made

    def view(scene):
        shown = generator.render(scene, camera, randomness=Randomness(3, [1, 2], "view"))
        return shown.image

    torch.compiler.reset()
    options = {"fullgraph": name != "StyleGAN3", "backend": "eager"}
    found = torch.compile(scene, **options)(ws)
    if isinstance(found, torch.Tensor):
        torch.testing.assert_close(found, scene(ws), rtol=1e-4, atol=1e-5)
    whole = generator.represent(ws, randomness=Randomness(3, [1, 2], "scene"))
    image = torch.compile(view, **options)(whole)
    expected = view(whole)
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0 or name == "EG3D"
    torch.compiler.reset()
