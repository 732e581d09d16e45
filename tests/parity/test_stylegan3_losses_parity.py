"""One iteration's phases with StyleGAN3 (golden/stylegan3, files with a loss): gradients, running means after it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.augment import Blur, blur
from gan3d.losses import R1, NonSaturating

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


@pytest.fixture(params=cases.files("loss"))
def case(request) -> SimpleNamespace:
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    phases = {"Gmain", "Dmain", "Dreg"}
    known = {"G", "D", "loss", "cur_nimg", "gain", "order"} | {f"grad_norms_{phase}" for phase in phases}
    assert set(facts) <= known | cases.REMARKS
    assert set(facts["gain"]) <= phases
    assert set(facts["loss"]) <= {"r1_gamma", "blur_init_sigma", "blur_fade_kimg"}
    generator, discriminator = cases.stylegan3(facts["G"]), cases.discriminator(facts["D"])
    generator.load_state_dict(cases.state(tensors, "G."))
    discriminator.load_state_dict(cases.state(tensors, "D."))
    sigma = Blur(facts["loss"]["blur_init_sigma"], facts["loss"]["blur_fade_kimg"]).sigma_at(facts["cur_nimg"])

    def judge(image: torch.Tensor) -> torch.Tensor:
        return discriminator.logits(blur(image, sigma), cases.label(tensors, discriminator))

    return SimpleNamespace(
        facts=facts, tensors=tensors, generator=generator, discriminator=discriminator, judge=judge, sigma=sigma
    )


def compare(case: SimpleNamespace, phase: str, network: torch.nn.Module) -> None:
    """Norms of all gradients of a phase, and those gradients that are given whole."""
    norms = case.facts[f"grad_norms_{phase}"]
    for name, parameter in network.named_parameters():
        found = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        assert found == pytest.approx(norms.get(name, 0.0), rel=1e-3, abs=1e-6), f"{phase} {name}"
    assert set(norms) <= {name for name, _ in network.named_parameters()}
    for name, expected in cases.state(case.tensors, f"grad.{phase}.").items():
        found = network.get_parameter(name).grad
        if found is None:
            assert expected.abs().max() == 0, name
        elif expected.abs().max() > 0:
            cases.nearly(found, expected, 1e-3)
        else:
            assert found.abs().max() < 1e-6, name


def latents(case: SimpleNamespace) -> torch.Tensor:
    return case.generator.mapping(case.tensors["in.z"], cases.label(case.tensors, case.generator))


def test_generator_phase(case):
    image = case.generator.synthesise(latents(case))
    loss = NonSaturating().generator(case.judge(image)).mean() * case.facts["gain"]["Gmain"]
    loss.backward()
    compare(case, "Gmain", case.generator)


def test_discriminator_phase_and_the_running_means_that_it_moves(case, near):
    with torch.no_grad():
        ws = latents(case)
        case.generator.mapping.track(ws)
        image = case.generator.settle(ws)
    for name, expected in cases.state(case.tensors, "after.").items():
        near(case.generator.get_buffer(name), expected)
    game = NonSaturating()
    loss = game.fake(case.judge(image)).mean() + game.real(case.judge(case.tensors["in.real"])).mean()
    (loss * case.facts["gain"]["Dmain"]).backward()
    compare(case, "Dmain", case.discriminator)


def test_gradient_penalty_on_the_image_before_blur(case):
    penalty = R1(case.facts["loss"]["r1_gamma"])(lambda image, raw: case.judge(image), case.tensors["in.real"])
    (penalty.mean() * case.facts["gain"]["Dreg"]).backward()
    compare(case, "Dreg", case.discriminator)
