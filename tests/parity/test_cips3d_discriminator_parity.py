"""CIPS-3D's discriminators against the published ones: every run of every case folder, and the
parts (components).
"""

import json
import re
import runpy
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from gan3d.augment.diffaug import diff_augment
from gan3d.checkpoints.official.cips3d import DISCRIMINATOR_NAMES, discriminator_arguments
from gan3d.checkpoints.official.networks import Network
from gan3d.discriminators import CIPS3DDiscriminator
from gan3d.discriminators.cips3d import ResidualBlock
from gan3d.layers.linear import EqualizedLinear
from gan3d.ops.resample import upfirdn2d
from gan3d.randomness import Recorded

golden_cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))
FOLDERS = sorted(file.parent for file in (golden_cases.GOLDEN / "cips3d").glob("*/config.json"))

renamed = DISCRIMINATOR_NAMES.ours
# fmt: off
KNOWN = {
    "aux_channels", "aux_first_downsample", "batch", "d_reg_every", "main_channels",
    "main_first_downsample", "max_size", "n_params", "n_params_aux", "n_params_main", "r1_lambda",
    "runs", "shapes", "stddev_group", "weights", "weights_rule",
}
# fmt: on
KNOWN_OF_RUN = {"alpha", "batch", "parameters_without_gradient", "res", "use_aux_disc"}


def formula(config: dict) -> dict[str, Tensor]:
    """Weights that are not stored, by the rule in the configuration (golden/cips3d/README.md)."""
    table = config.get("weights")
    if table is None:
        bias, rest = (float(x) for x in re.findall(r"std ([\d.]+)(?=;|$)", config["weights_rule"]))
        table = {
            key: {"shape": shape, "mean": 0.0, "std": bias if key.endswith("bias") else rest}
            for key, shape in config["shapes"].items()
        }
    return {
        key: torch.from_numpy(
            fact["mean"]
            + fact["std"]
            * np.random.RandomState(zlib.crc32(key.encode())).standard_normal(fact["shape"])
        ).float()
        for key, fact in table.items()
        if not key.endswith(".kernel")
    }


def loaded(state: dict[str, Tensor], config: dict) -> CIPS3DDiscriminator:
    """The discriminator of a published state dict, which gives its channels and layout."""

    arguments = discriminator_arguments(Network(state), group_size=config.get("stddev_group", 0))
    # Stored weights have the blur where the layer halves; formula weights have none.
    for ours, theirs in (
        ("first_downsample", "main_first_downsample"),
        ("aux_first_downsample",) * 2,
    ):
        arguments[ours] = config.get(theirs, arguments[ours])
    judge = CIPS3DDiscriminator(**arguments)
    # What is left over: `resample_filter` of layers that keep the size.
    missing, unexpected = judge.load_state_dict(
        {renamed(key): t for key, t in state.items()}, strict=False
    )
    assert unexpected == []
    assert all(name.endswith("resample_filter") for name in missing)
    return judge


@dataclass(frozen=True)
class Run:
    """One run of a discriminator case: what went in, and what came out."""

    folder: Path
    index: int

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def facts(self) -> dict:
        return self.config["runs"][self.index]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        start = f"run{self.index}."
        tensors = load_file(self.folder / "io.safetensors")
        return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}

    def judge(self) -> CIPS3DDiscriminator:
        stored = self.folder / "weights.safetensors"
        judge = loaded(load_file(stored) if stored.is_file() else formula(self.config), self.config)
        judge.fade = self.facts.get("alpha", 1.0)
        return judge


def logits_of(judge: CIPS3DDiscriminator, x: Tensor, both: bool) -> Tensor:
    """Logits of a published batch: main images, then auxiliary ones where both are judged."""
    image, raw = x.chunk(2) if both else (x, None)
    judged = judge(image, raw=raw)
    return (
        judged.logits
        if judged.raw_logits is None
        else torch.cat([judged.logits, judged.raw_logits])
    )


def runs(*, first_only: bool = False) -> list:
    configs = {folder: json.loads((folder / "config.json").read_text()) for folder in FOLDERS}
    return [
        pytest.param(Run(folder, i), id=f"{folder.name}-{i}")
        for folder, config in configs.items()
        if "max_size" in config
        for i in range(1 if first_only else len(config["runs"]))
    ]


def train_steps() -> list:
    found = [
        f for f in FOLDERS if golden_cases.has(f, "weights_D.safetensors", "grads_D.safetensors")
    ]
    return [
        pytest.param(f, id=f.name)
        for f in found
        if golden_cases.holds(f, "io.safetensors", "D.fake")
    ]


def near_its_largest(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


every_run = pytest.mark.parametrize("run", runs())


@pytest.mark.parametrize("run", runs(first_only=True))
def test_cips3d_configuration_holds_nothing_that_is_not_heeded(run):
    config, judge = run.config, run.judge()
    arguments = judge.arguments
    assert golden_cases.unheeded(config, KNOWN) == []
    assert [golden_cases.unheeded(facts, KNOWN_OF_RUN) for facts in config["runs"]] == [[]] * len(
        config["runs"]
    )
    assert arguments["img_resolution"] == config["max_size"]
    for ours, theirs in (("channels", "main_channels"), ("aux_channels", "aux_channels")):
        if theirs in config:
            table = {int(size): width for size, width in config[theirs].items()}
            assert list(arguments[ours]) == [table[size] for size in sorted(table, reverse=True)]
    if "shapes" in config:
        shapes = {name: list(p.shape) for name, p in judge.named_parameters()}
        assert shapes == {renamed(name): shape for name, shape in config["shapes"].items()}
    for key, network in (
        ("n_params", judge),
        ("n_params_main", judge.main_disc),
        ("n_params_aux", judge.aux_disc),
    ):
        if key in config:
            assert sum(p.numel() for p in network.parameters()) == config[key]


@every_run
def test_cips3d_logits_and_their_gradient_are_the_published_ones(run, near):
    x = run.tensors["x"].requires_grad_(True)
    logits = logits_of(run.judge().requires_grad_(False), x, run.facts["use_aux_disc"])
    near(logits[:, None].detach(), run.tensors["logits"])
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    near_its_largest(gradient, run.tensors["dlogits_dx"])


@every_run
def test_cips3d_r1_and_the_gradients_of_weights_are_the_published_ones(run, near):
    expected, judge = run.tensors, run.judge()
    if "loss" not in expected:
        return
    x = expected["x"].requires_grad_(True)
    logits = logits_of(judge, x, run.facts["use_aux_disc"])
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    scale = 0.5 * run.config["r1_lambda"] * run.config["d_reg_every"]
    penalty = scale * gradient.square().sum([1, 2, 3])
    near_its_largest(penalty.detach()[:, None], expected["r1_per_sample"])
    loss = (F.softplus(-logits) + penalty).mean()
    near(loss.detach()[None], expected["loss"])
    loss.backward()
    for name, tensor in expected.items():
        if name.startswith("grad."):
            near_its_largest(judge.get_parameter(renamed(name.removeprefix("grad."))).grad, tensor)
    if "parameters_without_gradient" in run.facts:
        idle = sum(p.grad is None for p in judge.parameters())
        assert idle == run.facts["parameters_without_gradient"]


@pytest.mark.parametrize("folder", train_steps())
def test_cips3d_discriminator_step_is_the_published_one(folder, near):
    """Loss, R1 and every gradient of one discriminator step, on stored fakes."""
    config = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    judge = loaded(load_file(folder / "weights_D.safetensors"), config)
    both, judge.fade = config["train_aux_img"], config.get("alpha", 1.0)
    real = io["real"].repeat(1 + both, 1, 1, 1).requires_grad_(True)
    of_real, of_fake = logits_of(judge, real, both), logits_of(judge, io["D.fake"], both)
    near(of_real[:, None].detach(), io["D.real_logits"])
    near(of_fake[:, None].detach(), io["D.fake_logits"])
    (gradient,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
    penalty = 0.5 * config["r1_lambda"] * config["d_reg_every"] * gradient.square().sum([1, 2, 3])
    near_its_largest(penalty.detach()[:, None], io["D.r1_per_sample"])
    loss = (F.softplus(of_fake) + F.softplus(-of_real) + penalty).mean()
    near(loss.detach()[None], io["D.loss"])
    loss.backward()
    expected = {renamed(name): t for name, t in load_file(folder / "grads_D.safetensors").items()}
    for name, gradient in expected.items():
        near_its_largest(judge.get_parameter(name).grad, gradient)
    idle = {name for name, parameter in judge.named_parameters() if parameter.grad is None}
    if "D_without_gradient" in config:
        assert {renamed(name) for name in config["D_without_gradient"]} == idle
    else:
        assert dict(judge.named_parameters()).keys() - expected == idle


@pytest.mark.golden_file("cips3d/init_stats.json", "cips3d_D_main_max64")
def test_cips3d_initial_weights_are_spread_like_the_published_ones(golden):
    published = json.loads((golden / "cips3d/init_stats.json").read_text())["cips3d_D_main_max64"]
    ours = dict(CIPS3DDiscriminator(img_resolution=64, aux=False).named_parameters())
    for name, facts in published.items():
        mine = ours.get(renamed(f"main_disc.{name}"))
        if mine is None:
            continue  # published entrances of larger sizes
        assert list(mine.shape) == facts["shape"]
        spread = (
            6 / max(1, mine.numel()) ** 0.5
        )  # six standard errors of mean and deviation of N(0, 1)
        assert mine.std(unbiased=False).item() == pytest.approx(
            facts["std"], abs=spread if facts["std"] else 0
        )
    assert len(set(ours) & {renamed(f"main_disc.{name}") for name in published}) == len(ours)


# -- parts -----------------------------------------------------------------------------------------


PARTS = pytest.mark.golden_cases("cips3d", "disc_parts.safetensors", "components.json")


@pytest.fixture
def parts(folder, load):
    return load(folder / "disc_parts.safetensors")


@PARTS
def test_cips3d_blur_is_the_published_one(parts, near):
    """A lopsided kernel: true convolution, not correlation."""
    x, kernel = parts["blur.x"], parts["blur.kernel"]
    near(upfirdn2d(x, kernel, padding=2), parts["blur.pad22"])
    near(upfirdn2d(x, kernel, padding=1), parts["blur.pad11"])


@PARTS
def test_cips3d_residual_blocks_are_the_published_ones(folder, parts, near):
    cases = json.loads((folder / "components.json").read_text())["disc_parts"]["res"]
    assert cases
    for i, case in enumerate(cases):
        block = ResidualBlock(
            case["c_in"], case["c_out"], first_downsample=case["first_downsample"]
        )
        start, place = f"res{i}.sd.", "main_disc.convs.8."
        stored = {
            f"{place}{k.removeprefix(start)}": t for k, t in parts.items() if k.startswith(start)
        }
        state = {renamed(name).removeprefix(place): t for name, t in stored.items()}
        missing, unexpected = block.load_state_dict(state, strict=False)
        assert unexpected == []
        assert all(name.endswith("resample_filter") for name in missing)
        near(block(parts[f"res{i}.x"]).detach(), parts[f"res{i}.y"])


@PARTS
def test_cips3d_equalized_linear_layer_is_the_published_one(parts, near):
    layer = EqualizedLinear(*parts["lin.sd.weight"].T.shape, activation="lrelu")
    layer.load_state_dict({"weight": parts["lin.sd.weight"], "bias": parts["lin.sd.bias"]})
    near(layer(parts["lin.x"]).detach(), parts["lin.y"])


@pytest.mark.golden_cases("cips3d", "diffaug.safetensors")
def test_cips3d_diffaugment_is_the_published_one(folder, load, near):
    t = load(folder / "diffaug.safetensors")
    most = int(t["x"].shape[-1] / 8 + 0.5)
    draws = Recorded(
        {
            **{name: t[f"{name}_u"] for name in ("brightness", "saturation", "contrast")},
            "translation": torch.stack([t["trans_h"], t["trans_w"]], 1) + most,
            "cutout": torch.stack([t["cut_h"], t["cut_w"]], 1),
        }
    )
    near(diff_augment(t["x"], draws), t["y"], 1e-6)
