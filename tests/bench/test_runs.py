"""What a training cost, from the speeds that it logged."""

from pathlib import Path

import pytest

from gan3d.bench.runs import training_cost


def write(folder: Path, text: str) -> Path:
    (folder / "metrics.csv").write_text(text)
    return folder


def test_seconds_are_images_by_their_speeds(tmp_path):
    rows = "step,loss,speed/images_per_second,speed/images_per_cpu_second\n"
    rows += "0,1,,\n100,1,50,100\n150,,,\n300,1,20,40\n"
    cost = training_cost(write(tmp_path, rows))
    assert cost == (300, 100 / 50 + 200 / 20, 100 / 100 + 200 / 40)
    assert cost.images_per_second == 300 / 12
    assert training_cost(tmp_path, until=299) == (100, 100 / 50, 100 / 100)


def test_seconds_on_the_cpu_are_not_known_if_a_part_of_the_run_did_not_log_them(tmp_path):
    rows = "step,speed/images_per_second,speed/images_per_cpu_second\n100,50,\n200,50,100\n"
    assert training_cost(write(tmp_path, rows)) == (200, 4.0, None)


def test_a_folder_without_speeds_is_refused(tmp_path):
    for run in (tmp_path, write(tmp_path, "step,loss\n1,2\n")):
        with pytest.raises(ValueError, match=r"metrics\.csv has no speeds"):
            training_cost(run)
