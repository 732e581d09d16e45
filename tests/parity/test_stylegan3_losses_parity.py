"""One iteration's phases with StyleGAN3 (golden/stylegan3, files with a loss): gradients, running
means after it.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.augment import Blur, blur
from gan3d.training.losses import R1, NonSaturating

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))

# Factors of the phases' losses when nothing else is said: the gradient penalty is due every 16
# steps.
GAIN = {"Gmain": 1, "Dmain": 1, "Dreg": 16}


@pytest.fixture(params=cases.files("loss"))
def case(request) -> SimpleNamespace:
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    phases = {"Gmain", "Dmain", "Dreg"}
    known = {"G", "D", "loss", "cur_nimg", "gain", "order"} | {
        f"grad_norms_{phase}" for phase in phases
    }
    assert cases.unheeded(facts, known) == []
    assert set(facts.get("gain", {})) <= phases
    assert set(facts["loss"]) <= {"r1_gamma", "blur_init_sigma", "blur_fade_kimg"}
    generator, discriminator = cases.stylegan3(facts["G"]), cases.discriminator(facts["D"])
    generator.load_state_dict(cases.state(tensors, "G."))
    discriminator.load_state_dict(cases.state(tensors, "D."))
    assert {name.split(".")[1] for name in tensors if name.startswith("grad.")} <= phases
    fading = Blur(facts["loss"].get("blur_init_sigma", 0), facts["loss"].get("blur_fade_kimg", 0))
    sigma = fading.sigma_at(facts.get("cur_nimg", 0))

    def judge(image: torch.Tensor) -> torch.Tensor:
        return discriminator.logits(blur(image, sigma), cases.label(tensors, discriminator))

    gain = {**GAIN, **facts.get("gain", {})}
    return SimpleNamespace(
        facts=facts,
        tensors=tensors,
        generator=generator,
        discriminator=discriminator,
        judge=judge,
        gain=gain,
    )


def compare(case: SimpleNamespace, phase: str, network: torch.nn.Module) -> None:
    """Norms of all gradients of a phase, and those gradients that are given whole."""
    parameters = dict(network.named_parameters())
    norms = case.facts.get(f"grad_norms_{phase}")
    for name, parameter in parameters.items() if norms is not None else ():
        found = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        assert found == pytest.approx(norms.get(name, 0.0), rel=1e-3, abs=1e-6), f"{phase} {name}"
    assert set(norms or ()) <= set(parameters)
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
    image = case.generator.synthesize(latents(case))
    loss = NonSaturating().generator(case.judge(image)).mean() * case.gain["Gmain"]
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
    loss = (
        game.fake(case.judge(image)).mean() + game.real(case.judge(case.tensors["in.real"])).mean()
    )
    (loss * case.gain["Dmain"]).backward()
    compare(case, "Dmain", case.discriminator)


def test_gradient_penalty_on_the_image_before_blur(case):
    if "r1_gamma" not in case.facts["loss"]:
        assert "grad_norms_Dreg" not in case.facts, (
            "norms of a gradient penalty of which no weight is stated"
        )
        assert not cases.state(case.tensors, "grad.Dreg."), (
            "gradients of a penalty of which no weight is stated"
        )
        return
    penalty = R1(case.facts["loss"]["r1_gamma"])(
        lambda image, raw: case.judge(image), case.tensors["in.real"]
    )
    (penalty.mean() * case.gain["Dreg"]).backward()
    compare(case, "Dreg", case.discriminator)
