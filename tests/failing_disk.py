"""A disk that refuses on demand: calls below a folder fail with an error of the kernel (faults/disk_layer.c).

disk = FailingDisk(tmp_path / "rule", tmp_path / "store", library)
... run roles with disk.environment ...
disk.refuse(errno.ENOSPC, "segments/", begin=3)   # from the third call on
disk.heal()
"""

import mmap
import struct
from enum import IntFlag
from pathlib import Path

_RULE = struct.Struct("=5l236s")


class Kind(IntFlag):
    """Which calls; the numbers are those of disk_layer.c."""

    OPENING = 1
    WRITING = 2
    FLUSHING = 4
    NAMING = 8
    CUTTING = 16


FULL = Kind.WRITING | Kind.NAMING | Kind.FLUSHING
"""What a disk without room refuses (a flush, where blocks are given out late)."""
READ_ONLY = Kind.OPENING | Kind.WRITING | Kind.NAMING | Kind.CUTTING


class FailingDisk:
    """One rule, for all processes that were started with `environment`."""

    def __init__(self, rule: Path, folder: Path, library: Path) -> None:
        rule.write_bytes(bytes(_RULE.size))
        folder.mkdir(parents=True, exist_ok=True)
        with rule.open("r+b") as file:
            self._rule = mmap.mmap(file.fileno(), _RULE.size)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DISK_LAYER_ROOT": str(folder.resolve()),
            "DISK_LAYER_FAULT": str(rule),
        }

    def refuse(self, error: int, pattern: str, kinds: Kind, *, begin: int = 1) -> None:
        """From the begin-th call of these kinds on, on paths that hold the pattern, until `heal`."""
        self.heal()
        self._rule[4:] = _RULE.pack(0, kinds, begin, 0, 0, pattern.encode())[4:]
        self._rule[:4] = struct.pack("=l", error)

    def heal(self) -> None:
        """Nothing fails any more."""
        self._rule[:4] = bytes(4)

    @property
    def refused(self) -> int:
        """How many calls have failed by this rule."""
        return int(_RULE.unpack(self._rule[:])[4])

    @property
    def seen(self) -> int:
        """How many calls the rule was asked about."""
        return int(_RULE.unpack(self._rule[:])[3])
