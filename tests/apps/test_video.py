"""Videos and views of an analytic generator."""

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.apps.video import beside_each_other, film, orbit_frames, orbit_video, write_video
from gan3d.apps.views import evaluating, orbit_like, render_views
from gan3d.camera import Camera, frontal, orbit
from gan3d.generators import Rendering


def test_scenes_are_mapped_and_represented_once_and_rendered_from_every_camera(balls):
    orbit_frames(balls, torch.randn(2, 3), orbit(7), progress=False)
    assert balls.calls == ["map", "represent"] + ["render"] * 7


def test_frames_show_the_heads_beside_each_other_above_their_depth(balls):
    z = torch.tensor([[5.0, -5.0, -5.0], [-5.0, -5.0, 5.0]])
    frames = orbit_frames(balls, z, orbit(3), progress=False)
    assert frames.shape == (3, 64, 64, 3)
    assert frames[0, 16, 16].tolist() == [255, 0, 0]
    assert frames[0, 16, 48].tolist() == [0, 0, 255]
    assert frames[0, 33, 1].tolist() == [255, 255, 255]
    assert frames[0, 48, 16].sum() > frames[0, 41, 16].sum()  # the middle of a ball is nearest
    assert orbit_frames(balls, z, orbit(3), depth=False, progress=False).shape == (3, 32, 64, 3)


def test_the_depth_colors_do_not_flicker_along_the_orbit(balls):
    frames = orbit_frames(balls, torch.randn(1, 3), orbit(4), progress=False)
    middle = frames[:, 48, 16].astype(int)
    assert np.abs(middle - middle[0]).max() <= 3


def test_all_frames_share_one_conditioning_camera(balls):
    front = Camera.from_angles(0.1, 0.2)
    orbit_frames(balls, torch.randn(3, 3), orbit(4), conditioning=front, progress=False)
    assert torch.equal(balls.conditioning.cam2world, front.cam2world.expand(3, 4, 4))
    orbit_frames(balls, torch.randn(3, 3), orbit(4), progress=False)
    assert torch.equal(balls.conditioning.cam2world, frontal(orbit(4)).cam2world.expand(3, 4, 4))


def test_views_without_a_conditioning_camera_are_those_of_heads_told_to_face_the_front(balls):
    cameras = Camera.from_angles(torch.linspace(-0.5, 0.5, 3), 0.2, radius=1.5, fov=30.0)
    render_views(balls, torch.randn(3, 3), cameras)
    assert torch.allclose(balls.conditioning.label(), frontal(cameras).label().expand(3, -1))
    balls.camera_conditioned = False
    render_views(balls, torch.randn(3, 3), cameras)
    assert balls.conditioning is None


def test_rendering_changes_neither_the_generator_nor_the_random_state(balls):
    balls.train()
    balls.dropout.eval()
    before = torch.get_rng_state()
    orbit_frames(balls, torch.ones(1, 3), orbit(2), progress=False)
    render_views(balls, torch.ones(1, 3), Camera.from_angles(0.0, 0.0))
    assert torch.equal(before, torch.get_rng_state())
    assert (balls.training, balls.dropout.training) == (True, False)
    assert torch.is_grad_enabled()


def test_modes_are_restored_after_an_error(balls):
    def fail():
        with evaluating(balls):
            assert not balls.dropout.training
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert balls.dropout.training


def test_a_model_without_a_camera_is_refused(balls, monkeypatch):
    monkeypatch.setattr(type(balls), "has_camera", False)
    with pytest.raises(ValueError, match="Balls has no camera"):
        orbit_frames(balls, torch.ones(1, 3))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (63, 100), (33, 67), (300, 257)])
def test_videos_play_everywhere(tmp_path, height, width):
    """H.264, yuv420p, even sizes of at least 256 pixels, and as many frames as given."""
    frames = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    reader = imageio_ffmpeg.read_frames(str(write_video(tmp_path / "a" / "b.mp4", frames, fps=10)))
    meta = next(reader)
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 10
    assert min(meta["size"]) >= 256
    assert all(side % 2 == 0 for side in meta["size"])
    assert len(list(reader)) == 5
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.mp4"]


def test_a_video_shows_its_frames(tmp_path, balls):
    z = torch.tensor([[5.0, -5.0, -5.0]])
    frames = orbit_video(tmp_path / "orbit.mp4", balls, z, orbit(4), progress=False)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "orbit.mp4"))
    width, height = next(reader)["size"]
    first = np.frombuffer(next(reader), np.uint8).reshape(height, width, 3)
    seen, expected = first[4::8, 4::8].astype(int), frames[0].astype(int)
    assert np.abs(seen - expected).mean() < 6  # color is stored at half resolution


def test_an_empty_or_float_video_is_refused(tmp_path):
    for frames in (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3))):
        with pytest.raises(ValueError, match="expected uint8"):
            write_video(tmp_path / "a.mp4", frames)


def test_a_gif_plays_for_ever_at_its_speed(tmp_path):
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    frames[1:, :, :, 0], frames[2:, :, :, 1] = 200, 90
    with Image.open(write_video(tmp_path / "a.gif", frames, fps=20, scale=2)) as image:
        assert (image.n_frames, image.size) == (3, (60, 40))
        assert (image.info["duration"], image.info["loop"]) == (50, 0)
        for k in range(3):
            image.seek(k)
            assert np.array_equal(np.asarray(image.convert("RGB"))[1, 1], frames[k, 0, 0])


def test_frames_may_come_one_by_one_and_are_checked(tmp_path):
    good, bad = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    write_video(tmp_path / "a.gif", iter([good, good]))
    with pytest.raises(ValueError, match=r"uint8 \[8, 8\], expected uint8 \[H W 3\]"):
        write_video(tmp_path / "b.gif", iter([good, bad]))
    with pytest.raises(ValueError, match=r"c.avi does not end in .mp4 or .gif"):
        write_video(tmp_path / "c.avi", iter([good]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_a_film_leaves_gradients_and_modes_alone_between_its_frames(balls):
    balls.train()
    frames = film(balls, torch.zeros(1, 1, 3), orbit(3), progress=False)
    next(frames)
    assert torch.is_grad_enabled()
    assert balls.training


def test_scenes_that_change_need_a_camera_for_each_frame(balls):
    with pytest.raises(ValueError, match="latents of 4 frames and a path of 3"):
        next(film(balls, torch.zeros(4, 1, 1, 3), orbit(3), progress=False))


def test_films_of_several_sizes_stand_side_by_side_below_their_labels():
    small = np.full((2, 16, 16, 3), 10, np.uint8)
    large = np.full((2, 32, 32, 3), 200, np.uint8)
    frames = list(beside_each_other([small, large], ["a", "b"]))
    assert len(frames) == 2
    height, width, _ = frames[0].shape
    assert 256 + 8 < height < 256 + 30
    assert 2 * 256 + 2 <= width < 2 * 256 + 10
    assert (frames[0][-256:, -256:] == 200).all()
    assert (frames[0][-256:, -514:-258] == 10).all()


def test_views_do_not_depend_on_the_batch_size(balls):
    z, cameras = torch.randn(7, 3), orbit(7)
    at_once = render_views(balls, z, cameras, conditioning=cameras, batch_size=7)
    in_parts = render_views(balls, z, cameras, conditioning=cameras, batch_size=3)
    assert isinstance(in_parts, Rendering)
    for name in ("image", "raw", "depth", "opacity"):
        torch.testing.assert_close(getattr(in_parts, name), getattr(at_once, name))


def test_paths_keep_the_mean_radius_and_lens_of_the_data():
    yaw, pitch = torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.0])
    cameras = Camera.from_angles(yaw, pitch, radius=1.5, focal=2.0)
    for path in (frontal(cameras), orbit_like(cameras, 5)):
        torch.testing.assert_close(path.origins.norm(dim=-1), torch.full((len(path),), 1.5))
        torch.testing.assert_close(path.focal, torch.full((len(path),), 2.0))
    torch.testing.assert_close(frontal(cameras).origins, torch.tensor([[0.0, 0.0, 1.5]]))
