"""The kernels of composited maps against torch, in Triton's interpreter."""

import pytest
import torch

from gan3d.ops.manifolds import composite_manifolds

EXTENT = 0.12
OPTIONS = {
    "published": {},
    "aligned, with the remaining light": {"aligned": True, "last_back": True},
}
NAMES = ("maps", "behind", "points", "origins")


def scene(b=2, k=3, h=4, w=5, rays=19, views=None, dtype=torch.float64) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=draw, dtype=dtype)

    points = 3 * EXTENT * (numbers(b, rays, k + 1, 3) - 0.5)  # some of them outside of the maps
    tensors = {
        "maps": numbers(b, k, 4, h, w),
        "behind": numbers(b, rays, 3),
        "points": points,
        "origins": numbers(views or b, 3),
    }
    valid = numbers(b, rays, k + 1) > 0.3
    return {name: x.requires_grad_() for name, x in tensors.items()} | {"valid": valid}


def values(tensors: dict[str, torch.Tensor], backend: str, **options):
    return composite_manifolds(**tensors, half_extent=EXTENT, backend=backend, **options)


def compare(tensors: dict[str, torch.Tensor], names=NAMES, **options) -> None:
    """Values and gradients of both backends."""
    found = []
    for backend in ("fast", "triton"):
        seen = values(tensors, backend, **options)
        weights = [torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x) for x in seen]
        loss = sum((w * x).sum() for w, x in zip(weights, seen))
        found.append((*seen, *torch.autograd.grad(loss, [tensors[name] for name in names])))
    for fast, kernel in zip(*found):
        torch.testing.assert_close(kernel, fast)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_all_gradients_are_those_of_torch(options):
    compare(scene(), **options)


def test_the_sizes_of_one_level_and_one_origin():
    compare(scene(b=2, k=1, h=1, w=1, rays=3, views=1))


def test_maps_channels_last_shared_by_views_and_points_without_gradient():
    tensors = scene()
    maps = tensors["maps"][:1, :, :, :3].movedim(2, -1).contiguous().movedim(-1, 2)
    tensors["maps"] = maps.detach().expand(2, -1, -1, -1, -1).requires_grad_()
    tensors |= {name: tensors[name].detach() for name in ("points", "origins")}
    compare(tensors, ("maps", "behind"))


def test_maps_of_odd_strides_and_without_gradient():
    tensors = scene()
    tensors["maps"] = tensors["maps"].detach()[..., 1:]
    compare(tensors, NAMES[1:])


def test_opaque_and_missed_surfaces_equal_distances_and_a_point_at_the_origin():
    tensors = {name: x.detach() for name, x in scene(rays=4).items()}
    tensors["maps"][:, 1, 3] = 1
    tensors["points"][:, 0] = 0
    tensors["points"][:, 1, 0] = tensors["origins"]
    tensors["valid"][:, 2] = False
    compare({n: x if n == "valid" else x.requires_grad_() for n, x in tensors.items()})


def test_derivatives():
    tensors = scene(b=1, k=2, h=2, w=2, rays=2)
    valid = tensors.pop("valid")

    def op(*given):
        some = dict(zip(tensors, given)) | {"valid": valid}
        return torch.cat([x.flatten() for x in values(some, "triton", last_back=True)])

    inputs = tuple(tensors.values())
    assert torch.autograd.gradcheck(op, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(op, inputs, fast_mode=True)


def test_many_surfaces_take_torch(monkeypatch):
    monkeypatch.setattr("gan3d.ops.triton.manifolds.composite_maps", None)
    tensors = scene(b=1, k=2, h=1, w=1, rays=2)
    with pytest.raises(TypeError):
        values(tensors, "triton")
    monkeypatch.setattr("gan3d.ops.manifolds.MOST_SURFACES", 2)
    for fast, kernel in zip(values(tensors, "fast"), values(tensors, "triton")):
        torch.testing.assert_close(kernel, fast)


@pytest.mark.slow
def test_the_ops_are_well_registered():
    from gan3d.ops.triton.manifolds import composite_maps, composite_maps_backward

    tensors = scene(b=1, k=1, h=2, w=2, rays=2)
    inputs = [tensors[name] for name in ("maps", "behind", "points", "valid", "origins")]
    torch.library.opcheck(composite_maps, (*inputs, [8.0, 9.0], False))
    plain = [x.detach() for x in inputs]
    grads = [torch.ones_like(x) for x in composite_maps(*plain, [8.0, 9.0], False)]
    for asked in ((True, False), (False, True)):
        options = (*plain, [8.0, 9.0], False, *grads, *asked)
        torch.library.opcheck(composite_maps_backward, options)


def test_it_compiles_into_one_graph():
    tensors = scene(b=1, k=1, h=2, w=2, rays=2)

    def op(maps):
        return values(tensors | {"maps": maps}, "triton").rgb

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    maps = tensors["maps"]
    torch.testing.assert_close(compiled(maps), op(maps))
    grads = [torch.autograd.grad(f(maps).sum(), maps) for f in (compiled, op)]
    torch.testing.assert_close(*grads)
