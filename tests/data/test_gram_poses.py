"""GRAM's pose files: their meaning, how a set is read, and the errors for broken files."""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from gan3d.camera import Camera
from gan3d.data import DataError, PosedImages
from gan3d.data.gram_poses import (
    cats_sphere_pose,
    ffhq_sphere_pose,
    gram_labels,
    mirrored_pose,
    write_gram,
)


@pytest.fixture
def make_set(tmp_path):
    """make_set(kind, poses) -> a folder of random images with these poses."""

    def make(kind: str, poses: list, side: int = 16):
        folder = tmp_path / kind
        rng = np.random.default_rng(0)
        (folder / "poses").mkdir(parents=True)
        for k, pose in enumerate(poses):
            name = f"face {k:03d}"
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            if kind == "ffhq":
                fields = {"angle": np.array([pose], np.float32), "id": np.zeros((1, 80))}
                savemat(folder / f"poses/{name}.mat", fields)
            else:
                np.save(folder / f"poses/{name}_pose.npy", np.array(pose, np.float32))
        return folder

    return make


def test_a_face_or_cat_that_looks_a_little_up_is_frontal():
    frontal = torch.full((1, 2), math.pi / 2)
    face = torch.tensor([[0.1, 0.0, 0.3]])
    torch.testing.assert_close(ffhq_sphere_pose(face), frontal)
    cat = torch.tensor([[math.pi / 2 - 0.14, math.pi / 2]])
    torch.testing.assert_close(cats_sphere_pose(cat), frontal)


def test_angles_move_the_camera_to_the_side_that_they_should():
    """By hand: yaw 0.2 is theta = pi/2 + 0.2, hence x = cos theta < 0;
    pitch 0.3 is phi = pi/2 - 0.2, hence y > 0.
    """
    pose = ffhq_sphere_pose(torch.tensor([[0.3, 0.2, 0.0]]))
    camera = Camera.from_label(gram_labels(pose, resolution=64))
    x = -math.cos(0.2) * math.sin(0.2)
    expected = torch.tensor([[x, math.sin(0.2), math.cos(0.2) * math.cos(0.2)]])
    torch.testing.assert_close(camera.origins, expected)


def test_a_flipped_image_has_the_mirrored_camera():
    pose = torch.tensor([[1.4, 1.9], [1.7, 1.2]], dtype=torch.float64)
    flipped = gram_labels(mirrored_pose(pose), resolution=64)
    mirrored = Camera.from_label(gram_labels(pose, resolution=64)).mirror()
    torch.testing.assert_close(flipped, mirrored.label())


def test_fov_spans_the_centers_of_the_outer_pixels_and_radius_scales_the_world():
    pose = torch.tensor([[1.3, 1.8]], dtype=torch.float64)
    camera = Camera.from_label(gram_labels(pose, resolution=8, fov=30.0))
    corner = camera.rays(8, torch.tensor([4 * 8]))  # leftmost pixel, half a pixel below the axis
    tangent = (corner.directions * camera.right[:, None]).sum(-1) / corner.cosines[..., 0]
    expected = torch.tensor([[-math.tan(math.radians(15))]], dtype=torch.float64)
    torch.testing.assert_close(tangent, expected)
    far = Camera.from_label(gram_labels(pose, resolution=8, fov=30.0, radius=2.7))
    torch.testing.assert_close(far.label(), camera.scale(2.7).label())


@pytest.mark.parametrize("given", [None, "ffhq"])
def test_an_ffhq_set_becomes_one_that_the_reader_reads(make_set, tmp_path, given):
    folder = make_set("ffhq", [[0.21, -0.34, 0.02], [0.1, 0.0, 0.0], [-0.3, 0.5, 0.0]])
    summary = write_gram(folder, given, tmp_path / "out.zip", resolution=8, workers=2)
    assert summary.endswith("out.zip: 3 images of 8 px, poses of ffhq")
    images = PosedImages(tmp_path / "out.zip")
    assert images.names == [f"face {k:03d}.png" for k in range(3)]
    assert images.resolution == 8
    pitch, yaw, fov = Camera.from_label(images.labels).to_sphere(resolution=8)
    expected_pitch = math.pi / 2 - torch.tensor([0.11, 0.0, -0.4])
    expected_yaw = math.pi / 2 + torch.tensor([-0.34, 0.0, 0.5])
    torch.testing.assert_close(pitch, expected_pitch, atol=1e-5, rtol=0)
    torch.testing.assert_close(yaw, expected_yaw, atol=1e-5, rtol=0)
    torch.testing.assert_close(fov, torch.full((3,), 12.0), atol=1e-4, rtol=0)
    with Image.open(folder / "face 001.png") as original:
        expected = np.array(original.resize((8, 8), Image.Resampling.LANCZOS))
    assert np.array_equal(images[1][0].permute(1, 2, 0).numpy(), expected)


def test_a_cats_set_is_recognized_and_written_beside_it_by_default(make_set):
    folder = make_set("cats", [[1.45, 1.9], [1.5, 1.2]])
    write_gram(folder, resolution=16, fov=14.0, radius=2.7)
    images = PosedImages(folder.with_name("cats16.zip"))
    poses = torch.tensor([[1.59, 1.9], [1.64, 1.2]])
    expected = gram_labels(poses, resolution=16, fov=14.0, radius=2.7)
    torch.testing.assert_close(images.labels, expected)


def test_a_zip_with_folders_is_read_as_it_is(make_set, tmp_path):
    folder = make_set("cats", [[1.45, 1.9], [1.5, 1.2]])
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"train/{file.relative_to(folder)}")
    write_gram(tmp_path / "in.zip", out=tmp_path / "out.zip", resolution=16)
    assert PosedImages(tmp_path / "out.zip").names == ["train/face 000.png", "train/face 001.png"]


def test_the_same_set_gives_the_same_bytes(make_set, tmp_path):
    folder = make_set("cats", [[1.45, 1.9]] * 20)
    for name, workers in (("a.zip", 1), ("b.zip", 3)):
        write_gram(folder, out=tmp_path / name, resolution=4, workers=workers)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was executed')",)


def npy(value) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def mat(**fields) -> bytes:
    stream = io.BytesIO()
    savemat(stream, fields)
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(2))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            mat(id=np.zeros(3)),
            r"face 001.mat: no field `angle`, it has id; expected \(pitch, yaw, roll\)",
        ),
        (mat(), "no field `angle`, it has none"),
        (mat(angle=np.zeros((2, 3))), r"holds float64 \[2, 3\], expected 3 numbers"),
        (mat(angle=np.zeros((1, 2))), r"holds float64 \[1, 2\], expected 3 numbers"),
        (mat(angle="abc"), "expected 3 numbers"),
        (
            mat(angle=np.array([[0.1, np.nan, 0.0]])),
            r"holds \[0.1, nan, 0.0\], expected finite numbers",
        ),
        (
            mat(angle=np.array([[10.0, -20.0, 0.0]])),
            r"face 001.mat holds \[10.0, -20.0, 0.0\].* convert degrees",
        ),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "not a readable .mat file"),
        (b"", "not a readable .mat file"),
        (mat(angle=np.zeros((1, 3)))[:150], "not a readable .mat file|no field `angle`"),
        (bytes(2**24 + 1), "the limit for a pose is 16777216"),
    ],
)
def test_a_broken_mat_file_is_named_with_what_is_wrong(make_set, tmp_path, data, message):
    folder = make_set("ffhq", [[0.1, 0.2, 0.0]] * 3)
    (folder / "poses/face 001.mat").write_bytes(data)
    with pytest.raises(DataError, match=message):
        write_gram(folder, "ffhq", tmp_path / "out.zip", resolution=8)
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.array([Bomb(), 1], dtype=object)), "not a readable .npy file of numbers"),
        (pickle.dumps(Bomb()), "not a readable .npy file of numbers"),
        (npz(), "several arrays, expected one"),
        (npy(np.zeros(3)), r"holds float64 \[3\], expected 2 numbers"),
        (npy(np.array(["a", "b"])), r"holds <U1 \[2\], expected 2 numbers"),
        (npy(np.array([1j, 2])), "holds complex128"),
        (npy(np.zeros(2))[:-4], "not a readable .npy file"),
        (
            npy(np.zeros(2)).replace(b"(2,)", b"(2222222222222,)"),
            "not a readable .npy file|expected 2 numbers",
        ),
        (npy(np.array([3.1, 1.0])), r"holds \[3.1, 1.0\], which is beyond the pole"),
        (npy(np.array([1.5, 6.0])), "more than half a turn"),
    ],
)
def test_a_broken_npy_file_is_named_and_no_pickle_is_opened(make_set, tmp_path, data, message):
    folder = make_set("cats", [[1.4, 1.5]] * 2)
    (folder / "poses/face 001_pose.npy").write_bytes(data)
    with pytest.raises(DataError, match=message):
        write_gram(folder, "cats", tmp_path / "out.zip", resolution=8)


def test_a_missing_pose_is_named(make_set, tmp_path):
    folder = make_set("cats", [[1.4, 1.5]] * 3)
    (folder / "poses/face 001_pose.npy").unlink()
    message = r"face 001.png has no pose, expected poses/face 001_pose.npy \(1 such of 3"
    with pytest.raises(DataError, match=message):
        write_gram(folder, "cats", tmp_path / "out.zip", resolution=8)
    with pytest.raises(DataError, match=r"expected poses/face 000.mat \(3 such of 3"):
        write_gram(folder, "ffhq", tmp_path / "out.zip", resolution=8)


def test_a_kind_that_cannot_be_detected_must_be_given(make_set, tmp_path):
    folder = make_set("cats", [[1.4, 1.5]])
    (folder / "poses/face 000.mat").write_bytes(mat(angle=np.zeros((1, 3))))
    with pytest.raises(DataError, match=r"of both kinds in poses/ \(2 files\); give --kind"):
        write_gram(folder, out=tmp_path / "out.zip", resolution=8)
    for file in (folder / "poses").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"neither .mat nor _pose.npy"):
        write_gram(folder, out=tmp_path / "out.zip", resolution=8)


def test_images_that_would_get_one_name_are_refused(make_set, tmp_path):
    folder = make_set("cats", [[1.4, 1.5]])
    Image.new("RGB", (16, 16)).save(folder / "face 000.jpg")
    with pytest.raises(DataError, match=r"face 000.jpg and face 000.png share one pose"):
        write_gram(folder, out=tmp_path / "out.zip", resolution=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 48}, "resolution 48 is not a power of two"),
        ({"resolution": 32}, "16 px cannot be enlarged to 32 px"),
        ({"fov": 0.0}, "fov 0.0 is not an angle"),
        ({"radius": -1.0}, "radius -1.0 is not a positive distance"),
        ({"workers": 0}, "workers 0 is less than 1"),
        ({"out": "gram"}, "expected .zip"),
    ],
)
def test_arguments_out_of_range_are_refused_and_nothing_is_left_behind(
    make_set, tmp_path, arguments, message
):
    folder = make_set("cats", [[1.4, 1.5]])
    with pytest.raises(ValueError, match=message):
        write_gram(folder, **{"out": tmp_path / "out.zip", "resolution": 8, **arguments})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats"]


def test_nothing_is_written_over(make_set, tmp_path):
    (tmp_path / "out.zip").write_text("precious")
    with pytest.raises(ValueError, match=r"exists already"):
        write_gram(make_set("cats", [[1.4, 1.5]]), out=tmp_path / "out.zip", resolution=8)
    assert (tmp_path / "out.zip").read_text() == "precious"
