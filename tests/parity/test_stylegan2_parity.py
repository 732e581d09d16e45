"""StyleGAN2 against the numbers of StyleGAN3's repository (golden/stylegan3): images, logits, R1 and its gradients."""

import json

import pytest
import torch

from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2


@pytest.fixture
def case(golden, load):
    """(facts, tensors) of the StyleGAN2 case."""
    return json.loads((golden / "stylegan3/sg2.json").read_text()), load(golden / "stylegan3/sg2.safetensors")


def state(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture
def generator(case) -> StyleGAN2:
    facts, tensors = case
    options = dict(facts["G"])
    mapping_layers = options.pop("mapping_kwargs")["num_layers"]
    generator = StyleGAN2(mapping_layers=mapping_layers, **options)
    generator.load_state_dict(state(tensors, "G."))
    return generator


@pytest.fixture
def discriminator(case) -> StyleGAN2Discriminator:
    facts, tensors = case
    options = dict(facts["D"])
    group_size = options.pop("epilogue_kwargs")["mbstd_group_size"]
    discriminator = StyleGAN2Discriminator(group_size=group_size, **options)
    discriminator.load_state_dict(state(tensors, "D."))
    return discriminator


@torch.no_grad()
def test_stylegan2_latents(case, generator, near):
    _, tensors = case
    z, c = tensors["in.z"], tensors["in.c"]
    near(generator.mapping(z, c), tensors["out.ws"])
    near(generator.mapping(z, c, truncation=0.6, truncation_cutoff=3), tensors["out.ws_psi0.6_cutoff3"])


@torch.no_grad()
def test_stylegan2_images_in_both_forms_of_the_modulated_convolution(case, generator, near):
    _, tensors = case
    layers = [module for module in generator.modules() if hasattr(module, "fused")]
    for fused, name in ((True, "out.img_const"), (False, "out.img_const_unfused"), (None, "out.img_const")):
        for layer in layers:
            layer.fused = fused
        near(generator.synthesis(tensors["in.wsx"]), tensors[name])
    near(generator.synthesis(tensors["in.wsx"], noise="none"), tensors["out.img_none"])


def test_stylegan2_logits_and_r1_with_its_second_derivative(case, discriminator, near):
    _, tensors = case
    image = tensors["out.img_const"].clone().requires_grad_(True)
    logits = discriminator.logits(image, tensors["in.c"])
    near(logits[:, None], tensors["out.logits"])
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    assert relative_error(gradient, tensors["out.r1_grad"]) < 1e-4
    penalty = gradient.square().sum([1, 2, 3])
    assert relative_error(penalty, tensors["out.r1_penalty"]) < 1e-4
    penalty.mean().backward()
    weight = discriminator.get_parameter("b32.conv0.weight")
    assert relative_error(weight.grad, tensors["grad.r1.b32.conv0.weight"]) < 1e-4


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()
