"""Which versions of an instance are kept, asked before its row can stand: rows follow the log (docs/decisions/0050)."""

from collections import deque

from anomalyd.storage.engine import Store
from anomalyd.storage.indexer import Indexer
from anomalyd.storage.received import Verdict


class KnownVersions:
    """In the index, or on the way to it. The committer's own: `expect`, then `flushed` or `failed` for its group."""

    def __init__(self, store: Store, indexer: Indexer) -> None:
        self._indexer = indexer
        self._index = _VersionLookup(store)
        self._coming: dict[str, list[tuple[str, str]]] = {}
        self._flushed: deque[tuple[int, str, tuple[str, str]]] = deque()
        self._writing: list[tuple[str, tuple[str, str]]] = []

    def versions(self, instance_uid: str) -> list[tuple[str, str]]:
        """(data-set SHA-256, state) of each version."""
        # A version is forgotten here only after its row stood, and before the index is asked: one of the two knows it.
        indexed = self._indexer.indexed
        while self._flushed and self._flushed[0][0] <= indexed:
            _, uid, version = self._flushed.popleft()
            self._forget(uid, version)
        return self._index.versions(instance_uid) + self._coming.get(instance_uid, [])

    def expect(self, instance_uid: str, sha256: str, verdict: Verdict) -> None:
        """A version in the group that is being written."""
        version = (sha256, verdict.value)
        self._coming.setdefault(instance_uid, []).append(version)
        self._writing.append((instance_uid, version))

    def flushed(self, group: int) -> None:
        """The group being written is in the log."""
        self._flushed.extend((group, uid, version) for uid, version in self._writing)
        self._writing = []

    def failed(self) -> None:
        """It is not."""
        for uid, version in self._writing:
            self._forget(uid, version)
        self._writing = []

    def _forget(self, instance_uid: str, version: tuple[str, str]) -> None:
        kept = self._coming[instance_uid]
        kept.remove(version)
        if not kept:
            del self._coming[instance_uid]

    def close(self) -> None:
        """Gives the connection back."""
        self._index.close()


_VERSIONS = "SELECT sha256, state FROM instance WHERE instance_uid = ? AND state <> 'purged'"


class _VersionLookup:
    """`versions_of` for one instance on a connection of its own: 10 us; a transaction from the pool takes 150."""

    def __init__(self, store: Store) -> None:
        self._connection = store.engine.raw_connection()

    def versions(self, instance_uid: str) -> list[tuple[str, str]]:
        """(data-set SHA-256, state) of each version that has a row; raises sqlite3.Error."""
        cursor = self._connection.cursor()
        cursor.execute(_VERSIONS, (instance_uid,))
        found = [(str(sha256), str(state)) for sha256, state in cursor.fetchall()]
        cursor.close()
        return found

    def close(self) -> None:
        """Gives the connection back."""
        self._connection.close()
