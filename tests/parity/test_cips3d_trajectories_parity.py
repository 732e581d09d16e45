"""Camera paths against the published ones: every trajectory of golden/cips3d/*/components.json."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gan3d.camera import Camera, trajectories

# Published names of the arguments -> ours; `fov` and `max_fov` are called alike.
ARGUMENTS = {
    "num_samples": "num",
    "num_samples_translate": "num_translate",
    "translate_dist": "translate_dist",
    "alpha": "alpha",
    "periods": "periods",
    "r": "radius",
    "fov": "fov",
    "max_fov": "max_fov",
}
PATHS = {
    "yaw": trajectories.yaw_path,
    "circle": trajectories.circle,
    "circle_near_far": trajectories.circle_near_far,
    "translate_circle": trajectories.translate_circle_near_far,
    "translate_circle_near_far": trajectories.translate_circle_near_far,
    "translate_rotate": trajectories.translate_rotate,
}
FIXED_PERIODS = {
    "circle_near_far": 2,
    "translate_circle": 2,
    "translate_circle_near_far": 2,
    "translate_rotate": 1,
}


def described(folder: Path):
    """(name, kind, arguments, recorded tensors) of every recorded path."""
    tensors = load_file(folder / "camera.safetensors")
    for name, arguments in json.loads((folder / "components.json").read_text())[
        "trajectories"
    ].items():
        kind = max((known for known in PATHS if name.startswith(known)), key=len)
        start = f"traj.{name}."
        recorded = {
            key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)
        }
        yield name, kind, arguments, recorded


def value(given: float | str) -> float:
    """Numbers as they are written: 0.04 or pi/15."""
    if not isinstance(given, str):
        return given
    factor, divisor = re.fullmatch(r"(?:([\d.]+) ?\*? ?)?pi(?: ?/ ?([\d.]+))?", given).groups()
    return float(factor or 1) * math.pi / float(divisor or 1)


def camera_of(kind: str, arguments: dict) -> Camera:
    unknown = set(arguments) - set(ARGUMENTS)
    assert not unknown, f"arguments {sorted(unknown)} of {kind} are not known to this test"
    given = {ARGUMENTS[key]: value(v) for key, v in arguments.items()}
    if kind in FIXED_PERIODS:
        assert given.pop("periods", FIXED_PERIODS[kind]) == FIXED_PERIODS[kind]
    return PATHS[kind](**given)


@pytest.mark.golden_cases("cips3d", "components.json", holds=("camera.safetensors", "traj.*"))
def test_recorded_paths_are_ours_frame_for_frame(folder):
    for name, kind, arguments, recorded in described(folder):
        assert set(recorded) <= {"xyz", "lookup", "up", "pitchs", "yaws", "fovs"}, name
        camera = camera_of(kind, arguments)
        assert len(camera) == len(recorded["xyz"]), name
        forward = torch.nn.functional.normalize(recorded["lookup"], dim=-1)
        up = recorded.get("up", torch.tensor([0.0, 1.0, 0.0]).expand_as(forward))
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
        pose = torch.stack([recorded["pitchs"], recorded["yaws"]], dim=-1)
        expected = [
            (camera.origins, recorded["xyz"]),
            (camera.forward, forward),
            (camera.right, right),
        ]
        expected.append((camera.sphere_pose(), pose))
        if "fovs" in recorded:
            expected.append((camera.fov, recorded["fovs"].flatten()))
        for got, published in expected:
            torch.testing.assert_close(
                got, published, atol=5e-6, rtol=5e-6, msg=lambda text, n=name: f"{n}: {text}"
            )
