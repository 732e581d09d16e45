"""ADA against the published pipe's numbers (golden/eg3d/components, group augment)."""

import pytest

from gan3d.augment import PRESETS, Percentile, Transforms, augment
from gan3d.augment.corruption import filter_bank
from gan3d.augment.geometry import SYM6
from gan3d.ops.resample import setup_filter
from gan3d.randomness import Recorded


def transforms_of(component) -> Transforms:
    given = component.case["kwargs"]
    return Transforms(**(component.facts[given] if isinstance(given, str) else given))


def names_in_order(transforms: Transforms, channels: int) -> list[str]:
    """Our names of the published draws in order: parameter, then gate (specs/eg3d.md, 14)."""
    steps = ["xflip", "rotate90", "xint", "scale", "pre_rotate", "aniso", "post_rotate", "xfrac"]
    steps += [
        "brightness",
        "contrast",
        "lumaflip",
        *(["hue", "saturation"] if channels > 1 else []),
    ]
    names = []
    for step in steps:
        multiplier = "rotate" if step in ("pre_rotate", "post_rotate") else step
        names += [step, f"{step}_gate"] if getattr(transforms, multiplier) > 0 else []
    if transforms.imgfilter > 0:
        names += [f"imgfilter_{i}{gate}" for i in range(4) for gate in ("", "_gate")]
    if transforms.noise > 0:
        names += ["noise_sigma", "noise_sigma_gate", "noise"]
    if transforms.cutout > 0:
        names += ["cutout_gate", "cutout"]
    return names


@pytest.mark.golden_components("eg3d", "augment")
def test_eg3d_augmentation(component, near):
    case, tensors, transforms = component.case, component.tensors, transforms_of(component)
    x, expected = tensors[case["x"]], tensors[case["out"]]
    if "draws" in case:
        names = names_in_order(transforms, x.shape[1])
        run = case["out"].removesuffix(".out")
        keys = [f"{run}.draw{i:02d}.{kind}" for i, (kind, _) in enumerate(case["draws"])]
        draw = Recorded({name: tensors[key] for name, key in zip(names, keys, strict=True)})
    else:
        draw = Percentile(case["debug_percentile"], len(x))
    near(augment(x, transforms, case.get("p", 1.0), draw), expected)


def test_eg3d_augmentation_filters_and_preset(load, golden, near):
    stored = load(golden / "eg3d/components/augment.safetensors")
    near(setup_filter(SYM6), stored["Hz_geom"], 1e-6)
    near(filter_bank(), stored["Hz_fbank"], 1e-6)


@pytest.mark.golden_components("eg3d", "augment", kwargs="bgc")
def test_eg3d_preset(component):
    assert transforms_of(component) == PRESETS["bgc"]
