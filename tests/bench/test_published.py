"""The numbers of papers: complete, apart from ours, never ranked with them."""

import json
from dataclasses import asdict

import jsonschema

from gan3d.bench.evaluation import HERE, OFFICIAL
from gan3d.bench.published import ANOTHER, HEADINGS, INCEPTION, published, published_cells
from gan3d.bench.results import SCHEMA
from gan3d.bench.table import leaderboard
from gan3d.generators import GENERATORS


def test_every_row_validates_and_every_member_has_one():
    schema = json.loads(SCHEMA.read_text())
    for row in published():
        jsonschema.validate(asdict(row), {"$defs": schema["$defs"], "$ref": "#/$defs/published"})
    assert {row.architecture for row in published()} == set(GENERATORS)
    keys = [(r.architecture, r.variant, r.data, r.resolution, r.source) for r in published()]
    assert len(set(keys)) == len(keys)


def test_the_three_origins_stand_in_columns_of_their_own(record):
    fid = {INCEPTION: {"value": 9.0, "low": 8.0, "high": 10.0}}
    size = {"protocol__real_resolution": 512}
    known = [
        record(values=fid, **size),
        record(values={INCEPTION: fid[INCEPTION] | {"value": 7.5}}, **size, model__origin=OFFICIAL),
        record(values=fid),  # of another resolution
    ]
    row = next(
        cells
        for cells in published_cells(known)
        if cells[:3] == ["EG3D", "FFHQ", "512"] and "table 2" in cells[-1]
    )
    named = dict(zip(HEADINGS, row, strict=True))
    assert named["FID, paper"] == "4.7"
    assert named[f"FID, {HERE}"] == "9"
    assert named[f"FID, {OFFICIAL}"] == "7.5"
    assert named["KID, paper"] == "–"
    other = next(cells for cells in published_cells(known) if cells[:3] == ["EG3D", "FFHQ", "256"])
    assert other.count("–") == 7


def test_they_stand_apart_from_the_ranking(tmp_path, record):
    board = leaderboard([(tmp_path / "a.json", record())])
    ranking, _, papers = board.markdown().partition(f"## {ANOTHER}")
    assert "Chan et al. 2022" in papers
    assert "Chan et al." not in ranking
    assert len(board.rows) == 1
