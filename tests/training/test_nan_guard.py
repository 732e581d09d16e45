"""gan3d.training.nan_guard: what is not finite is named."""

import pytest
import torch
from torch import nn

from gan3d.training.nan_guard import GradientWatch, NonFiniteError


def network(gradients: dict[str, float]) -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for name, parameter in net.named_parameters():
        parameter.grad = torch.full_like(parameter, gradients.get(name, 1.0))
    return net


def test_the_norm_is_that_of_all_gradients_together():
    norm = GradientWatch().watch(
        "generator", network({"0.weight": 3.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0})
    )
    assert norm.item() == pytest.approx(6.0)


def test_only_the_parameters_that_learn_are_watched():
    net = network({"0.weight": float("nan")})  # left there by another phase
    watch = GradientWatch()
    norm = watch.watch("density", net, [net[0].bias, net[1].bias])
    assert norm.item() == pytest.approx(3**0.5)
    net[1].bias.grad.fill_(float("nan"))
    norm = watch.watch("generator", net, [net[0].bias, net[1].bias])
    with pytest.raises(
        NonFiniteError, match=r"first bad gradients: generator: gradient of 1\.bias"
    ):
        watch.check({"gradient/generator": norm.item()}, 0)


def test_finite_values_pass():
    watch = GradientWatch()
    watch.watch("generator", network({}))
    watch.check({"loss/generator": 1.0}, 0)


def test_the_parameter_phase_and_value_that_went_wrong_are_named_with_a_way_out():
    watch = GradientWatch()
    norm = watch.watch("discriminator", network({"1.weight": float("nan")})).item()
    with pytest.raises(NonFiniteError) as error:
        watch.check(
            {"loss/generator": 0.5, "gradient/discriminator": norm}, 12_800, [12_800, 12_807]
        )
    text = str(error.value)
    assert "12.800 kimg" in text
    assert "gradient/discriminator" in text
    assert "discriminator: gradient of 1.weight" in text
    assert "loss/generator" not in text
    assert "12800..12807" in text
    assert "--ckpt_path last" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_infinity_stops_a_run_like_nan(bad):
    with pytest.raises(NonFiniteError, match="loss/generator is not finite"):
        GradientWatch().check({"logits/real": 0.0, "loss/generator": bad}, 0)


def test_a_network_without_any_gradient_is_a_bug_of_the_phase():
    with pytest.raises(RuntimeError, match="phase density"):
        GradientWatch().watch("density", nn.Linear(1, 1))
