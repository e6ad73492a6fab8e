"""A door in this process: the listening end with everything behind it, for tests that look at all of it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalyd.daemon.gateway.door import Door, DoorLimits
from anomalyd.daemon.gateway.peers import AcceptList
from anomalyd.daemon.gateway.scp import listen
from anomalyd.daemon.gateway.server import GatewayServer
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.settings import StorageSettings
from ports import free_port

SELF_ECHO = "ECHO"


@dataclass(frozen=True)
class OpenDoor:
    """A listening door and what is behind it."""

    port: int
    store: Store
    inbox: Inbox
    door: Door
    servers: tuple[GatewayServer, ...]
    is_fast: bool

    def audit(self) -> list[dict[str, Any]]:
        """Audit rows, oldest first."""
        with self.store.read() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM audit ORDER BY seq").mappings().all()
        return [dict(row) for row in rows]

    def kinds(self) -> list[str]:
        """Their kinds."""
        return [row["kind"] for row in self.audit()]

    def stored(self) -> int:
        """Rows of instances."""
        with self.store.read() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM instance").scalar_one())

    def close(self) -> None:
        """Aborts what is open, gives everything back."""
        for server in self.servers:
            ae = server.ae
            server.shutdown()
            ae.shutdown()
            for assoc in ae.active_associations:
                assoc.join(10)
        self.inbox.close()
        self.store.close()


MakeDoor = Callable[..., OpenDoor]


def open_door(
    root: Path, *, is_fast: bool, disk_floor: int = 0, gateway: dict[str, object] | None = None, **daemon: object
) -> OpenDoor:
    """gateway, daemon: keys of the configuration."""
    settings = DaemonSettings.model_validate(
        {"port": free_port(), "accept_from": ["any"], "gateway": {"fast": is_fast, **(gateway or {})}, **daemon}
    )
    store = open_store(StorageSettings(root=root, disk_floor=disk_floor))
    inbox = Inbox(store, disk_floor=disk_floor, commit_timeout_s=settings.gateway.commit_timeout)
    inbox.open(threading.Event())
    limits = DoorLimits(
        max_associations=settings.max_associations,
        max_instance_bytes=settings.gateway.max_instance_bytes,
        bytes_in_flight=settings.gateway.bytes_in_flight,
        stall_timeout_s=settings.gateway.stall_timeout,
    )
    accept_list = AcceptList.of(settings)
    door = Door(store, inbox, accept_list, limits, self_echo_title=SELF_ECHO)
    return OpenDoor(settings.port, store, inbox, door, listen(settings, door), is_fast)
