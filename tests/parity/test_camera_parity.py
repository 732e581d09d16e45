"""Cameras and rays against recorded numbers of EG3D, CIPS-3D, pi-GAN and GRAM (see conftest.py)."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gan3d.camera import (
    Camera,
    FixedPose,
    GaussianPose,
    SphereUniformPose,
    UniformPose,
    eg3d_wiggle,
    flip_camera_axes,
    intrinsics_from_eg3d_fov,
    intrinsics_from_fov,
    look_at,
)
from gan3d.randomness import Recorded

FRONT = math.pi / 2


def near(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


def with_rays(model: Path, file: str, key: str) -> list[tuple[Path, dict[str, torch.Tensor]]]:
    """(folder, tensors) of every case of a model whose file holds recorded rays, whatever the case is called."""
    read = [(path.parent, load_file(path)) for path in sorted(model.glob(f"*/{file}"))]
    found = [(folder, tensors) for folder, tensors in read if any(name.endswith(key) for name in tensors)]
    assert found, f"no case of {model} has {key} in its {file}"
    return found


def side(rays: torch.Tensor) -> int:
    return math.isqrt(rays.shape[1])


# -- EG3D --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eg3d(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "eg3d/components/cameras.safetensors")


@pytest.fixture(scope="module")
def described(golden):
    """described(model) -> its components.json."""
    return lambda model: json.loads((golden / model / "components/components.json").read_text())


def test_eg3d_pose_samplers_without_spread(eg3d, described):
    for case in described("eg3d")["cameras"]["cases"]:
        for name in case["out"]:
            target = case["lookat"] if name.startswith("lookat") else (0.0, 0.0, 0.0)
            camera = Camera.from_eg3d_angles(case["horizontal"], case["vertical"], radius=case["radius"], target=target)
            near(camera.cam2world, eg3d[name])


def test_eg3d_look_at_from_a_direction(eg3d):
    origin = eg3d["c2w.origin"]
    near(look_at(origin, origin + eg3d["c2w.forward"]), eg3d["c2w.out"])


def test_eg3d_field_of_view(eg3d):
    for name, expected in eg3d.items():
        if name.startswith("intrinsics."):
            near(intrinsics_from_eg3d_fov(float(name.removeprefix("intrinsics."))), expected)


def test_eg3d_video_path(eg3d):
    near(eg3d_wiggle(len(eg3d["video_trajectory"])).cam2world, eg3d["video_trajectory"])


def test_eg3d_mirrored_labels(eg3d):
    mirrored = Camera.from_label(eg3d["mirror.in"]).mirror()
    near(mirrored.cam2world, Camera.from_label(eg3d["mirror.out"]).cam2world, 0)


def test_eg3d_ray_sampler(golden):
    golden = load_file(golden / "eg3d/components/rays.safetensors")
    camera = Camera.from_label(golden["c"])
    for name in golden:
        if name.startswith("directions."):
            rays = camera.rays(int(name.removeprefix("directions.")))
            near(rays.directions, golden[name])
            near(rays.origins, golden[name.replace("directions", "origins")], 0)


def test_eg3d_generator_rays(golden):
    for folder, recorded in with_rays(golden / "eg3d", "outputs.safetensors", "ray_directions"):
        camera = Camera.from_label(load_file(folder / "inputs.safetensors")["c"])
        rays = camera.rays(side(recorded["ray_directions"]))
        near(rays.directions, recorded["ray_directions"])
        near(rays.origins, recorded["ray_origins"], 0)


# -- CIPS-3D and pi-GAN ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cips3d(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "cips3d/components/camera.safetensors")


def test_cips3d_cameras_of_pitch_and_yaw(cips3d, described):
    for i, _ in enumerate(described("cips3d")["camera"]):
        pitch, yaw = cips3d[f"cam{i}.pitch"][:, 0], cips3d[f"cam{i}.yaw"][:, 0]
        camera = Camera.from_sphere(pitch, yaw, 12, resolution=64)
        near(camera.origins, cips3d[f"cam{i}.pos"])
        near(flip_camera_axes(camera.cam2world), cips3d[f"cam{i}.cam2world"])
        # One degree off the pole, yaw is known to 1e-5 in float32.
        same_turn = torch.remainder(yaw + FRONT, 2 * math.pi) - FRONT
        near(camera.sphere_pose(), torch.stack([pitch, same_turn], dim=-1), 1e-5)


def test_cips3d_pose_distributions_given_their_draws(cips3d, described):
    # Our angles grow the other way, hence -n for normal and 1 - u for uniform draws.
    for i, case in enumerate(described("cips3d")["camera"]):
        yaw, pitch = cips3d[f"cam{i}.draw_yaw"][:, 0], cips3d[f"cam{i}.draw_pitch"][:, 0]
        means = {"yaw_mean": FRONT - case["h_mean"], "radius": 1.0}
        if case["mode"] == "gaussian":
            spread = {"yaw_std": case["h_stddev"], "pitch_std": case["v_stddev"]}
            prior, draws = GaussianPose(pitch_mean=FRONT - case["v_mean"], **means, **spread), (-yaw, -pitch)
        elif case["mode"] == "uniform":
            spread = {"yaw_range": case["h_stddev"], "pitch_range": case["v_stddev"]}
            prior, draws = UniformPose(pitch_mean=FRONT - case["v_mean"], **means, **spread), (1 - yaw, 1 - pitch)
        elif case["mode"] == "spherical_uniform":
            prior, draws = band(case["v_mean"], case["v_stddev"], case["h_stddev"], **means), (1 - yaw, 1 - pitch)
        elif case["mode"] == "mean":
            prior, draws = FixedPose(pitch_mean=FRONT - case["v_mean"], **means), (yaw, pitch)
        else:
            continue  # drawn otherwise here (truncated_gaussian) or not offered (hybrid)
        camera = prior.sample(Recorded({"pose.yaw": draws[0], "pose.pitch": draws[1]}))
        near(camera.origins, cips3d[f"cam{i}.pos"], 1e-5)


def band(v_mean: float, v_std: float, h_std: float, **means: float) -> SphereUniformPose:
    """The `spherical_uniform` of CIPS-3D: sin(pitch) = cos(phi) = 1 - 2 v, v in (v_mean -+ v_std) / pi."""
    low, high = (max(-1.0, min(1.0, 1 - 2 * (v_mean + sign * v_std) / math.pi)) for sign in (1, -1))
    return SphereUniformPose(yaw_range=h_std, pitch_min=math.asin(low), pitch_max=math.asin(high), **means)


def test_cips3d_look_at_with_an_up_vector(cips3d):
    cam2world = look_at(cips3d["up.origin"], cips3d["up.origin"] + cips3d["up.forward"], cips3d["up.up"])
    near(flip_camera_axes(cam2world), cips3d["up.cam2world"], 5e-6)


def test_cips3d_camera_space_rays(cips3d, described):
    for i, case in enumerate(described("cips3d")["rays"]):
        camera = Camera.from_sphere(FRONT, FRONT, case["fov"], resolution=case["res"])
        rays = camera.rays(case["res"])  # the frontal camera's OpenGL axes are the world's
        near(rays.directions.expand_as(cips3d[f"rays{i}.dirs"]), cips3d[f"rays{i}.dirs"])


def test_cips3d_trajectory_positions_and_captions(cips3d, described):
    for name in described("cips3d")["trajectories"]:
        pitch, yaw, xyz = (cips3d[f"traj.{name}.{key}"] for key in ("pitchs", "yaws", "xyz"))
        radius = torch.linalg.vector_norm(xyz, dim=-1)
        near(Camera.from_sphere(pitch, yaw, 12, resolution=8, radius=radius).origins, xyz)
        camera = Camera(
            look_at(xyz, xyz + cips3d[f"traj.{name}.lookup"]), intrinsics_from_fov(12).expand(len(xyz), 3, 3)
        )
        near(camera.sphere_pose(), torch.stack([pitch, yaw], dim=-1))


def test_cips3d_generator_rays(golden):
    for folder, recorded in with_rays(golden / "cips3d", "io.safetensors", "mid.world.ray_dirs"):
        render = json.loads((folder / "config.json").read_text())["render"]
        resolution = side(recorded["mid.world.ray_dirs"])
        if "camera_pos" in recorded:
            origin = recorded["camera_pos"]
            lens = Camera.from_sphere(FRONT, FRONT, render["fov"], resolution=resolution).intrinsics
            camera = Camera(look_at(origin, origin + recorded["camera_lookup"]), lens.expand(len(origin), 3, 3))
        else:
            pitch, yaw = recorded["mid.world.pitch"][:, 0], recorded["mid.world.yaw"][:, 0]
            near(torch.stack([pitch, yaw], dim=-1), recorded["out.pitch_yaw"])
            camera = Camera.from_sphere(pitch, yaw, render["fov"], resolution=resolution)
        rays = camera.rays(resolution)
        near(rays.directions, recorded["mid.world.ray_dirs"])
        near(rays.origins, recorded["mid.world.ray_origins"])


# -- GRAM and GRAM-HD --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gramhd(golden) -> dict[str, torch.Tensor]:
    return load_file(golden / "gramhd/components/camera.safetensors")


def test_gram_cameras_and_rays(gramhd, golden):
    setup = json.loads((golden / "gramhd/components/meta.json").read_text())["camera"]
    pitch, yaw = gramhd["poses"].unbind(dim=-1)
    camera = Camera.from_sphere(pitch, yaw, setup["fov"], resolution=setup["resolution"])
    rays = camera.rays(setup["resolution"])
    near(flip_camera_axes(camera.cam2world), gramhd["cam2world"])
    near(rays.origins, gramhd["ray_origins"])
    near(rays.directions, gramhd["ray_dirs"])
    depths = torch.linspace(setup["ray_start"], setup["ray_end"], setup["num_samples"])
    near(rays.origins[:, :, None] + depths[:, None] * rays.directions[:, :, None], gramhd["samples"])
    recovered = torch.stack(camera.to_sphere(resolution=setup["resolution"])[:2], dim=-1)
    near(recovered, gramhd["poses"], 1e-5)


def test_gram_cosines_turn_distance_into_depth(gramhd):
    resolution = side(gramhd["ray_dirs_cam"])
    pitch, yaw = gramhd["poses"].unbind(dim=-1)
    rays = Camera.from_sphere(pitch, yaw, 12, resolution=resolution).rays(resolution)
    near(rays.cosines, -gramhd["ray_dirs_cam"][..., 2:])


@pytest.mark.parametrize("mode", ["gaussian", "uniform", "spherical_uniform"])
def test_gram_origins_of_drawn_poses(mode, golden):
    golden = load_file(golden / "gramhd/components/pose_draws.safetensors")
    pitch, yaw = golden[f"{mode}.pose"].unbind(dim=-1)
    near(Camera.from_sphere(pitch, yaw, 12, resolution=64).origins, golden[f"{mode}.origin"])


@pytest.mark.parametrize("mode", ["gaussian", "uniform", "spherical_uniform"])
def test_gram_pose_streams_given_their_draws(mode, golden):
    # torch.manual_seed(100), all yaws first, [n 1] each (meta.json: pose_draws).
    golden = load_file(golden / "gramhd/components/pose_draws.safetensors")[f"{mode}.origin"]
    stream, shape = torch.Generator().manual_seed(100), (len(golden), 1)
    sample = torch.randn if mode == "gaussian" else torch.rand
    yaw, pitch = sample(shape, generator=stream)[:, 0], sample(shape, generator=stream)[:, 0]
    carla = math.radians(42.5)
    prior = {
        "gaussian": GaussianPose(yaw_std=0.3, pitch_std=0.155, radius=1.0),
        "uniform": UniformPose(yaw_range=0.3, pitch_range=0.155, radius=1.0),
        "spherical_uniform": band(carla, carla, math.pi, radius=1.0),
    }[mode]
    draws = (-yaw, -pitch) if mode == "gaussian" else (1 - yaw, 1 - pitch)
    near(prior.sample(Recorded({"pose.yaw": draws[0], "pose.pitch": draws[1]})).origins, golden, 1e-5)


def test_gram_generator_rays(golden):
    for folder, recorded in with_rays(golden / "gramhd", "outputs.safetensors", ".ray_d"):
        setup = json.loads((folder / "meta.json").read_text())["camera"]
        for name in (name.removesuffix(".ray_d") for name in recorded if name.endswith(".ray_d")):
            pitch, yaw = recorded[f"{name}.pose"].unbind(dim=-1)
            resolution = side(recorded[f"{name}.ray_d"])
            rays = Camera.from_sphere(pitch, yaw, setup["fov"], resolution=resolution).rays(resolution)
            near(rays.directions, recorded[f"{name}.ray_d"])
            near(rays.origins, recorded[f"{name}.ray_o"].expand_as(rays.origins))
