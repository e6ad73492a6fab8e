"""The open store: one directory, one database, transactions that say whether they write (GATEWAY 7).

A write transaction begins with BEGIN IMMEDIATE: one that first reads and then writes would be refused at once
("database is locked", whatever the time-out) when another process committed in between.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from anomalyd.errors import ConfigError
from anomalyd.storage import audit_key, schema
from anomalyd.storage.audit_head import AuditHead
from anomalyd.storage.canonical import canonical_json
from anomalyd.storage.clock import Clock, utc_now
from anomalyd.storage.folders import make_folder
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.trouble import StoreRefuses, trouble_of

IndexSync = Literal["full", "normal"]
BUSY_TIMEOUT_MS = 5000  # GATEWAY 7
_SYNCHRONOUS = "anomalyd_synchronous"


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that is kept. Any thread may use it; one write transaction runs at a time in each process.

    root: absolute. index_sync: what `write` does; `write_through` always flushes.
    """

    root: Path
    engine: Engine
    index_sync: IndexSync
    clock: Clock
    hash_key: bytes = field(repr=False)
    head: AuditHead
    _writer: Any = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back by an exception. Never nested.

        With index_sync "normal" the commit is not flushed: only for what the segment log can bring back.
        """
        with self._transaction(durable=self.index_sync == "full") as connection:
            yield connection

    @contextmanager
    def write_through(self) -> Iterator[Connection]:
        """As `write`, and flushed to disk at the end, with all that was committed before it."""
        with self._transaction(durable=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and writes nothing. Keep it short: the WAL waits."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Connection]:
        with self._writer, self.engine.connect() as bare:
            connection = bare.execution_options(**{schema.WRITES: True, schema.DURABLE: durable})
            connection.info.pop(schema.NEW_HEAD, None)  # of a transaction that was rolled back
            with connection.begin():
                yield connection
            if durable:
                # Not after an unflushed commit: a head that outlives its rows would look like a truncation.
                self.head.advance(connection.info.pop(schema.NEW_HEAD, None))

    def keyed_hash(self, text: str | None) -> str | None:
        """What audit rows hold instead of a PatientID or AccessionNumber; None for nothing."""
        return audit_key.hashed(self.hash_key, text)

    def free_bytes(self) -> int:
        """Free space under root, for this user."""
        return shutil.disk_usage(self.root).free

    def truncate_wal(self) -> bool:
        """Moves all commits into the database file and empties the WAL; False when a reader was in the way."""
        with self._writer, self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            if raw is None or self.engine.dialect.name != "sqlite":
                return True
            busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Gives connections and files back."""
        self.engine.dispose()
        self.head.close()


def open_store(settings: StorageSettings, *, index_sync: IndexSync = "full", clock: Clock = utc_now) -> Store:
    """The store of these settings, made at first use: directories 0700, files 0600, schema, triggers, audit key.

    Raises ConfigError when the directory cannot be written, the schema is another version's, the audit key is lost, or
    the database is damaged; StoreRefuses when the disk is full or read-only, or the database locked for long.
    """
    root = settings.root.absolute()
    url = _checked_url(settings, root)
    try:
        make_folder(root / "results")
        make_folder(root / "segments")
        with _only_one_opens(root):
            key = audit_key.load_or_make(root)
            _make_private(Path(make_url(url).database or ""))
            maker = _engine(url, "full")
            head = schema.prepare(maker, root, key, clock())
            maker.dispose()
    except OSError as exc:
        if (trouble := trouble_of(exc)) is not None:
            raise trouble from exc
        raise ConfigError(
            f"storage.root {root}: {exc.strerror or exc}: the daemon's user must be able to write"
        ) from exc
    except DBAPIError as exc:
        trouble = trouble_of(exc)
        if isinstance(trouble, StoreRefuses):
            raise trouble from exc
        # Damage, too: no restart mends it
        raise ConfigError(f"storage.url {url}: {trouble or exc.orig}: the database cannot be used") from exc
    return Store(root, _engine(url, index_sync), index_sync, clock, key, head)


def _checked_url(settings: StorageSettings, root: Path) -> str:
    url = settings.url or f"sqlite:///{root / 'anomalyd.db'}"
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"storage.url {url!r} is no database address: leave it out, or sqlite:////PATH") from exc
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ConfigError(
            f"storage.url {parsed.render_as_string()}: this version keeps its tables in an SQLite file only"
        )
    return url


@contextmanager
def _only_one_opens(root: Path) -> Iterator[None]:
    """Three roles start at once: one makes schema and WAL mode, the others wait."""
    descriptor = os.open(root / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_private(database: Path) -> None:
    """An empty database file with mode 0600, which SQLite gives its WAL too."""
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _engine(url: str, index_sync: IndexSync) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, json_serializer=canonical_json)

    @event.listens_for(engine, "connect")
    def _configure(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # the driver begins nothing by itself
        raw.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute(f"PRAGMA synchronous={index_sync}")
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA secure_delete=ON")  # purged text leaves no trace in free pages

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(schema.WRITES):
            connection.exec_driver_sql("BEGIN")
            return
        level = "full" if options.get(schema.DURABLE) else index_sync
        if connection.info.get(_SYNCHRONOUS, index_sync) != level:  # it cannot change inside a transaction
            connection.exec_driver_sql(f"PRAGMA synchronous={level}")
            connection.info[_SYNCHRONOUS] = level
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
