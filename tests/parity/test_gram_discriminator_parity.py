"""Discriminators of GRAM and GRAM-HD against the published ones: every case folder that has one, and the parts."""

import json
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.gram import DISCRIMINATOR_NAMES
from gan3d.discriminators import GRAMDiscriminator
from gan3d.discriminators.gram import PatchGAN
from gan3d.discriminators.pigan import ResidualBlock
from gan3d.layers.coord_conv import coordinates

GOLDEN = Path(os.environ.get("GAN3D_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden").resolve()
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden numbers at {GOLDEN}; set GAN3D_GOLDEN"))
CLASSES = {"GramEncoderDiscriminator": False, "GramEncoderPatchDiscriminator": True}  # whether there is a patch part
KNOWN = {
    *("discriminator", "discriminator_channels", "discriminator_img_size", "discriminator_note"),
    *("patch_width", "patch_layers", "patch_norm"),
}
KNOWN_OF_FORMULA = {
    *("case", "torch", "dtype", "device", "threads", "removed_randomness", "provenance", "discriminator", "img_size"),
    *("salt", "kwargs", "parameters", "weights", "table"),
}
renamed = DISCRIMINATOR_NAMES.ours


def formula(key: str, shape: list[int], mean: float, std: float, salt: int) -> Tensor:
    """Tensors that are not stored (golden/gramhd/README.md)."""
    j = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    x = j * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(key.encode()) + salt * 2**32)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    u = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(mean + std * np.sqrt(12) * (u - 0.5)).float().reshape(shape)


@dataclass(frozen=True)
class Case:
    folder: Path

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text())

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """Outputs by their names after `D.`."""
        tensors = load_file(self.folder / "outputs.safetensors")
        return {name.removeprefix("D."): t for name, t in tensors.items()}

    @property
    def stored(self) -> bool:
        return (self.folder / "weights_D.safetensors").is_file()

    def image(self) -> Tensor:
        if self.stored:
            return load_file(self.folder / "inputs.safetensors")["real"]
        side = self.meta["img_size"]
        return formula("image", [len(self.expected["logit"]), 3, side, side], 0, 0.5, self.meta["salt"])

    def judge(self) -> GRAMDiscriminator:
        """The discriminator that meta.json describes, with its weights."""
        meta, patch = self.meta, CLASSES[self.meta["discriminator"]]
        if self.stored:
            assert {key for key in meta if key.startswith(("discriminator", "patch"))} <= KNOWN
            assert meta.get("patch_norm", "Identity") == "Identity"
            state = load_file(self.folder / "weights_D.safetensors")
            judge = GRAMDiscriminator(
                img_resolution=meta["discriminator_img_size"],
                patch=patch,
                channels=tuple(meta["discriminator_channels"]) if "discriminator_channels" in meta else None,
                patch_width=meta.get("patch_width"),
                patch_layers=meta.get("patch_layers"),
            )
        else:
            assert set(meta) <= KNOWN_OF_FORMULA
            assert set(meta["kwargs"]) <= {"norm_layer"}
            assert "Identity" in meta["kwargs"].get("norm_layer", "Identity")
            state = {
                key: formula(key, shape, mean, std, meta["salt"]) for key, (shape, mean, std) in meta["table"].items()
            }
            judge = GRAMDiscriminator(img_resolution=meta["img_size"], patch=patch)
        judge.load_state_dict({renamed(key): t for key, t in state.items()})
        return judge


def cases(*files: str) -> list:
    """Case folders with a discriminator and these files."""
    found = [file.parent for file in sorted((GOLDEN / "gramhd").glob("*/meta.json"))]
    found = [folder for folder in found if all((folder / name).is_file() for name in files)]
    metas = {folder: json.loads((folder / "meta.json").read_text()) for folder in found}
    return [
        pytest.param(Case(folder), id=folder.name)
        for folder, meta in metas.items()
        if "discriminator" in meta and ((folder / "weights_D.safetensors").is_file() or "table" in meta)
    ] or [ABSENT]


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
@pytest.mark.parametrize("case", cases("outputs.safetensors"))
def test_gram_judgement_is_the_published_one(case, near):
    expected, judged = case.expected, case.judge()(case.image())
    near(judged.logits[:, None], expected["logit"])
    near(judged.pose, expected["pose"])
    assert (judged.patch_logits is None) == ("patch" not in expected)
    if judged.patch_logits is not None:
        near(judged.patch_logits.flatten(1), expected["patch"])
        near(judged.patch_logits, expected.get("patch_map", judged.patch_logits))


@torch.no_grad()
@pytest.mark.parametrize("case", cases("weights_D.safetensors", "outputs.safetensors"))
def test_gram_layers_are_the_published_ones(case, near):
    expected, judge, image = case.expected, case.judge(), case.image()
    x = torch.nn.functional.leaky_relu(judge.from_rgb(image), 0.2)
    near(x[: len(expected["fromRGB"])], expected["fromRGB"])
    if "layer0" in expected:
        near(judge.layers[0](x), expected["layer0"])
    if "coords" in expected:
        near(torch.cat([x[:1, :1], coordinates(*x.shape[2:])], 1), expected["coords"])


@pytest.mark.parametrize("case", cases("weights_D.safetensors", "grads.safetensors"))
def test_gram_r1_and_its_gradients_are_the_published_ones(case):
    judge, image, process = case.judge(), case.image().requires_grad_(True), case.meta["process_kwargs"]
    patch_weight = process.get("patch_lambda", 0) * process.get("r1_patch", False)
    (gradient,) = torch.autograd.grad(target(judge, image, patch_weight), image, create_graph=True)
    penalty = gradient.square().sum([1, 2, 3]).mean()
    assert penalty.item() == pytest.approx(case.meta["losses"]["train_D.R1_raw"], rel=1e-4)
    penalty.backward()
    stored = load_file(case.folder / "grads.safetensors")
    wanted = {name.removeprefix("r1.grad."): t for name, t in stored.items() if name.startswith("r1.grad.")}
    assert wanted
    for name, tensor in wanted.items():
        near_its_largest(judge.get_parameter(renamed(name)).grad, tensor)


@pytest.mark.parametrize("case", cases("outputs.safetensors"))
def test_gram_parameters_are_the_published_ones(case):
    if "table" not in case.meta:
        return
    with torch.device("meta"):
        judge = GRAMDiscriminator(img_resolution=case.meta["img_size"], patch=CLASSES[case.meta["discriminator"]])
    ours = {name: list(p.shape) for name, p in judge.named_parameters()}
    assert ours == {renamed(name): facts[0] for name, facts in case.meta["table"].items()}
    assert sum(p.numel() for p in judge.parameters()) == case.meta["parameters"]


# ------------------------------------------------------------------------------------------------------------- parts

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
        stored = {k.replace(f"{name}.w.", "layers.0."): t for k, t in parts.items() if k.startswith(f"{name}.w.")}
        state = {renamed(k).removeprefix("layers.0."): t for k, t in stored.items()}
        block = ResidualBlock(parts[f"{name}.x"].shape[1], parts[f"{name}.y"].shape[1])
        block.load_state_dict(state)
        near(block(parts[f"{name}.x"]), parts[f"{name}.y"])


@PARTS
@torch.no_grad()
def test_gram_patch_discriminator_is_the_published_one(parts, near):
    state = {k.replace("patch.w.", "patchgan."): t for k, t in parts.items() if k.startswith("patch.w.")}
    state = {renamed(k).removeprefix("patchgan."): t for k, t in state.items()}
    patchgan = PatchGAN(len(state["convs.0.bias"]), len(state) - 4)  # D + 2 convolutions, two of them with a bias
    patchgan.load_state_dict(state)
    near(patchgan(parts["patch.x"]), parts["patch.y"])
