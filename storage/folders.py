"""Names that last: what was made, renamed or removed is so after a power cut once its folder is flushed."""

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """The folder, 0700, with what is missing above it, each name flushed; one that is there stays as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Makes created, renamed and removed names of a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
