"""The rows of the ablations differ as they say; tables show means over seeds."""

import importlib
import json
from pathlib import Path

import pytest

from gan3d.zoo.configs import find, read

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    """benchmarks/ablations.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ablations")


@pytest.mark.slow
def test_every_row_is_a_config_that_fit_takes_and_no_two_are_equal(ablations, capsys):
    from gan3d.cli import main

    rows = {
        (table.config, row.overlays) for table in ablations.TABLES.values() for row in table.rows
    }
    printed = set()
    for config, overlays in rows:
        configs = [f"{config}.yaml", *(ablations.OVERLAYS / f"{name}.yaml" for name in overlays)]
        words = [word for config in configs for word in ("--config", str(config))]
        assert main(["fit", *words, "--print_config"]) == 0
        printed.add(capsys.readouterr().out)
    assert len(printed) == len(rows) >= 14


def test_every_overlay_is_of_a_row_and_has_a_heading(ablations):
    used = {
        f"{name}.yaml" for t in ablations.TABLES.values() for r in t.rows for name in r.overlays
    }
    files = list(ablations.OVERLAYS.glob("*.yaml"))
    assert used == {path.name for path in files}
    assert all(path.read_text().startswith("# ") for path in files)


def test_the_rows_of_gramhd_say_what_they_leave_out(ablations):
    def options(row) -> dict:
        found: dict = {}
        for name in row.overlays:
            content = read(ablations.OVERLAYS / f"{name}.yaml")["model"]
            found |= content.get("generator", {}).get("init_args", {})
        return found

    rows = {row.name: options(row) for row in ablations.TABLES["gramhd"].rows}
    base = rows["base architecture"]
    assert base["fg_upsampling"] == "bilinear"
    assert base["fg_style"] == "none"
    assert base["feature_dim"] == 0
    assert not base["separate_background"]
    assert "fg_upsampling" not in rows["+ sub-pixel convolutions"]
    assert "fg_style" not in rows["+ style modulation"]
    assert "feature_dim" not in rows["+ features of stage 1"]
    assert "separate_background" not in rows["+ network of the background"]
    assert read(find("gramhd_heads64"))["model"]["generator"]["init_args"]["feature_dim"] > 0


def test_a_finished_row_is_not_run_again(ablations, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(ablations, "gan3d", lambda *words: commands.append(words))
    table = ablations.TABLES["eg3d"]
    ablations.run(tmp_path, table, table.rows[0], 1)
    ((*words, _, folder),) = commands
    assert words[:4] == ["bench", "run", "--suite", "ablations"]
    assert words[words.index("--overlays") + 1].endswith("ablations/eg3d_naive.yaml")
    assert folder == tmp_path
    result = tmp_path / "ablations" / "eg3d_heads32+eg3d_naive-seed1.json"
    result.parent.mkdir()
    result.touch()
    ablations.run(tmp_path, table, table.rows[0], 1)
    assert len(commands) == 1


def test_the_tables_have_means_and_both_extremes(ablations, tmp_path, monkeypatch):
    page = tmp_path / "ablations.md"
    page.write_text("# Ablations\n<!-- ablations: begin -->\nold\n<!-- ablations: end -->\nend\n")
    monkeypatch.setattr(importlib.import_module("pages"), "DOCS", tmp_path)
    found: dict = {name: [] for name in ablations.TABLES}
    for seed, turn in enumerate((0.4, 0.6)):
        values = dict.fromkeys(ablations.COLUMNS, 0.25) | {"turn": turn}
        row = "+ dual discrimination"
        found["eg3d"].append({"row": row, "seed": seed, "values": values, "cpu_seconds": 300.0})
    ablations.write_tables(found)
    text = page.read_text()
    assert "old" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| + dual discrimination ")]
    assert line.startswith("| + dual discrimination | 6.5 | 2 | 0.25 (0.25, 0.25) |")
    assert "| 0.50 (0.40, 0.60) |" in line
    assert line.endswith("| 5 |")
    assert text.endswith("<!-- ablations: end -->\nend\n")


def test_what_was_finished_is_read_with_its_seed(ablations, tmp_path, monkeypatch):
    table = ablations.TABLES["rays"]
    folder = tmp_path / "ablations"
    folder.mkdir()
    path = folder / "cips3d_heads32+cips3d_8x8_rays-seed1.json"
    path.write_text(json.dumps({}))
    record = {
        "values": {"turn": {"value": 0.123456789, "low": 0.0, "high": 1.0}},
        "training": {"seed": 1, "images": 10000, "cpu_seconds": 5.0},
        "protocol_hash": "0",
        "made_with": {},
    }
    monkeypatch.setattr(ablations, "read_result", lambda _: record)
    (entry,) = ablations.results(tmp_path, table)
    assert entry["row"] == "8 x 8 of 32 x 32"
    assert (entry["seed"], entry["values"]) == (1, {"turn": 0.12346})
