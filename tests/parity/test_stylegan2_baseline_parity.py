"""StyleGAN2 beside StyleGAN3 (golden/stylegan3, files with a G and a D): images, blur, logits, R1
and its gradients.
"""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.augment import blur
from gan3d.checkpoints.official.stylegan2 import from_published

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


@pytest.fixture(params=cases.files("stylegan2"))
def case(request) -> SimpleNamespace:
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    known = {"G", "D", "batch", "blur_sigmas", "num_ws", "truncation_cutoff"}
    assert cases.unheeded(facts, known) == []
    generator, discriminator = cases.stylegan2(facts["G"]), cases.discriminator(facts["D"])
    generator.load_state_dict(from_published(cases.state(tensors, "G.")))
    discriminator.load_state_dict(cases.state(tensors, "D."))
    return SimpleNamespace(
        facts=facts, tensors=tensors, generator=generator, discriminator=discriminator
    )


def test_numbers_are_all_compared(case):
    assert case.facts.get("num_ws") in (None, case.generator.num_ws)
    assert case.facts.get("batch") in (None, len(case.tensors["in.wsx"]))
    compared = re.compile(
        r"[GD]\..*|in\.(z|c|wsx)|out\.(ws|ws_psi[\d.]+?(_cutoff\d*)?|img_(const|const_unfused|none)|blur_[\d.]+|logits)"
        r"|out\.r1_(grad|penalty)|grad\.r1\..*"
    )
    assert [name for name in case.tensors if not compared.fullmatch(name)] == []
    assert {f"out.blur_{sigma}" for sigma in case.facts.get("blur_sigmas", [])} <= set(case.tensors)


@torch.no_grad()
def test_latents(case, near):
    t, generator = case.tensors, case.generator
    for name in filter(re.compile(r"out\.ws").match, t):
        found = re.fullmatch(r"out\.ws(?:_psi([\d.]+?)(?:_cutoff(\d*))?)?", name)
        cutoff = None if found[2] is None else int(found[2] or case.facts["truncation_cutoff"])
        ws = generator.mapping(
            t["in.z"],
            cases.label(t, generator),
            truncation=float(found[1] or 1),
            truncation_cutoff=cutoff,
        )
        near(ws, t[name])


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False, None])
def test_images_in_every_form_of_the_modulated_convolution(case, near, fused):
    for module in case.generator.modules():
        if hasattr(module, "fused"):
            module.fused = fused
    ways = {"out.img_const": "const", "out.img_const_unfused": "const", "out.img_none": "none"}
    if fused is not None:
        ways.pop("out.img_const_unfused" if fused else "out.img_const")
    for name in ways.keys() & set(case.tensors):
        near(case.generator.synthesis(case.tensors["in.wsx"], noise=ways[name]), case.tensors[name])


@torch.no_grad()
def test_blur(case, near):
    for name, expected in cases.state(case.tensors, "out.blur_").items():
        near(blur(case.tensors["out.img_const"], float(name)), expected)


def test_logits_and_gradient_penalty(case, near):
    t, discriminator = case.tensors, case.discriminator
    if "out.img_const" not in t:
        assert not any(name.startswith(("out.logits", "out.r1", "grad.")) for name in t), (
            "no image to judge"
        )
        return
    image = t["out.img_const"].clone().requires_grad_()
    logits = discriminator.logits(image, cases.label(t, discriminator))
    slope = cases.gradient(logits.sum(), image, create_graph=True)
    penalty = slope.square().sum([1, 2, 3])
    if "out.logits" in t:
        near(logits[:, None], t["out.logits"])
    for name, value in (("out.r1_grad", slope), ("out.r1_penalty", penalty)):
        if name in t:
            cases.nearly(value, t[name])
    for name, expected in cases.state(t, "grad.r1.").items():
        cases.nearly(cases.gradient(penalty.mean(), discriminator.get_parameter(name)), expected)
