"""pi-GAN's discriminators against the published ones: every run of every case folder that names
one.
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

from gan3d.checkpoints.official.pigan import DEAD, DISCRIMINATOR_NAMES
from gan3d.discriminators import PiGANDiscriminator

golden_cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))
renamed = DISCRIMINATOR_NAMES.ours
KNOWN = {"batch", "cls", "d_reg_every", "n_params", "r1_lambda", "runs", "shapes", "weights_rule"}
KNOWN_OF_RUN = {"alpha", "batch", "res"}


def formula(config: dict) -> dict[str, Tensor]:
    """Weights that are not stored, by the rule in the configuration (golden/cips3d/README.md)."""
    pattern = (
        r"biases: mean 0 std ([\d.]+); "
        r"other tensors: mean 0, std ([\d.]+)/sqrt\(number of elements per output"
    )
    rule = re.match(pattern, config["weights_rule"])
    assert rule, config["weights_rule"]
    of_bias, of_rest = float(rule[1]), float(rule[2])
    weights = {}
    for key, shape in config["shapes"].items():
        std = of_bias if key.endswith("bias") else of_rest / np.sqrt(np.prod(shape[1:]))
        normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        weights[key] = torch.from_numpy(std * normal).float()
    return weights


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

    def judge(self) -> PiGANDiscriminator:
        """The discriminator of the configuration; its sizes follow from the state dict."""
        stored = self.folder / "weights.safetensors"
        state = load_file(stored) if stored.is_file() else formula(self.config)
        kind = self.config["cls"].removesuffix("Discriminator")
        entrances = sum(bool(re.fullmatch(r"fromRGB\.\d+\.model\.0\.bias", key)) for key in state)
        judge = PiGANDiscriminator(
            img_resolution=2**entrances,
            kind=kind,
            z_dim=len(state["final_layer.bias"]) - 3 if kind.endswith("Encoder") else 256,
            channels=tuple(len(state[f"fromRGB.{i}.model.0.bias"]) for i in range(entrances)),
        )
        judge.load_state_dict(
            {renamed(key): t for key, t in state.items() if not key.startswith(DEAD)}
        )
        judge.fade = self.facts.get("alpha", 1.0)
        return judge


def runs() -> list:
    files = sorted((golden_cases.GOLDEN / "cips3d").glob("*/config.json"))
    configs = {file.parent: json.loads(file.read_text()) for file in files}
    return [
        pytest.param(Run(folder, i), id=f"{folder.name}-{i}")
        for folder, config in configs.items()
        if config.get("cls", "").endswith("Discriminator") and "runs" in config
        for i in range(len(config["runs"]))
    ]


def near_its_largest(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


every_run = pytest.mark.parametrize("run", runs())


@every_run
def test_pigan_judgement_is_the_published_one(run, near):
    assert golden_cases.unheeded(run.config, KNOWN) == []
    assert golden_cases.unheeded(run.facts, KNOWN_OF_RUN) == []
    x = run.tensors["x"].requires_grad_(True)
    judged = run.judge().requires_grad_(False)(x)
    near(judged.logits[:, None].detach(), run.tensors["logits"])
    for ours, theirs in ((judged.latent, "latent"), (judged.pose, "position")):
        assert (ours is None) == (theirs not in run.tensors)
        if ours is not None:
            near(ours.detach(), run.tensors[theirs])
    (gradient,) = torch.autograd.grad(judged.logits.sum(), x)
    near_its_largest(gradient, run.tensors["dlogits_dx"])


@every_run
def test_pigan_r1_and_the_gradients_of_weights_are_the_published_ones_where_they_are_stored(run):
    expected = run.tensors
    wanted = {
        renamed(key.removeprefix("grad.")): t
        for key, t in expected.items()
        if key.startswith("grad.")
    }
    if not wanted and "r1_per_sample" not in expected:
        return
    judge, x = run.judge(), expected["x"].requires_grad_(True)
    logits = judge(x).logits
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    penalty = (
        0.5 * run.config["r1_lambda"] * run.config["d_reg_every"] * gradient.square().sum([1, 2, 3])
    )
    near_its_largest(penalty.detach()[:, None], expected["r1_per_sample"])
    (F.softplus(-logits) + penalty).mean().backward()
    for name, tensor in wanted.items():
        near_its_largest(judge.get_parameter(name).grad, tensor)


@every_run
def test_pigan_parameters_are_the_published_ones(run):
    """Names, shapes and number, but for the published layer that nothing uses."""
    shapes, judge = run.config.get("shapes"), run.judge()
    if shapes is None:
        return
    ours = {name: list(p.shape) for name, p in judge.named_parameters()}
    assert ours == {
        renamed(name): shape for name, shape in shapes.items() if not name.startswith(DEAD)
    }
    dropped = sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith(DEAD))
    assert sum(p.numel() for p in judge.parameters()) == run.config["n_params"] - dropped


@pytest.mark.golden_file("cips3d/init_stats.json", "pigan_CCSEncoder")
def test_pigan_initial_weights_are_spread_like_the_published_ones(golden):
    published = json.loads((golden / "cips3d/init_stats.json").read_text())["pigan_CCSEncoder"]
    torch.manual_seed(0)
    ours = dict(PiGANDiscriminator(kind="CCSEncoder").named_parameters())
    assert set(ours) == {renamed(name) for name in published}
    for name, facts in published.items():
        mine = ours[renamed(name)]
        assert list(mine.shape) == facts["shape"]
        # Both deviations are of samples: seven standard errors of one (normal: 1 / sqrt(2n)).
        allowed = 7 * facts["std"] * (2 * mine.numel()) ** -0.5
        assert mine.std(unbiased=False).item() == pytest.approx(facts["std"], abs=allowed)
