"""The benchmark of a training iteration compares equal gradients, and its page is up to date."""

import importlib
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from gan3d.camera import Camera
from gan3d.generators.eg3d import Decoder, DecoderOptions
from gan3d.ops.triplane import PlaneTable
from gan3d.rendering import RenderOptions, render_rays

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """script(name) imports benchmarks/name.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("name", ["eg3d", "stylegan2", "stylegan3", "cips3d", "gram", "pigan"])
def test_the_published_order_has_the_gradients_of_ours_in_every_phase(script, name, monkeypatch):
    bench, published = script("train_step"), script("published_training")
    torch.manual_seed(0)
    member = bench.MEMBERS[f"{name}-tiny"]
    gan = member.build().double()
    gan.phases.path_mean = gan.path_mean
    part = bench.part_of(gan, member.batch)
    part = bench.replace(part, image=part.image.double(), camera=part.camera.to(torch.float64))
    monkeypatch.setattr(bench, "part_of", lambda *_: part)
    for phase, work in bench.phases_of(gan, member).items():

        def theirs(work=work):
            with published.operations():
                work()

        assert bench.difference(gan, work, theirs) < 1e-9, phase
        assert bench.gradients(gan), phase


def test_the_published_order_is_left_behind(script):
    published = script("published_training")
    from gan3d.layers import synthesis
    from gan3d.ops import resample

    before = (synthesis.bias_act, synthesis.SynthesisBlock.forward, resample.upfirdn2d)
    with published.operations():
        assert synthesis.bias_act is published.bias_act
        assert resample.upfirdn2d is resample.upfirdn2d_reference
    assert before == (synthesis.bias_act, synthesis.SynthesisBlock.forward, resample.upfirdn2d)


def test_bytes_that_are_kept_and_live_are_counted(script):
    bench = script("train_step")
    x = torch.randn(1000, requires_grad=True)

    def work() -> None:
        for _ in range(2):  # the first is gone before the second
            (x.sin() * x.cos()).sum().backward()

    # x, sin(x) and cos(x); less what is there anyway.
    assert bench.kept_bytes(work) == 3 * 4000
    assert bench.kept_bytes(work, [x]) == 2 * 4000
    assert 0.012 <= bench.peak_megabytes(work, bench.CPU) <= 0.032


def test_the_renderer_keeps_two_fifths_of_the_published_order_for_its_backward_pass(script):
    bench, published = script("train_step"), script("published")
    theirs = script("published_training")
    torch.manual_seed(0)
    decoder, options = Decoder(32, DecoderOptions()), RenderOptions()
    planes = torch.randn(1, 3, 32, 256, 256, requires_grad=True)
    rays = Camera.from_angles(0.3, 0.1).rays(16)

    def ours() -> None:
        table = PlaneTable.of(planes)
        shown = render_rays(lambda p, _: decoder(table.features(p, box_warp=1)), rays, options)
        shown.features.sum().backward()

    def as_published() -> None:
        def field(points: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return decoder(published.plane_features(planes, points, 1.0))

        with theirs.operations():
            published.render_rays(field, rays, options).features.sum().backward()

    # The planes and their table do not grow with the picture.
    size = planes.numel() * 4
    kept = bench.kept_bytes(ours, [planes]) - size * 2 // 3
    assert kept <= 0.4 * bench.kept_bytes(as_published, [planes])


def test_every_phase_the_iteration_and_the_shared_pass_are_measured(script, monkeypatch):
    bench = script("train_step")
    monkeypatch.setattr(bench, "keep_memory", lambda: True)  # not in the process of the tests
    rows = bench.measured("stylegan2-tiny", 1, memory=True)["rows"]
    lazy = ("generator", "path_length", "discriminator", "r1")
    assert set(rows) == {*lazy, "updates", "iteration", "amortized"}
    for row in (*rows.values(), bench.measure_shared("pigan", 1, tiny=True)):
        assert min(row["ours"], row["ratio"]) > 0
    assert rows["generator"]["ours_kept_mb"] < 0.8 * rows["generator"]["published_kept_mb"]
    once = sum(rows[name]["ours"] for name in ("generator", "discriminator", "updates"))
    assert rows["iteration"]["ours"] == pytest.approx(once)
    assert rows["amortized"]["ours"] == pytest.approx(
        once + rows["path_length"]["ours"] / 4 + rows["r1"]["ours"] / 16
    )


@pytest.mark.parametrize(("setting", "variable"), [("default", "default"), ("kept", None)])
def test_each_setting_of_the_allocator_has_a_process_of_its_own(
    script, monkeypatch, setting, variable
):
    bench, seen = script("train_step"), {}

    def run(command, env, **_):
        seen.update(command=command, malloc=env.get("GAN3D_MALLOC"))
        return Namespace(stdout='a word\n{"rows": 1}\n')

    monkeypatch.setenv("GAN3D_MALLOC", "default")
    monkeypatch.setattr(bench.subprocess, "run", run)
    assert bench.in_own_process("eg3d-full", setting, 2) == {"rows": 1}
    assert seen["malloc"] == variable
    assert seen["command"][2:4] == ["--child", setting]


def test_the_page_shows_the_results_that_are_committed(script):
    page = script("performance_page")
    shown = page.PAGE.read_text()
    assert page.written(shown) == shown, "run python benchmarks/performance_page.py"


def test_a_gpu_s_results_take_the_place_of_the_empty_tables(script, monkeypatch, tmp_path):
    page = script("performance_page")
    empty = page.gpu_tables()
    assert page.NOT_MEASURED in empty
    assert "| bf16, kernels | render | 1 | not measured |" in empty
    of_machine = {
        "torch": "2.11",
        "commit": "abc",
        "date": "today",
        "ceilings": {"copy_gb_s": 4000.0},
    }
    row = {"form": "bf16", "part": "all", "batch": 4}
    took = {"ms": 2.0, "ms_10": 1.5, "ms_90": 2.5, "peak_mb": 99.0}
    results = {
        "nvidia-h200": {"device": "NVIDIA H200", "rows": [row | took]},
        "a-cpu": {"device": "cpu", "rows": [row | took]},
    }
    for machine, result in results.items():
        (tmp_path / machine).mkdir()
        path = tmp_path / machine / "forward_on_device.json"
        path.write_text(json.dumps(of_machine | result))
    (launches,) = page.RESULTS.glob("*/launches.json")
    (tmp_path / "a-cpu" / "launches.json").write_bytes(launches.read_bytes())
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    shown = page.gpu_tables()
    assert "NVIDIA H200, torch 2.11, commit abc, today; copy_gb_s 4000." in shown
    assert shown.count("| bf16 | all | 4 | 2.000 (1.500 to 2.500) | 99 | - | - | - |") == 1
    assert "| bf16, kernels | render |" not in shown
