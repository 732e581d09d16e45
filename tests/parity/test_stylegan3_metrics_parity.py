"""Equivariance, FID, KID, precision, recall and arcs against the reference numbers of golden/stylegan3.

A case is a pair name.json, name.safetensors; its kind is the beginning of its name: eqops*, eqmetric*, scores*.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.generators import StyleGAN3
from gan3d.metrics.bandlimit import (
    band_limit_filter,
    pseudo_rotate,
    rotate,
    shift_fractional,
    shift_integer,
    transform,
)
from gan3d.metrics.equivariance import Equivariance, Kind
from gan3d.metrics.frechet import feature_moments, frechet_distance
from gan3d.metrics.kernel import kernel_distance
from gan3d.metrics.path_length import slerp
from gan3d.metrics.precision_recall import precision_and_recall

GOLDEN = Path(os.environ.get("GAN3D_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden").resolve()
FOLDER = GOLDEN / "stylegan3"
ABSENT = f"no golden numbers at {GOLDEN}; set GAN3D_GOLDEN"
NO_VALUE = {"what", "notes", "versions"}
FILTER_OPTIONS = {"a", "amax", "aflt", "up", "cutoff_in", "cutoff_out"}


@dataclass(frozen=True)
class Case:
    """One pair of files."""

    path: Path

    @property
    def facts(self) -> dict:
        return {k: v for k, v in json.loads(self.path.read_text()).items() if k not in NO_VALUE}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))


def cases(kind: str):
    """All cases of a kind, found by walking the folder."""
    if not GOLDEN.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))]
    found = [pytest.param(Case(path), id=path.stem) for path in sorted(FOLDER.rglob(f"{kind}*.json"))]
    assert found, f"no case {kind}*.json in {FOLDER}"
    return found


def only(options: dict, known: set[str]) -> dict:
    """The options, none of which is unknown to the test."""
    assert set(options) <= known, f"the case has options that this test does not know: {set(options) - known}"
    return options


def compare(near, moved: tuple[Tensor, Tensor], tensors: dict[str, Tensor], name: str) -> None:
    z, mask = moved
    near(z, tensors[f"{name}.z"])
    assert torch.equal(mask.to(tensors[f"{name}.m"].dtype), tensors[f"{name}.m"]), f"mask of {name}"


@pytest.mark.parametrize("case", cases("eqops"))
def test_shifts(case, near):
    tensors, facts = case.tensors, case.facts
    for i, options in enumerate(facts.get("integer", [])):
        only(options, {"src", "tx", "ty"})
        compare(near, shift_integer(tensors[options["src"]], options["tx"], options["ty"]), tensors, f"int{i}")
    for i, options in enumerate(facts.get("fractional", [])):
        only(options, {"src", "tx", "ty", "a"})
        shifted = shift_fractional(tensors[options["src"]], options["tx"], options["ty"], options.get("a", 3))
        compare(near, shifted, tensors, f"frac{i}")


@pytest.mark.parametrize("case", cases("eqops"))
def test_rotations_and_pseudo_rotations(case, near):
    tensors, facts = case.tensors, case.facts
    rotations = facts.get("rotation", [])
    for i, options in enumerate(rotations):
        only(options, {"src", "angle", "a"})
        compare(near, rotate(tensors[options["src"]], options["angle"], options.get("a", 3)), tensors, f"rot{i}")
    for i, options in enumerate(facts.get("pseudo") or rotations):  # where none are listed: those of the rotations
        only(options, {"src", "angle", "a"})
        if f"pse{i}.z" in tensors:
            x = tensors[options["src"] if facts.get("pseudo") else "x"]
            compare(near, pseudo_rotate(x, options["angle"], options.get("a", 3)), tensors, f"pse{i}")


@pytest.mark.parametrize("case", cases("eqops"))
def test_band_limit_filters_and_what_they_transform(case, near):
    tensors, facts = case.tensors, case.facts
    assert not facts.get("affine"), "the case lists affine maps by themselves, which this test does not know"
    only(facts, {"integer", "fractional", "rotation", "pseudo", "affine", "filter"})
    for i, options in enumerate(facts.get("filter", [])):
        only(options, FILTER_OPTIONS)
        mat = tensors[f"filt{i}.mat"]
        near(band_limit_filter(mat, **options), tensors[f"filt{i}.f"], 1e-6)
        if f"filt{i}.z" in tensors:
            compare(near, transform(tensors["x"], mat, **options), tensors, f"filt{i}")


@pytest.mark.parametrize("case", cases("eqmetric"))
def test_equivariance_of_the_reference_networks(case):
    """Official decibels, from recorded latents, offsets and angles; above 95 dB they are float32 noise."""
    recorded: dict[str, tuple[Kind, str]] = {
        "eqt_int": ("eqt", "t_int"),
        "eqt_frac": ("eqt_frac", "t_frac"),
        "eqr": ("eqr", "angle"),
    }
    tensors = case.tensors
    for name, facts in case.facts.items():
        only(facts, {"num_samples", "batch_size", *recorded})
        generator, ws = reference(case.path.with_name(f"{name}.json")), tensors[f"{name}.ws"]
        assert ws.shape[0] * ws.shape[1] == facts["num_samples"]
        assert ws.shape[1] == facts["batch_size"]
        for key, (kind, motions) in recorded.items():
            metric = Equivariance(generator.synthesise, kind)
            for latents, motion in zip(ws, tensors[f"{name}.{motions}"].tolist(), strict=True):
                original = generator.synthesise(latents, torch.eye(3)).detach()
                metric.update(latents, original, tuple(motion) if isinstance(motion, list) else motion)
            tolerance = 0.5 if facts[key] > 95 else 0.01
            assert metric.compute().item() == pytest.approx(facts[key], abs=tolerance), f"{name} {key}"


def reference(path: Path) -> StyleGAN3:
    """The generator of another case of the folder, with its weights."""
    options = dict(json.loads(path.read_text())["kwargs"])
    mapping = options.pop("mapping_kwargs", {})
    names = {"num_layers": "mapping_layers", "lr_multiplier": "mapping_lr_multiplier", "w_avg_beta": "w_avg_beta"}
    options |= {names[key]: value for key, value in mapping.items()}
    options = {"conv_kernel": 3, "use_radial_filters": False, "magnitude_ema_beta": 0.999, **options}
    generator = StyleGAN3(config="T", **options)
    tensors = load_file(path.with_suffix(".safetensors"))
    generator.load_state_dict({k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")})
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("case", cases("scores"))
def test_scores_of_given_features(case):
    facts, tensors = case.facts, case.tensors
    only(
        facts,
        {"nhood", "max_subset_size", "num_subsets", "kid_numpy_seed", "fid", "kid", "precision", "recall"},
    )
    real, fake = tensors["real"], tensors["fake"]
    fid = frechet_distance(*feature_moments(real), *feature_moments(fake))
    assert fid.item() == pytest.approx(facts["fid"], abs=1e-4 * max(1, facts["fid"]))
    kid = kernel_distance(
        real,
        fake,
        num_subsets=facts["num_subsets"],
        max_subset_size=facts["max_subset_size"],
        seed=facts["kid_numpy_seed"],
    )
    assert kid.item() == pytest.approx(facts["kid"], abs=1e-4 * max(1, facts["kid"]))
    precision, recall = precision_and_recall(real, fake, neighbours=facts["nhood"])
    assert precision.item() == pytest.approx(facts["precision"], abs=1e-6)
    assert recall.item() == pytest.approx(facts["recall"], abs=1e-6)


@pytest.mark.parametrize("case", cases("scores"))
def test_arcs(case, near):
    tensors = case.tensors
    near(slerp(tensors["slerp_a"], tensors["slerp_b"], tensors["slerp_t"]), tensors["slerp"])
