"""The harness' phases against GRAM's and GRAM-HD's published training steps, with the recorded
latents and poses.
"""

import runpy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera, PosePrior
from gan3d.randomness import Randomness
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, CrossResolution, Patches, PosePrediction
from gan3d.training.micro_batches import Part

gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))
# fmt: off
WEIGHTS = {
    "batch_split", "pos_lambda", "real_pos_lambda", "r1_lambda", "cons_lambda", "use_patch_d",
    "patch_lambda", "r1_patch", "r1_interval",
}
# fmt: on


class Given(Randomness):
    """The recorded latents of an image."""

    def __init__(self, z: Tensor, indices: list[int], phase: str):
        super().__init__(0, indices, phase, dtype=z.dtype)
        self.z = z

    def normal(self, name: str, *shape: int) -> Tensor:
        assert name == "z"
        return self.z[self.indices]


@dataclass(frozen=True)
class RecordedPoses(PosePrior):
    """The recorded poses of an image."""

    poses: dict[str, Tensor]
    fov: float
    resolution: int

    def sample(self, randomness: Randomness) -> Camera:
        return self.of(self.poses[randomness.phase][randomness.indices])

    def of(self, pose: Tensor) -> Camera:
        return Camera.from_sphere(*pose.unbind(-1), self.fov, resolution=self.resolution)


class Recorded(GAN):
    """The harness with the networks, weights and draws of a case."""

    def __init__(self, folder: Path):
        self.meta, inputs = gram.read_meta(folder), gram.tensors(folder, "inputs*.safetensors")
        process = self.meta["process_kwargs"]
        unknown = gram.golden.unheeded(process, WEIGHTS)
        assert not unknown, f"options that this reader does not know: {unknown}"
        assert process.get("r1_interval", 1) == 1
        generator, judge = gram.generator(folder), gram.judge(folder)
        patch = process.get("patch_lambda", 0.0) if process.get("use_patch_d") else 0.0
        self.given = {"generator": inputs["train.z_G"], "discriminator": inputs["train.z_D"]}
        poses = {"generator": inputs["train.pose_G"], "discriminator": inputs["train.pose_D"]}
        prior = RecordedPoses(poses, gram.fov_of(self.meta), generator.img_resolution)
        super().__init__(
            generator,
            judge,
            r1=R1(process["r1_lambda"], interval=1),
            pose=PosePrediction(process["pos_lambda"], process["real_pos_lambda"]),
            patch=Patches(patch, in_r1=process.get("r1_patch", True)),
            consistency=CrossResolution(process.get("cons_lambda", 0.0)),
            fakes=Fakes(poses=prior),
        )
        self.real, self.real_camera = inputs["real"], prior.of(inputs["real_pose"])

    def draws(self, indices, phase: str) -> Randomness:
        return Given(self.given.get(phase, self.given["discriminator"]), list(indices), phase)

    @property
    def summed_parts(self) -> int:
        """Parts of a batch whose losses the published generator step sums, not averages, and of
        which it logs the last: stage 1's `batch_split` (quirk Q9)."""
        return (
            1
            if gram.is_high_resolution(self.meta)
            else self.meta["process_kwargs"].get("batch_split", 1)
        )

    def run_phase(self, phase: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Logged values and gradients of a phase, as published, over parts of one image."""
        network = self.generator if phase == "generator" else self.discriminator
        wanted = {name for name, p in network.named_parameters() if p.requires_grad}
        self.requires_grad_(False)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in wanted)
        network.zero_grad()
        num = len(self.given[phase])
        parts = self.summed_parts if phase == "generator" else 1
        logged = torch.arange(num).chunk(parts)[-1].tolist()
        total: dict[str, float] = {}
        for i in range(num):
            values: dict[str, Tensor] = {}
            part = Part(self.real[i : i + 1], self.real_camera[i : i + 1], [i], 1 / num)
            for loss in getattr(self.phases, f"{phase}_loss")(part, values):
                (loss * parts / num).backward()
                values["all"] = values.get("all", torch.zeros(())) + loss.detach()
            for name, value in values.items() if i in logged else ():
                total[name] = total.get(name, 0.0) + value.item() / len(logged)
        return total, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


steps = pytest.mark.parametrize(
    "folder",
    gram.folders(
        lambda meta: {"process_kwargs", "losses", "renderer_kwargs"} <= set(meta),
        *("weights_G*.safetensors", "weights_D*.safetensors"),
        holds=("inputs*.safetensors", "train.z_G", "train.z_D"),
    ),
)


@cache
def after(
    folder: Path, phase: str
) -> tuple[dict, dict[str, float], dict[str, Tensor], dict[str, Tensor]]:
    """(meta, logged values, gradients, recorded gradients by our names) of a phase."""
    gan = Recorded(folder)
    values, gradients = gan.run_phase(phase)
    network = "G" if phase == "generator" else "D"
    start = f"train_{network}.grad."
    rename = gram.our_name if network == "G" else gram.our_judge_name
    recorded = gram.tensors(folder, "grads*.safetensors")
    return (
        gan.meta,
        values,
        gradients,
        {rename(n[len(start) :]): g for n, g in recorded.items() if n.startswith(start)},
    )


@steps
@pytest.mark.parametrize("phase", ["generator", "discriminator"])
def test_losses_and_gradients_of_a_training_step(folder, phase):
    meta, values, gradients, recorded = after(folder, phase)
    losses, network = meta["losses"], phase[0].upper()
    assert values["all"] == pytest.approx(losses[f"train_{network}.Total"], rel=1e-4)
    for name, gradient in recorded.items():
        error = (gradients[name] - gradient).abs().max().item()
        assert error <= 1e-3 * gradient.abs().max().item(), f"{name}: {error:.3g}"
    if f"norm_{network}" in losses:
        norm = torch.stack([g.norm() for g in gradients.values()]).norm().item()
        assert norm == pytest.approx(losses[f"norm_{network}"], rel=1e-3)


@steps
def test_parts_of_the_losses(folder):
    meta, g, _, _ = after(folder, "generator")
    _, d, _, _ = after(folder, "discriminator")
    losses, process = meta["losses"], meta["process_kwargs"]
    if "train_D.R1_raw" in losses and process["r1_lambda"]:
        r1 = process["r1_lambda"] / 2 * losses["train_D.R1_raw"]
        assert d["loss/r1"] == pytest.approx(r1, rel=1e-3)
    if "train_G.Cons" in losses and process.get("cons_lambda"):
        assert g["loss/consistency"] == pytest.approx(losses["train_G.Cons"], rel=1e-4)
    if "train_G.Pos" in losses:
        fake = process["pos_lambda"] * g["pose/generator"]
        assert fake == pytest.approx(losses["train_G.Pos"], rel=1e-4)
    if "train_D.Pos" in losses:
        fake = process["pos_lambda"] * d["pose/fake"]
        real = process["real_pos_lambda"] * d["pose/real"]
        assert fake + real == pytest.approx(losses["train_D.Pos"], rel=1e-4)
    if "train_G.Main" in losses:
        patch = losses.get("train_G.Patch", 0.0)
        assert g["loss/generator"] == pytest.approx(losses["train_G.Main"] + patch, rel=1e-4)


@steps
def test_clipping_is_by_the_norm_of_all_gradients(folder):
    meta, _, gradients, _ = after(folder, "generator")
    limit = meta.get("grad_clip", 0.3)
    parameters = [torch.nn.Parameter(g.clone()) for g in gradients.values()]
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = gradient.clone()
    adam = replace(Recorded(folder).optimizer_g, clip_norm=limit)
    adam.clip(parameters)
    scale = min(1.0, limit / torch.stack([g.norm() for g in gradients.values()]).norm().item())
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        assert torch.allclose(parameter.grad, scale * gradient, rtol=2e-3, atol=1e-7)
