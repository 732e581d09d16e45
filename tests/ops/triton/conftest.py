"""Kernels run in Triton's interpreter (tests/conftest.py asks for it)."""

import pytest
import torch


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
