"""Reading posed images: the content, and the error for each kind of damage."""

import contextlib
import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan3d.camera import Camera
from gan3d.data import Batch, DataError, PosedImages
from gan3d.data.archive import open_archive
from gan3d.data.dataset import Sample, collate
from gan3d.data.images import decode


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def refuses(text: str):
    return pytest.raises(DataError, match=re.escape(text))


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_photographs_are_turned_as_viewers_show_them(kind, orientation):
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:8, :8], stored[:8, 8:] = 255, 128
    # the sides of the white and of the gray quarter as the standard has them
    white = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    gray = {1: (0, 1), 2: (0, 0), 3: (1, 0), 4: (1, 1), 5: (1, 0), 6: (1, 1), 7: (0, 1), 8: (0, 0)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = decode(encode(Image.fromarray(stored), kind, exif=exif), "photo")
    for quarter, value in ((white, 255), (gray, 128)):
        row, column = quarter[orientation]
        assert (read[0, 4 + 8 * row, 4 + 8 * column].int() - value).abs() < 4


def test_a_gif_is_refused_by_name(make_folder):
    posed = make_folder(num=1)
    gif = encode(Image.fromarray(posed.pixels[0]), "GIF")
    with refuses("a.png: not a readable image (it is a GIF); expected PNG, JPEG"):
        decode(gif, "a.png")


@pytest.mark.parametrize("kind", ["folder", "stored zip", "deflated zip"])
def test_images_and_labels_come_in_the_order_of_their_names(make_folder, kind):
    posed = make_folder(num=5)
    compression = zipfile.ZIP_DEFLATED if kind == "deflated zip" else zipfile.ZIP_STORED
    path = posed.path if kind == "folder" else posed.zip(compression)
    images = PosedImages(path)
    assert (len(images), images.resolution, images.names) == (5, 8, posed.names)
    assert torch.equal(images.labels, torch.tensor(posed.labels))
    for item in range(5):
        image, label = images[item]
        assert image.dtype == torch.uint8
        assert np.array_equal(image.permute(1, 2, 0).numpy(), posed.pixels[item])
        assert torch.equal(label, torch.tensor(posed.labels[item]))


def test_a_home_folder_is_found(make_folder, monkeypatch):
    posed = make_folder()
    monkeypatch.setenv("HOME", str(posed.path.parent))
    assert len(PosedImages("~/set")) == 5


def test_the_set_is_found_again_after_a_change_of_folder(make_folder, monkeypatch, tmp_path):
    posed = make_folder()
    monkeypatch.chdir(posed.path.parent)
    images = PosedImages("set")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert images[1][0].shape == (3, 8, 8)


def test_depth_masks_and_leftovers_of_the_system_are_not_images(make_folder):
    posed = make_folder()
    for name in (
        "depth/img0.png",
        "mask/img0.png",
        "__MACOSX/00000/._img.png",
        ".hidden.png",
        "00000/readme.txt",
    ):
        (posed.path / name).parent.mkdir(parents=True, exist_ok=True)
        (posed.path / name).write_bytes(b"not an image")
    assert PosedImages(posed.path).names == posed.names
    assert PosedImages(posed.path, use_labels=False).names == posed.names


@pytest.mark.parametrize("resolution", [1, 2, 32, 64])
def test_any_power_of_two_is_a_resolution(make_folder, resolution):
    images = PosedImages(make_folder(num=1, resolution=resolution).path)
    assert images[0][0].shape == (3, resolution, resolution)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pixels_of_any_mode_become_rgb(mode):
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    source = rgb.convert(mode)
    expected = np.asarray(source.convert("RGB"))
    assert np.array_equal(decode(encode(source), "x").permute(1, 2, 0).numpy(), expected)


def test_gray_is_repeated():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(decode(encode(Image.fromarray(gray)), "x").numpy(), np.stack([gray] * 3))


def test_alpha_is_dropped_and_the_color_below_it_shows():
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    rgba[0, 0, 3] = 0
    image = decode(encode(Image.fromarray(rgba)), "x")
    assert np.array_equal(image.permute(1, 2, 0).numpy(), rgba[..., :3])


def test_sixteen_bits_keep_their_upper_half():
    wide = np.random.default_rng(0).integers(0, 2**16, (8, 8), dtype=np.uint16)
    assert np.array_equal(decode(encode(Image.fromarray(wide)), "x")[0].numpy(), wide >> 8)


def test_a_jpeg_is_read():
    flat = Image.new("RGB", (8, 8), (200, 100, 50))
    mean = decode(encode(flat, "JPEG", quality=95), "x").float().mean((1, 2))
    assert (mean - torch.tensor([200, 100, 50])).abs().max() < 3


# -- shrinking -------------------------------------------------------------------------------------


def test_the_box_filter_takes_means_of_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    small = decode(encode(Image.fromarray(pixels)), "x", resolution=4, resize_filter="box")
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.permute(1, 2, 0).numpy() - means).max() <= 1  # rounded once per axis


@pytest.mark.parametrize("resize_filter", ["lanczos", "bicubic", "bilinear", "box"])
def test_every_filter_is_antialiased_and_keeps_the_mean(resize_filter):
    checkers = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)
    data = encode(Image.fromarray(checkers))
    small = decode(data, "x", resolution=8, resize_filter=resize_filter)
    assert (small.float() - 100).abs().max() < 8


def test_filters_differ_and_lanczos_is_the_default(make_folder):
    path = make_folder(resolution=16).path
    filters = ("lanczos", "bicubic", "bilinear", "box")
    shrunk = {f: PosedImages(path, resolution=8, resize_filter=f)[0][0] for f in filters}
    assert len({image.numpy().tobytes() for image in shrunk.values()}) == 4
    assert torch.equal(PosedImages(path, resolution=8)[0][0], shrunk["lanczos"])


def test_a_set_of_another_size_is_read_at_a_given_resolution(make_folder):
    path = make_folder(resolution=12).path
    with refuses("images of 12 px, not a power of two; set resolution to 8"):
        PosedImages(path)
    assert PosedImages(path, resolution=8)[0][0].shape == (3, 8, 8)


def test_wrong_resolutions_and_filters_are_refused(make_folder):
    path = make_folder().path
    with refuses("img00000000.png: 8 px cannot be enlarged to 16 px; use resolution 8 or less"):
        PosedImages(path, resolution=16)
    with pytest.raises(ValueError, match="resolution 6 is not a power of two"):
        PosedImages(path, resolution=6)
    message = "resize_filter 'nearest' is not known; use one of lanczos, bicubic"
    with pytest.raises(ValueError, match=message):
        PosedImages(path, resolution=4, resize_filter="nearest")


# -- mirroring and subsets -------------------------------------------------------------------------


def test_mirroring_appends_flipped_images_with_mirrored_cameras(make_folder):
    posed = make_folder()
    images = PosedImages(posed.path, mirror=True)
    assert (len(images), images.num_images, images.names) == (10, 5, posed.names * 2)
    for item in range(5):
        (plain, label), (flipped, mirrored) = images[item], images[item + 5]
        assert torch.equal(flipped, plain.flip(-1))
        yaw, pitch = Camera.from_label(label[None]).yaw_pitch()
        torch.testing.assert_close(Camera.from_label(mirrored[None]).yaw_pitch(), (-yaw, pitch))
    assert images.labels.shape == (10, 25)


def test_a_mirrored_pixel_is_seen_along_the_mirrored_ray(make_folder):
    posed = make_folder()
    for label in posed.labels:
        label[17], label[18] = 0.02, 0.47  # skew, and a principal point off the center
    posed.write_labels()
    images = PosedImages(posed.path, mirror=True)
    rays = Camera.from_label(images.labels[:5]).rays(8)
    mirrored = Camera.from_label(images.labels[5:]).rays(8)
    reflect = torch.tensor([-1.0, 1.0, 1.0])
    flipped = mirrored.directions.unflatten(1, (8, 8)).flip(2).flatten(1, 2)
    torch.testing.assert_close(flipped, rays.directions * reflect, atol=1e-6, rtol=0)
    torch.testing.assert_close(mirrored.origins, rays.origins * reflect)


def test_label_std_is_that_of_the_whole_file(make_folder):
    posed = make_folder()
    expected = torch.from_numpy(np.array(posed.labels).std(axis=0)).float()
    for options in ({}, {"mirror": True}, {"max_items": 2}):
        label_std = PosedImages(posed.path, **options).label_std
        torch.testing.assert_close(label_std, expected, atol=1e-6, rtol=1e-5)


def test_max_items_keeps_a_seeded_sorted_subset(make_folder):
    posed = make_folder(num=9)
    images = PosedImages(posed.path, max_items=4, seed=1)
    assert len(images) == 4
    assert images.names == sorted(images.names)
    assert images.names == PosedImages(posed.path, max_items=4, seed=1).names
    assert images.names != PosedImages(posed.path, max_items=4, seed=2).names
    kept = [posed.names.index(name) for name in images.names]
    assert torch.equal(images.labels, torch.tensor(posed.labels)[kept])
    assert PosedImages(posed.path, max_items=100).names == posed.names
    with pytest.raises(ValueError, match="max_items 0 keeps nothing"):
        PosedImages(posed.path, max_items=0)


def test_an_item_beyond_the_set_is_an_index_error(make_folder):
    images = PosedImages(make_folder().path)
    for item in (-1, 5):
        with pytest.raises(IndexError, match=f"item {item} of a set of 5"):
            images[item]


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_a_set_survives_pickling(make_folder, zipped):
    posed = make_folder()
    images = PosedImages(posed.zip() if zipped else posed.path, mirror=True)
    again = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(again[item][0], images[item][0]) for item in range(10))


def test_a_forked_process_opens_the_zip_anew(make_folder):
    archive = open_archive(make_folder().zip())
    archive.read("dataset.json")
    parent = archive._zip.fp.fileno()
    child = os.fork()
    if child == 0:
        archive.read("dataset.json")
        os._exit(0 if archive._zip.fp.fileno() != parent else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_batch_has_pixels_from_minus_one_to_one():
    ramp = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    ramp[0, 0, 0], ramp[0, 0, 1] = 255, 0
    batch = collate([Sample(7, ramp, None), Sample(8, ramp, None)])
    assert batch.image.dtype == torch.float32
    assert (batch.image[0, 0, 0, 0], batch.image[0, 0, 0, 1], batch.camera) == (1, -1, None)
    restored = ((batch.image + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(restored, torch.stack([ramp, ramp]))
    assert batch.index.dtype == torch.int64
    assert batch.index.tolist() == [7, 8]
    assert len(batch) == 2


def test_levels_become_the_same_floats_as_ever_and_floats_stay():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    batch = Batch(levels, None, torch.tensor([0]), levels)
    assert torch.equal(batch.image, levels.float() / 127.5 - 1)
    assert torch.equal(batch.mask, levels.float() / 255)
    assert batch.pixels.dtype == torch.uint8  # reading them changed nothing
    floats = Batch(batch.image.double(), None, batch.index, batch.mask.double())
    assert floats.image is floats.pixels
    assert floats.mask is floats.coverage


def test_a_batch_moves_as_one_and_as_levels():
    label = Camera.from_angles(0.1, 0.2).label()[0]
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)
    batch = collate([Sample(0, pixels, label, pixels[:1])])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert (moved.pixels.dtype, moved.coverage.dtype) == (torch.uint8, torch.uint8)
    tensors = (moved.image, moved.camera.cam2world, moved.camera.intrinsics, moved.mask)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.index.device.type == "cpu"  # names draws, which the host asks for


# -- damage to the archive -------------------------------------------------------------------------


def test_a_missing_set_says_what_is_expected_and_how_to_make_one(tmp_path):
    path = tmp_path / "ffhq.zip"
    message = f"no data set at {path}: expected a folder or a .zip of square images"
    with refuses(message) as caught:
        PosedImages(path)
    assert f"gan3d data heads --out {path}" in str(caught.value)


def test_a_file_that_is_no_zip_and_a_zip_cut_short_are_refused(make_folder, tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    with refuses(f"{tmp_path / 'text.zip'} is not a zip archive, or was cut short"):
        PosedImages(tmp_path / "text.zip")
    target = make_folder().zip()
    target.write_bytes(target.read_bytes()[:-30])
    with refuses(f"{target} is not a zip archive, or was cut short"):
        PosedImages(target)


def test_an_empty_set_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with refuses("empty: no images in it (0 other files); expected .png, .jpg"):
        PosedImages(tmp_path / "empty")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    with refuses("empty.zip: no images in it"):
        PosedImages(tmp_path / "empty.zip")


@pytest.mark.parametrize(
    "name", ["/etc/img.png", "../img.png", "a/../../img.png", "a\\img.png", "C:/img.png"]
)
def test_a_zip_that_points_outside_itself_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"")
    with refuses(f"evil.zip: unsafe file name {name!r}"):
        PosedImages(tmp_path / "evil.zip")


def test_a_label_that_points_outside_the_set_reads_nothing(make_folder):
    posed = make_folder()
    (posed.path.parent / "secret.png").write_bytes((posed.path / posed.names[0]).read_bytes())
    secret = ["../secret.png", posed.labels[0]]
    posed.write_json({"labels": [secret, *zip(posed.names, posed.labels)]})
    with refuses("a label for ../secret.png, which is not among the images"):
        PosedImages(posed.path)


def test_a_zip_member_that_unpacks_without_end_is_refused(make_folder, monkeypatch):
    posed = make_folder()
    (posed.path / posed.names[2]).write_bytes(bytes(100_000))
    monkeypatch.setattr("gan3d.data.archive.MAX_MEMBER_BYTES", 50_000)
    for path in (posed.path, posed.zip(zipfile.ZIP_DEFLATED)):
        with refuses(f"cannot read {posed.names[2]} (100000 bytes"):
            PosedImages(path)[2]


def test_a_damaged_zip_member_is_named(make_folder):
    posed = make_folder()
    target = posed.zip()
    content = bytearray(target.read_bytes())
    with zipfile.ZipFile(target) as archive:
        content[archive.getinfo(posed.names[3]).header_offset + 120] ^= 1
    target.write_bytes(content)
    images = PosedImages(target)
    with refuses(f"{target}: cannot read {posed.names[3]} (Bad CRC-32"):
        images[3]


def test_a_file_that_vanished_is_named(make_folder):
    posed = make_folder()
    images = PosedImages(posed.path)
    (posed.path / posed.names[1]).unlink()
    with refuses(f"{posed.path}: cannot read {posed.names[1]} (No such file or directory)"):
        images[1]


# -- damage to the images --------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_an_image_cut_short_is_named(make_folder, zipped):
    posed = make_folder(resolution=32)
    file = posed.path / posed.names[2]
    file.write_bytes(file.read_bytes()[:-1000])
    path = posed.zip() if zipped else posed.path
    images = PosedImages(path)
    with refuses(f"{path}: {posed.names[2]}: not a readable image"):
        images[2]


def test_a_broken_first_image_is_reported_before_training(make_folder):
    posed = make_folder()
    (posed.path / posed.names[0]).write_bytes(b"")
    with refuses(f"{posed.path}: {posed.names[0]}: not a readable image"):
        PosedImages(posed.path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_of_any_format_is_refused(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), kind)
    for length in (0, 10, len(data) // 2):
        with refuses("set.zip: a.img: not a readable image"):
            decode(data[:length], "set.zip: a.img")


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_a_png_never_changes_a_pixel_unnoticed(bit):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels))
    noticed = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        try:
            assert np.array_equal(decode(bytes(damaged), "x").permute(1, 2, 0).numpy(), pixels)
        except DataError:
            noticed += 1
    assert noticed >= len(data) - 8  # length and checksum of the empty end chunk are not checked


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@given(
    data=st.binary(max_size=200),
    prefix=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0"]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_image_or_a_data_error(data, prefix):
    with contextlib.suppress(DataError):
        image = decode(prefix + data, "x")
        assert image.shape == (3, image.shape[1], image.shape[1])


@pytest.mark.parametrize(
    ("side", "says"), [(60000, "exceeds limit"), (8320, "8320 x 8320 pixels; the limit is 8192")]
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side, says):
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    data = b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    with refuses("bomb.png: ") as caught:
        decode(data, "bomb.png")
    assert says in str(caught.value)


def test_odd_images_are_refused(make_folder):
    posed = make_folder()
    file = posed.path / posed.names[4]
    images = PosedImages(posed.path)
    file.write_bytes(encode(Image.new("RGB", (8, 4))))
    with refuses(f"{posed.names[4]}: 8 x 4 pixels, expected a square image"):
        images[4]
    file.write_bytes(encode(Image.new("RGB", (4, 4))))
    with refuses(f"{posed.names[4]}: 4 px, the first image of the set has 8 px"):
        images[4]
    file.write_bytes(encode(Image.new("CMYK", (8, 8)), "TIFF"))
    with refuses(f"{posed.names[4]}: pixels of mode CMYK, expected gray, RGB or RGBA"):
        images[4]
    file.write_bytes(encode(Image.new("F", (8, 8)), "TIFF"))
    with refuses(f"{posed.names[4]}: pixels of mode F"):
        images[4]


# -- damage to the labels --------------------------------------------------------------------------


def test_a_set_without_labels_is_for_models_without_cameras(make_folder):
    posed = make_folder()
    (posed.path / "dataset.json").unlink()
    message = "there is no dataset.json at its root, so no camera labels; set use_labels to false"
    with refuses(f"{posed.path}: {message}"):
        PosedImages(posed.path)
    images = PosedImages(posed.path, use_labels=False, mirror=True)
    assert images.labels is None
    assert images.label_std is None
    assert images[7][1] is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            '{"labels": [\n["a.png", 1}',
            "is not valid JSON (Expecting ',' delimiter: line 2 column 12",
        ),
        ("", "is not valid JSON (Expecting value: line 1 column 1"),
        ("[" * 100_000, "is not valid JSON"),
        ({"labels": None}, '"labels" is null, expected {"labels": '),
        ({"labels": []}, '"labels" is [], expected'),
        ({"label": []}, 'no "labels", expected'),
        ([1, 2], 'no "labels", expected'),
        ({"labels": [3]}, 'entry 0 is 3.0, expected ["name.png", [25 numbers]]'),
        ({"labels": {f"{k}.png": [0.5] * 25 for k in range(99)}}, '"labels" is {"0.png": [0.5'),
        ({"labels": [["a.png", [[1.0] * 4] * 4, [[1.0] * 3] * 3]]}, "entry of a.png has 3 parts"),
    ],
)
def test_a_malformed_label_file_is_refused(make_folder, content, says):
    posed = make_folder()
    posed.write_json(content)
    with refuses(f"{posed.path}: dataset.json") as caught:
        PosedImages(posed.path)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 500


def test_missing_and_superfluous_labels_are_counted_and_named(make_folder):
    posed = make_folder()
    posed.write_json({"labels": list(zip(posed.names, posed.labels))[:3]})
    first = f"no label for {posed.names[3]} (2 images without label"
    with refuses(f"dataset.json has 3 labels for 5 images: {first}"):
        PosedImages(posed.path)
    posed.write_labels()
    (posed.path / posed.names[2]).unlink()
    first = f"a label for {posed.names[2]}, which is not among the images"
    with refuses(f"has 5 labels for 4 images: {first}"):
        PosedImages(posed.path)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("nothing", "the label of {name} is null, expected a list of 25 numbers"),
        (None, "the label of {name} is null, expected a list of 25 numbers"),
        (3, "the label of {name} is 3.0, expected a list of 25 numbers"),
        ([0.0] * 24, "the label of {name} has 24 numbers, expected 25"),
        ([0.0] * 26, "the label of {name} has 26 numbers, expected 25"),
        (["0"] * 25, 'the label of {name} is ["0", "0"'),
        ([[0.0] * 5] * 5, "the label of {name} is [[0.0, 0.0"),
        ([True] * 25, "the label of {name} is [true, true"),
        ([10**400] + [0] * 24, "camera label '{name}' has NaN or infinite entries"),
    ],
)
def test_a_label_that_is_not_25_numbers_is_named(make_folder, label, says):
    posed = make_folder()
    entries = [[name, value] for name, value in zip(posed.names, posed.labels)]
    entries[2] = [posed.names[2]] if label == "nothing" else [posed.names[2], label]
    posed.write_json({"labels": entries})
    with refuses(says.format(name=posed.names[2])):
        PosedImages(posed.path)


def test_two_labels_of_one_image_are_refused(make_folder):
    posed = make_folder()
    again = (posed.names[1], posed.labels[1])
    posed.write_json({"labels": [*zip(posed.names, posed.labels), again]})
    with refuses(f"{posed.names[1]} has two labels; remove one"):
        PosedImages(posed.path)


def scaled(label: list) -> list:
    return [1.1 * value if k in (0, 4, 8) else value for k, value in enumerate(label)]


def left_handed(label: list) -> list:
    return [-value if k in (0, 4, 8) else value for k, value in enumerate(label)]


def with_entry(position: int, value: float):
    return lambda label: [*label[:position], value, *label[position + 1 :]]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (scaled, "has a rotation that is not orthonormal"),
        (left_handed, "has a left-handed rotation"),
        (with_entry(3, float("nan")), "has NaN or infinite entries"),
        (with_entry(16, float("inf")), "has NaN or infinite entries"),
        (with_entry(7, 1e300), "has NaN or infinite entries"),
        (with_entry(12, 0.5), "has a cam2world whose last row is not (0, 0, 0, 1)"),
        (with_entry(16, -4.0), "has a focal length that is not positive"),
    ],
)
def test_a_label_that_is_no_camera_is_named(make_folder, damage, says):
    posed = make_folder()
    posed.labels[3] = damage(posed.labels[3])
    posed.write_labels()
    with refuses(f"{posed.path}: dataset.json: camera label {posed.names[3]!r} {says}"):
        PosedImages(posed.path)


def test_labels_that_are_not_used_are_not_read(make_folder):
    posed = make_folder()
    posed.write_json(json.dumps({"labels": None}))
    assert len(PosedImages(posed.path, use_labels=False)) == 5


@pytest.mark.parametrize("place", ["scanned", "put there later", "behind a link"])
def test_a_pipe_among_the_images_is_refused_and_not_waited_for(tmp_path, place):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    pipe = folder / "b.png"
    if place != "scanned":
        images = PosedImages(folder, use_labels=False)
    pipe.unlink()
    if place == "behind a link":
        pipe.symlink_to(tmp_path / "pipe")
        pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="is a named pipe, no file"):
        images = PosedImages(folder, use_labels=False) if place == "scanned" else images[1]


def test_a_member_that_unpacks_to_nothing_but_size_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 2**25)
        archive.writestr("small.png", b"\0" * 2**20)
    archive = open_archive(path)
    with pytest.raises(DataError, match="a bomb"):
        archive.read("a.png")
    assert len(archive.read("small.png")) == 2**20


def test_an_image_of_another_size_is_refused_before_its_pixels_are_read(monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="64 px, the first image of the set has 32 px"):
        decode(stream.getvalue(), "a.png", native=32)


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[2J.png", "a\u202egnp.png"])
def test_a_file_name_that_can_not_be_printed_is_refused_and_shown_harmless(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match="cannot be printed") as caught:
        open_archive(tmp_path)
    assert str(caught.value).isprintable()
