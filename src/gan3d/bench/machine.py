"""Facts about the machine beside every number, and the peak memory of a block."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import gan3d


def processor() -> str:
    """The processor's name; "" if the system does not say it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


def machine_name(device: torch.device | str = "cpu") -> str:
    """Processor and number of cores as a folder name, such as amd-epyc-2cores; of a GPU its name,
    such as nvidia-h100-80gb-hbm3.
    """
    if torch.device(device).type == "cuda":
        return _slug(torch.cuda.get_device_name(device))
    name = processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    cores = len(re.findall(r"^processor", known.read_text(), re.M)) if known.exists() else 1
    return f"{_slug(name)}-{cores}cores"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def machine_facts(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Machine, versions, commit and date of a run."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "machine": machine_name(),
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gan3d": gan3d.__version__,
        "commit": commit() or "unknown",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str | None:
    """The commit of the checkout that gan3d lies in, `-dirty` where it was changed since; None if
    it is installed.
    """
    if not (Path(__file__).parents[3] / ".git").exists():
        return None
    words = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


class PeakMemory:
    """Peak resident memory of this process in a block, above the start of the block, in GB (Linux).

    with PeakMemory() as peak:
        work()
    print(peak.extra)
    """

    extra: float

    def __enter__(self) -> PeakMemory:
        # Resets the peak to the current resident memory.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.extra = _resident("VmHWM") - self._before


def _resident(kind: str) -> float:
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9


def resident() -> int:
    """Resident memory of this process, bytes (Linux)."""
    return round(_resident("VmRSS") * 1e9)
