"""GPUs by name: memory, bandwidth and rates of their data sheets, and how long an
operation takes on one.

    t = max(launch, flops / (share of the rate), bytes / (share of the bandwidth))

Each operation is a launch of its own here; kernels that fuse several are not known to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gan3d.training.estimate.live import Work

GIB = 2**30
# Assumed, not measured: what is reached of the rates, and the time of a launch.
RATE_SHARE, BANDWIDTH_SHARE, LAUNCH = 0.5, 0.75, 5e-6


@dataclass(frozen=True)
class GPU:
    """A GPU, by its data sheet (dense rates).

    Attributes:
        name: as it is sold.
        memory: bytes.
        bandwidth: of the memory, bytes/s.
        fp32: FLOP/s of float32.
        tf32: of products of float32 that may round to TF32; that of float32 where there is none.
        bf16: of bfloat16; that of float32 where it is emulated.
        fp16: of float16.
        link: to another gpu, bytes/s and direction.
    """

    name: str
    memory: int
    bandwidth: float
    fp32: float
    tf32: float
    bf16: float
    fp16: float
    link: float


GPUS = {
    "h200": GPU("H200 SXM", 141 * 10**9, 4.8e12, 67e12, 494e12, 989e12, 989e12, 450e9),
    "h100": GPU("H100 SXM", 80 * GIB, 3.35e12, 67e12, 494e12, 989e12, 989e12, 450e9),
    "a100": GPU("A100 80 GB SXM", 80 * GIB, 2.04e12, 19.5e12, 156e12, 312e12, 312e12, 300e9),
    "rtx4090": GPU("RTX 4090", 24 * GIB, 1.01e12, 82.6e12, 82.6e12, 165e12, 165e12, 32e9),
    "v100": GPU("V100 32 GB SXM", 32 * GIB, 0.9e12, 15.7e12, 15.7e12, 15.7e12, 125e12, 150e9),
    "t4": GPU("T4", 16 * GIB, 0.32e12, 8.1e12, 8.1e12, 8.1e12, 65e12, 16e9),
}


def seconds_on(gpu: GPU) -> Callable[[Work], float]:
    """How long an operation takes on a GPU."""
    allows_tf32 = torch.get_float32_matmul_precision() != "highest"

    def seconds(work: Work) -> float:
        rate = {torch.bfloat16: gpu.bf16, torch.float16: gpu.fp16}.get(work.dtype, gpu.fp32)
        if work.dtype == torch.float32 and (work.is_convolution or allows_tf32):
            rate = gpu.tf32  # torch lets convolutions round to TF32, products only if asked to
        computed = work.flops / (RATE_SHARE * rate)
        moved = work.moved / (BANDWIDTH_SHARE * gpu.bandwidth)
        return max(LAUNCH, computed, moved)

    return seconds


def seconds_to_share(num_bytes: float, processes: int, gpu: GPU) -> float:
    """Time of a mean over processes in a ring: 2 (n - 1) / n times the bytes go over each link."""
    return 2 * (processes - 1) / processes * num_bytes / gpu.link
