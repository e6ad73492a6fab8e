"""The newest link of the audit chain, also written outside the database: so a cut-off end is found.

`root/audit.head` is one line of fixed length, rewritten in place by one pwrite (within one disk sector). Written after
each flushed commit, never before: the file may lag behind the database, it may not run ahead.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anomalyd.storage.folders import flush_folder

HEAD_FILE = "audit.head"
_SEQ_DIGITS = 20
_LINE_BYTES = _SEQ_DIGITS + 1 + 64 + 1


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """Sequence number and hash of one audit row."""

    seq: int
    hash: str


GENESIS = Link(0, "0" * 64)
"""What the first row is chained to."""


def read_head(root: Path) -> Link | None:
    """What the head file says; None when it is absent or damaged."""
    try:
        line = (root / HEAD_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(line) != _LINE_BYTES or not line[:_SEQ_DIGITS].isdigit():
        return None
    return Link(int(line[:_SEQ_DIGITS]), line[_SEQ_DIGITS + 1 : -1].decode("ascii", "replace"))


class AuditHead:
    """Writer of the head file. Does nothing while the file is evidence: absent, damaged, or not in the database."""

    def __init__(self, root: Path, *, is_evidence: bool) -> None:
        self._root = root
        self._descriptor = None if is_evidence else os.open(root / HEAD_FILE, os.O_WRONLY | os.O_CREAT, 0o600)

    def begin(self) -> None:
        """Makes a new file last before there is a row: one that a power cut took would look like a removed one."""
        if self._descriptor is not None and read_head(self._root) is None:
            write_head(self._descriptor, GENESIS)
            os.fsync(self._descriptor)
            flush_folder(self._root)

    def advance(self, link: Link | None) -> None:
        """Writes a link if it is newer than the file's: another process may have been faster.

        A disk that refuses leaves the file behind, as it may be, until the next link: the rows are committed.
        """
        if link is None or self._descriptor is None:
            return
        with suppress(OSError):
            known = read_head(self._root)
            if known is None or known.seq < link.seq:
                write_head(self._descriptor, link)

    def close(self) -> None:
        """Gives the file back; nothing is written any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def write_head(descriptor: int, link: Link) -> None:
    """Replaces the line."""
    os.pwrite(descriptor, f"{link.seq:0{_SEQ_DIGITS}d} {link.hash}\n".encode(), 0)
