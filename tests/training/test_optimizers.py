"""gan3d.training.optimizers: the fused step is the published step."""

import copy

import pytest
import torch
from torch import nn

from gan3d.training.optimizers import Adam


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, dtype=dtype)) for shape in ((5, 3), (63,), (1,), (0,))]


def gradients(like: list[nn.Parameter], iteration: int) -> list[torch.Tensor]:
    torch.manual_seed(100 + iteration)
    return [torch.randn_like(p) for p in like]


def step(optimizer: torch.optim.Adam, iterations: range) -> None:
    params = optimizer.param_groups[0]["params"]
    for iteration in iterations:
        for p, gradient in zip(params, gradients(params, iteration), strict=True):
            p.grad = gradient
        optimizer.step()


def published(adam: Adam, params: list[nn.Parameter], iterations: range) -> None:
    """Algorithm 1 of Kingma and Ba (2015), line by line."""
    m = [torch.zeros_like(p) for p in params]
    v = [torch.zeros_like(p) for p in params]
    for t in iterations:
        for i, g in enumerate(gradients(params, t)):
            m[i] = adam.beta1 * m[i] + (1 - adam.beta1) * g
            v[i] = adam.beta2 * v[i] + (1 - adam.beta2) * g.square()
            m_hat, v_hat = m[i] / (1 - adam.beta1 ** (t + 1)), v[i] / (1 - adam.beta2 ** (t + 1))
            params[i].data -= adam.lr * m_hat / (v_hat.sqrt() + adam.eps)


@pytest.mark.parametrize("beta1", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_fused_step_is_that_of_the_paper(dtype, beta1):
    adam, ours, theirs = Adam(lr=0.01, beta1=beta1), parameters(dtype), parameters(dtype)
    optimizer = adam.build(ours)
    assert optimizer.param_groups[0]["fused"]
    step(optimizer, range(5))
    published(adam, theirs, range(5))
    assert not torch.equal(ours[0], parameters(dtype)[0])
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("written_fused", [True, False])
def test_the_state_of_a_fused_step_and_of_a_plain_one_go_on_with_the_fused_one(written_fused):
    adam, params, whole = Adam(lr=0.01, beta1=0.5), parameters(), parameters()
    former = torch.optim.Adam(params, lr=0.01, betas=(0.5, 0.99), eps=1e-8, fused=written_fused)
    step(former, range(3))
    optimizer = adam.build(params)
    optimizer.load_state_dict(copy.deepcopy(former.state_dict()))
    assert optimizer.param_groups[0]["fused"]
    step(optimizer, range(3, 6))
    step(adam.build(whole), range(6))
    for p, q in zip(params, whole, strict=True):
        torch.testing.assert_close(p, q)


def test_another_device_has_the_plain_step_whatever_the_checkpoint_says():
    former = Adam().build(parameters())
    elsewhere = [nn.Parameter(p.to("meta")) for p in parameters()]
    optimizer = Adam().build(elsewhere)
    optimizer.load_state_dict(former.state_dict())
    assert not optimizer.param_groups[0]["fused"]
