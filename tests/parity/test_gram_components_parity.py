"""GRAM's surfaces, predictor and compositing against the published ones' numbers (golden/gramhd).

Cameras and pose draws are in test_camera_parity.py.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.camera import Camera
from gan3d.layers.manifold_predictor import ManifoldPredictor
from gan3d.rendering.manifolds import (
    OPAQUE_DELTA,
    ManifoldOptions,
    alphas,
    background_coordinate,
    background_position,
    composite,
    intersections,
    plane_intersections,
    samples_along,
)


def meta_of(folder: Path) -> dict:
    return json.loads((folder / "meta.json").read_text())


@pytest.mark.golden_cases("gramhd", "camera.safetensors")
def test_samples_and_background_points(folder, near):
    setup, golden = meta_of(folder)["camera"], load_file(folder / "camera.safetensors")
    pitch, yaw = golden["poses"].unbind(-1)
    rays = Camera.from_sphere(pitch, yaw, setup["fov"], resolution=setup["resolution"]).rays(
        setup["resolution"]
    )
    options = ManifoldOptions(
        num_samples=setup["num_samples"], ray_start=setup["ray_start"], ray_end=setup["ray_end"]
    )
    near(samples_along(rays, options), golden["samples"], 1e-6)
    plane = plane_intersections(rays.origins, rays.directions, options.background_z)
    # unlike gram: a plane behind the camera is missed.
    ahead = golden["bg_z"][..., 0] > 0
    assert torch.equal(plane.valid, ahead)
    assert ahead.any()
    near(plane.points[ahead], golden["bg_points"][ahead], 1e-5)


@pytest.mark.golden_cases("gramhd", "intersection.safetensors")
def test_intersections_and_their_gradient(folder, near):
    golden = load_file(folder / "intersection.safetensors")
    s = golden["s"].requires_grad_()
    surfaces = intersections(golden["samples"], s[..., 0], golden["levels"])
    assert torch.equal(surfaces.valid[..., None].to(torch.uint8), golden["valid"])
    near(surfaces.points, golden["points"], 1e-5)
    (surfaces.points * golden["cotangent"]).sum().backward()
    near(s.grad, golden["grad_s"])


@pytest.mark.golden_cases("gramhd", "predictor.safetensors")
def test_predictors(folder, near):
    golden, setups = load_file(folder / "predictor.safetensors"), meta_of(folder)
    cases = sorted(name.removesuffix(".s") for name in golden if name.endswith(".s"))
    assert cases
    for case in cases:
        setup = setups[f"predictor_{case}"]
        assert set(setup) <= {"hidden", "layers", "center", "init_radius", "note"}
        predictor = ManifoldPredictor(
            setup["hidden"],
            setup["layers"],
            center=setup["center"],
            init_radius=setup["init_radius"],
        )
        start = f"{case}.w."
        predictor.load_state_dict(
            {k.removeprefix(start): v for k, v in golden.items() if k.startswith(start)}
        )
        near(predictor(golden[f"{case}.x"])[..., None], golden[f"{case}.s"], 2e-6)


def compositing_options(folder: Path) -> dict[str, ManifoldOptions]:
    """Options by case name, from meta.json: "delta .04 final .04 last_back".

    A final value of 1e10 means a background.
    """
    found = {}
    for name, words in meta_of(folder)["compositing"].items():
        if not name.startswith("sigma."):
            continue
        match = re.fullmatch(r"delta (\S+?),? final (\S+?)((?: white| last_back)*)", words)
        assert match, f"{name}: {words!r} is not understood"
        delta, final = float(match[1]), float(match[2])
        assert final in (delta, OPAQUE_DELTA)
        found[name.removeprefix("sigma.")] = ManifoldOptions(
            delta_alpha=delta,
            background=final != delta,
            white_back="white" in match[3],
            last_back="last_back" in match[3],
        )
    return found


class Sorted:
    """The golden surfaces, which are in order of distance, put into ours: the background last."""

    def __init__(self, golden: dict[str, Tensor]):
        background = torch.zeros_like(golden["valid"][..., 0]).scatter(-1, golden["bg_idx"], 1)
        self.golden, self.order = golden, background.argsort(dim=-1, stable=True)
        self.distances, self.valid = self.of("z")[..., 0], self.of("valid")[..., 0].bool()

    def of(self, name: str) -> Tensor:
        return self.golden[name].gather(-2, self.order[..., None].expand_as(self.golden[name]))

    def compare(
        self, case: str, options: ManifoldOptions, alpha: Tensor, raw: Tensor, near
    ) -> None:
        backs = {"white_back": options.white_back, "last_back": options.last_back}
        seen = composite(alpha, raw[..., :3], self.distances, **backs)
        near(seen.weights[..., None], self.of(f"{case}.weights"))
        near(seen.rgb, self.golden[f"{case}.rgb"])
        near(seen.depth, self.golden[f"{case}.depth"])

    def compare_gradient(self, kind: str, alpha: Tensor, raw: Tensor, near) -> None:
        rgb = composite(alpha, raw[..., :3], self.distances).rgb
        (gradient,) = torch.autograd.grad((rgb * self.golden["cotangent"]).sum(), raw)
        near(gradient, self.of(f"grad.{kind}"))

    def cases(self, kind: str) -> list[str]:
        names = [name.split(".") for name in self.golden]
        found = sorted(name[1] for name in names if name[0] == kind and name[-1] == "weights")
        assert found
        return found


@pytest.mark.golden_cases("gramhd", "compositing.safetensors")
def test_compositing_of_densities(folder, near):
    golden = Sorted(load_file(folder / "compositing.safetensors"))
    options_of = compositing_options(folder)
    raw = golden.of("raw").requires_grad_()
    for case in golden.cases("sigma"):
        options = options_of[case]
        alpha = alphas(raw[..., 3], golden.valid, golden.distances, options)
        golden.compare(f"sigma.{case}", options, alpha, raw, near)
    golden.compare_gradient(
        "sigma",
        alphas(raw[..., 3], golden.valid, golden.distances, options_of["default"]),
        raw,
        near,
    )
    thin = ManifoldOptions(delta_alpha=0.04, background=False)
    near(
        alphas(raw[..., 3], golden.valid, golden.distances, thin)[..., None],
        golden.of("alpha_of_sigma"),
    )


@pytest.mark.golden_cases("gramhd", "compositing.safetensors")
def test_compositing_of_occupancies_before_an_opaque_background(folder, near):
    golden = Sorted(load_file(folder / "compositing.safetensors"))
    options_of = compositing_options(folder)
    raw = golden.of("raw_alpha").requires_grad_()
    alpha = torch.cat([raw[..., :-1, 3], torch.ones_like(raw[..., -1:, 3])], -1) * golden.valid
    for case in golden.cases("alpha"):
        golden.compare(f"alpha.{case}", options_of[case], alpha, raw, near)
    golden.compare_gradient("alpha", alpha, raw, near)


@pytest.mark.golden_cases("gramhd", "bg_map.safetensors")
def test_background_coordinates(folder, near):
    golden = load_file(folder / "bg_map.safetensors")
    near(background_position(golden["u"], 0.24), golden["map"], 1e-6)
    near(background_coordinate(golden["x"], 0.24), golden["inv"], 1e-6)
    near(background_coordinate(golden["map"], 0.24), golden["roundtrip"], 1e-6)
