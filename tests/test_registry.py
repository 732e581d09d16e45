"""Every registered generator and discriminator keeps its contract; a new one gets these tests for
free.
"""

import copy
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest
import torch

from gan3d.camera import Camera
from gan3d.discriminators import DISCRIMINATORS, Discriminator, DiscriminatorOutput, check_pair
from gan3d.generators import EG3D, GENERATORS, Generator, Rendering
from gan3d.randomness import Randomness
from gan3d.rendering import DensityPrior

BATCH = 4


# Options that add to a network are walked as networks of their own.
OPTIONS: dict[str, dict[str, Any]] = {
    "EG3D with a backdrop and a ball": {
        "render": replace(EG3D.tiny["render"], background="learned"),
        "density_prior": DensityPrior("ball"),
    },
    "CIPS3DDiscriminator of poses": {"predicts_pose": True},
    "DualDiscriminator of poses": {"predicts_pose": True},
    "StyleGAN2Discriminator of poses": {"predicts_pose": True},
}


def walked(registry: Mapping[str, Any]) -> list[str]:
    return [*sorted(registry), *(name for name in OPTIONS if name.split()[0] in registry)]


def made(registry: Mapping[str, Any], name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    cls = registry[name.split()[0]]
    return cls(**{**cls.tiny, **OPTIONS.get(name, {})})


@pytest.fixture(params=walked(GENERATORS))
def generator(request) -> Generator:
    return made(GENERATORS, request.param)


@pytest.fixture(params=walked(DISCRIMINATORS))
def discriminator(request) -> Discriminator:
    return made(DISCRIMINATORS, request.param)


def cameras(b: int = BATCH, spread: float = 0.4) -> Camera:
    return Camera.from_angles(torch.linspace(-spread, spread, b), torch.linspace(-0.1, 0.1, b))


def latent(generator: Generator, b: int = BATCH) -> torch.Tensor:
    return Randomness(1, range(b)).normal("z", generator.z_dim)


def show(generator: Generator, randomness: Randomness | None = None) -> Rendering:
    camera = cameras() if generator.has_camera else None
    return generator(latent(generator), camera, randomness=randomness)


def judge(discriminator: Discriminator, image: torch.Tensor) -> DiscriminatorOutput:
    raw = image if discriminator.needs_raw else None
    camera = cameras(len(image)) if discriminator.camera_conditioned else None
    return discriminator(image, raw=raw, camera=camera)


def images(discriminator: Discriminator, b: int = BATCH, side: int | None = None) -> torch.Tensor:
    side = side or discriminator.img_resolution
    return torch.randn(b, 3, side, side, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


# ----------------------------------------------------------------------------------------------
# generators


def test_shapes_are_those_of_the_contract(generator):
    ws = generator.map(latent(generator), cameras() if generator.has_camera else None)
    assert ws.shape == (BATCH, generator.num_ws, generator.w_dim)
    shown = show(generator)
    side = generator.img_resolution
    assert shown.image.shape == (BATCH, 3, side, side)
    if generator.has_raw:
        assert shown.raw.shape == (BATCH, 3, generator.raw_resolution, generator.raw_resolution)
    if generator.has_camera:
        assert shown.depth.shape == shown.opacity.shape
        assert shown.depth.shape[:2] == (BATCH, 1)
    else:
        assert shown.depth is None


def test_an_untrained_model_gives_finite_images_of_reasonable_range(generator):
    shown = show(generator)
    for name in ("image", "raw", "depth", "opacity"):
        value = getattr(shown, name)
        assert value is None or torch.isfinite(value).all(), name
    assert shown.image.std() > 1e-4
    assert shown.image.abs().max() < 100
    if shown.opacity is not None:
        assert shown.opacity.min() >= 0
        assert shown.opacity.max() <= 1 + 1e-4
        assert shown.depth.min() > 0


def test_the_same_arguments_give_the_same_image(generator):
    for randomness in (None, Randomness(5, range(BATCH))):
        assert torch.equal(show(generator, randomness).image, show(generator, randomness).image)


def test_an_image_does_not_depend_on_the_batch_it_is_rendered_in(generator):
    z = latent(generator)
    camera = cameras() if generator.has_camera else None
    together = generator(z, camera, randomness=Randomness(5, range(BATCH)))
    alone = generator(
        z[1:2], camera[1:2] if camera is not None else None, randomness=Randomness(5, [1])
    )
    assert torch.allclose(together.image[1:2], alone.image, atol=1e-4)
    if alone.depth is not None:
        assert torch.allclose(together.depth[1:2], alone.depth, atol=1e-4)


def test_the_camera_changes_the_image_at_fixed_latents(generator):
    if not generator.has_camera:
        assert torch.equal(show(generator).image, generator(latent(generator)).image)
        return
    ws = generator.map(latent(generator, 1), cameras(1))
    scene = generator.represent(ws)
    front, side = (
        generator.render(scene, Camera.from_angles(torch.tensor([yaw]), torch.zeros(1)))
        for yaw in (0, 0.5)
    )
    assert (front.image - side.image).abs().mean() > 1e-4


def test_z_changes_the_image(generator):
    shown = generator(latent(generator), cameras(spread=0.0) if generator.has_camera else None)
    assert (shown.image[0] - shown.image[1]).abs().mean() > 1e-4


def scalars(network: torch.nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.ndim == 0]


def test_no_parameter_is_a_scalar_which_fsdp2_refuses(generator):
    assert scalars(generator) == []


def test_gradients_reach_every_trainable_parameter(generator):
    # Strengths that start at zero stop gradients of nothing else, but be sure.
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    shown = show(generator, Randomness(3, range(BATCH)))
    value = shown.image.square().mean()
    for other in (shown.raw, shown.depth):
        value = value if other is None else value + other.square().mean()
    value.backward()
    missing = [
        name for name, p in generator.named_parameters() if p.requires_grad and p.grad is None
    ]
    # A noise strength whose layer is run without noise by design (EG3D's super-resolution) has no
    # gradient.
    assert [name for name in missing if not name.endswith("noise_strength")] == []


def test_a_state_dict_makes_an_equal_model(generator):
    torch.manual_seed(123)
    twin = type(generator)(**generator.arguments)
    assert not torch.equal(show(twin).image, show(generator).image)
    twin.load_state_dict(generator.state_dict())
    assert torch.equal(show(twin).image, show(generator).image)


def test_bf16_autocast_runs_and_stays_near(generator):
    exact = show(generator).image
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = show(generator).image
    assert torch.isfinite(rough).all()
    assert (rough.float() - exact).abs().mean() < 0.1 * exact.abs().mean().clamp(min=0.1)


def error(rough: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Rms and largest difference, in units of the range of `exact`."""
    difference = (rough.float() - exact).abs() / (exact.max() - exact.min())
    return difference.square().mean().sqrt().item(), difference.max().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", walked(GENERATORS))
def test_bf16_bends_neither_image_nor_geometry(name, seed):
    generator = made(GENERATORS, name, seed)
    exact = show(generator, Randomness(seed, range(BATCH)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = show(generator, Randomness(seed, range(BATCH)))
    for of in ("image", "raw", "depth"):
        value = getattr(exact, of)
        if value is None:
            continue
        rms, largest = error(getattr(rough, of), value)
        print(f"{name} seed {seed}: {of} rms {rms:.4f}, largest {largest:.4f} of its range")
        assert rms <= 0.01
        assert largest <= 0.05


def test_forward_changes_no_state(generator):
    before = copy.deepcopy(generator.state_dict())
    attributes = {
        k: v
        for k, v in vars(generator).items()
        if isinstance(v, (int, float, str, bool, type(None)))
    }
    generator.train()
    show(generator, Randomness(0, range(BATCH)))
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    assert attributes == {k: vars(generator)[k] for k in attributes}


def test_tracking_moves_the_mean_latent_if_there_is_one(generator):
    buffers = {name: b.clone() for name, b in generator.named_buffers() if "w_avg" in name}
    generator.track(generator.map(latent(generator), cameras() if generator.has_camera else None))
    for name, old in buffers.items():
        assert not torch.equal(old, dict(generator.named_buffers())[name])


def test_truncation_to_zero_makes_all_latents_alike(generator):
    camera = cameras(spread=0.0) if generator.has_camera else None
    ws = generator.map(latent(generator), camera, truncation=0.0)
    assert torch.allclose(ws, ws[:1].expand_as(ws), atol=1e-6)


def test_the_field_has_a_density_where_promised(generator):
    points = torch.rand(BATCH, 10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    scene = generator.represent(
        generator.map(latent(generator), cameras() if generator.has_camera else None)
    )
    if generator.has_field:
        sigma, rgb = generator.field(scene, points)
        assert sigma.shape == (BATCH, 10, 1)
        assert rgb.shape[:2] == (BATCH, 10)
    else:
        with pytest.raises(ValueError, match="has no 3D field"):
            generator.field(scene, points)


def test_gradients_reach_the_camera(generator):
    if not generator.has_camera:
        return
    label = cameras(1).label().requires_grad_(True)
    scene = generator.represent(generator.map(latent(generator, 1), cameras(1)))
    shown = generator.render(scene, Camera.from_label(label))
    shown.image.square().sum().backward()
    assert label.grad[:, :16].abs().max() > 0


# ------------------------------------------------------------------------------------------
# discriminators


def test_a_judgement_is_one_logit_per_image(discriminator):
    judgement = judge(discriminator, images(discriminator))
    assert judgement.logits.shape == (BATCH,)
    assert torch.isfinite(judgement.logits).all()
    if discriminator.predicts_pose:
        assert judgement.pose.shape == (BATCH, 2)


def test_every_parameter_of_a_discriminator_has_a_gradient_at_some_resolution(discriminator):
    for side, fade in product(discriminator.img_resolutions, (1.0, 0.5)):
        discriminator.fade = fade
        judgement = judge(discriminator, images(discriminator, side=side))
        told = [getattr(judgement, field.name) for field in fields(judgement)]
        sum(value.square().sum() for value in told if value is not None).backward()
    assert [
        name for name, p in discriminator.named_parameters() if p.requires_grad and p.grad is None
    ] == []


def test_no_parameter_of_a_discriminator_is_a_scalar(discriminator):
    assert scalars(discriminator) == []


def test_a_discriminator_can_be_differentiated_twice(discriminator):
    image = images(discriminator).requires_grad_(True)
    (gradient,) = torch.autograd.grad(
        judge(discriminator, image).logits.sum(), image, create_graph=True
    )
    gradient.square().sum().backward()
    weights = [
        p.grad
        for name, p in discriminator.named_parameters()
        if name.endswith("weight") and p.grad is not None
    ]
    assert len(weights) > 0
    assert all(torch.isfinite(g).all() for g in weights)


def test_judging_changes_neither_state_nor_input(discriminator):
    before, image = copy.deepcopy(discriminator.state_dict()), images(discriminator)
    kept = image.clone()
    first, second = judge(discriminator, image), judge(discriminator, image)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(kept, image)
    assert all(
        torch.equal(before[name], value) for name, value in discriminator.state_dict().items()
    )


def test_bf16_leaves_what_a_discriminator_says_in_full_precision(discriminator):
    image = images(discriminator)
    exact = judge(discriminator, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = judge(discriminator, image)
    for field in fields(exact):
        value = getattr(exact, field.name)
        if value is None:
            continue
        said = getattr(rough, field.name)
        # Near pi/2, where poses lie, bfloat16 has steps of half a degree.
        moved = (said - value).abs().max().item()
        print(f"{type(discriminator).__name__}: {field.name} moves by {moved:.5f}")
        assert said.dtype == torch.float32
        assert moved < 0.02 * value.abs().max().clamp(min=0.1)
        assert not torch.equal(said, said.bfloat16().float())


def test_images_of_different_groups_do_not_influence_each_other(discriminator):
    group = discriminator.group_size
    image = images(discriminator, 2 * group)
    changed = image.clone()
    changed[::2] = changed[::2].flip(
        -1
    )  # with two groups, strided grouping puts even images into group 0
    a, b = judge(discriminator, image).logits, judge(discriminator, changed).logits
    if group > 1:
        assert torch.allclose(a[1::2], b[1::2], atol=1e-5)


# --------------------------------------------------------------------------------------------------
# pairs


@pytest.mark.parametrize(("g", "d"), [*product(sorted(GENERATORS), sorted(DISCRIMINATORS))])
def test_every_pair_works_or_is_refused_with_reasons(g, d):
    generator, discriminator = (
        GENERATORS[g](**GENERATORS[g].tiny),
        DISCRIMINATORS[d](**DISCRIMINATORS[d].tiny),
    )
    if discriminator.needs_raw and not generator.has_raw:
        with pytest.raises(ValueError, match=rf"{d} judges .* {g} renders none"):
            check_pair(generator, discriminator)
        return
    check_pair(generator, discriminator)
    shown = show(generator)
    raw = shown.raw if discriminator.needs_raw else None
    camera = cameras() if discriminator.camera_conditioned else None
    assert discriminator(shown.image, raw=raw, camera=camera).logits.shape == (BATCH,)


def test_two_classes_of_one_name_are_refused():
    name = sorted(GENERATORS)[0]
    with pytest.raises(ValueError, match=f"two generators are called {name}"):
        type(name, (GENERATORS[name],), {"__module__": "elsewhere"})
