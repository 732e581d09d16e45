"""Every kernel compiles for sm_80 and sm_90, without a card: registers, spills, 16-byte loads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Per thread. 64 leave room for 32 warps on a multiprocessor, 200 for 10.
MOST_REGISTERS = {
    "densities": 96,
    "rays": 128,
    "rays_backward": 255,
    "alphas": 64,
    "alphas_backward": 96,
    "bias_act": 64,
    "bias_act_grad": 64,
    "composite": 64,
    "composite_backward": 64,
    "filtered_lrelu": 200,
    "fir": 96,
    "grid_sample": 64,
    "grid_sample_backward": 128,
    "left_point": 64,
    "left_point_backward": 96,
    "manifolds": 200,
    "manifolds_backward": 208,
    "scaled_linear": 200,
    "plane_features": 64,
    "plane_features_backward": 128,
}
# Rows of an image that are read from any pixel on (neighbors by neighboring threads), and colors of
# three numbers.
NARROW = (
    "fir_kernel: filter, channels first",
    "filtered_lrelu_kernel",
    "left_point_kernel: colors",
)
NARROW += ("grid_sample_kernel: RGBA", "grid_sample_backward_kernel: RGBA", "manifolds_")
NARROW += ("left_point_backward_kernel: colors",)


@pytest.fixture(scope="module")
def compiled() -> dict:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("offline.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_kernel_spills_and_all_read_16_bytes_at_once(compiled):
    print(json.dumps(compiled, indent=1))
    for name, cards in compiled.items():
        assert set(cards) == {"80", "90"}
        for card, used in cards.items():
            assert used["stack"] == 0, (name, card)
            most = MOST_REGISTERS[name.split("_kernel")[0]]
            assert 0 < used["registers"] <= most, (name, card)
            assert used["wide_loads"] > 0 or name.startswith(NARROW), (name, card)


def test_every_kernel_is_compiled(compiled):
    """What is launched ends in _kernel."""
    folder = Path(__file__).parents[3] / "src" / "gan3d" / "ops" / "triton"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    kernels = set(re.findall(r"@triton\.jit\ndef (\w+_kernel)\(", sources))
    launched = set(re.findall(r"(\w+)\[\w*grid\w*(?:\(\w+\))?\]\(", sources))
    assert kernels == launched == {name.split(":")[0] for name in compiled}
