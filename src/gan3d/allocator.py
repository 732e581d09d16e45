"""The C library's allocator keeps the memory that tensors free, on Linux with glibc.

By default glibc gives every block above 32 MB back to the kernel when it is freed, and the next
tensor of that size is made of pages that the kernel has to find and to clear: a sixth to a third of
the time of a training iteration on a CPU. `keep_memory` makes it keep them. Nothing that is
computed changes; a process holds on to the most memory that it ever needed.
"""

from __future__ import annotations

import ctypes
import os
import platform

VARIABLE = "GAN3D_MALLOC"  # "default" leaves the allocator as it is

# Parameters of mallopt (malloc.h of glibc) and what they become.
_SETTINGS = (
    (-4, 0),  # M_MMAP_MAX: no block is mapped, and so unmapped, on its own
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: the heap does not shrink
    (-2, 2**28),  # M_TOP_PAD: it grows by 256 MB at once
)


def keep_memory() -> bool:
    """Makes glibc keep what is freed, for this process and those that it forks.

    Call it before the first large tensor is made: what is already mapped is still given back.

    Returns:
        whether it does so now: False elsewhere than on Linux with glibc, and with
        `GAN3D_MALLOC=default` in the environment.

    Raises:
        ValueError: GAN3D_MALLOC is something else.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "default"):
        raise ValueError(
            f"{VARIABLE} is {asked!r}; expected 'default', which leaves the C library's allocator "
            "as it is, or nothing"
        )
    if asked or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) == 1 for parameter, value in _SETTINGS)
