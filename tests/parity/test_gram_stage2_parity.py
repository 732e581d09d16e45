"""GRAM-HD gives the official numbers: every intermediate of the small cases, images and maps of the
full-size one.

Training steps (train_D, train_G, r1) and discriminators (D) are tested with the losses.
"""

import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange

from gan3d.camera import Camera, spanning_camera
from gan3d.ops.bicubic import bicubic_downsample
from gan3d.ops.manifolds import look_up_foreground
from gan3d.rendering.manifolds import (
    background_grid,
    distances_to,
    foreground_grid,
    look_up_background,
    shade_surfaces,
    view_directions,
)

gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))

# sigma reaches tens: golden/gramhd/README.md. Gradients: relative to the largest entry.
LOOSE = {"rgb_sigma": 3e-3, "grad": 1e-3}
ELSEWHERE = ("D.",)  # outputs that belong to other tests


@cache
def read(folder, dtype, **changes):
    """(generator, meta, inputs, outputs) of a case."""
    inputs = {name: t.to(dtype) for name, t in gram.tensors(folder, "inputs*.safetensors").items()}
    outputs = gram.tensors(folder, "outputs*.safetensors")
    return gram.generator(folder, **changes).to(dtype), gram.read_meta(folder), inputs, outputs


def camera_of(meta, poses, resolution):
    pitch, yaw = poses.unbind(-1)
    return Camera.from_sphere(pitch, yaw, gram.fov_of(meta), resolution=resolution)


def official_maps(maps):
    """[b k+1 4 h w] in the official order: levels image by image, then the backgrounds."""
    return torch.cat([maps[:, :-1].flatten(0, 1), maps[:, -1]])


def images(shown):
    depth = shown.extras["ray_depth"][:, 0]
    return {
        "hr_img": shown.image,
        "lr_img": shown.raw,
        "hr_depth": depth,
        "hr_raw": official_maps(shown.extras["maps"]),
        "lr_raw": official_maps(shown.extras["raw_maps"]),
    }


def in_order(values, distances):
    """Values [1 r k c] in order of distance."""
    order = distances.argsort(-1)[..., None]
    return values.gather(2, order.expand(-1, -1, -1, values.shape[-1]))


def stage_one(generator, ws, low, coarse):
    """What the raw image is made of."""
    rays = coarse.rays(generator.raw_resolution)
    film = ws[:, :9, : 2 * generator.radiance.hidden_dim]
    kept = []

    def radiance(points, directions):
        if generator.lock_view:
            directions = directions.new_tensor([0.0, 0.0, -1.0]).expand_as(directions)
        sample = generator.radiance(points, directions, film)
        kept.append(torch.cat([sample.rgb, sample.sigma], -1))
        return sample.sigma, sample.rgb

    with torch.enable_grad():  # all rays at once
        seen = shade_surfaces(radiance, low, rays, generator.options)
    k, distances = low.valid.shape[-1], distances_to(low.points, rays.origins)
    return {
        "ray_o": rays.origins[:, :1],
        "ray_d": rays.directions,
        "lr_pts": low.points[:, :, :-1],
        "lr_valid": low.valid[:, :, :-1, None],
        "lr_bg_pts": low.points[:, :, -1:],
        "lr_bg_idx": (distances < distances[..., -1:]).sum(-1, keepdim=True),
        "lr_depth": rearrange(seen.depth, "b (h w) 1 -> b h w", h=generator.raw_resolution),
        "lr_weights": in_order(seen.weights[..., None], distances),
        "lr_rgb_sigma_unsorted": rearrange(kept[0], "b (r k) c -> b r k c", k=k),
    }


def grids(generator, ws, camera, maps):
    film = ws[:, :9, : 2 * generator.radiance.hidden_dim]
    side, options = generator.raw_resolution, generator.options
    extent, heights = generator.grid_extent, generator.grid_heights
    points, valid = foreground_grid(
        generator.predictor, side, options, ws, half_extent=extent, heights=heights
    )
    behind = background_grid(side, options, ws)
    locked = ws.new_tensor([0.0, 0.0, -1.0])
    views, views_behind = (
        locked.expand_as(where) if generator.lock_view else view_directions(where, camera.origins)
        for where in (points, behind[:, :, None])
    )
    sample = generator.radiance(points.flatten(1, 2), views.flatten(1, 2), film)
    plane = generator.radiance(behind, views_behind[:, :, 0], film)
    low, low_background = generator._grids(film, None if generator.lock_view else camera)
    return {
        "grid_pts": points,
        "grid_valid": valid[..., None],
        "grid_dirs": views,
        "grid_bg_pts": behind,
        "grid_bg_dirs": views_behind[:, :, 0],
        "grid_rgb_sigma": torch.cat([sample.rgb, sample.sigma], -1).unflatten(1, points.shape[1:3]),
        "grid_bg_rgb_sigma": torch.cat([plane.rgb, plane.sigma], -1),
        "sr_input": low.flatten(0, 1),
        "sr_bg_input": low_background,
        "sr_bg_output": maps.background,
    }


def composited(generator, maps, high, camera):
    """What the image is made of."""
    seen, _ = generator._composite(maps, high, camera)
    distances = distances_to(high.points, camera.origins[:, None])
    values = look_up_foreground(maps.foreground, high.points[:, :, :-1], generator.grid_extent)
    behind = look_up_background(maps.background, high.points[:, :, -1], generator.scene_extent)
    behind = torch.nn.functional.pad(behind, (0, 1))[:, :, None]
    return {
        "hr_bg_idx": (distances < distances[..., -1:]).sum(-1, keepdim=True),
        "hr_sorted_rgba.every5rays": in_order(torch.cat([values, behind], 2), distances)[:, ::5],
        "hr_sorted_valid": in_order(high.valid[..., None], distances),
        "hr_sorted_z": in_order(distances[..., None], distances),
        "hr_weights": in_order(seen.weights[..., None], distances),
    }


def intermediates(generator, ws, camera):
    """Everything of one image, under its official name."""
    coarse = spanning_camera(camera, generator.img_resolution, generator.raw_resolution)
    low, high = generator._surfaces(camera, coarse, generator.img_resolution, True)
    maps = generator.radiance_maps(ws, None if generator.lock_view else camera)
    return (
        stage_one(generator, ws, low, coarse)
        | grids(generator, ws, camera, maps)
        | composited(generator, maps, high, camera)
    )


def compare(near, actual, outputs, prefix):
    """All stored tensors of a prefix have their counterpart, and are near it."""
    stored = {
        name.removeprefix(prefix): t for name, t in outputs.items() if name.startswith(prefix)
    }
    unknown = sorted(set(stored) - set(actual))
    assert stored, f"nothing is stored under {prefix}"
    assert not unknown, f"stored under {prefix}, but made by nothing here: {unknown}"
    for name, expected in stored.items():
        tolerance = next((value for part, value in LOOSE.items() if part in name), 1e-4)
        try:
            near(actual[name], expected, tolerance=tolerance)
        except AssertionError as error:
            raise AssertionError(f"{prefix}{name}: {error}") from error


def prefixes(outputs, start):
    """b1.0., b1.1., .. that are there."""
    return sorted(
        {
            f"{start}{name.removeprefix(start).split('.')[0]}."
            for name in outputs
            if name.startswith(start)
        }
    )


def small(*stored, files="outputs*.safetensors"):
    """Runs a test for every folder where these tensors are stored."""
    return pytest.mark.parametrize("folder", gram.generators(2, *stored, files=files))


precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


@small("b1.*")
@precisions
@torch.no_grad()
def test_each_image_alone(folder, dtype, near):
    generator, meta, inputs, outputs = read(folder, dtype)
    for prefix in prefixes(outputs, "b1."):
        i = int(prefix.split(".")[1])
        camera = camera_of(meta, inputs["poses"][i : i + 1], generator.img_resolution)
        ws = generator.map(inputs["z"][i : i + 1])
        shown = generator.render(generator.represent(ws), camera)
        actual = images(shown) | {"origin": camera.origins, "pose": camera.sphere_pose()}
        compare(near, actual | intermediates(generator, ws, camera), outputs, prefix)


@small("batch.*")
@precisions
@torch.no_grad()
def test_both_images_in_one_call_share_the_first_origin_as_published(folder, dtype, near):
    generator, meta, inputs, outputs = read(folder, dtype, shared_origin=True)
    shown = generator(inputs["z"], camera_of(meta, inputs["poses"], generator.img_resolution))
    compare(near, images(shown), outputs, "batch.")


@small("b1.*")
@precisions
@torch.no_grad()
def test_both_images_in_one_call_are_those_alone_with_their_own_origins(folder, dtype, near):
    generator, meta, inputs, outputs = read(folder, dtype)
    shown = images(
        generator(inputs["z"], camera_of(meta, inputs["poses"], generator.img_resolution))
    )
    for prefix in prefixes(outputs, "b1."):
        i = int(prefix.split(".")[1])
        for name in ("hr_img", "lr_img", "hr_depth"):
            if prefix + name in outputs:
                near(shown[name][i : i + 1], outputs[prefix + name])


@small("flipped_lock.*")
@precisions
@torch.no_grad()
def test_view_directions_locked_the_other_way(folder, dtype, near):
    locked = gram.read_meta(folder).get("lock_view_dependence", False)
    generator, meta, inputs, outputs = read(folder, dtype, lock_view=not locked)
    shown = generator(
        inputs["z"][:1], camera_of(meta, inputs["poses"][:1], generator.img_resolution)
    )
    compare(near, images(shown), outputs, "flipped_lock.")


@small("trunc.*")
@precisions
@torch.no_grad()
def test_truncation(folder, dtype, near):
    generator, meta, inputs, outputs = read(folder, dtype)
    h, style = generator.radiance.hidden_dim, generator.super_resolution.style_dim
    generator.w_avg.copy_(generator.map(inputs["avg.z"]).mean(0))
    gain = generator.w_avg[:9, :h].reshape(1, -1)
    phase = generator.w_avg[:9, h : 2 * h].reshape(1, -1)
    if any(name.startswith("avg.") for name in outputs):
        compare(
            near,
            {"freq": gain, "phase": phase, "style": generator.w_avg[9:, :style]},
            outputs,
            "avg.",
        )
    camera = camera_of(meta, inputs["poses"][:1], generator.img_resolution)
    shown = generator(inputs["z"][:1], camera, truncation=meta["truncation_psi"])
    compare(near, images(shown), outputs, "trunc.")


@small("map.freq", "points.*")
@precisions
@torch.no_grad()
def test_latents_and_points(folder, dtype, near):
    generator, _, inputs, outputs = read(folder, dtype)
    ws, h = generator.map(inputs["z"]), generator.radiance.hidden_dim
    film = ws[:, :9, : 2 * h]
    gains, phases = (rearrange(part, "b n h -> b (n h)") for part in (film[..., :h], film[..., h:]))
    style = ws[:, 9, : generator.super_resolution.style_dim]
    compare(near, {"freq": gains, "phase": phases, "sr_style": style}, outputs, "map.")
    sample = generator.radiance(inputs["points"], inputs["dirs"], film, features=True)
    actual = {
        "feature": sample.features,
        "rgb_sigma": torch.cat([sample.rgb, sample.sigma], -1),
        "s": generator.predictor(inputs["points"])[..., None],
    }
    compare(near, actual, outputs, "points.")


@small("cons.*")
@precisions
@torch.no_grad()
def test_consistency_is_measured_by_gamma(folder, dtype, near):
    generator, meta, inputs, outputs = read(folder, dtype)
    shown = generator(
        inputs["z"][:1], camera_of(meta, inputs["poses"][:1], generator.img_resolution)
    )
    made, factor = images(shown), generator.img_resolution // generator.raw_resolution
    down = {name: bicubic_downsample(made[f"hr_{name}"], factor) for name in ("img", "raw")}
    compare(near, {f"down_{name}": value for name, value in down.items()}, outputs, "cons.")
    for name, stored in (("img", "img_raw"), ("raw", "maps_raw")):
        loss = (down[name] - made[f"lr_{name}"]).square().mean()
        if f"cons.{stored}" in meta.get("losses", {}):
            assert loss.item() == pytest.approx(meta["losses"][f"cons.{stored}"], rel=1e-4)


@small("linear.grad.*", files="grads*.safetensors")
@precisions
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_gradients_of_a_linear_loss(folder, dtype, checkpointing, near):
    generator, meta, inputs, _ = read(folder, dtype, checkpointing=checkpointing)
    generator.zero_grad()
    z = inputs["z"][:1].clone().requires_grad_(True)
    shown = generator(z, camera_of(meta, inputs["poses"][:1], generator.img_resolution))
    loss = (shown.image * inputs["cotangent"]).sum()
    loss.backward()
    actual = {"loss": loss, "grad.z": z.grad}
    stored = gram.tensors(folder, "grads*.safetensors")
    ours = dict(generator.named_parameters())
    for name in stored:
        if name.startswith("linear.grad.") and not name.endswith("grad.z"):
            official = name.removeprefix("linear.grad.")
            actual[f"grad.{official}"] = ours[gram.our_name(official)].grad
    compare(
        lambda a, e, tolerance: near(a / e.abs().max(), e / e.abs().max(), tolerance),
        actual,
        stored,
        "linear.",
    )


@small("*")
def test_every_stored_output_is_tested(folder):
    here = ("b1.", "batch.", "flipped_lock.", "trunc.", "avg.", "map.", "points.", "cons.")
    tested = (*here, *ELSEWHERE)
    names = gram.golden.tensor_names(folder, "outputs*.safetensors")
    assert [name for name in names if not name.startswith(tested)] == []


@pytest.mark.parametrize("folder", gram.full_size_generators(2))
@torch.no_grad()
def test_the_full_size_model(folder, near):
    meta, generator = gram.read_meta(folder), gram.full_size(folder)
    resolution, parameters = generator.img_resolution, list(generator.parameters())
    counts = {
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }
    assert {name: n for name, n in counts.items() if name in meta} == {
        n: meta[n] for n in counts if n in meta
    }
    z = gram.formula("z", (1, generator.z_dim), 0.0, 1.0, meta["salt"])
    pose = torch.tensor([meta["pose"]])
    camera = camera_of(meta, pose, resolution)
    made = images(generator(z, camera))
    made["pose"] = camera.sphere_pose()
    outputs = gram.tensors(folder, "outputs*.safetensors")
    for name, expected in outputs.items():
        key, *cuts = name.split(".")
        actual = made[key]
        for cut in cuts:
            if cut.startswith("center"):
                side = int(cut.removeprefix("center"))
                start = (actual.shape[-1] - side) // 2
                actual = actual[..., start : start + side, start : start + side]
            elif cut.startswith("stride"):
                step = int(cut.removeprefix("stride"))
                actual = actual[..., ::step, ::step]
            elif cut == "mean_std":
                actual = torch.stack([actual.mean((-2, -1)), actual.std((-2, -1))])
            else:
                actual = actual[[int(number) for number in cut.split("_")]]
        try:
            near(actual, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
