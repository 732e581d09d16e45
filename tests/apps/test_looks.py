"""What a viewer shows, without a browser: for every generator of the registry."""

import time

import numpy as np
import pytest
import torch

from gan3d.apps.looks import NOTHING, Exhibit, FramePace, Gallery, Look, Scenes
from gan3d.apps.pictures import to_uint8
from gan3d.apps.samples import sample
from gan3d.camera import Camera
from gan3d.generators import GENERATORS, StyleGAN2


def tiny(name: str):
    torch.manual_seed(0)
    return GENERATORS[name](**GENERATORS[name].tiny).eval()


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_is_shown_in_all_its_layers_coarse_and_at_rest(name):
    exhibit = Exhibit(name, tiny(name))
    scenes = Scenes(exhibit)
    camera = exhibit.front() if exhibit.generator.has_camera else None
    sizes = set()
    for layer in (*exhibit.layers, NOTHING):
        for side in FramePace(exhibit.side).sides:
            picture = scenes.picture(Look(), camera, layer, resolution=side)
            assert picture.dtype == np.uint8
            sizes.add(picture.shape)
    assert ("depth" in exhibit.layers) == exhibit.generator.has_camera
    assert (exhibit.generator.img_resolution,) * 2 + (3,) in sizes


def test_a_look_without_a_second_seed_is_the_sample_of_its_seed():
    generator = tiny("EG3D")
    generator.lock_view = True
    scenes = Scenes(Exhibit("EG3D", generator))
    camera = Camera.from_angles(0.3, 0.1)
    shown = scenes.picture(Look(seed=5, truncation=0.7), camera, "image")
    expected = to_uint8(sample(generator, [5], camera, 0.7).image)[0]
    assert np.array_equal(shown, expected)


def test_a_scene_is_computed_once_for_each_look_and_again_when_the_model_has_changed(monkeypatch):
    generator = tiny("EG3D")
    calls = []
    represent = type(generator).represent

    def counted(self, ws, **options):
        calls.append(1)
        return represent(self, ws, **options)

    monkeypatch.setattr(type(generator), "represent", counted)
    scenes = Scenes(Exhibit("EG3D", generator))
    for seed in (0, 1, 0, 1):
        for yaw in (0.0, 0.3):
            scenes.picture(Look(seed=seed), Camera.from_angles(yaw, 0.0), "image")
    assert len(calls) == 2
    scenes.forget()
    scenes.scene(Look(seed=0))
    assert len(calls) == 3


def test_the_way_to_another_seed_ends_there_and_styles_keep_the_coarse_latents():
    generator = tiny("EG3D")
    scenes = Scenes(Exhibit("EG3D", generator))
    with torch.no_grad():
        first, second = (scenes._ws(Look(seed=seed)) for seed in (0, 1))
        middle = scenes._ws(Look(seed=0, towards=1, share=0.5))
        mixed = scenes._ws(Look(seed=0, styles=1, cut=2))
        assert torch.equal(scenes._ws(Look(seed=0, towards=1, share=1.0)), second)
    assert torch.allclose(middle, (first + second) / 2, atol=1e-6)
    assert torch.equal(mixed[:, :2], first[:, :2])
    assert torch.equal(mixed[:, 2:], second[:, 2:])


def test_models_beside_each_other_are_seen_from_their_own_distances_through_their_own_lenses():
    near = Exhibit("near", tiny("EG3D"), radius=1.0, fov=12.0)
    far = Exhibit("far", tiny("EG3D"), radius=2.7, fov=18.83)
    gallery = Gallery([near, Exhibit("flat", StyleGAN2(**StyleGAN2.tiny).eval()), far])
    assert gallery.lead is near
    moved = Camera.from_angles(0.4, 0.2, radius=2.0, fov=12.0)  # twice as far as in training
    seen = gallery._seen(far, moved)
    assert torch.allclose(seen.cam2world, Camera.from_angles(0.4, 0.2, radius=5.4).cam2world)
    assert seen.fov.item() == pytest.approx(18.83, abs=1e-3)
    assert gallery._seen(gallery.exhibits[1], moved) is None
    frame = gallery.frame(Look(), moved, "depth", gallery.paces(), moving=False)
    assert len(frame.pictures) == 3
    assert (frame.pictures[1] == 255).all()  # a 2D model has no depth


def test_the_resolution_follows_the_time_of_the_frames():
    pace = FramePace(64, seconds=0.1)
    assert pace.sides == [64, 32, 16, 8]
    assert pace.resolution() == 64  # nothing is known yet
    pace.took(64, 0.39)
    assert pace.resolution() == 32  # a quarter of the rays
    pace.took(32, 0.3)
    assert pace.resolution() == 16
    pace.took(16, 0.22)
    assert pace.resolution() == 8
    pace.took(8, 0.16)
    assert pace.resolution() == 16  # 8 is hardly faster
    pace.took(8, 0.09)
    assert pace.resolution() == 8
    pace.took(64, 0.3)  # at rest: it begins anew
    assert pace.resolution() == 32
    slow = FramePace(48, seconds=0.1)
    slow.took(48, 1e6)
    assert slow.resolution() == slow.sides[-1] == 12


def test_frames_at_rest_have_the_full_resolution_and_moving_ones_that_of_their_pace():
    exhibit = Exhibit("EG3D", tiny("EG3D"))
    gallery = Gallery([exhibit])
    (pace,) = paces = gallery.paces()
    pace.took(exhibit.side, 1e6)
    start = time.monotonic()
    moving = gallery.frame(Look(), exhibit.front(), "image", paces, moving=True)
    rest = gallery.frame(Look(), exhibit.front(), "image", paces, moving=False)
    assert (moving.sides, rest.sides) == ((pace.sides[-1],), (exhibit.side,))
    assert start <= moving.at <= rest.at


def test_the_camera_stays_where_rays_are_sampled():
    gram = Exhibit("GRAM", tiny("GRAM"), radius=1.0)
    gram.generator.ray_limits, gram.generator.scene_extent = (0.88, 1.12), 0.24
    near, far = gram.distances()
    assert near == pytest.approx(0.94)
    assert far == pytest.approx(1.06)
    gram.generator.ray_limits = None
    assert gram.distances() == pytest.approx((0.3, 4.0))
