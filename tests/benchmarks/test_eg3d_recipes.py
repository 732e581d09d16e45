"""The recipes of EG3D are told apart by their arguments; tables show means over their seeds."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch):
    """benchmarks/eg3d_recipes.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("eg3d_recipes")


def test_every_recipe_is_a_config_that_fit_takes(recipes, capsys, tmp_path, monkeypatch):
    from gan3d.cli import main

    monkeypatch.setattr(recipes, "heads", lambda folder, *_: folder / "heads.zip")
    printed = set()
    for recipe in recipes.RECIPES:
        words = map(str, recipes.arguments(tmp_path, recipe, "wide", 1))
        assert main(["fit", *words, "--print_config"]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == len(recipes.RECIPES)


def test_the_table_has_means_and_extremes_and_stands_in_the_page(recipes, tmp_path, monkeypatch):
    page = tmp_path / "eg3d.md"
    page.write_text("# EG3D\n<!-- recipes: begin -->\nold\n<!-- recipes: end -->\nend\n")
    monkeypatch.setattr(importlib.import_module("pages"), "DOCS", tmp_path)
    values = dict.fromkeys(recipes.COLUMNS, 0.5)
    rows = [
        {"set": "wide", "recipe": "published", "seed": seed, **values, "turn": turn}
        for seed, turn in enumerate((0.4, 0.6, 0.8))
    ]
    rows.append({"set": "ffhq", "recipe": "black", "seed": 0, **values})
    recipes.write_table(rows)
    text = page.read_text()
    assert "old" not in text
    assert "| heads | published | 3 | 0.50 (0.50 to 0.50)" in text
    assert "| 0.60 (0.40 to 0.80) |" in text
    assert "| heads-ffhq | black | 1 | 0.50 | 0.50 |" in text
    assert text.endswith("<!-- recipes: end -->\nend\n")
    assert (Path(__file__).resolve().parents[2] / "docs" / "eg3d.md").read_text().count(
        "<!-- recipes: "
    ) == 2


def test_a_run_is_finished_at_its_last_image(recipes, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "kimg-000028.000.ckpt").touch()
    assert not recipes.finished(tmp_path)
    (tmp_path / "checkpoints" / "kimg-000030.000.ckpt").touch()
    assert recipes.finished(tmp_path)
