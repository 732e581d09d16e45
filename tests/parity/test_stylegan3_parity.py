"""StyleGAN3's filters, schedules, activation and whole generators against golden/stylegan3, every case there is."""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.layers.alias_free_filters import Schedule, lowpass
from gan3d.ops.filtered_lrelu import filtered_lrelu, filtered_lrelu_reference

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


def test_every_file_is_of_a_kind_that_some_test_reads(golden):
    kinds = {path.name: cases.kind_of(json.loads(path.read_text())) for path in (golden / "stylegan3").rglob("*.json")}
    assert kinds
    assert [name for name, kind in kinds.items() if kind is None] == []


# -- Filters, schedules, activation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases.rows("filters"))
def test_filters(case, near):
    path, number = case
    facts, expected = cases.facts_of(path)["cases"][number], cases.tensors_of(path)[f"f{number}"]
    f = lowpass(facts["numtaps"], facts["cutoff"], facts["width"], facts["fs"], radial=facts["radial"])
    assert set(facts) <= {"numtaps", "cutoff", "width", "fs", "radial", "identity"}
    if facts["identity"]:
        assert f is None
        return
    near(f, expected, 1e-6)


def check_layer(spec, facts: dict) -> None:
    """One row of a table of layers, in either of its two spellings."""
    before, after = spec.padding
    inside, outside = spec.inside, spec.outside
    ours = {
        "name": spec.name,
        **{"in_channels": inside.channels, "out_channels": outside.channels},
        **{"in_size": inside.size, "out_size": outside.size},
        **{"s_in": inside.sampling_rate, "s_out": outside.sampling_rate, "s_tmp": spec.tmp_sampling_rate},
        **{"in_sampling_rate": inside.sampling_rate, "out_sampling_rate": outside.sampling_rate},
        "tmp_sampling_rate": spec.tmp_sampling_rate,
        **{"fc_in": inside.cutoff, "fc_out": outside.cutoff, "fh_in": inside.half_width, "fh_out": outside.half_width},
        **{"in_cutoff": inside.cutoff, "out_cutoff": outside.cutoff},
        **{"in_half_width": inside.half_width, "out_half_width": outside.half_width},
        **{"up": spec.up, "up_factor": spec.up, "down": spec.down, "down_factor": spec.down},
        **{"up_taps": spec.up_taps, "down_taps": spec.down_taps},
        **{"radial": spec.down_radial, "down_radial": spec.down_radial, "critical": spec.is_critical},
        **{"padding": [before, after, before, after], "fp16": spec.in_low_precision},
    }
    for name, value in facts.items():
        value = value[0] if name.endswith("_size") and isinstance(value, list) else value
        near = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert ours[name] == near, f"{spec.name} {name}"


@pytest.mark.parametrize("path", cases.files("schedule"))
def test_schedules(path):
    for name, table in cases.facts_of(path).items():
        options = dict(table["kwargs"])
        resolution, channels = options.pop("img_resolution"), options.pop("img_channels", 3)
        for other in ("z_dim", "c_dim", "w_dim", "conv_clamp", "output_scale", "magnitude_ema_beta", "mapping_kwargs"):
            options.pop(other, None)
        specs = Schedule(**options).layers(resolution, channels)
        assert len(specs) == len(table["layers"]), name
        for spec, facts in zip(specs, table["layers"], strict=True):
            check_layer(spec, facts)
        first = specs[0].inside
        ours = {"channels": first.channels, "size": first.size}
        ours |= {"sampling_rate": first.sampling_rate, "bandwidth": first.cutoff}
        assert {key: ours[key] for key in table["input"]} == table["input"]
        assert table["num_ws"] == len(specs) + 1


@pytest.mark.parametrize("case", cases.rows("flrelu"))
@pytest.mark.parametrize("form", [filtered_lrelu, filtered_lrelu_reference])
def test_filtered_lrelu(case, form, near):
    path, number = case
    options, tensors = dict(cases.facts_of(path)["cases"][number]), cases.state(cases.tensors_of(path), f"{number}.")
    for name in ("fu", "fd"):
        shape = options.pop(name)
        assert (list(tensors[name].shape) if name in tensors else None) == shape
    assert options.pop("has_bias") == ("b" in tensors)
    x = tensors["x"].clone().requires_grad_()
    b = tensors["b"].clone().requires_grad_() if "b" in tensors else None
    y = form(x, tensors.get("fu"), tensors.get("fd"), b, **options)
    near(y, tensors["y"])
    y.backward(tensors["dy"])
    near(x.grad, tensors["dx"])
    if b is not None:
        near(b.grad, tensors["db"])


# -- Whole generators --------------------------------------------------------------------------------------------------


@pytest.fixture(params=cases.files("generator"))
def case(request) -> SimpleNamespace:
    """Facts, tensors, and the generator with the weights."""
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    generator = cases.stylegan3(facts["kwargs"])
    weights = cases.state(tensors, "sd.")
    designed = {name: f.clone() for name, f in generator.state_dict().items() if name.endswith("_filter")}
    generator.load_state_dict(weights)
    return SimpleNamespace(facts=facts, tensors=tensors, generator=generator, designed=designed, weights=weights)


def test_generator_facts(case, near):
    known = {"kwargs", "batch", "num_ws", "truncation_cutoff", "layer_names", "layers", "params", "buffers"}
    assert set(case.facts) <= known | cases.REMARKS
    generator, facts = case.generator, case.facts
    assert generator.num_ws == facts["num_ws"]
    assert generator.synthesis.layer_names == facts["layer_names"]
    for layer in generator.synthesis.layers:
        check_layer(layer.spec, facts["layers"][layer.spec.name])
    assert sum(p.numel() for p in generator.parameters()) == facts["params"]
    assert sum(b.numel() for b in generator.buffers()) == facts["buffers"]
    for name, f in case.designed.items():
        near(f, case.weights[name], 1e-6)


def test_generator_numbers_are_all_compared(case):
    compared = re.compile(
        r"sd\..*|in\.(z|c|wsx|R|transform_\w+)|out\.(ws|ws_psi[\d.]+?(_cutoff\d*)?|img|img_batch1|img_from_z|pl_lengths)"
        r"|out\.(img|input)_(\w+)|out\.layer\.\w+|out\.layer0\.\w+|out\.upd\..*|grad2?\..*"
    )
    assert [name for name in case.tensors if not compared.fullmatch(name)] == []


@torch.no_grad()
def test_generator_latents(case, near):
    t, generator = case.tensors, case.generator
    for name in filter(re.compile(r"out\.ws").match, t):
        found = re.fullmatch(r"out\.ws(?:_psi([\d.]+?)(_cutoff(\d*))?)?", name)
        cutoff = None if not found[2] else int(found[3] or case.facts["truncation_cutoff"])
        ws = generator.mapping(
            t["in.z"], cases.label(t, generator), truncation=float(found[1] or 1), truncation_cutoff=cutoff
        )
        near(ws, t[name])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_generator_images(case, near, dtype):
    t, generator = case.tensors, case.generator.to(dtype)
    ws = t["in.wsx"].to(dtype)
    near(generator.represent(ws).image, t["out.img"])
    near(generator.synthesise(ws[:1]), t["out.img_batch1"])
    z, cutoff = t["in.z"].to(dtype), case.facts["truncation_cutoff"]
    truncated = generator.mapping(z, cases.label(t, generator), truncation=0.7, truncation_cutoff=cutoff)
    near(generator.synthesise(truncated), t["out.img_from_z"])
    for name in filter(lambda name: name.startswith("in.transform_"), t):
        which = name.removeprefix("in.transform_")
        near(generator.synthesise(ws, t[name]), t[f"out.img_{which}"])
        expected = t[f"out.input_{which}"]
        near(generator.synthesis.input(ws[: len(expected), 0], t[name]), expected)


@torch.no_grad()
def test_generator_layers(case, near):
    t, synthesis = case.tensors, case.generator.synthesis
    ws, seen = t["in.wsx"], {}
    seen["input"] = x = synthesis.input(ws[:, 0])
    for layer, w in zip(synthesis.layers, ws.unbind(1)[1:], strict=True):
        seen[layer.spec.name] = x = layer(x, w)
    for name, value in seen.items():
        near(value, t[f"out.layer.{name}"])
        if (first := f"out.layer0.{name}") in t:
            near(value[: len(t[first])], t[first])


@torch.no_grad()
def test_generator_after_an_update_of_its_running_means(case, near):
    t, generator = case.tensors, case.generator
    ws = generator.mapping(t["in.z"], cases.label(t, generator))
    generator.mapping.track(ws)
    near(generator.settle(ws), t["out.upd.img"])
    for name, expected in cases.state(t, "out.upd.").items():
        if name != "img":
            near(generator.get_buffer(name), expected)


def test_generator_gradients(case):
    t, generator = case.tensors, case.generator
    z, ws = t["in.z"].clone().requires_grad_(), t["in.wsx"].clone().requires_grad_()
    value = (generator.synthesise(ws) * t["in.R"]).sum()
    mapped = (generator.mapping(z, cases.label(t, generator)) * t["in.wsx"]).sum()
    for name, expected in cases.state(t, "grad.").items():
        if name.startswith("map."):
            part = name.removeprefix("map.")
            cases.nearly(cases.gradient(mapped, z if part == "z" else generator.mapping.get_parameter(part)), expected)
        else:
            cases.nearly(cases.gradient(value, ws if name == "ws" else generator.get_parameter(name)), expected)


def test_generator_path_lengths_and_their_gradients(case, near):
    t, generator = case.tensors, case.generator
    ws = t["in.wsx"].clone().requires_grad_()
    image = generator.synthesise(ws)
    slope = cases.gradient((image * t["in.R"]).sum() / image.shape[3], ws, create_graph=True)
    lengths = slope.square().sum(2).mean(1).sqrt()
    near(lengths, t["out.pl_lengths"])
    for name, expected in cases.state(t, "grad2.").items():
        parameter = ws if name == "ws" else generator.get_parameter(name)
        cases.nearly(cases.gradient(lengths.square().mean(), parameter), expected)
