"""Sheets of the benchmark's page."""

from dataclasses import replace

import pytest

from gan3d.bench.pictures import ROWS, SIDE, YAWS, turned_sheet
from gan3d.generators import EG3D


@pytest.mark.parametrize("raw_resolution", [16, 32, 64])
def test_depth_of_another_resolution_has_the_size_of_the_pictures(raw_resolution):
    """64 px are enlarged to 128, 32 px would be to 96: columns of one sheet are of one size."""
    layout = {16: "8X", 32: "2X", 64: "2X"}[raw_resolution]
    sizes = EG3D.tiny | {"img_resolution": 64, "raw_resolution": raw_resolution}
    sizes["superresolution"] = replace(EG3D.tiny["superresolution"], layout=layout)
    sheet = turned_sheet(EG3D(**sizes).eval(), (2.7, 18.83))
    columns, cell = len(YAWS) + 1, 128
    assert cell >= SIDE
    assert sheet.shape[0] // ROWS == pytest.approx(cell, abs=2)
    assert sheet.shape[1] // columns == pytest.approx(cell, abs=2)
