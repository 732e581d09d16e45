"""Discriminators of GRAM and GRAM-HD against the published ones: every case folder that has one,
and the parts.
"""

import runpy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gan3d.discriminators import GRAMDiscriminator
from gan3d.discriminators.gram import PatchGAN
from gan3d.discriminators.pigan import CoordResidualBlock
from gan3d.layers.coord_conv import coordinates

gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))
renamed = gram.our_judge_name


@dataclass(frozen=True)
class Case:
    folder: Path

    @cached_property
    def meta(self) -> dict:
        return gram.read_meta(self.folder)

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """Outputs by their names after `D.`."""
        tensors = gram.tensors(self.folder, "outputs*.safetensors")
        return {name.removeprefix("D."): t for name, t in tensors.items()}

    def image(self) -> Tensor:
        if "real" in (inputs := gram.tensors(self.folder, "inputs*.safetensors")):
            return inputs["real"]
        side = self.meta["img_size"]
        return gram.formula(
            "image", [len(self.expected["logit"]), 3, side, side], 0, 0.5, self.meta["salt"]
        )

    def judge(self) -> GRAMDiscriminator:
        return gram.judge(self.folder)


def cases(*outputs: str, files: tuple[str, ...] = ()) -> list:
    """Case folders with a discriminator, these files, and these outputs.

    The output of a full-size case has no prefix `D.`.
    """

    def holds(folder: Path) -> bool:
        found = gram.golden.tensor_names(folder, "outputs*.safetensors")
        return {f"D.{name}" for name in outputs} <= found or set(outputs) <= found

    found = [Case(p.values[0]) for p in gram.folders(lambda meta: "discriminator" in meta, *files)]
    found = [
        c for c in found if "table" in c.meta or gram.golden.has(c.folder, "weights_D*.safetensors")
    ]
    return [pytest.param(case, id=case.folder.name) for case in found if holds(case.folder)]


def near_its_largest(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def target(judge: GRAMDiscriminator, image: Tensor, patch_weight: float) -> Tensor:
    """What R1 differentiates: the sum over images of logit + patch_weight * mean patch logit."""
    judged = judge(image)
    value = judged.logits.sum()
    if patch_weight and judged.patch_logits is not None:
        value = value + patch_weight * judged.patch_logits.mean((1, 2, 3)).sum()
    return value


@torch.no_grad()
@pytest.mark.parametrize("case", cases("logit"))
def test_gram_judgement_is_the_published_one(case, near):
    expected, judged = case.expected, case.judge()(case.image())
    near(judged.logits[:, None], expected["logit"])
    if "pose" in expected:
        near(judged.pose, expected["pose"])
    assert judged.patch_logits is not None or "patch" not in expected
    if "patch" in expected:
        near(judged.patch_logits.flatten(1), expected["patch"])
    if "patch_map" in expected:
        near(judged.patch_logits, expected["patch_map"])


@torch.no_grad()
@pytest.mark.parametrize("case", cases("fromRGB", files=("inputs*.safetensors",)))
def test_gram_layers_are_the_published_ones(case, near):
    expected, judge, image = case.expected, case.judge(), case.image()
    x = torch.nn.functional.leaky_relu(judge.from_rgb(image), 0.2)
    near(x[: len(expected["fromRGB"])], expected["fromRGB"])
    if "layer0" in expected:
        near(judge.layers[0](x), expected["layer0"])
    if "coords" in expected:
        near(torch.cat([x[:1, :1], coordinates(*x.shape[2:])], 1), expected["coords"])


def r1_cases() -> list:
    return [
        p
        for p in cases()
        if gram.golden.holds(p.values[0].folder, "grads*.safetensors", "r1.grad.*")
    ]


@pytest.mark.parametrize("case", r1_cases())
def test_gram_r1_and_its_gradients_are_the_published_ones(case):
    judge = case.judge()
    image = case.image().requires_grad_(True)
    process = case.meta.get("process_kwargs", {})
    patch_weight = process.get("patch_lambda", 0) * process.get("r1_patch", True)
    (gradient,) = torch.autograd.grad(target(judge, image, patch_weight), image, create_graph=True)
    penalty = gradient.square().sum([1, 2, 3]).mean()
    if "train_D.R1_raw" in case.meta.get("losses", {}):
        assert penalty.item() == pytest.approx(case.meta["losses"]["train_D.R1_raw"], rel=1e-4)
    penalty.backward()
    stored = gram.tensors(case.folder, "grads*.safetensors")
    wanted = {
        name.removeprefix("r1.grad."): t
        for name, t in stored.items()
        if name.startswith("r1.grad.")
    }
    for name, tensor in wanted.items():
        near_its_largest(judge.get_parameter(renamed(name)).grad, tensor)


@pytest.mark.parametrize("case", [p for p in cases() if "table" in p.values[0].meta])
def test_gram_parameters_are_the_published_ones(case):
    with torch.device("meta"):
        judge = GRAMDiscriminator(
            img_resolution=case.meta["img_size"], patch=gram.PATCH[case.meta["discriminator"]]
        )
    ours = {name: list(p.shape) for name, p in judge.named_parameters()}
    assert ours == {renamed(name): facts[0] for name, facts in case.meta["table"].items()}
    if "parameters" in case.meta:
        assert sum(p.numel() for p in judge.parameters()) == case.meta["parameters"]


# -- parts -----------------------------------------------------------------------------------------

PARTS = pytest.mark.golden_cases("gramhd", "disc_blocks.safetensors")


@pytest.fixture
def parts(folder, load):
    return load(folder / "disc_blocks.safetensors")


@PARTS
def test_gram_coordinates_are_the_published_ones(parts, near):
    near(coordinates(*parts["coords"].shape[2:]), parts["coords"][:, 1:])


@PARTS
@torch.no_grad()
def test_gram_blocks_are_the_published_ones(parts, near):
    for name in ("same", "proj"):
        stored = {
            k.replace(f"{name}.w.", "layers.0."): t
            for k, t in parts.items()
            if k.startswith(f"{name}.w.")
        }
        state = {renamed(k).removeprefix("layers.0."): t for k, t in stored.items()}
        block = CoordResidualBlock(parts[f"{name}.x"].shape[1], parts[f"{name}.y"].shape[1])
        block.load_state_dict(state)
        near(block(parts[f"{name}.x"]), parts[f"{name}.y"])


@PARTS
@torch.no_grad()
def test_gram_patch_discriminator_is_the_published_one(parts, near):
    state = {
        k.replace("patch.w.", "patchgan."): t for k, t in parts.items() if k.startswith("patch.w.")
    }
    state = {renamed(k).removeprefix("patchgan."): t for k, t in state.items()}
    patchgan = PatchGAN(
        len(state["convs.0.bias"]), len(state) - 4
    )  # D + 2 convolutions, two of them with a bias
    patchgan.load_state_dict(state)
    near(patchgan(parts["patch.x"]), parts["patch.y"])
