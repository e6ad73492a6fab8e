"""What it means that disk or database refuse: in words, and who must act."""

import errno
import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError

from anomalyd.errors import AnomalydError, Broken, Transient

_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TRANSIENT: Final = {
    sqlite3.SQLITE_BUSY: "is locked by another process: end what holds it (a copy, an open shell)",
    sqlite3.SQLITE_LOCKED: "is locked by another process: end what holds it (a copy, an open shell)",
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: make room below storage.root",
    sqlite3.SQLITE_READONLY: "cannot be written: is the file system mounted read-only?",
    sqlite3.SQLITE_IOERR: "cannot be read or written: look at the disk below storage.root",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: look at the disk below storage.root",
}
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StoreRefuses(Transient):
    """Disk or database cannot be used just now; nothing is lost, and it is tried again."""


class StoreDamaged(Broken):
    """The database does not hold what was written."""


def trouble_of(error: BaseException) -> AnomalydError | None:
    """The same in our words; None where it is neither the disk's nor the database's."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return StoreRefuses(f"{error.strerror}: make the disk below storage.root writable, with room")
    origin = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(origin, sqlite3.Error):
        return None
    code = getattr(origin, "sqlite_errorcode", 0) & 0xFF  # the primary code; 0: not of SQLite itself
    if code in _DAMAGED:
        return StoreDamaged(
            f"the database is damaged ({origin}): stop, keep a copy of storage.root as it is, restore the backup"
        )
    return StoreRefuses(f"the database {_TRANSIENT[code]} ({origin})") if code in _TRANSIENT else None
