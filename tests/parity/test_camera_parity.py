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


def side(rays: torch.Tensor) -> int:
    return math.isqrt(rays.shape[1])


def described(folder: Path) -> dict:
    """What the folder's components.json says."""
    return json.loads((folder / "components.json").read_text())


# -- EG3D ------------------------------------------------------------------------------------------


@pytest.fixture
def eg3d(folder, load) -> dict[str, torch.Tensor]:
    return load(folder / "cameras.safetensors")


def of_eg3d(names: str):
    return pytest.mark.golden_cases("eg3d", "components.json", holds=("cameras.safetensors", names))


@of_eg3d("*")
def test_eg3d_pose_samplers_without_spread(eg3d, folder):
    for case in described(folder)["cameras"]["cases"]:
        for name in case["out"]:
            target = case["lookat"] if name.startswith("lookat") else (0.0, 0.0, 0.0)
            camera = Camera.from_eg3d_angles(
                case["horizontal"], case["vertical"], radius=case["radius"], target=target
            )
            near(camera.cam2world, eg3d[name])


@of_eg3d("c2w.out")
def test_eg3d_look_at_from_a_direction(eg3d):
    origin = eg3d["c2w.origin"]
    near(look_at(origin, origin + eg3d["c2w.forward"]), eg3d["c2w.out"])


@of_eg3d("intrinsics.*")
def test_eg3d_field_of_view(eg3d):
    for name, expected in eg3d.items():
        if name.startswith("intrinsics."):
            near(intrinsics_from_eg3d_fov(float(name.removeprefix("intrinsics."))), expected)


@of_eg3d("video_trajectory")
def test_eg3d_video_path(eg3d):
    near(eg3d_wiggle(len(eg3d["video_trajectory"])).cam2world, eg3d["video_trajectory"])


@of_eg3d("mirror.out")
def test_eg3d_mirrored_labels(eg3d):
    mirrored = Camera.from_label(eg3d["mirror.in"]).mirror()
    near(mirrored.cam2world, Camera.from_label(eg3d["mirror.out"]).cam2world, 0)


@pytest.mark.golden_cases("eg3d", holds=("rays.safetensors", "c", "directions.*"))
def test_eg3d_ray_sampler(folder):
    golden = load_file(folder / "rays.safetensors")
    camera = Camera.from_label(golden["c"])
    for name in golden:
        if name.startswith("directions."):
            rays = camera.rays(int(name.removeprefix("directions.")))
            near(rays.directions, golden[name])
            near(rays.origins, golden[name.replace("directions", "origins")], 0)


@pytest.mark.golden_cases(
    "eg3d", "inputs.safetensors", holds=("outputs.safetensors", "ray_directions")
)
def test_eg3d_generator_rays(folder):
    recorded = load_file(folder / "outputs.safetensors")
    camera = Camera.from_label(load_file(folder / "inputs.safetensors")["c"])
    rays = camera.rays(side(recorded["ray_directions"]))
    near(rays.directions, recorded["ray_directions"])
    near(rays.origins, recorded["ray_origins"], 0)


# -- CIPS-3D and pi-GAN ----------------------------------------------------------------------------


@pytest.fixture
def cips3d(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "camera.safetensors")


def of_cips3d(names: str):
    return pytest.mark.golden_cases(
        "cips3d", "components.json", holds=("camera.safetensors", names)
    )


@of_cips3d("cam*.pitch")
def test_cips3d_cameras_of_pitch_and_yaw(cips3d, folder):
    for i, _ in enumerate(described(folder)["camera"]):
        pitch, yaw = cips3d[f"cam{i}.pitch"][:, 0], cips3d[f"cam{i}.yaw"][:, 0]
        camera = Camera.from_sphere(pitch, yaw, 12, resolution=64)
        near(camera.origins, cips3d[f"cam{i}.pos"])
        near(flip_camera_axes(camera.cam2world), cips3d[f"cam{i}.cam2world"])
        # One degree off the pole, yaw is known to 1e-5 in float32.
        same_turn = torch.remainder(yaw + FRONT, 2 * math.pi) - FRONT
        near(camera.sphere_pose(), torch.stack([pitch, same_turn], dim=-1), 1e-5)


@of_cips3d("cam*.draw_yaw")
def test_cips3d_pose_distributions_given_their_draws(cips3d, folder):
    # Our angles grow the other way, hence -n for normal and 1 - u for uniform draws.
    for i, case in enumerate(described(folder)["camera"]):
        yaw, pitch = cips3d[f"cam{i}.draw_yaw"][:, 0], cips3d[f"cam{i}.draw_pitch"][:, 0]
        means = {"yaw_mean": FRONT - case["h_mean"], "radius": 1.0}
        if case["mode"] == "gaussian":
            spread = {"yaw_std": case["h_stddev"], "pitch_std": case["v_stddev"]}
            prior = GaussianPose(pitch_mean=FRONT - case["v_mean"], **means, **spread)
            draws = (-yaw, -pitch)
        elif case["mode"] == "uniform":
            spread = {"yaw_range": case["h_stddev"], "pitch_range": case["v_stddev"]}
            prior = UniformPose(pitch_mean=FRONT - case["v_mean"], **means, **spread)
            draws = (1 - yaw, 1 - pitch)
        elif case["mode"] == "spherical_uniform":
            prior = band(case["v_mean"], case["v_stddev"], case["h_stddev"], **means)
            draws = (1 - yaw, 1 - pitch)
        elif case["mode"] == "mean":
            prior, draws = FixedPose(pitch_mean=FRONT - case["v_mean"], **means), (yaw, pitch)
        else:
            continue  # drawn otherwise here (truncated_gaussian) or not offered (hybrid)
        camera = prior.sample(Recorded({"pose.yaw": draws[0], "pose.pitch": draws[1]}))
        near(camera.origins, cips3d[f"cam{i}.pos"], 1e-5)


def band(v_mean: float, v_std: float, h_std: float, **means: float) -> SphereUniformPose:
    """CIPS-3D's `spherical_uniform`: sin(pitch) = 1 - 2 v, v uniform in (v_mean -+ v_std) / pi."""
    low, high = (max(-1.0, min(1.0, 1 - 2 * (v_mean + sign * v_std) / math.pi)) for sign in (1, -1))
    return SphereUniformPose(
        yaw_range=h_std, pitch_min=math.asin(low), pitch_max=math.asin(high), **means
    )


@of_cips3d("up.cam2world")
def test_cips3d_look_at_with_an_up_vector(cips3d):
    cam2world = look_at(
        cips3d["up.origin"], cips3d["up.origin"] + cips3d["up.forward"], cips3d["up.up"]
    )
    near(flip_camera_axes(cam2world), cips3d["up.cam2world"], 5e-6)


@of_cips3d("rays*.dirs")
def test_cips3d_camera_space_rays(cips3d, folder):
    for i, case in enumerate(described(folder)["rays"]):
        camera = Camera.from_sphere(FRONT, FRONT, case["fov"], resolution=case["res"])
        rays = camera.rays(case["res"])  # the frontal camera's OpenGL axes are the world's
        near(rays.directions.expand_as(cips3d[f"rays{i}.dirs"]), cips3d[f"rays{i}.dirs"])


@of_cips3d("traj.*")
def test_cips3d_trajectory_positions_and_captions(cips3d, folder):
    for name in described(folder)["trajectories"]:
        pitch, yaw, xyz = (cips3d[f"traj.{name}.{key}"] for key in ("pitchs", "yaws", "xyz"))
        radius = torch.linalg.vector_norm(xyz, dim=-1)
        near(Camera.from_sphere(pitch, yaw, 12, resolution=8, radius=radius).origins, xyz)
        camera = Camera(
            look_at(xyz, xyz + cips3d[f"traj.{name}.lookup"]),
            intrinsics_from_fov(12).expand(len(xyz), 3, 3),
        )
        near(camera.sphere_pose(), torch.stack([pitch, yaw], dim=-1))


@pytest.mark.golden_cases("cips3d", "config.json", holds=("io.safetensors", "mid.world.ray_dirs"))
def test_cips3d_generator_rays(folder):
    render = json.loads((folder / "config.json").read_text())["render"]
    recorded = load_file(folder / "io.safetensors")
    resolution = side(recorded["mid.world.ray_dirs"])
    if "camera_pos" in recorded:
        origin = recorded["camera_pos"]
        up = [recorded[name] for name in ("camera_up",) if name in recorded]
        lens = Camera.from_sphere(FRONT, FRONT, render["fov"], resolution=resolution).intrinsics
        camera = Camera(
            look_at(origin, origin + recorded["camera_lookup"], *up), lens.expand(len(origin), 3, 3)
        )
    else:
        pitch, yaw = recorded["mid.world.pitch"][:, 0], recorded["mid.world.yaw"][:, 0]
        near(
            torch.stack([pitch, yaw], dim=-1),
            recorded.get("out.pitch_yaw", torch.stack([pitch, yaw], dim=-1)),
        )
        camera = Camera.from_sphere(pitch, yaw, render["fov"], resolution=resolution)
    rays = camera.rays(resolution)
    near(rays.directions, recorded["mid.world.ray_dirs"])
    near(rays.origins, recorded["mid.world.ray_origins"])


# -- GRAM and GRAM-HD ------------------------------------------------------------------------------


of_gramhd = pytest.mark.golden_cases("gramhd", "camera.safetensors", "meta.json")


@pytest.fixture
def gramhd(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "camera.safetensors")


def setup_of(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())["camera"]


@of_gramhd
def test_gram_cameras_and_rays(gramhd, folder):
    setup = setup_of(folder)
    pitch, yaw = gramhd["poses"].unbind(dim=-1)
    camera = Camera.from_sphere(pitch, yaw, setup["fov"], resolution=setup["resolution"])
    rays = camera.rays(setup["resolution"])
    near(flip_camera_axes(camera.cam2world), gramhd["cam2world"])
    near(rays.origins, gramhd["ray_origins"])
    near(rays.directions, gramhd["ray_dirs"])
    depths = torch.linspace(setup["ray_start"], setup["ray_end"], setup["num_samples"])
    near(
        rays.origins[:, :, None] + depths[:, None] * rays.directions[:, :, None], gramhd["samples"]
    )
    recovered = torch.stack(camera.to_sphere(resolution=setup["resolution"])[:2], dim=-1)
    near(recovered, gramhd["poses"], 1e-5)


@of_gramhd
def test_gram_cosines_turn_distance_into_depth(gramhd, folder):
    resolution = side(gramhd["ray_dirs_cam"])
    pitch, yaw = gramhd["poses"].unbind(dim=-1)
    rays = Camera.from_sphere(pitch, yaw, setup_of(folder)["fov"], resolution=resolution).rays(
        resolution
    )
    near(rays.cosines, -gramhd["ray_dirs_cam"][..., 2:])


@pytest.mark.golden_cases("gramhd", "pose_draws.safetensors")
@pytest.mark.parametrize("mode", ["gaussian", "uniform", "spherical_uniform"])
def test_gram_origins_of_drawn_poses(mode, folder):
    golden = load_file(folder / "pose_draws.safetensors")
    pitch, yaw = golden[f"{mode}.pose"].unbind(dim=-1)
    near(Camera.from_sphere(pitch, yaw, 12, resolution=64).origins, golden[f"{mode}.origin"])


@pytest.mark.golden_cases("gramhd", "pose_draws.safetensors")
@pytest.mark.parametrize("mode", ["gaussian", "uniform", "spherical_uniform"])
def test_gram_pose_streams_given_their_draws(mode, folder):
    # torch.manual_seed(100), all yaws first, [n 1] each (meta.json: pose_draws).
    golden = load_file(folder / "pose_draws.safetensors")[f"{mode}.origin"]
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
    near(
        prior.sample(Recorded({"pose.yaw": draws[0], "pose.pitch": draws[1]})).origins, golden, 1e-5
    )


@pytest.mark.golden_cases("gramhd", "meta.json", holds=("outputs.safetensors", "*.ray_d"))
def test_gram_generator_rays(folder):
    setup, recorded = setup_of(folder), load_file(folder / "outputs.safetensors")
    for name in (name.removesuffix(".ray_d") for name in recorded if name.endswith(".ray_d")):
        pitch, yaw = recorded[f"{name}.pose"].unbind(dim=-1)
        resolution = side(recorded[f"{name}.ray_d"])
        rays = Camera.from_sphere(pitch, yaw, setup["fov"], resolution=resolution).rays(resolution)
        near(rays.directions, recorded[f"{name}.ray_d"])
        near(rays.origins, recorded[f"{name}.ray_o"].expand_as(rays.origins))
