"""Gradients are sent while the backward pass runs, and are the means of all processes."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gan3d.training.buckets import Reduction

WIDTH, LAYERS = 8, 6
LAYER_BYTES = 4 * (WIDTH + 1) * WIDTH


@dataclass
class Done:
    """A message that has come."""

    def wait(self) -> None: ...


@dataclass
class Two:
    """Two processes with the same gradients, of which this is one; what happens is written down."""

    events: list[str] = field(default_factory=list)

    def all_reduce(self, flat, async_op):
        assert async_op
        self.events.append(f"sent {flat.numel()}")
        flat *= 2
        return Done()


@pytest.fixture
def two(monkeypatch) -> Two:
    found = Two()
    monkeypatch.setattr(dist, "all_reduce", found.all_reduce)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return found


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def phase(network, two, passes=1, expected=None, layers=LAYERS, bucket_bytes=LAYER_BYTES):
    """Backward passes through the last `layers`; returns what a next phase is to expect."""
    network.zero_grad()
    reduction = Reduction(network.parameters(), expected, bucket_bytes)
    with reduction.watching():
        for k in range(passes):
            x = torch.full((1, WIDTH), 0.1 * (k + 1), requires_grad=True)
            x.register_hook(lambda _: two.events.append("end of pass"))
            network[LAYERS - layers :](x).sum().backward()
    return reduction.added


def gradients_of(network, passes, layers=LAYERS):
    network.zero_grad()
    for k in range(passes):
        network[LAYERS - layers :](torch.full((1, WIDTH), 0.1 * (k + 1))).sum().backward()
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def check(network, expected):
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient)


SENT = f"sent {(WIDTH + 1) * WIDTH}"


@pytest.mark.parametrize("passes", [1, 2])
def test_layers_are_sent_in_the_last_pass_as_soon_as_they_are_there(network, two, passes):
    true = gradients_of(network, passes)
    expected = phase(network, two, passes)
    assert two.events == [*["end of pass"] * passes, *[SENT] * LAYERS]  # not known yet
    check(network, true)
    two.events.clear()
    phase(network, two, passes, expected)
    assert two.events == [*["end of pass"] * (passes - 1), *[SENT] * (LAYERS - 1), *two.events[-2:]]
    assert sorted(two.events[-2:]) == ["end of pass", SENT]
    check(network, true)


def test_what_has_no_gradient_is_not_waited_for(network, two):
    expected = phase(network, two, layers=2)
    two.events.clear()
    phase(network, two, expected=expected, layers=2)
    assert two.events.count(SENT) == 2
    assert two.events[0] == SENT
    check(network, gradients_of(network, 1, layers=2))


@pytest.mark.parametrize("layers", [2, LAYERS])
def test_gradients_that_come_more_often_than_expected_are_sent_again(network, two, layers):
    """Another pass, or one through more layers."""
    expected = phase(network, two, layers=2)
    two.events.clear()
    phase(network, two, passes=2, expected=expected, layers=layers)
    assert two.events.count(SENT) == 2 + layers
    check(network, gradients_of(network, 2, layers=layers))


def test_gradients_that_come_less_often_are_sent_in_the_end(network, two):
    expected = phase(network, two, passes=2)
    two.events.clear()
    phase(network, two, expected=expected)
    assert two.events == ["end of pass", *[SENT] * LAYERS]
    check(network, gradients_of(network, 1))


def test_a_bucket_has_its_size_and_one_dtype(two):
    network = nn.ModuleList([nn.Linear(WIDTH, WIDTH).to(dtype) for dtype in DTYPES])
    reduction = Reduction(network.parameters(), bucket_bytes=10**6)
    with reduction.watching():
        sum(layer(torch.zeros(1, WIDTH).to(layer.weight)).sum() for layer in network).backward()
    one = (WIDTH + 1) * WIDTH
    assert two.events == [f"sent {one}", f"sent {2 * one}"]


DTYPES = (torch.float32, torch.float32, torch.float64)


def test_nothing_is_sent_after_an_error(network, two):
    def fails():
        with Reduction(network.parameters()).watching():
            network(torch.zeros(1, WIDTH)).sum().backward()
            raise ArithmeticError("NaN")

    with pytest.raises(ArithmeticError, match="NaN"):
        fails()
    assert not two.events
    network(torch.zeros(1, WIDTH)).sum().backward()  # nobody listens any more
    assert not two.events
