"""Equivariance, FID, KID, precision, recall and arcs against the reference numbers of
golden/stylegan3.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

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

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))
FILTER_OPTIONS = {"a", "amax", "aflt", "up", "cutoff_in", "cutoff_out"}
# Lists of operations, and the beginnings of the names of their numbers.
OPERATIONS = {
    "integer": "int",
    "fractional": "frac",
    "rotation": "rot",
    "pseudo": "pse",
    "affine": "aff",
}
OPERATIONS |= {"filter": "filt"}


def only(options: dict, known: set[str]) -> dict:
    """The options, none of which is unknown to the test."""
    unknown = cases.unheeded(options, known)
    assert not unknown, f"the case has options that this test does not know: {unknown}"
    return options


def compare(near, moved: tuple[Tensor, Tensor], tensors: dict[str, Tensor], name: str) -> None:
    z, mask = moved
    near(z, tensors[f"{name}.z"])
    if f"{name}.m" in tensors:
        assert torch.equal(mask.to(tensors[f"{name}.m"].dtype), tensors[f"{name}.m"]), (
            f"mask of {name}"
        )


@pytest.fixture(params=cases.files("eqops"))
def helpers(request) -> SimpleNamespace:
    """A file of operations on pictures."""
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    only(facts, set(OPERATIONS))
    return SimpleNamespace(facts=facts, tensors=tensors)


def test_all_numbers_of_operations_are_compared(helpers):
    counts = {start: len(helpers.facts.get(name, [])) for name, start in OPERATIONS.items()}
    counts["pse"] = counts["pse"] or counts["rot"]
    results = {
        f"{start}{i}.{part}" for start, n in counts.items() for i in range(n) for part in ("z", "m")
    }
    results |= {
        f"{start}{i}.{part}"
        for start in ("aff", "filt")
        for i in range(counts[start])
        for part in ("mat", "f")
    }
    sources = {
        row["src"] for name in OPERATIONS for row in helpers.facts.get(name, []) if "src" in row
    }
    assert set(helpers.tensors) - results - sources - {"x"} == set()


def test_shifts(helpers, near):
    tensors, facts = helpers.tensors, helpers.facts
    for i, options in enumerate(facts.get("integer", [])):
        only(options, {"src", "tx", "ty"})
        x = tensors[options.get("src", "x")]
        compare(near, shift_integer(x, options["tx"], options["ty"]), tensors, f"int{i}")
    for i, options in enumerate(facts.get("fractional", [])):
        only(options, {"src", "tx", "ty", "a"})
        x = tensors[options.get("src", "x")]
        compare(
            near,
            shift_fractional(x, options["tx"], options["ty"], options.get("a", 3)),
            tensors,
            f"frac{i}",
        )


def test_rotations_and_pseudo_rotations(helpers, near):
    tensors, facts = helpers.tensors, helpers.facts
    rotations = facts.get("rotation", [])
    for i, options in enumerate(rotations):
        only(options, {"src", "angle", "a"})
        x = tensors[options.get("src", "x")]
        compare(near, rotate(x, options["angle"], options.get("a", 3)), tensors, f"rot{i}")
    for i, options in enumerate(
        facts.get("pseudo") or rotations
    ):  # where none are listed: those of the rotations
        only(options, {"src", "angle", "a"})
        if f"pse{i}.z" in tensors:
            x = tensors[options.get("src", "x") if facts.get("pseudo") else "x"]
            compare(
                near, pseudo_rotate(x, options["angle"], options.get("a", 3)), tensors, f"pse{i}"
            )


def test_band_limit_filters_and_what_they_transform(helpers, near):
    """Where affine maps are listed by themselves, they are read as those of the filters are."""
    tensors, facts = helpers.tensors, helpers.facts
    for kind in ("filter", "affine"):
        for i, given in enumerate(facts.get(kind, [])):
            name = f"{OPERATIONS[kind]}{i}"
            options = dict(only(given, FILTER_OPTIONS | {"src", "mat"}))
            x, stated = tensors.get(options.pop("src", "x")), options.pop("mat", None)
            mat = (
                tensors[f"{name}.mat"]
                if stated is None
                else torch.tensor(stated, dtype=torch.float64)
            )
            assert {f"{name}.f", f"{name}.z"} & set(tensors), (
                f"{kind} {i} has neither a filter nor a picture"
            )
            if f"{name}.f" in tensors:
                near(band_limit_filter(mat, **options), tensors[f"{name}.f"], 1e-6)
            if f"{name}.z" in tensors:
                compare(near, transform(x, mat, **options), tensors, name)


@pytest.mark.parametrize("path", cases.files("eqmetric"))
def test_equivariance_of_the_reference_networks(path):
    """Official decibels from recorded latents, offsets, angles; above 95 dB is float32 noise."""
    recorded: dict[str, tuple[Kind, str]] = {
        "eqt_int": ("eqt", "t_int"),
        "eqt_frac": ("eqt_frac", "t_frac"),
        "eqr": ("eqr", "angle"),
    }
    networks, tensors = cases.facts_of(path), cases.tensors_of(path)
    parts = ("ws", *(motions for _, motions in recorded.values()))
    assert set(tensors) <= {f"{name}.{part}" for name in networks for part in parts}
    for name in cases.unheeded(networks):
        facts = only(networks[name], {"num_samples", "batch_size", *recorded})
        generator, ws = reference(path.with_name(f"{name}.json")), tensors[f"{name}.ws"]
        assert facts.get("num_samples") in (None, ws.shape[0] * ws.shape[1])
        assert facts.get("batch_size") in (None, ws.shape[1])
        for key in recorded.keys() & set(facts):
            kind, motions = recorded[key]
            metric = Equivariance(generator.synthesize, kind)
            for latents, motion in zip(ws, tensors[f"{name}.{motions}"].tolist(), strict=True):
                original = generator.synthesize(latents, torch.eye(3)).detach()
                metric.update(
                    latents, original, tuple(motion) if isinstance(motion, list) else motion
                )
            tolerance = 0.5 if facts[key] > 95 else 0.01
            assert metric.compute().item() == pytest.approx(facts[key], abs=tolerance), (
                f"{name} {key}"
            )


def reference(path: Path) -> torch.nn.Module:
    """The generator of another case of the folder, with its weights."""
    generator = cases.stylegan3(cases.facts_of(path)["kwargs"])
    generator.load_state_dict(cases.state(cases.tensors_of(path), "sd."))
    return generator.eval().requires_grad_(False)


@pytest.mark.parametrize("path", cases.files("scores"))
def test_scores_of_given_features(path):
    facts, tensors = cases.facts_of(path), cases.tensors_of(path)
    protocol = {"nhood": "neighbors", "num_subsets": "num_subsets"}
    protocol |= {"max_subset_size": "max_subset_size", "kid_numpy_seed": "seed"}
    only(facts, cases.SCORES | set(protocol))
    real, fake = tensors["real"], tensors["fake"]
    given = {ours: facts[theirs] for theirs, ours in protocol.items() if theirs in facts}
    neighbors = {name: given.pop(name) for name in ("neighbors",) if name in given}
    precision, recall = precision_and_recall(real, fake, **neighbors)
    found = {
        "fid": frechet_distance(*feature_moments(real), *feature_moments(fake)),
        "kid": kernel_distance(real, fake, **given),
        "precision": precision,
        "recall": recall,
    }
    for name in found.keys() & set(facts):
        tolerance = 1e-4 * max(1, facts[name]) if name in ("fid", "kid") else 1e-6
        assert found[name].item() == pytest.approx(facts[name], abs=tolerance), name


@pytest.mark.parametrize("path", cases.files("scores"))
def test_arcs(path, near):
    tensors = cases.tensors_of(path)
    assert set(tensors) <= {"real", "fake", "slerp", "slerp_a", "slerp_b", "slerp_t"}
    if "slerp" in tensors:
        near(slerp(tensors["slerp_a"], tensors["slerp_b"], tensors["slerp_t"]), tensors["slerp"])
