"""Running means: the peak of memory in GiB on every system."""

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from gan3d.training.running_means import peak_memory_gib


@pytest.mark.parametrize(("system", "counted"), [("darwin", 2**29), ("linux", 2**19)])
def test_half_a_gib_is_half_a_gib_where_bytes_are_counted_and_where_kib_are(
    monkeypatch, system, counted
):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=counted))
    assert peak_memory_gib(torch.device("cpu")) == 0.5
