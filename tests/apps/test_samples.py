"""Pictures in two calls: scenes, cameras, and layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.apps.pictures import to_uint8
from gan3d.apps.samples import orbit, picture, sample, sample_turned
from gan3d.camera import Camera
from gan3d.generators import EG3D, Rendering, StyleGAN2
from gan3d.randomness import Randomness


@pytest.fixture(scope="module")
def generator() -> EG3D:
    torch.manual_seed(0)
    return EG3D(**EG3D.tiny)


def test_a_seed_is_the_first_scene_of_that_seed_from_the_front(generator):
    shown = sample(generator, [5, 3])
    z = torch.cat([Randomness(seed, range(4)).normal("z", generator.z_dim)[:1] for seed in (5, 3)])
    camera = Camera.from_angles(torch.zeros(2), torch.zeros(2))
    with torch.no_grad():
        expected = generator.eval().render(generator.represent(generator.map(z, camera)), camera)
    torch.testing.assert_close(shown.image, expected.image)
    torch.testing.assert_close(shown.depth, expected.depth)
    assert shown.extras["seed"].tolist() == [5, 3]


def test_scenes_do_not_depend_on_each_other_or_on_the_batch(generator):
    whole = sample(generator, range(3), batch_size=2).image
    torch.testing.assert_close(sample(generator, [2]).image[0], whole[2])
    assert not torch.equal(whole[0], whole[1])


def test_one_camera_serves_all_and_several_one_each(generator):
    left, right = Camera.from_angles(0.4, 0.0), Camera.from_angles(-0.4, 0.0)
    both = Camera.from_angles(torch.tensor([0.4, -0.4]), 0.0)
    each = sample(generator, [1, 1], both).image
    torch.testing.assert_close(each[0], sample(generator, [1, 1], left).image[1])
    torch.testing.assert_close(each[1], sample(generator, [1], right).image[0])
    assert not torch.equal(each[0], each[1])


def test_truncation_to_zero_shows_the_same_scene_for_every_seed(generator):
    same = sample(generator, [0, 1], truncation=0.0).image
    torch.testing.assert_close(same[0], same[1])


def test_the_model_is_not_changed(generator):
    generator.train()
    sample(generator, [0])
    assert generator.training
    assert all(p.requires_grad for p in generator.parameters())


def test_a_2d_model_needs_no_camera_and_takes_none():
    flat = StyleGAN2(**StyleGAN2.tiny)
    shown = sample(flat, [0])
    assert shown.depth is None
    assert picture(shown).size[0] > 128
    with pytest.raises(ValueError, match="StyleGAN2 has no camera, got one"):
        sample(flat, [0], Camera.from_angles(0.0, 0.0))


def test_an_orbit_shows_the_scenes_of_the_seeds_and_writes_them(generator, tmp_path):
    path = Camera.from_angles(torch.tensor([-0.3, 0.0, 0.3]), 0.0)
    frames = orbit(generator, [5, 3], tmp_path / "a.gif", path, 0.7, progress=False)
    assert frames.shape == (3, 32, 64, 3)
    turned = sample(generator, [5, 3], Camera.from_angles(0.3, 0.0), 0.7).image
    assert np.array_equal(np.split(frames[2], 2, axis=1), to_uint8(turned))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
    layers = orbit(generator, [5], None, path, layers=["raw", "normals"], progress=False)
    assert layers.shape == (3, 64, 32, 3)


def test_a_2d_model_has_no_orbit():
    with pytest.raises(ValueError, match="StyleGAN2 has no camera to move"):
        orbit(StyleGAN2(**StyleGAN2.tiny), [0])


def test_views_of_several_cameras_are_those_of_each(generator):
    cameras = [Camera.from_angles(yaw, 0.0) for yaw in (-0.3, 0.4)]
    both = sample_turned(generator, [1, 2, 3], cameras, batch_size=2)
    for camera, views in zip(cameras, both, strict=True):
        alone = sample(generator, [1, 2, 3], camera)
        torch.testing.assert_close(views.image, alone.image)
        torch.testing.assert_close(views.depth, alone.depth)
        assert views.extras["seed"].tolist() == [1, 2, 3]


def test_wrong_numbers_are_refused(generator):
    with pytest.raises(ValueError, match="there are no seeds"):
        sample(generator, [])
    with pytest.raises(ValueError, match="got 2 cameras for 3 seeds"):
        sample(generator, range(3), Camera.from_angles(torch.zeros(2), 0.0))
    with pytest.raises(ValueError, match="got 1 labels for 2 views"):
        picture(flat_rendering(2), ["a"])


def flat_rendering(num: int, side: int = 32) -> Rendering:
    """Views of one gray each, without depth."""
    values = torch.linspace(-0.8, 0.8, num)[:, None, None, None]
    return Rendering(values.expand(num, 3, side, side))


def gray(k: int, num: int) -> int:
    return round((float(torch.linspace(-0.8, 0.8, num)[k]) + 1) * 127.5)


def test_small_views_are_enlarged_and_stand_side_by_side():
    shown = np.asarray(picture(flat_rendering(3)))
    height, width, _ = shown.shape
    for k in range(3):
        found = shown[height - 64, width - (3 - k) * 130 + 65]
        assert (found == gray(k, 3)).all()
    assert (shown[-128:, -258:-130] == gray(1, 3)).all()
    assert np.asarray(picture(flat_rendering(3), side=64)).shape[1] < width


def test_large_views_stay_as_they_are():
    shown = np.asarray(picture(flat_rendering(1, side=200)))
    assert (shown[-200:, -200:] == gray(0, 1)).all()
    assert max(shown.shape) < 2 * 200


def test_labels_are_drawn_and_differ():
    plain, named = (
        np.asarray(picture(flat_rendering(2), labels=x)) for x in (["", ""], ["a", "b"])
    )
    changed = (plain != named).any(-1)
    assert changed.any()
    assert not changed[-128:].any()  # above the views, not in them


def test_long_rows_are_broken_and_every_view_is_there():
    shown = np.asarray(picture(flat_rendering(11)))
    for k in range(11):
        assert (shown == gray(k, 11)).all(-1).sum() >= 128 * 128
    assert shown.shape[1] < 9 * 130 + 60
