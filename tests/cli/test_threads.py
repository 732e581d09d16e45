"""Threads where nobody says how many."""

import os

import pytest
import torch

from gan3d.cli.threads import default_threads, recorded_threads, use_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("img_resolution", "on_cpu", "processes", "expected"),
    [
        (32, True, 1, 1),
        (127, True, 1, 1),
        (128, True, 1, 8),
        (512, True, 2, 4),
        (32, False, 1, 8),  # a GPU does the work
        (512, False, 3, 2),
        (512, True, 9, 1),
        (None, True, 1, 8),
    ],
)
def test_small_images_on_a_cpu_have_one_thread_others_all_cores(
    img_resolution, on_cpu, processes, expected
):
    assert default_threads(img_resolution, on_cpu=on_cpu, processes=processes) == expected


def test_what_the_environment_says_goes_before_the_number_of_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads(512, on_cpu=True) == 3
    assert default_threads(32, on_cpu=True) == 1


def test_threads_are_those_of_this_process_and_of_those_that_it_starts(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_threads(2)
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"
    use_threads(1)


def test_a_checkpoint_without_a_config_tells_no_threads():
    assert recorded_threads(None) is None
    assert recorded_threads({}) is None
