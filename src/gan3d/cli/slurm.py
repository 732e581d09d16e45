"""Lightning's requeueing under SLURM is off: a run saves and ends when it is told to
(gan3d.training.signals), and the next job goes on with --resume auto.
"""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector


class IgnoringRequeues(_CheckpointConnector):
    """Loads the checkpoint that is named, never an hpc_ckpt_*.ckpt that lies in the folder."""

    @property
    def _hpc_resume_path(self) -> str | None:
        return None


def without_requeue(plugins: Any) -> list[Any]:
    """The Trainer's plugins, and under SLURM its environment, which leaves signals alone."""
    chosen = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins] * bool(plugins)
    if SLURMEnvironment.detect() and not any(isinstance(p, ClusterEnvironment) for p in chosen):
        chosen.append(SLURMEnvironment(auto_requeue=False))
    return chosen
