"""Kernels run in Triton's interpreter, which has to be asked for before they are imported."""

import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("triton") is not None:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _interpreter():
    pytest.importorskip("triton", reason="no Triton: pip install triton")


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """New memory is full of NaN, so that nothing may be left unwritten."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
