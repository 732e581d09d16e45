"""The script of the zoo trains, measures and packs; what it packed says what is true of it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gan3d

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def zoo(monkeypatch):
    """benchmarks/zoo.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("zoo")


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return gan3d.EG3D(**gan3d.EG3D.tiny).eval()


def scores(**values):
    return {name: {"value": value, "interval": 0.0} for name, value in values.items()}


@pytest.mark.slow
def test_the_script_trains_a_model_and_packs_it_with_its_card(zoo, tmp_path, monkeypatch):
    command = [sys.executable, BENCHMARKS / "zoo.py", tmp_path / "work", "--tiny"]
    command += ["--names", "eg3d_heads32", "--out", tmp_path / "zoo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr("gan3d.zoo.models.SHIPPED", tmp_path / "zoo")
    card = zoo.read_card("eg3d_heads32")
    assert card.architecture == "EG3D"
    assert card.facts["images_seen"] == 16
    assert card.facts["status"] == "preview"  # after two iterations
    assert set(card.facts["scores"]) >= {"distance", "turn", "face_convex", "body_convex"}
    assert gan3d.from_pretrained("eg3d_heads32").img_resolution == 32

    # a run of another recipe is refused
    config = tmp_path / "work" / "eg3d_heads32" / "config.yaml"
    config.write_text(config.read_text().replace("gamma: 0.5", "gamma: 0.6"))
    work = tmp_path / "work"
    with pytest.raises(SystemExit, match="was trained with another model than"):
        zoo._refuse_another_recipe("eg3d_heads32", work / "eg3d_heads32", work, tiny=True)


def test_a_model_that_misses_one_demand_is_a_preview(zoo, generator):
    good = {"body_convex": 0.9, "face_convex": 0.8, "turn": 0.5, "distance": 0.5}
    assert zoo.status(generator, scores(**good)) == "member"
    for name in good:
        worse = good[name] + (0.01 if name == "distance" else -0.01)
        assert zoo.status(generator, scores(**good | {name: worse})) == "preview"
    flat = gan3d.StyleGAN2(**gan3d.StyleGAN2.tiny)
    assert zoo.status(flat, scores(distance=0.5)) == "member"
    assert zoo.status(flat, scores(distance=0.51)) == "preview"


def test_intervals_are_those_of_students_t(zoo):
    from scipy import stats

    values = [0.2, 0.5, 0.3, 0.6]
    interval = zoo._interval(values)
    low, high = stats.t.interval(0.95, 3, loc=0.4, scale=stats.sem(values))
    assert interval["value"] == pytest.approx(0.4)
    assert interval["interval"] == pytest.approx((high - low) / 2, rel=1e-3)


def test_what_float16_changes_is_seen_in_the_pictures(zoo, generator, tmp_path):
    path = tmp_path / "heads.safetensors"
    small = zoo.float16_error(generator, path)
    assert 0 < small < 1
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        for weight in generator.parameters():
            weight.copy_(weight.half())
    assert zoo.float16_error(generator, path) == 0


def test_a_silenced_model_has_no_noise_and_all_else(zoo, generator):
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    with torch.no_grad():
        for name, weight in generator.named_parameters():
            if name.endswith("noise_strength"):
                weight.fill_(1.0)
    zoo.silence(generator)
    after = generator.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_seconds_of_a_training_follow_from_its_log(zoo, tmp_path):
    rows = ["step,speed/images_per_second", "100,0.0", "200,50", "300,", "400,20"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    assert zoo.training_seconds(tmp_path) == pytest.approx(200 / 50 + 200 / 20)


def test_the_sheet_shows_heads_that_turn_and_their_depth(zoo, generator):
    sheet = zoo.sheet(generator)
    assert sheet.shape == (4 * 98 - 2, 6 * 98 - 2, 3)
    flat = zoo.sheet(gan3d.StyleGAN2(**gan3d.StyleGAN2.tiny).eval())
    assert flat.shape == (4 * 98 - 2, 6 * 98 - 2, 3)


def test_the_page_has_a_row_and_a_picture_for_each_model(zoo, generator, tmp_path, monkeypatch):
    monkeypatch.setattr("gan3d.zoo.models.SHIPPED", tmp_path)
    page = tmp_path / "zoo.md"
    page.write_text("# Zoo\n<!-- zoo: begin -->\nold\n<!-- zoo: end -->\nend\n")
    monkeypatch.setattr(importlib.import_module("pages"), "DOCS", tmp_path)
    made = {"threads": 1, "machine": "m", "commit": "c", "date": "2026-11-28 08:00 UTC"}
    card = {
        "images_seen": 1200,
        "training_minutes": 3.4,
        "config": "eg3d_heads32.yaml",
        "data": "gan3d data heads",
        "made_with": made,
        "scores": {"turn": {"value": 0.625, "interval": 0.031}},
        "status": "preview",
    }
    generator.save_pretrained(
        tmp_path / "eg3d_heads32.safetensors", facts=json.loads(json.dumps(card))
    )
    zoo.write_page()
    text = page.read_text()
    assert text.startswith("# Zoo\n<!-- zoo: begin -->\n| model |")
    assert text.endswith("<!-- zoo: end -->\nend\n")
    assert "old" not in text
    assert "| `eg3d_heads32` | EG3D | 32 | " in text
    assert "| 1,200 | 3 |" in text
    assert "| 0.62 ± 0.03 |" in text
    assert "| preview |" in text
    assert "![eg3d_heads32](images/zoo/eg3d_heads32.png)" in text
