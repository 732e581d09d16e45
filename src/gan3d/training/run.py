"""The run: how long it trains, from which weights, in which stages, and what seeds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gan3d.training.precisions import MatmulPrecision
from gan3d.training.stages import Stage


@dataclass(frozen=True)
class Run:
    """Settings of a run that belong to no loss and no network.

    Args:
        seed: seed of every random draw during training; None takes that of `--seed_everything`,
            which initial weights follow, too.
        total_kimg: length of the run, in thousands of real images.
        log_every_kimg: logging interval in kimg; metrics are averaged over it.
        micro_batch_size: images per forward pass and process. Below the batch size, gradients
            accumulate, and the result (minibatch standard deviation included) stays that of the
            whole batch. None: the whole batch. "auto": on CUDA the largest that is estimated to fit
            the memory that is free when training starts (whole groups of minibatch standard
            deviation), elsewhere the whole batch.
        stages: stages of a progressive run, in order: resolution, batch size, learning rates and
            more from some kimg on.
        freeze: parts of the generator that are not trained, such as nerf; they stay as the average
            has them.
        init_from: weights to start from, counting images from 0: a portable file or a checkpoint.
        init_discriminator: whether the discriminator starts from them, too. Set to false if its
            architecture changed (the stages of GRAM-HD).
        init_partial: accept weights that fill less than half of a network, and of which less than
            half is used.
        matmul_precision: how CUDA multiplies float32: "highest" as it is, "high" in TF32, with 10
            bits of mantissa, where the card has it (Ampere and later: several times as fast);
            and convolutions. Metrics stay as they are. None leaves it to torch, which takes
            TF32 for convolutions only.
    """

    seed: int | None = None
    total_kimg: float = 25000.0
    log_every_kimg: float = 1.0
    micro_batch_size: int | Literal["auto"] | None = None
    stages: list[Stage] | None = None
    freeze: str | list[str] | None = None
    init_from: str | None = None
    init_discriminator: bool = True
    init_partial: bool = False
    matmul_precision: MatmulPrecision | None = None

    def __post_init__(self) -> None:
        if self.total_kimg <= 0:
            raise ValueError(
                f"total_kimg is {self.total_kimg}; expected a positive length: set "
                "--model.run.total_kimg to thousands of images"
            )
        if self.log_every_kimg <= 0:
            raise ValueError(
                f"log_every_kimg is {self.log_every_kimg}; expected thousands of images above 0: "
                "set --model.run.log_every_kimg"
            )
        size = self.micro_batch_size
        if size not in (None, "auto") and (isinstance(size, str) or size < 1):
            raise ValueError(
                f"micro_batch_size is {size}; expected at least 1, null for the whole batch, or "
                "auto for what fits"
            )
