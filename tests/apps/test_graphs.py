"""A function that is replayed gives what it gives when it is called."""

import pytest
import torch

from gan3d.apps.graphs import Graphed


def test_on_a_cpu_it_is_called_as_it_is():
    calls = []

    def work(x, y):
        calls.append(len(x))
        return x + y, {"twice": 2 * x}

    graphed, x = Graphed(work), torch.arange(3.0)
    for k in (1.0, 2.0):
        total, others = graphed(x, torch.tensor(k))
        assert torch.equal(total, x + k)
        assert torch.equal(others["twice"], 2 * x)
    assert calls == [3, 3]
    assert not graphed(x.requires_grad_(), torch.tensor(1.0))[0].requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_shape_is_recorded_once_and_results_are_kept():
    calls = []

    def work(x):
        calls.append(len(x))
        return {"twice": 2 * x}

    graphed = Graphed(work)
    for size in (3, 5):
        x = torch.arange(float(size), device="cuda")
        first = graphed(x)["twice"]
        recorded = len(calls)
        second = graphed(x + 1)["twice"]
        assert len(calls) == recorded
        assert torch.equal(first, 2 * x)
        assert torch.equal(second, 2 * x + 2)
