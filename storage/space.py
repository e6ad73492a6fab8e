"""Two things that Python's os module does not offer of fallocate(2): room ahead of a file's end, and holes in it.

Both are an advantage and never a need: where the file system refuses, False is given and nothing else changes.
"""

import ctypes
from typing import Final

_KEEP_SIZE: Final = 0x01  # linux/falloc.h
_PUNCH_HOLE: Final = 0x02
_fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)


def reserve(descriptor: int, offset: int, length: int) -> bool:
    """Blocks for bytes that will be appended; the file's size stays. A flush then has less to write down."""
    return _called(descriptor, _KEEP_SIZE, offset, length)


def give_back(descriptor: int, offset: int, length: int) -> bool:
    """Frees the blocks behind a stretch of a file, which reads as zeros from then on."""
    return _called(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length)


def _called(descriptor: int, mode: int, offset: int, length: int) -> bool:
    if _fallocate is None or length <= 0:
        return False
    return bool(_fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0)
