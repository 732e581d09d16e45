"""gan3d.training.ray_gradients: chunked gradients are the full ones, partial ones those of the
chosen rays.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators import EG3D, GENERATORS, StyleGAN2
from gan3d.randomness import Randomness
from gan3d.training.ray_gradients import (
    RayGradients,
    SceneView,
    _detached,
    render_partially,
    replay,
)

INDEPENDENT = sorted(name for name, cls in GENERATORS.items() if cls(**cls.tiny).independent_pixels)


def view_of(name: str, **options) -> SceneView:
    torch.manual_seed(0)
    cls = GENERATORS[name]
    generator = cls(**cls.tiny | options).double()
    draw = Randomness(0, [3, 8], "generator", dtype=torch.float64)
    camera = Camera.from_angles(torch.tensor([-0.2, 0.3]), torch.zeros(2)).to(torch.float64)
    ws = generator.map(draw.normal("z", generator.z_dim), camera)
    return SceneView(generator, generator.represent(ws, randomness=draw), camera, None, False, draw)


def flat_eg3d() -> SceneView:
    tiny = EG3D.tiny
    side = tiny["raw_resolution"]
    flat = replace(tiny["superresolution"], layout="none")
    return view_of("EG3D", superresolution=flat, img_resolution=side)


def loss_of(image: Tensor) -> Tensor:
    """Not linear in the image, and every pixel matters to every other."""
    return (image * image.roll(1, -1)).mean() + image.mean().square()


def gradients(generator: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in generator.named_parameters() if p.grad is not None}


def run(view: SceneView, selected: Tensor | None, chunk: int, share: float) -> dict[str, Tensor]:
    view.generator.zero_grad()
    with torch.no_grad():
        image = view.render().image
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(image), image)
    for term in replay(view, {"image": gradient}, selected, chunk, share):
        (term * share).backward()
    return gradients(view.generator)


@pytest.mark.parametrize("make", [flat_eg3d, *INDEPENDENT])
def test_chunked_gradients_are_the_full_ones(make):
    view = make() if callable(make) else view_of(make)
    loss_of(view.render().image).backward()
    full = gradients(view.generator)
    view = make() if callable(make) else view_of(make)
    chunked = run(view, None, chunk=view.num_pixels // 3, share=0.5)
    assert full.keys() == chunked.keys()
    for name in full:
        assert torch.allclose(
            0.5 * full[name], chunked[name], atol=1e-9 + 1e-9 * float(full[name].abs().max())
        ), name


@pytest.mark.parametrize("make", [flat_eg3d, *INDEPENDENT])
def test_partial_gradients_are_those_of_the_chosen_rays_whether_at_once_or_in_chunks(make):
    fresh = make if callable(make) else lambda: view_of(make)
    view = fresh()
    selected = RayGradients("partial", num_rays=view.num_pixels // 4).selected(
        view.num_pixels, 0, 0
    )
    whole = view.render().image
    mask = torch.zeros(view.num_pixels, dtype=torch.bool)
    mask[selected] = True
    mask = mask.view(whole.shape[-2:])
    loss_of(torch.where(mask, whole, whole.detach())).backward()
    expected = gradients(view.generator)

    view = fresh()
    shown = render_partially(view, selected).image
    assert torch.allclose(shown, whole, atol=1e-9)
    loss_of(shown).backward()
    at_once, in_chunks = (
        gradients(view.generator),
        run(fresh_view := fresh(), selected, chunk=7, share=1.0),
    )
    assert fresh_view.num_pixels == view.num_pixels
    for name in expected:
        scale = 1e-9 + 1e-9 * float(expected[name].abs().max())
        assert torch.allclose(at_once[name], expected[name], atol=scale), name
        assert torch.allclose(in_chunks[name], expected[name], atol=scale), name


def test_other_rays_are_chosen_in_every_iteration_and_the_same_after_a_resume():
    partial = RayGradients("partial", num_rays=10)
    first = partial.selected(64, seed=0, images_seen=0)
    assert len(first.unique()) == 10
    assert torch.equal(first, partial.selected(64, seed=0, images_seen=0))
    assert not torch.equal(first, partial.selected(64, seed=0, images_seen=8))
    assert partial.selected(10, 0, 0) is None  # all of them


def test_what_can_not_work_is_refused():
    with pytest.raises(ValueError, match="mode full differentiates all"):
        RayGradients("full", num_rays=4)
    with pytest.raises(ValueError, match="at least 1"):
        RayGradients("chunked", chunk=0)
    with pytest.raises(ValueError, match="those of StyleGAN2 are not"):
        RayGradients("chunked").check(StyleGAN2(**StyleGAN2.tiny))
    RayGradients("full").check(StyleGAN2(**StyleGAN2.tiny))


@dataclass(frozen=True)
class Scene:
    planes: Tensor
    name: str = "scene"


def test_every_tensor_of_a_scene_that_carries_gradient_gets_a_leaf():
    x, y = torch.ones(2, requires_grad=True) * 2, torch.zeros(3)
    scene, pairs = _detached({"a": (x, y), "b": [Scene(x * 3)]})
    assert scene["a"][1] is y
    assert scene["b"][0].name == "scene"
    assert len(pairs) == 2
    assert all(
        leaf.is_leaf and leaf.requires_grad and torch.equal(whole, leaf) for whole, leaf in pairs
    )
