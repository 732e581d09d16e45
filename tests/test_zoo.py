"""The trained models that come with gan3d are what their cards say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gan3d
from gan3d.checkpoints.models import load_model
from gan3d.generators import GENERATORS
from gan3d.zoo.models import SHIPPED, read_card

ROOT = Path(__file__).resolve().parents[1]
NAMES = gan3d.list_models(pretrained=True)


def test_the_promised_members_are_there():
    found = {read_card(name).architecture for name in NAMES}
    assert found >= {"EG3D", "CIPS3D", "GRAM", "GRAMHD", "PiGAN", "StyleGAN2", "StyleGAN3"}


def test_the_zoo_is_small():
    sizes = [path.stat().st_size for path in SHIPPED.glob("*.safetensors")]
    assert max(sizes) <= 4_000_000
    assert sum(sizes) <= 25_000_000  # the wheel is to stay under 40 MB


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_that_of_the_config_of_its_name(name):
    """So `lightning fit --config` trains what the card says."""
    trained, made = gan3d.from_pretrained(name), gan3d.create(name)
    shapes = [{key: w.shape for key, w in g.state_dict().items()} for g in (trained, made)]
    assert type(trained) is type(made) is GENERATORS[read_card(name).architecture]
    assert shapes[0] == shapes[1]
    assert read_card(name).facts["config"] == f"{name}.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_how_its_model_came_about_and_what_it_is_worth(name):
    facts = read_card(name).facts
    assert facts["images_seen"] >= 5_000
    assert facts["training_minutes"] > 1
    assert re.fullmatch(r"[0-9a-f]{7,}", facts["made_with"]["commit"])  # of a clean tree
    scores = facts["scores"]
    assert 0 < scores["distance"]["value"] < 2
    assert all(score["interval"] >= 0 for score in scores.values())
    in_3d = "turn" in scores
    demands = {"body_convex": 0.9, "face_convex": 0.8, "turn": 0.5} if in_3d else {}
    met = all(scores[key]["value"] >= least for key, least in demands.items())
    assert facts["status"] == (
        "member" if met and scores["distance"]["value"] <= 0.5 else "preview"
    )


def test_eg3d_cips3d_and_a_manifold_model_are_no_previews():
    members = {
        read_card(name).architecture
        for name in NAMES
        if read_card(name).facts["status"] == "member"
    }
    assert {"EG3D", "CIPS3D"} <= members
    assert {"GRAM", "GRAMHD"} & members


def test_loading_imports_no_compiler():
    """It takes torch longer than all the rest of loading."""
    code = (
        "import sys, gan3d\n"
        "for name in gan3d.list_models(pretrained=True): gan3d.from_pretrained(name)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_model_differ_and_are_finite(name):
    generator, facts = load_model(name)
    views = gan3d.sample(generator, seeds=range(4))
    assert views.image.isfinite().all()
    assert views.image.std(0).mean() > 0.01
    assert facts["images_seen"] == read_card(name).facts["images_seen"]
    if generator.has_camera:
        camera = gan3d.Camera.from_angles(yaw=0.5, pitch=0.0)
        turned = gan3d.sample(generator, seeds=range(4), camera=camera)
        assert not torch.allclose(turned.image, views.image, atol=0.1)


def test_the_page_shows_every_model_with_the_scores_of_its_card():
    page = (ROOT / "docs" / "zoo.md").read_text()
    for name in NAMES:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        distance = read_card(name).facts["scores"]["distance"]
        assert f"| {distance['value']:.2f} ± {distance['interval']:.2f} |" in row
        assert ("preview" in row) is (read_card(name).facts["status"] == "preview")
        assert (ROOT / "docs" / "images" / "zoo" / f"{name}.png").exists()
