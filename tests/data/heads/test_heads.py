"""Procedural heads: a head depends on (seed, index) only, the ground truth is true, files are
complete.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gan3d.data.archive import open_archive
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.heads import (
    ATTRIBUTE_NAMES,
    FOV,
    RADIUS,
    HeadAttributes,
    contact_sheet,
    dataset,
    head_camera,
    head_distance,
    is_heads,
    render_heads,
    sample_angles,
    sample_heads,
    trace,
    write_heads,
)
from gan3d.data.heads.anatomy import build_scene
from gan3d.data.heads.attributes import SHAPES
from gan3d.data.heads.scene import HEAD_SCALE


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cameras(yaw, pitch=0.0):
    yaw = torch.as_tensor(yaw, dtype=torch.float64)
    return head_camera(yaw, torch.full_like(yaw, pitch))


def pixel_directions(camera, resolution):
    """World directions [b H W 3] with camera z one of the rays through the pixel centers.

    Written independently of the tracer.
    """
    center = (torch.arange(resolution) + 0.5) / resolution - 0.5
    v, u = torch.meshgrid(center, center, indexing="ij")
    focal = camera.intrinsics[:, 0, 0].double()[:, None, None]
    local = torch.stack([u / focal, v / focal, torch.ones_like(u / focal)], dim=-1)
    return torch.einsum("bij,bhwj->bhwi", camera.cam2world[:, :3, :3].double(), local)


def unproject(views, camera):
    """World points of the depth maps, [b H W 3]."""
    resolution = views.depth.shape[-1]
    origin = camera.cam2world[:, None, None, :3, 3].double()
    return origin + views.depth[:, 0, :, :, None].double() * pixel_directions(camera, resolution)


def psnr(difference):
    return float(-10 * torch.log10((difference / 2).square().mean()))  # images span [-1, 1]


# -- what a head depends on ------------------------------------------------------------------------


def test_attributes_of_a_head_do_not_depend_on_other_heads():
    together = sample_heads(3, [0, 7, 2]).values
    assert torch.equal(together[1], sample_heads(3, [7]).values[0])
    assert not torch.equal(together[1], sample_heads(4, [7]).values[0])
    assert len(set(ATTRIBUTE_NAMES)) == len(ATTRIBUTE_NAMES)


def test_first_views_do_not_depend_on_the_number_of_views():
    yaw1, pitch1 = sample_angles(0, range(5), views=1)
    yaw3, pitch3 = sample_angles(0, range(3, 5), views=3)
    assert torch.equal(yaw1[3:, 0], yaw3[:, 0])
    assert torch.equal(pitch1[3:, 0], pitch3[:, 0])
    assert len(yaw3.unique()) == 6


def test_pixels_of_a_head_do_not_depend_on_its_batch():
    attributes = sample_heads(0, range(9))
    yaw = torch.linspace(-0.5, 0.5, 9)
    batch = render_heads(attributes, cameras(yaw, 0.1), 24)
    for k in (0, 5):
        camera = head_camera(yaw[k : k + 1], torch.tensor([0.1]))
        alone = render_heads(attributes.select([k]), camera, 24)
        assert torch.equal(alone.image[0], batch.image[k])
        assert torch.equal(alone.depth[0], batch.depth[k])
        assert torch.equal(alone.mask[0], batch.mask[k])


@pytest.mark.slow
def test_a_compiled_distance_makes_the_same_pictures():
    """Of any number of tiles: 1 is compiled on its own by torch, unless it is avoided."""
    heads, zero = sample_heads(3, range(6)), torch.zeros(6)
    camera = head_camera(torch.linspace(-0.8, 0.8, 6), zero)
    plain, fast = (render_heads(heads, camera, 24, compile=on) for on in (False, True))
    assert (plain.image - fast.image).abs().max() * 127.5 < 1
    assert torch.equal(plain.mask, fast.mask)
    torch.testing.assert_close(plain.depth, fast.depth, atol=1e-5, rtol=0)
    alone = render_heads(heads.select([2]), head_camera(torch.tensor([-0.16]), zero[:1]), 24)
    again = render_heads(
        heads.select([2]), head_camera(torch.tensor([-0.16]), zero[:1]), 24, compile=True
    )
    assert (alone.image - again.image).abs().max() * 127.5 < 1


def test_compiling_without_a_compiler_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"no C\+\+ compiler .*apt install g\+\+"):
        write_heads(tmp_path / "heads.zip", num=1, resolution=8, workers=1, compile=True)
    assert not list(tmp_path.iterdir())


def test_every_shape_attribute_reaches_the_picture():
    # fmt: off
    fixed = {
        "glasses": 1.0, "shades": 0.0, "beard": 1.0, "goatee": 0.0, "earring": 1.0,
        "mole": 1.0, "mole_x": 0.05, "stripes": 1.0, "mouth_open": 0.3,
        "bald": 0.0, "afro": 0.0, "bun": 0.0, "ponytail": 0.0,
        "freckles": 1.0, "smile": 0.5, "skin_tone": 0.8, "quiff": 0.9,
    }
    # fmt: on
    changed = dict.fromkeys(SHAPES, 0.0)
    for variant in (
        {"long": 0.0, "fringe": 0.0, "collar": 0.0},
        {"long": 1.0, "fringe": 1.0, "collar": 1.0},
    ):
        base = sample_heads(1, [4]).replace(**(fixed | variant))
        rows = base.select([0] * (2 * len(SHAPES))).values.clone()
        for k, (name, (low, high)) in enumerate(SHAPES.items()):
            rows[2 * k, ATTRIBUTE_NAMES.index(name)] = low
            rows[2 * k + 1, ATTRIBUTE_NAMES.index(name)] = high
        image = render_heads(HeadAttributes(rows), cameras([0.35] * len(rows)), 48, 1).image
        for k, name in enumerate(SHAPES):
            changed[name] = max(changed[name], float((image[2 * k] - image[2 * k + 1]).abs().max()))
        k = 2 * list(SHAPES).index("freckles")  # too fine for 48 pixels
        pair = HeadAttributes(rows[k : k + 2])
        none, many = render_heads(pair, cameras([0.35] * 2), 128, 1).image
        changed["freckles"] = float((none - many).abs().max())
    assert [name for name, change in changed.items() if change < 0.05] == []


def test_yaw_and_pitch_have_the_given_standard_deviation():
    yaw, pitch = sample_angles(5, range(3000), yaw_std=0.3, pitch_std=0.15)
    # Standard errors over 3000 draws: 1.3 % of a standard deviation, 0.018 standard deviations of
    # a mean.
    assert abs(float(yaw.std()) / 0.3 - 1) < 0.05
    assert abs(float(pitch.std()) / 0.15 - 1) < 0.05
    assert abs(float(yaw.mean())) < 0.08 * 0.3
    assert abs(float(pitch.mean())) < 0.08 * 0.15
    assert abs(np.corrcoef(yaw[:, 0], pitch[:, 0])[0, 1]) < 0.08


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_smile_correlates_with_yaw_and_stays_uniform(correlation):
    smile = sample_heads(0, range(3000), smile_yaw=correlation)["smile"]
    yaw = sample_angles(0, range(3000))[0][:, 0]
    # A uniform number made from a normal score of correlation r correlates with the normal number
    # by r sqrt(3 / pi).
    assert abs(np.corrcoef(smile, yaw)[0, 1] - correlation * (3 / np.pi) ** 0.5) < 0.05
    low, high = SHAPES["smile"]
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    quartiles = torch.quantile((smile - low) / (high - low), levels)
    assert torch.allclose(quartiles, levels, atol=0.04)


def test_smile_yaw_changes_nothing_but_the_smile():
    plain = sample_heads(0, range(4)).values
    correlated = sample_heads(0, range(4), smile_yaw=0.7).values
    assert (plain != correlated).any(0).nonzero()[:, 0].tolist() == [ATTRIBUTE_NAMES.index("smile")]


# -- the truth is true -----------------------------------------------------------------------------


def test_tracer_finds_a_sphere_at_its_camera_depth(monkeypatch):
    radius = 0.3  # world units

    def sphere(_, points):
        return (points * HEAD_SCALE).norm(dim=1) / HEAD_SCALE - radius / HEAD_SCALE

    monkeypatch.setattr(trace, "distance", sphere)
    camera = cameras([0.4, -0.2], 0.2)
    scene = build_scene(sample_heads(0, range(2)))
    _, depth = trace.trace_grid(scene, 32, camera.intrinsics[:, 0, 0], camera.cam2world, 5e-5)
    depth = depth.reshape(2, 32, 32).double()
    directions = pixel_directions(camera, 32)
    origin = camera.cam2world[:, None, None, :3, 3].double()
    # |o + t d|² = radius²; t is camera z because d has camera z one.
    a = directions.square().sum(-1)
    half_b = (directions * origin).sum(-1)
    c = RADIUS**2 - radius**2
    root = half_b**2 - a * c
    truth = (-half_b - root.clamp_min(0).sqrt()) / a
    inside, outside = root > 0.02, root < -0.02
    assert torch.allclose(depth[inside], truth[inside], atol=3e-4)
    assert depth[outside].isinf().all()


def test_depth_lies_on_the_surface_and_nothing_lies_in_front_of_it():
    attributes = sample_heads(2, range(6))
    camera = cameras([-0.5, -0.2, 0.0, 0.1, 0.3, 0.6], 0.1)
    views = render_heads(attributes, camera, 32, 1)
    directions = pixel_directions(camera, 32)
    steps = torch.linspace(0.02, 0.4, 20, dtype=torch.float64)[:, None]
    for k in range(6):
        head = attributes.select([k])
        hit = views.depth[k, 0].isfinite()
        points = unproject(views, camera)[k][hit]
        assert float(head_distance(head, points[None]).abs().quantile(0.99)) < 0.001
        in_front = points[:, None] - steps * directions[k][hit][:, None]
        assert float(head_distance(head, in_front.reshape(1, -1, 3)).min()) > -0.004


def test_depth_stays_between_near_and_far():
    attributes = sample_heads(0, range(24))
    yaw, pitch = sample_angles(0, range(24))
    depth = render_heads(attributes, head_camera(yaw[:, 0], pitch[:, 0]), 24, 1).depth
    depth = depth[depth.isfinite()]
    assert float(depth.min()) > 2.25
    assert float(depth.max()) < 3.4


def test_mask_agrees_with_depth():
    attributes = sample_heads(0, range(4))
    camera = cameras([-0.3, 0.0, 0.3, 0.5])
    single = render_heads(attributes, camera, 32, 1)
    assert torch.equal(single.mask == 1, single.depth.isfinite())
    views = render_heads(attributes, camera, 32, 2)
    # True depth is traced along one center ray per pixel, regardless of supersampling.
    assert torch.equal(views.depth.isfinite(), single.depth.isfinite())
    difference = (views.depth - single.depth)[single.depth.isfinite()].abs()
    assert float(difference.median()) < 1e-4
    assert float(difference.quantile(0.99)) < 1e-3
    assert views.depth[views.mask == 1].isfinite().float().mean() > 0.995
    assert views.depth[views.mask == 0].isinf().float().mean() > 0.995


def test_second_view_is_predicted_by_true_depth_far_better_than_by_no_warp():
    attributes = sample_heads(0, range(8))
    source, target = cameras([0.0] * 8, 0.05), cameras([0.3] * 8, 0.05)
    a, b = render_heads(attributes, source, 48), render_heads(attributes, target, 48)

    # pixels of the target view that show the points of the source view
    world = unproject(a, source).nan_to_num(0, 0, 0)
    world2cam = torch.linalg.inv(target.cam2world.double())
    local = torch.einsum("bij,bhwj->bhwi", world2cam[:, :3, :3], world)
    local = local + world2cam[:, None, None, :3, 3]
    grid = 2 * target.intrinsics[0, 0, 0].double() * local[..., :2] / local[..., 2:]
    warped = F.grid_sample(b.image.double(), grid, align_corners=False)

    # points that both views see
    depth = b.depth.double().nan_to_num(0, 9.0)
    depth = F.grid_sample(depth, grid, mode="nearest", align_corners=False)
    visible = ((depth[:, 0] - local[..., 2]).abs() < 0.03)[:, None]
    seen = (a.mask == 1) & a.depth.isfinite() & visible
    assert float(seen.float().sum() / (a.mask == 1).sum()) > 0.7
    seen = seen.expand_as(warped)
    assert psnr((warped - a.image)[seen]) > psnr((b.image - a.image)[seen]) + 6


def test_mole_is_found_where_the_attributes_put_it_and_moves_left_as_the_camera_moves_right():
    # fmt: off
    plain = sample_heads(0, [3]).replace(
        mole=0.0, mole_x=0.06, mole_y=-0.04, roll=0.0, nod=0.0,
        beard=0.0, long=0.0, freckles=0.0, skin_tone=0.9, glasses=0.0,
    )
    # fmt: on
    camera = cameras([-0.35, 0.0, 0.35])
    without = render_heads(plain.select([0] * 3), camera, 64)
    marked = render_heads(plain.replace(mole=1.0).select([0] * 3), camera, 64)
    change = (without.image - marked.image).abs().sum(1)
    change = change * (change > 0.25 * change.amax((1, 2), keepdim=True))
    weight = change / change.sum((1, 2), keepdim=True)
    where = (weight[..., None] * unproject(marked, camera).nan_to_num(0, 0, 0)).sum((1, 2))
    # Half a pixel at 64 px is 0.007 world units.
    expected = torch.tensor([0.06, -0.04], dtype=torch.float64) * HEAD_SCALE
    assert torch.allclose(where[:, :2], expected, atol=0.007)
    column = (weight.sum(1) * torch.arange(64)).sum(1)
    assert float(column[0]) > float(column[1]) + 3 > float(column[2]) + 6


def test_camera_looks_down_when_pitch_is_positive():
    attributes = sample_heads(0, [0, 0])
    camera = head_camera(torch.zeros(2), torch.tensor([-0.3, 0.3]))
    assert float(camera.cam2world[1, 1, 3]) == pytest.approx(RADIUS * np.sin(0.3), rel=1e-5)
    views = render_heads(attributes, camera, 32, 1)
    crown = [int(views.mask[k, 0].any(1).nonzero()[0]) for k in range(2)]
    nearest = [int(views.depth[k, 0, :, 16].argmin()) for k in range(2)]
    assert nearest[1] < nearest[0]  # from above the crown is near, from below the chin
    assert crown[0] >= 0


def test_focal_length_is_the_literal_field_of_view():
    intrinsics = cameras([0.0]).intrinsics[0].double()
    assert float(intrinsics[0, 0]) == pytest.approx(0.5 / np.tan(np.radians(FOV) / 2), rel=1e-6)
    assert intrinsics[:2, 2].tolist() == [0.5, 0.5]


def test_pictures_show_heads():
    attributes = sample_heads(0, range(32))
    yaw, pitch = sample_angles(0, range(32))
    views = render_heads(attributes, head_camera(yaw[:, 0], pitch[:, 0]), 32)
    share = views.mask.mean((1, 2, 3))
    assert float(share.min()) > 0.25
    assert float(share.max()) < 0.60
    assert 0.30 < float(share.mean()) < 0.45
    image = ((views.image + 1) * 127.5).round()
    assert torch.isfinite(image).all()
    covered = (views.mask > 0.5).expand_as(image)
    assert float(((image >= 255) | (image <= 0))[covered].float().mean()) < 0.005
    # No holes: pixels surrounded by the head belong to it.
    filled = -F.max_pool2d(-F.max_pool2d(views.mask, 3, 1, 1), 3, 1, 1)
    assert float(((filled == 1) & (views.mask == 0)).float().mean()) < 0.001
    # Varied: pixels differ between heads about as much as between photographs (a standard
    # deviation of 0.5 in the range [-1, 1]).
    assert 0.25 < float(views.image.std(0).mean()) < 0.7


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Heads 0..3, two views each, in a zip made in this process."""
    path = tmp_path_factory.mktemp("heads") / "deep" / "heads.zip"
    write_heads(path, num=4, resolution=16, views=2, workers=1)
    return path


def test_a_set_of_heads_is_known_by_its_ground_truth(whole, posed_zip, tmp_path):
    write_heads(tmp_path / "bare.zip", num=1, resolution=16, workers=1, ground_truth=False)
    assert is_heads(open_archive(whole))
    assert PosedImagesModule(str(whole)).is_heads
    assert not is_heads(open_archive(posed_zip))
    assert not is_heads(open_archive(tmp_path / "bare.zip"))
    (tmp_path / "folder").mkdir()
    for content in ("{}", "[", '{"names": ["age"], "images": []}'):
        (tmp_path / "folder" / "attributes.json").write_text(content)
        assert not is_heads(open_archive(tmp_path / "folder"))


def test_zip_has_the_layout_of_eg3d_and_the_ground_truth(whole):
    assert [path.name for path in whole.parent.iterdir()] == ["heads.zip"]
    with zipfile.ZipFile(whole) as file:
        assert file.testzip() is None
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(file.read("dataset.json"))["labels"]
        facts = json.loads(file.read("attributes.json"))
        names = [f"00000/img{k:08d}.png" for k in range(8)]
        assert [name for name, _ in labels] == names
        assert [fact["file"] for fact in facts["images"]] == names
        for k, (name, label) in enumerate(labels):
            # pictures
            image = Image.open(io.BytesIO(file.read(name)))
            depth = np.load(io.BytesIO(file.read(f"depth/{name[:-4]}.npy")))
            mask = np.load(io.BytesIO(file.read(f"mask/{name[:-4]}.npy")))
            assert (image.mode, image.size) == ("RGB", (16, 16))
            assert (depth.dtype, depth.shape) == (np.float16, (16, 16))
            assert mask.dtype == np.uint8
            assert np.isfinite(depth[mask == 255]).mean() > 0.97
            assert np.isinf(depth[mask == 0]).mean() > 0.97

            # camera
            fact = facts["images"][k]
            assert (fact["head"], fact["view"]) == divmod(k, 2)
            assert len(label) == 25
            cam2world = np.array(label[:16]).reshape(4, 4)
            rotation = cam2world[:3, :3]
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
            assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
            yaw, pitch = fact["yaw"], fact["pitch"]
            direction = [np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)]
            np.testing.assert_allclose(cam2world[:3, 3], RADIUS * np.array(direction), atol=1e-5)

            # attributes
            values = dict(zip(facts["names"], fact["values"], strict=True))
            expected = float(sample_heads(0, [k // 2])["skull_w"])
            assert values["skull_w"] == pytest.approx(expected, abs=1e-6)


def test_a_reader_that_takes_every_picture_finds_the_images_alone(whole, tmp_path):
    # EG3D's reader lists all files with an extension that Pillow knows, and labels them by name.
    write_heads(tmp_path / "folder", num=4, resolution=16, views=2, workers=1)
    folder = {
        path.relative_to(tmp_path / "folder").as_posix()
        for path in (tmp_path / "folder").rglob("*.*")
    }
    with zipfile.ZipFile(whole) as file:
        labels = dict(json.loads(file.read("dataset.json"))["labels"])
        assert folder == set(file.namelist())
    Image.init()
    pictures = {name for name in folder if os.path.splitext(name)[1].lower() in Image.EXTENSION}
    assert pictures == set(labels)
    assert len(folder) == 3 * len(pictures) + 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"recipe": "heads", "yaw_std": 0.7, "pitch_std": 0.3}),
        ({"recipe": "heads-ffhq"}, {"recipe": "heads-ffhq", "yaw_std": 0.3, "pitch_std": 0.15}),
        ({"yaw_std": 0.0}, {"recipe": "heads", "yaw_std": 0.0, "pitch_std": 0.3}),
    ],
)
def test_cameras_spread_as_the_recipe_says_or_as_is_given(tmp_path, given, expected):
    write_heads(tmp_path / "set", num=2, resolution=8, supersample=1, workers=1, **given)
    content = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert content["cameras"] == expected
    facts = json.loads((tmp_path / "set" / "attributes.json").read_text())["images"]
    yaw, pitch = sample_angles(0, range(2), 1, expected["yaw_std"], expected["pitch_std"])
    assert [fact["yaw"] for fact in facts] == pytest.approx(yaw[:, 0].tolist(), abs=1e-6)
    assert [fact["pitch"] for fact in facts] == pytest.approx(pitch[:, 0].tolist(), abs=1e-6)


def test_workers_and_batches_leave_the_bytes_alone(whole, tmp_path):
    write_heads(tmp_path / "two.zip", num=20, resolution=16, views=2, workers=2)
    write_heads(tmp_path / "part", num=2, first=2, resolution=16, views=2, workers=1)
    with zipfile.ZipFile(whole) as one, zipfile.ZipFile(tmp_path / "two.zip") as two:
        for name in one.namelist():
            if not name.endswith(".json"):
                assert one.read(name) == two.read(name), name
        part = json.loads((tmp_path / "part" / "dataset.json").read_text())["labels"]
        assert part == json.loads(one.read("dataset.json"))["labels"][4:]
        for image, _ in part:
            for name in (image, f"depth/{image[:-4]}.npy"):
                assert (tmp_path / "part" / name).read_bytes() == one.read(name)


def test_images_alone_are_written_without_ground_truth(tmp_path, whole):
    write_heads(
        tmp_path / "plain.zip", num=2, resolution=16, views=2, workers=1, ground_truth=False
    )
    images = [f"00000/img{k:08d}.png" for k in range(4)]
    with zipfile.ZipFile(tmp_path / "plain.zip") as plain, zipfile.ZipFile(whole) as truth:
        assert sorted(plain.namelist()) == [*images, "dataset.json"]
        assert all(plain.read(name) == truth.read(name) for name in images)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    render = dataset._render_job
    calls = []

    def interrupted(job):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return render(job)

    monkeypatch.setattr(dataset, "_render_job", interrupted)
    monkeypatch.setattr(dataset, "_RAYS_PER_JOB", 2 * 16 * 16)
    for name in ("heads.zip", "folder"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            write_heads(tmp_path / name, num=6, resolution=16, supersample=1, workers=1)
        assert len(calls) == 2
        assert list(tmp_path.iterdir()) == []


def test_a_dying_worker_is_an_error():
    with (
        pytest.raises(RuntimeError, match="worker process died"),
        dataset._results(os._exit, [3, 3], workers=2) as results,
    ):
        list(results)


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "there.zip").write_bytes(b"precious")
    for name in ("full", "there.zip"):
        with pytest.raises(ValueError, match="exists already"):
            write_heads(tmp_path / name, num=1, resolution=16, workers=1)
    assert (tmp_path / "there.zip").read_bytes() == b"precious"
    (tmp_path / "empty").mkdir()
    write_heads(tmp_path / "empty", num=1, resolution=8, supersample=1, workers=1)
    assert (tmp_path / "empty" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num": 0}, "num 0"),
        ({"resolution": 4}, "resolution 4"),
        ({"seed": -1}, "seed -1"),
        ({"views": 0}, "views 0"),
        ({"first": -2}, "first -2"),
        ({"yaw_std": -0.1}, "yaw_std -0.1"),
        ({"pitch_std": float("nan")}, "pitch_std nan"),
        ({"smile_yaw": 1.5}, "smile_yaw 1.5"),
        ({"recipe": "ffhq"}, "recipe 'ffhq' is not known; use one of heads, heads-ffhq"),
        ({"supersample": 0}, "supersample 0"),
        ({"supersample": 9}, "supersample 9"),
        ({"workers": 0}, "workers 0"),
        ({"sheet": Path("sheet.gif")}, "sheet.gif"),
        ({"out": None}, "neither out nor sheet"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path, wrong, message):
    right = {"out": tmp_path / "heads.zip", "num": 1, "resolution": 16, "workers": 1}
    with pytest.raises(ValueError, match=message):
        write_heads(**(right | wrong))
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_one_camera_per_head():
    with pytest.raises(ValueError, match="2 heads and 3 cameras"):
        render_heads(sample_heads(0, range(2)), cameras([0.0, 0.1, 0.2]), 16)


def test_sheet_alone_draws_heads_by_yaws(tmp_path):
    write_heads(num=2, resolution=16, supersample=1, sheet=tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert Image.open(tmp_path / "sheet.png").size == (len(dataset.SHEET_YAWS) * 16, 2 * 16)
    contact_sheet(tmp_path / "small.jpg", num=1, yaws=(0.0, 0.2), resolution=16)
    assert Image.open(tmp_path / "small.jpg").size == (32, 16)
