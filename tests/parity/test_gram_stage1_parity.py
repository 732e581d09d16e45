"""GRAM against the published stage 1's numbers: every such folder of golden/gramhd, known to us or
not.
"""

import re
import runpy
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, softplus

from gan3d.camera import Camera, Rays
from gan3d.generators import GRAM, Rendering
from gan3d.rendering.manifolds import (
    ManifoldRendering,
    samples_along,
    shade_surfaces,
    trace_surfaces,
)

gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))


def small(*stored: str, files: str = "outputs*.safetensors"):
    """Runs a test for every folder where these tensors are stored."""
    return pytest.mark.parametrize("case", gram.generators(1, *stored, files=files), indirect=True)


class Case:
    """One folder: its generator with weights, its inputs and its reference outputs."""

    def __init__(self, folder: Path):
        self.folder, self.meta = folder, gram.read_meta(folder)
        self.inputs, self.expected = (
            gram.tensors(folder, f"{name}*.safetensors") for name in ("inputs", "outputs")
        )
        self.generator: GRAM = gram.generator(folder)
        if "avg.z" in self.inputs:
            with torch.no_grad():
                self.generator.w_avg.copy_(self.generator.map(self.inputs["avg.z"]).mean(0))

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        return gram.tensors(self.folder, "grads*.safetensors")

    def camera(self, *indices: int) -> Camera:
        pitch, yaw = self.inputs["poses"][list(indices)].unbind(-1)
        return Camera.from_sphere(
            pitch, yaw, gram.fov_of(self.meta), resolution=self.generator.img_resolution
        )

    def show(self, *indices: int, **options: Any) -> Rendering:
        return self.generator(self.inputs["z"][list(indices)], self.camera(*indices), **options)

    @cached_property
    def views(self) -> list[int]:
        return sorted(
            int(match[1])
            for name in self.expected
            if (match := re.fullmatch(r"b1\.(\d+)\.img", name))
        )


@pytest.fixture(scope="module")
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(autouse=True)
def no_gradient():
    with torch.no_grad():
        yield


def compare_latents(near, ws: Tensor, expected: dict[str, Tensor], prefix: str) -> None:
    gain, phase = ws.unflatten(-1, (2, -1)).unbind(-2)
    near(gain.flatten(1), expected[f"{prefix}.freq"])
    near(phase.flatten(1), expected[f"{prefix}.phase"])


@small("map.freq")
def test_latents(case, near):
    compare_latents(near, case.generator.map(case.inputs["z"]), case.expected, "map")


@small("avg.freq")
def test_mean_latents(case, near):
    compare_latents(near, case.generator.w_avg[None], case.expected, "avg")


@small("points.rgb_sigma")
def test_predictor_and_radiance_at_points(case, near):
    generator, points, directions = case.generator, case.inputs["points"], case.inputs["dirs"]
    if "points.s" in case.expected:
        near(generator.predictor(points)[..., None], case.expected["points.s"])
    seen = generator.radiance(points, directions, generator.map(case.inputs["z"]))
    near(torch.cat([seen.rgb, seen.sigma], -1), case.expected["points.rgb_sigma"])


@small("b1.*.img")
def test_images_and_distances_of_single_views(case, near):
    for i in case.views:
        seen = case.show(i)
        near(seen.image, case.expected[f"b1.{i}.img"])
        if f"b1.{i}.depth" in case.expected:
            near(seen.extras["ray_depth"][:, 0], case.expected[f"b1.{i}.depth"])


class SceneView:
    """SceneView 0, taken apart."""

    def __init__(self, case: Case):
        self.generator, self.expected = case.generator, case.expected
        self.rays: Rays = case.camera(0).rays(self.generator.img_resolution)
        self.surfaces = trace_surfaces(self.generator.predictor, self.rays, self.generator.options)
        ws = self.generator.map(case.inputs["z"][:1])
        self.seen: list[Tensor] = []

        def radiance(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            if self.generator.lock_view:
                directions = torch.tensor([0.0, 0.0, -1.0]).expand_as(directions)
            sample = self.generator.radiance(points, directions, ws)
            self.seen.append(
                torch.cat([sample.rgb, sample.sigma], -1).unflatten(
                    1, (-1, self.surfaces.valid.shape[2])
                )
            )
            return sample.sigma, sample.rgb

        self.composite: ManifoldRendering = shade_surfaces(
            radiance, self.surfaces, self.rays, self.generator.options
        )

    def of(self, name: str) -> Tensor:
        return self.expected[f"b1.0.{name}"]


@small("b1.0.s_samples", "b1.0.inter_valid", "b1.0.inter_pts", "b1.0.radiance_unsorted")
def test_every_stage_of_a_view(case, near):
    view = SceneView(case)
    options, surfaces = view.generator.options, view.surfaces
    s = view.generator.predictor(samples_along(view.rays, options))[..., None]
    near(s[:, ::8], view.of("s_samples"))
    levels = options.num_levels
    assert torch.equal(surfaces.valid[..., :levels, None].to(torch.uint8), view.of("inter_valid"))
    near(surfaces.points[..., :levels, :], view.of("inter_pts"), 1e-5)
    if "b1.0.bg_pts" in case.expected:
        near(surfaces.points[..., levels:, :], view.of("bg_pts"), 1e-5)
    near(torch.cat(view.seen, 1), view.of("radiance_unsorted"), 3e-3)


@small("b1.0.sorted_z", "b1.0.weights", "b1.0.sorted_valid")
def test_order_and_weights_of_a_view(case, near):
    view = SceneView(case)
    distances = torch.linalg.vector_norm(
        view.surfaces.points - view.rays.origins[:, :, None], dim=-1
    )
    ordered, order = distances.sort(-1)
    near(ordered[..., None], view.of("sorted_z"), 1e-6)
    near(view.composite.weights.gather(-1, order)[..., None], view.of("weights"))
    if "b1.0.bg_idx" in case.expected:
        last = torch.full_like(view.of("bg_idx")[..., 0], view.surfaces.valid.shape[-1] - 1)
        assert torch.equal(order.gather(-1, view.of("bg_idx"))[..., 0], last)
    # Misses all lie at the ray's last sample: among them the order is arbitrary.
    assert torch.equal(
        view.surfaces.valid.gather(-1, order).sum(-1), view.of("sorted_valid").sum((-1, -2))
    )


@small("batch.img")
def test_a_batch_that_shares_the_first_origin(case, near):
    generator, options = case.generator, case.generator.options
    generator.options = replace(options, shared_origin=True)
    try:
        near(case.show(*range(len(case.inputs["z"]))).image, case.expected["batch.img"])
    finally:
        generator.options = options


@small("flipped_lock.img")
def test_locking_the_view_the_other_way(case, near):
    case.generator.lock_view = not case.generator.lock_view
    try:
        near(case.show(0).image, case.expected["flipped_lock.img"])
    finally:
        case.generator.lock_view = not case.generator.lock_view


@small("trunc.img")
def test_truncation(case, near):
    near(case.show(0, truncation=case.meta["truncation_psi"]).image, case.expected["trunc.img"])


@small("linear.grad.*", files="grads*.safetensors")
def test_gradients_of_a_linear_function_of_an_image(case):
    recorded = {
        n.removeprefix("linear.grad."): g
        for n, g in case.gradients.items()
        if n.startswith("linear.grad.")
    }
    generator, z = case.generator, case.inputs["z"][:1].clone().requires_grad_()
    parameters = dict(generator.named_parameters())
    with torch.enable_grad():
        value = (generator(z, case.camera(0)).image * case.inputs["cotangent"]).sum()
        wanted = [z if name == "z" else parameters[gram.our_name(name)] for name in recorded]
        gradients = torch.autograd.grad(value, wanted)
    if "linear.loss" in case.gradients:
        torch.testing.assert_close(value, case.gradients["linear.loss"], rtol=1e-5, atol=1e-5)
    for (name, expected), gradient in zip(recorded.items(), gradients, strict=True):
        error = (gradient - expected).abs().max().item()
        assert error <= 1e-3 * expected.abs().max().item(), f"{name}: {error:.3g}"


class Step:
    """The published training step of both networks, with the recorded latents and poses."""

    def __init__(self, case: Case):
        self.case, self.process = case, case.meta["process_kwargs"]
        assert (
            gram.golden.unheeded(
                self.process, {"batch_split", "pos_lambda", "real_pos_lambda", "r1_lambda"}
            )
            == []
        )
        self.judge = gram.judge(case.folder)

    def fakes(self, network: str) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, poses) of each part of the batch; a part shares the origin of its first."""
        generator, options = self.case.generator, self.case.generator.options
        z, poses = (self.case.inputs[f"train.{name}_{network}"] for name in ("z", "pose"))
        parts = self.process.get("batch_split", 1)
        for some, pose in zip(z.chunk(parts), poses.chunk(parts), strict=True):
            fov = gram.fov_of(self.case.meta)
            camera = Camera.from_sphere(*pose.unbind(-1), fov, resolution=generator.img_resolution)
            generator.options = replace(options, shared_origin=True)
            try:
                yield generator(some, camera).image, pose
            finally:
                generator.options = options

    def compare(self, loss: Tensor, network: str, gradients: dict[str, Tensor]) -> None:
        expected = self.case.meta["losses"]
        assert loss.item() == pytest.approx(expected[f"train_{network}.Total"], rel=1e-5)
        start = f"train_{network}.grad."
        recorded = {
            n.removeprefix(start): g for n, g in self.case.gradients.items() if n.startswith(start)
        }
        for name, gradient in recorded.items():
            ours = gradients[gram.our_name(name) if network == "G" else gram.our_judge_name(name)]
            error = (ours - gradient).abs().max().item()
            assert error <= 1e-3 * gradient.abs().max().item(), f"{name}: {error:.3g}"
        norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
        assert f"norm_{network}" not in expected or norm == pytest.approx(
            expected[f"norm_{network}"], rel=1e-3
        )


trained = pytest.mark.parametrize(
    "case",
    gram.folders(
        lambda meta: (
            {"process_kwargs", "losses", "renderer_kwargs"} <= set(meta)
            and not gram.is_high_resolution(meta)
        ),
        *("weights_G*.safetensors", "weights_D*.safetensors"),
        holds=("inputs*.safetensors", "train.z_G", "train.z_D"),
    ),
    indirect=True,
)


@trained
def test_training_step_of_the_generator(case):
    step, parameters = Step(case), dict(case.generator.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    with torch.enable_grad():
        for image, pose in step.fakes("G"):
            judged = step.judge(image)
            loss = softplus(-judged.logits).mean() + step.process["pos_lambda"] * mse_loss(
                judged.pose, pose
            )
            for name, gradient in zip(
                parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                total[name] += (
                    # as published: summed over the parts (Q9), and the last part's loss logged
                    gradient
                )
    step.compare(loss, "G", total)


@trained
def test_training_step_of_the_discriminator(case):
    step, real = Step(case), case.inputs["real"].clone().requires_grad_()
    images, poses = (torch.cat(parts) for parts in zip(*step.fakes("D")))
    parameters = dict(step.judge.named_parameters())
    with torch.enable_grad():
        fake, judged = step.judge(images), step.judge(real)
        (gradient,) = torch.autograd.grad(judged.logits.sum(), real, create_graph=True)
        loss = (
            softplus(fake.logits).mean()
            + softplus(-judged.logits).mean()
            + step.process["r1_lambda"] / 2 * gradient.square().sum((1, 2, 3)).mean()
            + step.process["pos_lambda"] * mse_loss(fake.pose, poses)
            + step.process["real_pos_lambda"] * mse_loss(judged.pose, case.inputs["real_pose"])
        )
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    step.compare(
        loss, "D", {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}
    )


@pytest.mark.parametrize("folder", gram.full_size_generators(1))
def test_full_size_images(folder, near):
    meta, expected = gram.read_meta(folder), gram.tensors(folder, "outputs*.safetensors")
    generator = gram.full_size(folder)
    assert {name: list(p.shape) for name, p in generator.named_parameters()} == {
        gram.our_name(name): shape for name, (shape, *_) in meta["table"].items()
    }
    if "parameters" in meta:
        assert sum(p.numel() for p in generator.parameters()) == meta["parameters"]
    assert generator.img_resolution == expected["img"].shape[-1]
    z = gram.formula("z", [1, generator.z_dim], 0, 1, meta["salt"])
    pitch, yaw = (torch.tensor([angle]) for angle in meta["pose"])
    if "pose" in expected:
        near(expected["pose"], torch.stack([pitch, yaw], -1), 1e-6)
    camera = Camera.from_sphere(pitch, yaw, gram.fov_of(meta), resolution=generator.img_resolution)
    near(generator(z, camera).image, expected["img"])
