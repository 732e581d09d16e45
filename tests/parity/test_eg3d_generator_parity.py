"""EG3D against the published generator's numbers: every case folder of golden/eg3d, known to us or
not.
"""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.camera import Camera
from gan3d.checkpoints.official.stylegan2 import from_published, to_published
from gan3d.generators import EG3D, Rendering
from gan3d.ops.composite import interval_weights, optical_depths
from gan3d.rendering import importance_depths, ray_box, ray_limits, stratified_depths

pytestmark = pytest.mark.golden_cases("eg3d", "config.json", "weights_G*.safetensors")


def merged(folder: Path, pattern: str) -> dict[str, Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob(pattern))
        for name, tensor in load_file(file).items()
    }


class Case:
    """One folder: its generator with weights, its inputs and its reference outputs."""

    def __init__(self, folder: Path, build: Callable[[dict[str, Any]], EG3D]):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = merged(folder, "weights_G*.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = merged(folder, "outputs*.safetensors")
        self.generator = build(self.config).eval()
        self.missing = self.generator.load_state_dict(from_published(self.weights), strict=False)
        self.generator.requires_grad_(False)

    @cached_property
    def ws(self) -> Tensor:
        return self.generator.map(self.inputs["z"], self.conditioning)

    @cached_property
    def camera(self) -> Camera:
        return Camera.from_label(self.inputs["c"])

    @cached_property
    def conditioning(self) -> Camera:
        return Camera.from_label(self.inputs["c_cond"])

    @cached_property
    def scene(self):
        return self.generator.represent(self.expected["ws"])

    @cached_property
    def rendering(self) -> Rendering:
        return self.generator.render(self.scene, self.camera)

    def matching(self, pattern: str) -> list[re.Match[str]]:
        return [match for name in self.expected if (match := re.fullmatch(pattern, name))]


@cache
def case_of(folder: Path, build: Callable[[dict[str, Any]], EG3D]) -> Case:
    return Case(folder, build)


@pytest.fixture
def case(folder, eg3d_generator) -> Case:
    return case_of(folder, eg3d_generator)


def test_names_and_shapes_of_the_state_are_the_published_ones(case):
    state = to_published(case.generator.state_dict())
    ours = {name: list(tensor.shape) for name, tensor in state.items()}
    # Published training adds dataset_label_std; some of the recorded generators never trained.
    theirs = {
        "dataset_label_std": [25],
        **{name: list(tensor.shape) for name, tensor in case.weights.items()},
    }
    assert ours == theirs
    assert case.missing.unexpected_keys == []
    assert set(case.missing.missing_keys) <= {"dataset_label_std"}
    assert sum(p.numel() for p in case.generator.parameters()) == case.config["parameters_G"]


def test_full_size_names_shapes_and_kinds_are_the_published_ones(golden):
    published = json.loads((golden / "eg3d/state_dict_ffhq512-128.json").read_text())["G"]
    with torch.device("meta"):
        generator = EG3D()
    parameters = dict(generator.named_parameters())
    ours = {
        name: {"shape": list(tensor.shape), "kind": "parameter" if name in parameters else "buffer"}
        for name, tensor in to_published(generator.state_dict()).items()
    }
    assert ours == {
        name: {"shape": fact["shape"], "kind": fact["kind"]} for name, fact in published.items()
    }
    assert sum(p.numel() for p in generator.parameters()) == 30_662_136


def test_latents(case, near):
    near(case.ws, case.expected["ws"])
    truncated = case.matching(r"ws_psi([\d.]+)(?:_cut(\d+))?")
    assert truncated
    for match in truncated:
        psi, cutoff = float(match[1]), int(match[2]) if match[2] else None
        ws = case.generator.map(
            case.inputs["z"], case.conditioning, truncation=psi, truncation_cutoff=cutoff
        )
        near(ws, case.expected[match[0]])


def test_track_is_one_update_of_the_mean_latent(case, near):
    generator = copy.deepcopy(case.generator)
    generator.track(case.ws)
    near(generator.backbone.mapping.w_avg, case.expected["w_avg_after_update"])


def test_planes(case, near):
    planes = case.scene.planes.flatten(1, 2)
    stride = case.config.get("planes_stride", 1)
    batch = case.config.get("planes_batch", len(planes))
    near(planes[:batch, :, ::stride, ::stride], case.expected["planes"])


def test_rays_and_samples(case, near):
    """Coarse depths and densities, then the importance depths that follow, and their densities."""
    options, scene, generator = case.generator.options, case.scene, case.generator
    rays = case.camera.rays(case.config["neural_rendering_resolution"])
    near(rays.origins, case.expected["ray_origins"])
    near(rays.directions, case.expected["ray_directions"])
    if "box_near" in case.expected:
        entry, exit_ = ray_box(rays.origins, rays.directions, options.box_warp)
        near(entry, case.expected["box_near"])
        near(exit_, case.expected["box_far"])

    def query(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = rays.origins[:, :, None] + depths[..., None] * rays.directions[:, :, None]
        return generator.field(scene, points.flatten(1, 2))

    depths = stratified_depths(
        *ray_limits(rays, options), options.depth_samples, disparity=options.disparity
    )
    near(depths[..., None], case.expected["depths_coarse"])
    sigma, rgb = query(depths)
    near(sigma, case.expected["sigma_coarse"])
    if "rgb_coarse" in case.expected:
        near(rgb, case.expected["rgb_coarse"])
    if options.importance_samples:
        weights = interval_weights(optical_depths(sigma.view_as(depths), depths))
        fine = importance_depths(depths, weights, options.importance_samples)
        near(fine[..., None], case.expected["depths_fine"])
        near(query(fine)[0], case.expected["sigma_fine"])


def test_rendering(case, near):
    seen, expected = case.rendering, case.expected
    near(seen.extras["features"], expected["feature_image"])
    near(seen.extras["ray_depth"], expected["image_depth"])
    near(seen.extras["ray_depth"].flatten(2).mT, expected["depth_samples"])
    assert seen.opacity is not None
    near(seen.opacity.flatten(2).mT, expected["weights_sum"])
    near(seen.raw, expected["image_raw"])
    near(seen.image, expected["image"])


def test_raw_image_is_not_changed_by_superresolution_unless_asked(case, near):
    generator = copy.copy(case.generator)
    generator.legacy_raw = False
    raw = generator.render(case.scene, case.camera).raw
    near(raw, case.expected["image_raw_before_sr"])


def test_depth_along_the_axis_is_the_published_one_times_the_cosine(case, near):
    cosines = (case.expected["ray_directions"] * case.camera.forward[:, None]).sum(-1)
    seen = case.rendering
    assert seen.depth is not None
    near(seen.depth.flatten(1), case.expected["image_depth"].flatten(1) * cosines)


def test_other_resolutions(case, near):
    resolutions = {int(match[1]) for match in case.matching(r"nrr(\d+)\..*")}
    assert resolutions
    for resolution in resolutions:
        seen = case.generator.render(case.scene, case.camera, resolution=resolution)
        values = {
            "image": seen.image,
            "image_raw": seen.raw,
            "image_depth": seen.extras["ray_depth"],
        }
        for match in case.matching(rf"nrr{resolution}\.(.*)"):
            near(values[match[1]], case.expected[match[0]])


def test_without_backbone_noise(case, near):
    generator = copy.deepcopy(case.generator)
    for name, parameter in generator.backbone.named_parameters():
        if name.endswith("noise_strength"):
            parameter.zero_()
    seen = generator.render(generator.represent(case.expected["ws"]), case.camera)
    near(seen.image, case.expected["noise_none.image"])


def test_forward_conditions_on_the_rendering_camera(case, near):
    found = case.matching(r"forward_psi([\d.]+)_cut(\d+)\.(\w+)")
    assert found
    for psi, cutoff in {(match[1], match[2]) for match in found}:
        seen = case.generator(
            case.inputs["z"], case.camera, truncation=float(psi), truncation_cutoff=int(cutoff)
        )
        values = {
            "image": seen.image,
            "image_raw": seen.raw,
            "image_depth": seen.extras["ray_depth"],
        }
        for match in case.matching(rf"forward_psi{psi}_cut{cutoff}\.(\w+)"):
            near(values[match[1]], case.expected[match[0]])


def test_field(case, near):
    points, directions = case.inputs["coordinates"], case.inputs["directions"]
    sigma, rgb = case.generator.field(case.scene, points, directions)
    near(sigma, case.expected["sample.sigma"])
    near(rgb, case.expected["sample.rgb"])
    for match in case.matching(r"sample_mixed_psi([\d.]+)\.sigma"):
        scene = case.generator.represent(case.expected[f"ws_psi{match[1]}"])
        near(case.generator.field(scene, points, directions)[0], case.expected[match[0]])


def test_chunks_of_rays_give_the_published_image(case, near):
    generator = copy.copy(case.generator)
    generator.options = replace(generator.options, ray_chunk=100)
    with torch.no_grad():
        chunked = generator.render(case.scene, case.camera)
    near(chunked.image, case.expected["image"])
    near(chunked.extras["ray_depth"], case.expected["image_depth"])


@pytest.mark.golden_cases("eg3d", "config.json", "weights_G*.safetensors", "weights_D*.safetensors")
def test_gradient_of_the_generator_loss_with_respect_to_the_latents(
    case, folder, load, near, eg3d_discriminator
):
    discriminator = eg3d_discriminator(case.config).eval()
    discriminator.load_state_dict(load(folder / "weights_D*.safetensors"))
    ws = case.expected["ws"].clone().requires_grad_()
    seen = case.generator.render(case.generator.represent(ws), case.camera)
    logits = discriminator(seen.image, raw=seen.raw, camera=case.camera).logits
    near(logits[:, None], case.expected["wgrad.logits"])
    (gradient,) = torch.autograd.grad(torch.nn.functional.softplus(-logits).mean(), ws)
    expected = case.expected["wgrad.grad_ws"]
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
