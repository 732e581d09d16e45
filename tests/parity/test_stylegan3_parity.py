"""StyleGAN3's filters, schedules, activation and whole generators against golden/stylegan3, every
case there is.
"""

import math
import re
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.layers.alias_free_filters import AliasFreeLayers, lowpass
from gan3d.ops.filtered_lrelu import filtered_lrelu, filtered_lrelu_reference

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


def test_every_file_is_of_a_kind_that_some_test_reads(golden):
    kinds = {
        path.name: cases.kind_of(cases.facts_of(path))
        for path in (golden / "stylegan3").rglob("*.json")
    }
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_stylegan*_parity.py")]
    read = {
        kind for test in tests for kind in re.findall(r'cases\.(?:files|rows)\("(\w+)"\)', test)
    }
    assert len(read) == 10
    assert {name: kind for name, kind in kinds.items() if kind not in read} == {}


def test_all_numbers_have_a_file_that_says_what_they_are(golden):
    numbers = (golden / "stylegan3").rglob("*.safetensors")
    assert [path.name for path in numbers if not path.with_suffix(".json").is_file()] == []


# -- Filters, schedules, activation ----------------------------------------------------------------


@pytest.mark.parametrize("case", cases.rows("filters"))
def test_filters(case, near):
    path, number = case
    row, tensors = cases.facts_of(path)["cases"][number], cases.tensors_of(path)
    assert cases.unheeded(row, {"numtaps", "cutoff", "width", "fs", "radial", "identity"}) == []
    assert set(tensors) == {f"f{i}" for i in range(len(cases.facts_of(path)["cases"]))}
    expected = tensors[f"f{number}"]
    f = lowpass(
        row["numtaps"], row["cutoff"], row["width"], row["fs"], radial=row.get("radial", False)
    )
    assert row.get("identity") in (None, f is None)
    if f is None:
        assert expected.numel() == 0
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
        **{
            "s_in": inside.sampling_rate,
            "s_out": outside.sampling_rate,
            "s_tmp": spec.tmp_sampling_rate,
        },
        **{"in_sampling_rate": inside.sampling_rate, "out_sampling_rate": outside.sampling_rate},
        "tmp_sampling_rate": spec.tmp_sampling_rate,
        **{
            "fc_in": inside.cutoff,
            "fc_out": outside.cutoff,
            "fh_in": inside.half_width,
            "fh_out": outside.half_width,
        },
        **{"in_cutoff": inside.cutoff, "out_cutoff": outside.cutoff},
        **{"in_half_width": inside.half_width, "out_half_width": outside.half_width},
        **{"up": spec.up, "up_factor": spec.up, "down": spec.down, "down_factor": spec.down},
        **{"up_taps": spec.up_taps, "down_taps": spec.down_taps},
        **{
            "radial": spec.down_radial,
            "down_radial": spec.down_radial,
            "critical": spec.is_critical,
        },
        **{"padding": [before, after, before, after], "fp16": spec.in_low_precision},
    }
    for name, value in facts.items():
        value = value[0] if name.endswith("_size") and isinstance(value, list) else value
        near = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert ours[name] == near, f"{spec.name} {name}"


@pytest.mark.parametrize("path", cases.files("schedule"))
def test_schedules(path):
    tables = cases.facts_of(path)
    for name in cases.unheeded(tables):
        table = tables[name]
        assert cases.unheeded(table, {"kwargs", "num_ws", "input", "layers"}) == []
        options = dict(table["kwargs"])
        resolution, channels = options.pop("img_resolution"), options.pop("img_channels", 3)
        others = ("z_dim", "c_dim", "w_dim", "conv_clamp", "output_scale")
        for other in (*others, "magnitude_ema_beta", "mapping_kwargs"):
            options.pop(other, None)
        specs = AliasFreeLayers(**options).layers(resolution, channels)
        for spec, facts in zip(specs, table["layers"], strict=True) if "layers" in table else ():
            check_layer(spec, facts)
        first = specs[0].inside
        ours = {"channels": first.channels, "size": first.size}
        ours |= {"sampling_rate": first.sampling_rate, "bandwidth": first.cutoff}
        stated = table.get("input", {})
        assert {key: ours[key] for key in stated} == stated
        assert table.get("num_ws") in (None, len(specs) + 1), name


@pytest.mark.parametrize("case", cases.rows("flrelu"))
@pytest.mark.parametrize("form", [filtered_lrelu, filtered_lrelu_reference])
def test_filtered_lrelu(case, form, near):
    path, number = case
    facts, tensors = cases.facts_of(path), cases.state(cases.tensors_of(path), f"{number}.")
    assert cases.unheeded(facts, {"cases", "defaults"}) == []
    assert set(tensors) <= {"x", "b", "fu", "fd", "y", "dy", "dx", "db"}
    options = facts.get("defaults", {}) | facts["cases"][number]
    for name in ("fu", "fd"):
        shape = list(tensors[name].shape) if name in tensors else None
        assert options.pop(name, shape) == shape
    assert options.pop("has_bias", "b" in tensors) == ("b" in tensors)
    if options.get("gain") == "sqrt(2)":
        options["gain"] = math.sqrt(2)
    x = tensors["x"].clone().requires_grad_()
    b = tensors["b"].clone().requires_grad_() if "b" in tensors else None
    y = form(x, tensors.get("fu"), tensors.get("fd"), b, **options)
    near(y, tensors["y"])
    for name, parameter in (("dx", x), ("db", b)):
        if name in tensors:
            near(cases.gradient(y, parameter, grad_outputs=tensors["dy"]), tensors[name])


# -- Whole generators ------------------------------------------------------------------------------


@pytest.fixture(params=cases.files("generator"))
def case(request) -> SimpleNamespace:
    """Facts, tensors, and the generator with the weights."""
    facts, tensors = cases.facts_of(request.param), cases.tensors_of(request.param)
    generator = cases.stylegan3(facts["kwargs"])
    weights = cases.state(tensors, "sd.")
    designed = {
        name: f.clone() for name, f in generator.state_dict().items() if name.endswith("_filter")
    }
    generator.load_state_dict(weights)
    return SimpleNamespace(
        facts=facts, tensors=tensors, generator=generator, designed=designed, weights=weights
    )


def test_generator_facts(case, near):
    known = {"kwargs", "batch", "num_ws", "truncation_cutoff"}
    known |= {"layer_names", "layers", "params", "buffers"}
    assert cases.unheeded(case.facts, known) == []
    generator, facts = case.generator, case.facts
    specs = {layer.spec.name: layer.spec for layer in generator.synthesis.layers}
    for name, stated in facts.get("layers", {}).items():
        check_layer(specs[name], stated)
    ours = {
        "batch": len(case.tensors["in.wsx"]),
        "num_ws": generator.num_ws,
        "layer_names": generator.synthesis.layer_names,
        "params": sum(p.numel() for p in generator.parameters()),
        "buffers": sum(b.numel() for b in generator.buffers()),
    }
    stated = {name: facts[name] for name in ours if name in facts}
    assert {name: ours[name] for name in stated} == stated
    for name, f in case.designed.items():
        near(f, case.weights[name], 1e-6)


def test_generator_numbers_are_all_compared(case):
    seen = {"batch1", "from_z", *cases.state(case.tensors, "in.transform_")}
    compared = re.compile(
        r"sd\..*|in\.(z|c|wsx|R|transform_\w+)|out\.(ws|ws_psi[\d.]+?(_cutoff\d*)?|img|img_batch1|img_from_z|pl_lengths)"
        rf"|out\.(img|input)_({'|'.join(seen)})|out\.layer0?\.\w+|out\.upd\..*|grad2?\..*"
    )
    assert [name for name in case.tensors if not compared.fullmatch(name)] == []


@torch.no_grad()
def test_generator_latents(case, near):
    t, generator = case.tensors, case.generator
    for name in filter(re.compile(r"out\.ws").match, t):
        found = re.fullmatch(r"out\.ws(?:_psi([\d.]+?)(_cutoff(\d*))?)?", name)
        cutoff = None if not found[2] else int(found[3] or case.facts["truncation_cutoff"])
        ws = generator.mapping(
            t["in.z"],
            cases.label(t, generator),
            truncation=float(found[1] or 1),
            truncation_cutoff=cutoff,
        )
        near(ws, t[name])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_generator_images(case, near, dtype):
    t, generator = case.tensors, case.generator.to(dtype)
    ws = t["in.wsx"].to(dtype)
    shown = {
        "out.img": lambda: generator.represent(ws).image,
        "out.img_batch1": lambda: generator.synthesize(ws[:1]),
        "out.img_from_z": lambda: generator.synthesize(truncated(case, dtype)),
    }
    for which, transform in cases.state(t, "in.transform_").items():
        shown[f"out.img_{which}"] = partial(generator.synthesize, ws, transform)
    for name in shown.keys() & set(t):
        near(shown[name](), t[name])
    for which, expected in cases.state(t, "out.input_").items():
        near(
            generator.synthesis.input(ws[: len(expected), 0], t[f"in.transform_{which}"]), expected
        )


def truncated(case: SimpleNamespace, dtype: torch.dtype) -> torch.Tensor:
    """Latents of out.img_from_z: psi 0.7 in the first truncation_cutoff layers."""
    generator, cutoff = case.generator, case.facts.get("truncation_cutoff")
    c = cases.label(case.tensors, generator)
    return generator.mapping(
        case.tensors["in.z"].to(dtype), c, truncation=0.7, truncation_cutoff=cutoff
    )


@torch.no_grad()
def test_generator_layers(case, near):
    t, synthesis = case.tensors, case.generator.synthesis
    ws, seen = t["in.wsx"], {}
    seen["input"] = x = synthesis.input(ws[:, 0])
    for layer, w in zip(synthesis.layers, ws.unbind(1)[1:], strict=True):
        seen[layer.spec.name] = x = layer(x, w)
    for name, expected in cases.state(t, "out.layer.").items():
        near(seen[name], expected)
    for name, expected in cases.state(t, "out.layer0.").items():
        near(seen[name][: len(expected)], expected)


@torch.no_grad()
def test_generator_after_an_update_of_its_running_means(case, near):
    t, generator = case.tensors, case.generator
    ws = generator.mapping(t["in.z"], cases.label(t, generator))
    generator.mapping.track(ws)
    image = generator.settle(ws)
    for name, expected in cases.state(t, "out.upd.").items():
        near(image if name == "img" else generator.get_buffer(name), expected)


def test_generator_gradients(case):
    t, generator = case.tensors, case.generator
    z, ws = t["in.z"].clone().requires_grad_(), t["in.wsx"].clone().requires_grad_()
    value = (generator.synthesize(ws) * t["in.R"]).sum()
    mapped = (generator.mapping(z, cases.label(t, generator)) * t["in.wsx"]).sum()
    for name, expected in cases.state(t, "grad.").items():
        if name.startswith("map."):
            part = name.removeprefix("map.")
            cases.nearly(
                cases.gradient(mapped, z if part == "z" else generator.mapping.get_parameter(part)),
                expected,
            )
        else:
            cases.nearly(
                cases.gradient(value, ws if name == "ws" else generator.get_parameter(name)),
                expected,
            )


def test_generator_path_lengths_and_their_gradients(case, near):
    t, generator = case.tensors, case.generator
    ws = t["in.wsx"].clone().requires_grad_()
    image = generator.synthesize(ws)
    slope = cases.gradient((image * t["in.R"]).sum() / image.shape[3], ws, create_graph=True)
    lengths = slope.square().sum(2).mean(1).sqrt()
    if "out.pl_lengths" in t:
        near(lengths, t["out.pl_lengths"])
    for name, expected in cases.state(t, "grad2.").items():
        parameter = ws if name == "ws" else generator.get_parameter(name)
        cases.nearly(cases.gradient(lengths.square().mean(), parameter), expected)
