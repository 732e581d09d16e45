"""Inversion finds scenes that a model has made itself: the picture, the camera, and other views."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gan3d
from gan3d.apps.inversion import (
    Inversion,
    InversionOptions,
    Pose,
    components,
    laplacian_distance,
    mobilenet_distance,
)
from gan3d.apps.samples import latents
from gan3d.camera import Camera
from gan3d.generators import GENERATORS, Generator, pin, unpin

SEED, YAW, PITCH = 100, 0.3, 0.1
OFF = math.radians(10)
OTHERS = ((-0.3, 0.0), (0.0, 0.2))
slow = pytest.mark.slow


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * ((a - b) / 2).square().mean().log10())


def seen(generator: Generator, yaw: float = YAW, pitch: float = PITCH, seed: int = SEED) -> Tensor:
    """A picture of a scene."""
    camera = Camera.from_angles(yaw, pitch) if generator.has_camera else None
    return gan3d.sample(generator, [seed], camera).image


def tiny(name: str = "EG3D") -> Generator:
    torch.manual_seed(0)
    return GENERATORS[name](**GENERATORS[name].tiny).eval()


# -- Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "least_other"),
    [
        ("eg3d_heads32", 35, 33),
        ("pigan_heads32", 45, 45),
        pytest.param("cips3d_heads32", 36, 33, marks=slow),
        pytest.param("gramhd_heads64", 40, 40, marks=slow),
    ],
)
def test_a_scene_of_the_model_is_found_with_its_camera(name, least, least_other):
    generator = gan3d.from_pretrained(name)
    picture = seen(generator)
    found = gan3d.invert(generator, picture, YAW - OFF, PITCH, steps=100, progress=False)
    assert psnr(found.views.image, picture) > least
    assert found.psnr[0] == pytest.approx(psnr(found.views.image, picture), abs=1e-3)
    yaw, pitch = float(found.pose.yaw), float(found.pose.pitch)
    assert math.degrees(math.hypot(yaw - YAW, pitch - PITCH)) < 2
    for angles in OTHERS:
        assert psnr(seen(found.generator, *angles), seen(generator, *angles)) > least_other
        assert psnr(seen(generator, *angles, seed=5), seen(generator, *angles)) < 25


@slow
@pytest.mark.parametrize("seed", [101, 102])
def test_a_search_does_not_end_in_a_scene_that_is_turned_otherwise(seed):
    """From the mean of the latents it does: CIPS-3D's heads turn little with the camera."""
    generator = gan3d.from_pretrained("cips3d_heads32")
    picture = seen(generator, seed=seed)
    found = gan3d.invert(generator, picture, YAW - OFF, PITCH, progress=False)
    assert found.psnr[0] > 40
    assert math.degrees(abs(float(found.pose.yaw) - YAW)) < 1


def test_a_search_begins_at_the_nearest_of_mapped_latents():
    """A picture of one of them: without a step, its latents are found."""
    generator = tiny()
    options = InversionOptions(steps=1, noise=0.0, lr=0.0)
    start = Pose(torch.tensor([YAW]), torch.tensor([PITCH]))
    blank = torch.zeros(1, 3, generator.img_resolution, generator.img_resolution)
    search = Inversion(generator, blank, start, options)
    with torch.no_grad():
        wanted = search.others[5:6]
        picture = generator.render(generator.represent(wanted), start.camera()).image
    search = Inversion(generator, picture, start, options)
    list(search.run())
    torch.testing.assert_close(search.ws, wanted, atol=1e-4, rtol=1e-4)


def test_a_picture_of_a_2d_model_is_found():
    generator = gan3d.from_pretrained("stylegan2_heads64")
    found = gan3d.invert(generator, seen(generator), steps=60, progress=False)
    assert found.pose is None
    assert found.psnr[0] > 33


@slow
def test_freer_spaces_come_nearer_to_the_picture():
    generator = gan3d.from_pretrained("eg3d_heads32")
    picture = seen(generator, seed=102)
    fit = {
        space: gan3d.invert(
            generator, picture, YAW - OFF, PITCH, space=space, steps=60, progress=False
        ).psnr[0]
        for space in ("w", "w+", "pti")
    }
    assert fit["w"] < fit["w+"] < fit["pti"]


def test_several_views_share_the_scene_and_each_has_its_camera():
    generator = gan3d.from_pretrained("pigan_heads32")
    yaws = (-0.3, 0.3)
    pictures = torch.cat([seen(generator, yaw, 0.0) for yaw in yaws])
    found = gan3d.invert(generator, pictures, (-0.2, 0.2), steps=80, progress=False)
    assert found.ws.shape[0] == 1
    torch.testing.assert_close(found.pose.yaw, torch.tensor(yaws), atol=0.03, rtol=0)


def test_a_focal_length_is_refined_if_asked_for():
    generator = gan3d.from_pretrained("pigan_heads32")
    picture = gan3d.sample(generator, [SEED], Camera.from_angles(0.0, 0.0, fov=17.0)).image
    found = gan3d.invert(
        generator, picture, fov=18.83, refine_focal=True, steps=100, progress=False
    )
    assert found.pose.fov == pytest.approx(17.0, abs=0.4)


def test_what_the_mask_leaves_out_has_no_effect():
    generator = tiny()
    picture = seen(generator)
    mask = torch.ones(1, 1, *picture.shape[-2:])
    mask[..., : picture.shape[-1] // 2] = 0
    other = torch.where(mask > 0, picture, torch.ones_like(picture))
    found = [
        gan3d.invert(generator, x, mask=mask, steps=3, progress=False) for x in (picture, other)
    ]
    assert torch.equal(found[0].ws, found[1].ws)
    assert found[0].psnr == found[1].psnr


# -- Parts -----------------------------------------------------------------------------------------


def test_components_are_those_of_the_latents():
    """Tied latents stay tied in w, and are free in w+."""
    w = torch.randn(200, 1, 3, generator=torch.Generator().manual_seed(0))
    ws = w.expand(-1, 4, -1)
    joint, each = components(ws), components(ws, of_each=True)
    assert (joint.spread > 0).sum() == 3
    assert (each.spread > 0).sum() == 12
    moved = joint.latents(torch.randn(joint.spread.shape))
    torch.testing.assert_close(moved, moved[:, :1].expand(-1, 4, -1))
    for parts in (joint, each):
        torch.testing.assert_close(
            parts.latents(parts.coordinates(ws[:1])), ws[:1], atol=1e-4, rtol=0
        )
    coordinates = torch.stack([joint.coordinates(ws[k : k + 1])[0, :3] for k in range(200)])
    torch.testing.assert_close(coordinates.T @ coordinates / 199, torch.eye(3), atol=1e-3, rtol=0)


def test_the_distance_sees_every_scale():
    x = torch.zeros(1, 3, 32, 32)
    assert laplacian_distance(x, x) == 0
    shifted, checks = x + 0.5, x.clone()
    checks[..., ::2, ::2] = 0.5
    assert laplacian_distance(x, shifted) == pytest.approx(0.5, abs=1e-5)
    assert laplacian_distance(x, checks) > 0.1


@pytest.mark.parametrize("space", ["w", "w+", "pti"])
def test_a_stopped_inversion_goes_on_to_the_same_end(space):
    options = InversionOptions(space=space, steps=6, tuning_steps=4)
    picture = seen(tiny())

    def search() -> Inversion:
        start = Pose(torch.zeros(1), torch.zeros(1))
        return Inversion(tiny(), picture, start, options)

    whole, first, second = search(), search(), search()
    for _ in whole.run():
        pass
    stop = {"w": 3, "w+": 4, "pti": 8}[space]
    for step in first.run():
        if step == stop:
            break
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in second.run():
        pass
    assert second.losses == whole.losses
    assert torch.equal(second.ws, whole.ws)
    pairs = zip(whole.generator.parameters(), second.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_only_tuning_changes_the_weights_and_never_those_of_the_given_generator():
    generator = tiny()
    before = copy.deepcopy(generator.state_dict())
    picture = seen(generator, seed=1)
    for space, changes in (("w", False), ("w+", False), ("pti", True)):
        found = gan3d.invert(
            generator, picture, space=space, steps=2, tuning_steps=2, progress=False
        )
        after = found.generator.state_dict()
        assert any(not torch.equal(after[key], before[key]) for key in before) == changes
    assert all(torch.equal(generator.state_dict()[key], before[key]) for key in before)
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_a_pinned_generator_shows_its_scene_for_every_seed():
    generator = tiny()
    ws = generator.map(latents(generator, [3]), Camera.from_angles(0.0, 0.0))
    with torch.no_grad():
        mean = generator.map(latents(generator, [0]), Camera.from_angles(0.0, 0.0), truncation=0)
    pin(generator, ws)
    z = latents(generator, [0, 1])
    assert torch.equal(generator.map(z), ws.expand(2, -1, -1))
    half = generator.map(z[:1], Camera.from_angles(0.0, 0.0), truncation=0.5)
    torch.testing.assert_close(half, (ws + mean) / 2)
    cut = generator.map(z[:1], Camera.from_angles(0.0, 0.0), truncation=0.5, truncation_cutoff=2)
    torch.testing.assert_close(cut, torch.cat([half[:, :2], ws[:, 2:]], dim=1))
    assert torch.equal(copy.deepcopy(generator).map(z[:1]), ws)
    assert not torch.equal(unpin(copy.deepcopy(generator)).map(z)[0], ws[0])
    with pytest.raises(ValueError, match=r"takes \[1 "):
        pin(generator, ws[:, 1:])


# -- Mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": torch.zeros(1, 3, 16, 16)}, "16 px, EG3D makes 32 px; resize"),
        ({"pictures": torch.zeros(3, 32, 32)}, r"expected \[v 3 32 32\]"),
        ({"mask": torch.zeros(1, 32, 32)}, "the mask has shape"),
        ({"start": None}, "1 views of EG3D need a yaw and a pitch to start from each, got none"),
        ({"start": Pose(torch.zeros(2), torch.zeros(2))}, "got 2 yaws, 2 pitches"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"pictures": torch.zeros(1, 3, 32, 32), "start": Pose(torch.zeros(1), torch.zeros(1))}
    given |= change
    pictures, start = given.pop("pictures"), given.pop("start")
    with pytest.raises(ValueError, match=message):
        Inversion(tiny(), pictures, start, InversionOptions(), **given)


def test_a_2d_model_has_one_view():
    generator = tiny("StyleGAN2")
    side = generator.img_resolution
    with pytest.raises(ValueError, match="2D model"):
        gan3d.invert(generator, torch.zeros(2, 3, side, side), progress=False)


def test_the_distance_of_activations_is_zero_at_home_and_grows_with_blur():
    try:
        distance = mobilenet_distance()
    except ValueError:
        pytest.skip("the weights of MobileNetV2 are absent")
    torch.manual_seed(0)
    picture = (
        torch.rand(1, 3, 16, 16).mul(2).sub(1).repeat_interleave(4, -1).repeat_interleave(4, -2)
    )
    blurred = [F.avg_pool2d(picture, k, 1, k // 2, count_include_pad=False) for k in (3, 9)]
    assert float(distance(picture, picture)) < 1e-6
    near, far = (float(distance(picture, other)) for other in blurred)
    assert 0.01 < near < far
    gains = [
        value - float(laplacian_distance(picture, b)) for value, b in zip((near, far), blurred)
    ]
    assert 0.01 < gains[0] < gains[1]
