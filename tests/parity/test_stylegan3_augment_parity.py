"""ADA against the published pipe at fixed percentiles (golden/stylegan3): images, their gradients,
filters.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from gan3d.augment import Percentile, Transforms, augment
from gan3d.augment.corruption import filter_bank
from gan3d.augment.geometry import SYM6
from gan3d.ops.resample import setup_filter

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


@pytest.mark.parametrize("case", cases.rows("augmentation"))
def test_stylegan3_augmentation_and_its_gradient(case, near):
    path, number = case
    facts, tensors = cases.facts_of(path), cases.tensors_of(path)
    row = facts["cases"][number]
    assert cases.unheeded(row, {"key", "kwargs", "p"}) == []
    given = facts["kwargs"] if row["kwargs"] == "all" else row["kwargs"]
    expected = tensors[row["key"]]
    x = tensors["x"][: len(expected)].clone().requires_grad_()
    y = augment(x, Transforms(**given), 1.0, Percentile(row["p"], len(x)))
    near(y, expected)
    if f"{row['key']}.dx" in tensors:
        near(cases.gradient((y * x.detach().flip(0)).sum(), x), tensors[f"{row['key']}.dx"])


@pytest.mark.parametrize("path", cases.files("augmentation"))
def test_stylegan3_augmentation_filters(path, near):
    facts, tensors = cases.facts_of(path), cases.tensors_of(path)
    assert cases.unheeded(facts, {"kwargs", "cases"}) == []
    filters = {"Hz_geom": setup_filter(SYM6), "Hz_fbank": filter_bank()}
    compared = {f"{row['key']}{part}" for row in facts["cases"] for part in ("", ".dx")}
    assert set(tensors) <= {"x"} | filters.keys() | compared
    for name in filters.keys() & set(tensors):
        near(filters[name], tensors[name], 1e-6)
