"""Being woken at once: short time slices for a process that mostly waits (docs/decisions/0051-short-time-slices.md).

A receiver waits for the disk and for its peers, and works for a fraction of a millisecond in between. On a machine
that computes, each wake-up waits for the end of somebody's slice: 3 to 4 ms. Linux from 6.12 on lets an ordinary thread
ask for a shorter slice (sched_setattr(2), `sched_runtime` of SCHED_OTHER); it gets no more time, but it gets it sooner.
"""

import ctypes
import os
import platform
import struct
from typing import Final

SLICE_NS: Final = 100_000  # the shortest that the kernel takes
_SYSCALL_NUMBER: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
# size, policy, flags, nice, priority, runtime, deadline, period (linux/sched/types.h, version 0)
_ATTRIBUTES: Final = struct.Struct("@IIQiIQQQ")


def ask_for_short_slices() -> bool:
    """For this thread and all that it starts from now on. False, and nothing has changed, where there is no such call.

    Kernels before 6.12 take it and ignore it.
    """
    number = _SYSCALL_NUMBER.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0)
