"""The full-size EG3D keeps to its number of launches, counted on a pretended GPU."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("launches")


def test_a_view_and_its_renderer_stay_below_their_ceilings(bench):
    with bench.pretended(kernels=True):
        view = bench.count_view()
    with bench.pretended(kernels=False):
        without = bench.count_view()
    print(view, without)
    assert view["renderer"] <= 150
    assert view["view"] <= 1000
    parts = ("map", "represent", "rays", "renderer", "super-resolution")
    assert view["view"] == sum(view[part] for part in parts)
    assert view["renderer"] < without["renderer"]


def test_phases_stay_below_their_ceilings(bench):
    with bench.pretended(kernels=True):
        counted = bench.count_iteration(4)
    print(counted)
    assert set(counted) <= {*bench.CEILINGS, "average", "reading", "elsewhere"}
    for phase, ceiling in bench.CEILINGS.items():
        assert 0 < counted[phase] <= ceiling, f"{phase}: {counted[phase]} of {ceiling}"
    assert counted["average"] + counted["reading"] + counted["elsewhere"] <= 30


def test_views_are_free_and_gradients_of_a_convolution_are_counted(bench):
    device = bench.gpu.DEVICE
    x = torch.empty(2, 3, 8, 8, device=device)
    w = torch.empty(4, 3, 3, 3, device=device, requires_grad=True)
    with bench.Launches() as mode:
        with record_function("outer"), record_function("inner"):
            torch.nn.functional.conv2d(x.flatten(1).view_as(x), w).sum().backward()
        torch.ones(3)  # on the host
        x.new_empty(5)
    # convolution and sum; ones, the gradient of the weight alone, and no copy of what is expanded
    assert set(mode.counts) == {"outer"}
    assert mode.counts["outer"]["aten::convolution"] == 1
    assert mode.counts["outer"]["aten::convolution_backward"] == 1
    assert mode.counts["outer"]["aten::sum"] == 1
    x.requires_grad_()
    with bench.Launches() as mode:
        torch.nn.functional.conv2d(x, w).sum().backward()
    assert mode.counts["elsewhere"]["aten::convolution_backward"] == 2


def test_lists_of_tensors_are_packed_as_torch_packs_them(bench):
    assert bench.packed(1, [5]) == 1
    assert bench.packed(1, [5] * 110) == 1
    assert bench.packed(1, [5] * 111) == 2
    assert bench.packed(4, [5] * 36) == 1
    assert bench.packed(4, [5] * 37) == 2
    # 320 blocks of 65,536 numbers
    assert bench.packed(4, [320 * 65536]) == 1
    assert bench.packed(4, [320 * 65536 + 1]) == 2
