"""Running means: what is added since the last reading, speed, and the peak of memory."""

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from gan3d.training.running_means import RunningMeans, peak_memory_gib


@pytest.mark.parametrize(("system", "counted"), [("darwin", 2**29), ("linux", 2**19)])
def test_half_a_gib_is_half_a_gib_where_bytes_are_counted_and_where_kib_are(
    monkeypatch, system, counted
):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=counted))
    assert peak_memory_gib(torch.device("cpu")) == 0.5


def test_means_are_over_what_was_added_since_the_last_reading():
    means = RunningMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": value})
    means.add({"seldom": 4.0})
    first = means.read(2000, torch.device("cpu"))
    assert (first["loss"], first["seldom"], first["progress/kimg"]) == (3.0, 4.0, 2.0)
    assert means.read(2000, torch.device("cpu")) == {}
    means.add({"loss": 8.0})
    second = means.read(3000, torch.device("cpu"))
    assert second["loss"] == 8.0
    assert "seldom" not in second


def test_means_go_on_from_their_state():
    means, resumed = RunningMeans(), RunningMeans()
    means.add({"loss": 1.0})
    means.add({"loss": 2.0})
    resumed.load_state_dict(means.state_dict())
    resumed.add({"loss": 6.0})
    assert resumed.read(0, torch.device("cpu"))["loss"] == 3.0


def test_speed_counts_the_images_since_the_last_reading(monkeypatch):
    clock, processor = iter((10.0, 12.0, 16.0, 100.0)), iter((1.0, 2.0, 3.5, 9.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("time.process_time", lambda: next(processor))
    means = RunningMeans()
    means.start(1000)
    means.add({"loss": 0.0})
    read = means.read(1600, torch.device("cpu"))
    assert read["speed/images_per_second"] == 600 / 4
    assert read["speed/images_per_cpu_second"] == 600 / 1.5
