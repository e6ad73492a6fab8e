"""The store of a configuration, for a command that looks at it: opened, never made by the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anomalyd.daemon.logs import quiet_console
from anomalyd.daemon.settings import Settings, load_settings
from anomalyd.errors import ConfigError

if TYPE_CHECKING:
    from anomalyd.storage.engine import Store


@contextmanager
def opened(config: Path | None) -> "Iterator[tuple[Settings, Store]]":
    """Settings and store; raises ConfigError where there is none yet: an empty one would hide a wrong path."""
    from anomalyd.storage.engine import open_store

    quiet_console()
    settings = load_settings(config)
    root = settings.storage.root
    if settings.storage.url is None and not (root / "anomalyd.db").exists():
        raise ConfigError(f"storage.root {root}: nothing was kept there yet; `anomalyd serve` begins a store")
    store = open_store(settings.storage)
    try:
        yield settings, store
    finally:
        store.close()
