"""Keeps the gateway's process small: what only pixels and downloads need stays out, and freed memory is used again.

pydicom loads numpy, Pillow, the codecs and requests where they are installed: 22 MB and half a second that a door
which decodes nothing has no use for. pydicom works without them.
"""

import ctypes
import sys
from typing import Final

NOT_NEEDED: Final = ("numpy", "PIL", "requests", "tqdm", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls")
_ARENA_MAX: Final = -8  # M_ARENA_MAX, malloc.h of glibc
_ARENAS: Final = 2


def keep_out_pixel_libraries() -> None:
    """Makes the import of each fail from now on, unless it is loaded already; before pydicom is imported."""
    for name in NOT_NEEDED:
        # None says "not to be had" to the import system (Python reference, 5.3.1)
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # typeshed knows no None there


def share_freed_memory() -> bool:
    """Two pools of memory for all threads, before they are started; False where the C library has no such setting.

    glibc gives threads pools of their own: with associations that come and go the process grew by 25 MB in 5000
    images, with two pools it stays where it is after the first 1000.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_ARENA_MAX, _ARENAS))
