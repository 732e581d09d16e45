"""Results on disk and in a table."""

import json

import jsonschema
import pytest

from gan3d.bench.results import SCHEMA, find_results, read_result, write_result
from gan3d.bench.table import DASH, leaderboard


@pytest.fixture
def written(tmp_path, record):
    """Writes a result, and reads it again."""

    def made(name: str, **changes):
        path = write_result(tmp_path / f"{name}.json", record(model__name=name, **changes))
        return path, read_result(path)

    return made


def test_a_result_validates_and_what_is_wrong_does_not(record):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record(), schema)
    for wrong in (
        {"format": 2},
        {"model__origin": "somewhere"},
        {"values": {"fd": {"value": 1.0}}},
        {"protocol__seed": -1},
        {"more": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(record(**wrong), schema)


def test_a_file_that_is_no_result_or_was_changed_is_refused(tmp_path, record):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no result of gan3d bench"):
        read_result(path)
    changed = record()
    changed["protocol"]["seed"] = 7
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="has another hash than the one beside it"):
        read_result(path)
    path.write_text(json.dumps(record(format=0)))
    with pytest.raises(ValueError, match="has format 0, expected 1"):
        read_result(path)


def test_results_are_found_in_files_and_folders_once(tmp_path, written):
    a, b = written("a")[0], written("b")[0]
    assert find_results([b, tmp_path]) == [b, a]
    with pytest.raises(ValueError, match="there are no results"):
        find_results([tmp_path / "none"][:0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol__seed": 1}, "seed: 0 / 1"),
        ({"protocol__resize_filter": "box"}, "resize_filter: lanczos / box"),
        ({"protocol__real": {"images": 25, "names": "1" * 64}}, "real.images: 24 / 25"),
        (
            {"protocol__conditioning": ["same", "independent"], "protocol__truncation": 0.7},
            "truncation: 1.0 / 0.7",
        ),
    ],
)
def test_numbers_of_two_protocols_are_never_in_one_table(written, change, said):
    a, b = written("a"), written("b", **change)
    with pytest.raises(ValueError, match="measured by different protocols") as error:
        leaderboard([a, b])
    assert said in str(error.value)
    assert str(a[0]) in str(error.value)
    assert str(b[0]) in str(error.value)
    assert "\n" not in str(error.value)  # one sentence


def test_the_best_3d_distance_comes_first_and_what_has_none_last(written):
    flat = {
        "values": {"fd_headnet/same": {"value": 1.0, "low": 0.9, "high": 1.1}},
        "absent": {"fd_headnet/3d": "StyleGAN2 has no camera"},
    }
    better = {"kd_headnet/3d": {"value": 99.0, "low": 98, "high": 100}}  # it does not rank
    better["fd_headnet/same"] = {"value": 9.0, "low": 8, "high": 10}
    better["fd_headnet/3d"] = {"value": 2.0, "low": 1.5, "high": 2.5}
    board = leaderboard([written("b", values=better), written("flat", **flat), written("a")])
    assert [row.name for row in board.rows] == ["b", "a", "flat"]
    text = board.markdown()
    assert "| 2 [1.5, 2.5] |" in text
    assert f"* {DASH}: StyleGAN2 has no camera" in text
    assert f"| flat | 1 [0.9, 1.1] | {DASH} |" in text.splitlines()
    assert board.first["protocol_hash"][:16] in text


def test_a_measure_that_failed_as_a_whole_gives_its_reason_to_each_of_its_values(written):
    broken = written("broken", values={}, absent={"fd": "its pictures are not finite"})
    board = leaderboard([broken, written("a")])
    assert [row.name for row in board.rows] == ["a", "broken"]
    assert board.rows[1].value("fd_headnet/3d") == (DASH, None, "its pictures are not finite")
    assert board.reasons() == ["its pictures are not finite"]


def test_a_reason_is_said_once_of_all_architectures(written):
    flat = [
        written(name, model__class=name, values={}, absent={"fd": f"{name} has no camera"})
        for name in ("A", "B")
    ]
    assert leaderboard([written("c"), *flat]).reasons() == ["A, B: has no camera"]


def test_seeds_of_one_model_are_one_row_with_the_interval_over_seeds(written):
    def training(seed: int) -> dict:
        known = {"by_suite": True, "why_not": [], "config": "m", "images": 1000, "device": None}
        known |= {"stages": []}
        return known | {
            "seed": seed,
            "seconds": 10.0 + 2 * seed,
            "cpu_seconds": None,
            "images_per_second": 100.0,
        }

    def value(of: float) -> dict:
        return {"fd_headnet/3d": {"value": of, "low": of, "high": of}}

    results = [
        written(f"m-seed{seed}", training=training(seed), values=value(of))
        for seed, of in ((0, 3.0), (1, 5.0))
    ]
    (row,) = leaderboard(results).rows
    assert (row.name, len(row.results)) == ("m", 2)
    cell = row.value("fd_headnet/3d")
    assert cell.value == 4.0
    # mean 4, deviation sqrt(2), t of one degree of freedom 12.706: half = 12.706
    assert cell.text == "4 [-8.71, 16.7]"
    assert row.facts()["training s"].text == "11"
    assert row.facts()["training CPU s"].text == DASH
    assert row.facts()["by the suite"].text == "yes"
