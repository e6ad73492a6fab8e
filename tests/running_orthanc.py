"""Orthanc as a child process: a PACS and a sender that we have not written."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phantoms import WrittenSeries
from ports import free_port
from waiting import wait_until

LIMIT_S = 60.0
TITLE = "ORTHANC"


@dataclass(frozen=True)
class Orthanc:
    """One that runs: its ports of DICOM and HTTP on loopback."""

    dicom: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)

    def rest(self, path: str, body: bytes | dict[str, Any] | list[str] | None = None) -> Any:
        """GET, or POST of a body; its answer."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=data)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310 - our own child, on loopback
            return json.loads(answer.read())

    def upload(self, series: WrittenSeries) -> list[dict[str, Any]]:
        """Its answer to each file."""
        return [self.rest("/instances", path.read_bytes()) for path in series.files]

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            self.rest("/system")
        except OSError:
            return False
        return True


@contextmanager
def running_orthanc(program: str, folder: Path, **configuration: object) -> Iterator[Orthanc]:
    """As Debian sets it up, in a folder of its own; configuration: what else its file says."""
    peer = Orthanc()
    folder.mkdir(exist_ok=True)
    file = folder / "orthanc.json"
    standing = {
        "HttpPort": peer.http,
        "DicomPort": peer.dicom,
        "DicomAet": TITLE,
        "DicomAlwaysAllowStore": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
    }
    file.write_text(json.dumps({**standing, **configuration}), encoding="ascii")
    with (folder / "out").open("wb") as out:
        child = subprocess.Popen([program, str(file)], stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until(peer.is_up, limit_s=LIMIT_S, what="Orthanc answers")
        yield peer
    finally:
        child.terminate()
        child.wait(LIMIT_S)
