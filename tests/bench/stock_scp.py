"""Receivers to compare with, as child processes: plain pynetdicom, storescp, Orthanc. None but Orthanc flushes a file.

python tests/bench/stock_scp.py PORT FOLDER decode|raw: what a user of pynetdicom writes first, in its two usual forms.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import MRImageStorage, Verification  # type: ignore[attr-defined]  # made at import time
from pynetdicom.transport import ThreadedAssociationServer

from waiting import wait_until

START_LIMIT_S = 30.0
PEER_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
"""Without it dcmtk and Orthanc answer 22 images/s: omitting it would flatter us (GATEWAY 2)."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver that listens on loopback."""

    port: int
    pid: int
    called: str = "ANOMALYD"


class _NoDelay(ThreadedAssociationServer):
    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


def serve(port: int, folder: Path, mode: str) -> None:
    """Plain pynetdicom until it is killed."""
    _config.LOG_HANDLER_LEVEL = "none"
    numbers = itertools.count()

    def decode(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        dataset.save_as(folder / f"{next(numbers)}.dcm", enforce_file_format=True)
        return 0x0000

    def raw(event: evt.Event) -> int:
        (folder / f"{next(numbers)}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    ae = AE("ANOMALYD")
    ae.maximum_associations = 100
    ae.add_supported_context(MRImageStorage)
    ae.add_supported_context(Verification)
    handlers: list[Any] = [(evt.EVT_C_STORE, {"decode": decode, "raw": raw}[mode])]
    ae.make_server(("127.0.0.1", port), evt_handlers=handlers, server_class=_NoDelay).serve_forever()


@contextmanager
def pynetdicom_scp(port: int, folder: Path, mode: str) -> Iterator[Receiver]:
    """Plain pynetdicom with TCP_NODELAY."""
    yield from _child([sys.executable, __file__, str(port), str(folder), mode], port)


@contextmanager
def storescp(program: str, port: int, folder: Path) -> Iterator[Receiver]:
    """storescp of dcmtk, one process an association."""
    yield from _child([program, "--fork", "-aet", "ANOMALYD", "-od", str(folder), str(port)], port)


@contextmanager
def orthanc(program: str, port: int, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Receiver]:
    """Orthanc as Debian sets it up: SyncStorageArea, no compression."""
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "DicomAet": "ANOMALYD",
                "DicomPort": port,
                "HttpServerEnabled": False,
                "DicomAlwaysAllowStore": True,
                "DicomCheckCalledAet": False,
                "StorageDirectory": str(folder / "storage"),
                "SyncStorageArea": True,
                "StorageCompression": False,
                "ConcurrentJobs": 1,
            }
        )
    )
    yield from _child([program, str(configuration)], port, environment)


def program(name: str) -> str:
    """Path of a peer; empty where it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


def _child(command: list[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[Receiver]:
    child = subprocess.Popen(
        command,
        env={**PEER_ENVIRONMENT, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: _answers(port),
            limit_s=START_LIMIT_S,
            what=f"{command[0]} listens",
            give_up=lambda: "" if child.poll() is None else f"it ended with {child.returncode}",
        )
        yield Receiver(port, child.pid)
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
