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


@pytest.fixture
def kept(ablations, tmp_path, monkeypatch) -> Path:
    """An empty folder of results."""
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(ablations, "PICTURES", tmp_path / "pictures")
    return tmp_path / "kept"


def test_a_row_is_run_once_and_its_result_is_kept(ablations, kept, tmp_path, monkeypatch):
    commands = []

    def made(*words):
        commands.append(words)
        folder = tmp_path / "ablations"
        folder.mkdir(exist_ok=True)
        name = f"eg3d_heads32+eg3d_naive-seed{words[words.index('--seed') + 1]}"
        (folder / f"{name}.json").write_text(name)
        (folder / "sheet.png").write_text("heads")

    monkeypatch.setattr(ablations, "gan3d", made)
    monkeypatch.setattr(ablations, "read_result", lambda _: {"pictures": {"sheet": "sheet.png"}})
    table = ablations.TABLES["eg3d"]
    for seed in (1, 0, 1, 0):
        ablations.run(tmp_path, table, table.rows[0], seed)
    assert len(commands) == 2
    words = commands[0]
    assert words[:4] == ("bench", "run", "--suite", "ablations")
    assert words[words.index("--overlays") + 1].endswith("ablations/eg3d_naive.yaml")
    assert words[-1] == tmp_path
    names = [f"eg3d_heads32+eg3d_naive-seed{seed}" for seed in (0, 1)]
    assert [path.read_text() for path in sorted(kept.iterdir())] == names
    assert [path.stem for path in (tmp_path / "pictures").iterdir()] == names[:1]


def entry(row: str, value: float, protocol: str = "a") -> dict:
    return {
        "row": row,
        "cpu_seconds": 300.0,
        "protocol_hash": protocol,
        "values": {"fd_headnet/same": 0.25, "turn": value},
    }


def test_the_tables_have_means_and_both_extremes(ablations, tmp_path, monkeypatch):
    page = tmp_path / "ablations.md"
    page.write_text("# Ablations\n<!-- ablations: begin -->\nold\n<!-- ablations: end -->\nend\n")
    monkeypatch.setattr(importlib.import_module("pages"), "DOCS", tmp_path)
    found: dict = {name: [] for name in ablations.TABLES}
    found["eg3d"] = [entry("+ dual discrimination", turn) for turn in (0.4, 0.6)]
    ablations.write_tables(found)
    text = page.read_text()
    assert "old" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| + dual discrimination ")]
    assert line.startswith("| + dual discrimination | 6.5 | 2 | 0.25 (0.25, 0.25) |")
    assert "| 0.50 (0.40, 0.60) |" in line
    assert line.endswith("| 5 |")
    assert text.endswith("<!-- ablations: end -->\nend\n")
    found["axes"] = [entry("XY, XZ, ZX", 0.1, "b")]
    with pytest.raises(ValueError, match="2 protocols: a, b"):
        ablations.write_tables(found)


def test_what_was_finished_is_read_by_its_row(ablations, kept, monkeypatch):
    kept.mkdir()
    (kept / "cips3d_heads32+cips3d_8x8_rays-seed1.json").write_text(json.dumps({}))
    record = {
        "values": {"turn": {"value": 0.125, "low": 0.0, "high": 1.0}},
        "training": {"cpu_seconds": 5.0},
        "protocol_hash": "0",
    }
    monkeypatch.setattr(ablations, "read_result", lambda _: record)
    (found,) = ablations.results(ablations.TABLES["rays"])
    assert found["row"] == "8 x 8 of 32 x 32"
    assert found["values"] == {"turn": 0.125}


def test_the_page_shows_the_results_that_are_kept(ablations, tmp_path, monkeypatch):
    pages = importlib.import_module("pages")
    shown = (pages.DOCS / "ablations.md").read_text()
    (tmp_path / "ablations.md").write_text(shown)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    ablations.write_tables({name: ablations.results(t) for name, t in ablations.TABLES.items()})
    assert (tmp_path / "ablations.md").read_text() == shown
