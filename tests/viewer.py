"""A real viewer on a real archive: OHIF's prebuilt pages in front of Orthanc's DICOMweb, on one origin of loopback.

    with WebArchive(folder, program) as archive, Viewer(archive, viewer_pages()) as viewer:
        page.goto(viewer.study_address(study_uid))

OHIF comes from npm once per checkout, into `.cache/` (48 MB to fetch, 204 MB unpacked); nothing is compiled.
"""

import base64
import hashlib
import http.client
import json
import os
import subprocess
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote

import pytest

from conftest import CHECKOUT
from ports import free_port
from waiting import wait_until

PACKAGE, VERSION = "@ohif/app", "3.13.2"
SHA512: Final = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
CACHE = CHECKOUT / ".cache" / f"ohif-{VERSION}"
WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LIMIT_S = 120.0
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
KEPT = "public, max-age=3600"
TO_THE_ARCHIVE = ("/dicom-web", "/wado")


def viewer_pages(npm: str) -> Path:
    """The folder with OHIF's prebuilt pages; fetched if this checkout has none yet. Skips where npm reaches nothing."""
    pages = CACHE / "package" / "dist"
    if pages.is_dir():
        return pages
    CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as name:
        folder = Path(name)
        command = [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False)
        if fetched.returncode:
            pytest.skip(f"no viewer: npm pack {PACKAGE}@{VERSION} does not reach its registry: {fetched.stderr[-300:]}")
        (package,) = folder.glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        assert digest == SHA512, f"{package.name} is not the one that was tried: {digest}"
        with tarfile.open(package) as archive:
            archive.extractall(folder / "whole", filter="data")
        if not CACHE.exists():
            (folder / "whole").rename(CACHE)  # whole or not at all
    return pages


class WebArchive:
    """Orthanc with DICOMweb: a child process on free ports; the viewer's port is in its answers."""

    def __init__(self, folder: Path, program: str) -> None:
        self.http_port, self.dicom_port, self.viewer_port = free_port(), free_port(), free_port()
        self._folder, self._program = folder, program

    def __enter__(self) -> Self:
        """Starts it; it answers when this returns."""
        if not WEB_PLUGIN.exists():
            pytest.skip("Orthanc has no DICOMweb: apt-get install orthanc-dicomweb")
        self._folder.mkdir(parents=True)
        file = self._folder / "orthanc.json"
        file.write_text(json.dumps(self._configuration()))
        with (self._folder / "out").open("wb") as out:
            self._child = subprocess.Popen(
                [self._program, str(file)],
                env={**os.environ, "TCP_NODELAY": "1"},  # else each image waits 40 ms for an ACK
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, limit_s=LIMIT_S, what="Orthanc answers", give_up=self._ended)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it and waits for its end."""
        self._child.terminate()
        self._child.wait(LIMIT_S)

    @property
    def destination(self) -> dict[str, object]:
        """Its entry under `daemon.destinations`."""
        return {"name": "orthanc", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": self.dicom_port}

    def call(self, path: str, data: bytes | None = None) -> Any:
        """Answer of its REST interface, parsed."""
        with self._open(path, data) as answer:
            return json.loads(answer.read())

    def fetch(self, path: str) -> bytes:
        """Answer of its REST interface, as it is."""
        with self._open(path, None) as answer:
            return bytes(answer.read())

    def store(self, objects: Iterable[bytes]) -> None:
        """Keeps Part 10 files."""
        for part10 in objects:
            self.call("/instances", part10)

    def objects(self, study_uid: str, series_number: int) -> list[bytes]:
        """Part 10 files of a series."""
        wanted = {"StudyInstanceUID": study_uid, "SeriesNumber": str(series_number)}
        query = json.dumps({"Level": "Instance", "Query": wanted}).encode()
        return [self.fetch(f"/instances/{name}/file") for name in self.call("/tools/find", query)]

    def _open(self, path: str, data: bytes | None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data)
        return urllib.request.urlopen(request, timeout=LIMIT_S)  # noqa: S310 - our own child, on loopback

    def _answers(self) -> bool:
        try:
            self.call("/system")
        except OSError:
            return False
        return True

    def _ended(self) -> str:
        code = self._child.poll()
        return "" if code is None else f"it ended with code {code}: {(self._folder / 'out').read_text()[-1000:]}"

    def _configuration(self) -> dict[str, object]:
        return {
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,  # Orthanc 1.10 knows no Label Map Segmentation
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "Plugins": [str(WEB_PLUGIN)],
            "DicomWeb": {
                "Enable": True,
                "Root": "/dicom-web/",
                "EnableWado": True,
                "WadoRoot": "/wado",
                "Host": f"localhost:{self.viewer_port}",  # addresses of bulk data are made from it
                "Ssl": False,
                "StudiesMetadata": "Full",
                "SeriesMetadata": "Full",
            },
        }


class Viewer:
    """OHIF's pages and the archive's DICOMweb on one origin: Orthanc sends no CORS header. Threads of this process."""

    def __init__(self, archive: WebArchive, pages: Path) -> None:
        self._archive, self._pages = archive, pages

    def __enter__(self) -> Self:
        """Listens on the port that the archive names in its answers."""
        server = _Server(("127.0.0.1", self._archive.viewer_port), _Handler)
        server.pages, server.archive_port = self._pages, self._archive.http_port
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="viewer", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def study_address(self, study_uid: str) -> str:
        """Where a study is opened."""
        return f"http://localhost:{self._archive.viewer_port}/viewer?StudyInstanceUIDs={study_uid}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser keeps its connections
    pages: Path
    archive_port: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """A page, its configuration, or what the archive answers."""
        path = self.path.split("?")[0]
        if path.startswith(TO_THE_ARCHIVE):
            self._ask_the_archive("GET", None)
        elif path == "/app-config.js":
            self._answer(HTTPStatus.OK, TYPES[".js"], f"window.config = {json.dumps(_APP)};".encode())
        else:
            file = (self.server.pages / path.lstrip("/")).resolve()
            known = file.is_file() and file.is_relative_to(self.server.pages.resolve())
            file = file if known else self.server.pages / "index.html"  # the pages route by address
            self._answer(HTTPStatus.OK, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes(), KEPT)

    def do_POST(self) -> None:
        """What the archive answers."""
        self._ask_the_archive("POST", self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Nothing: failed answers are seen by the browser."""

    def _ask_the_archive(self, method: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.archive_port, timeout=LIMIT_S)
        try:
            # orthanc-dicomweb 1.7 does not decode the values of a query.
            path, mark, query = self.path.partition("?")
            accept = {name: value for name in ("Accept", "Content-Type") if (value := self.headers.get(name))}
            connection.request(method, path + mark + unquote(query).replace(" ", "%20"), body, accept)
            answer = connection.getresponse()
            self._answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
        finally:
            connection.close()

    def _answer(self, status: int, content_type: str, body: bytes, cache: str = "no-store") -> None:
        told = {"Content-Type": content_type, "Content-Length": str(len(body)), "Cache-Control": cache, **ISOLATED}
        try:
            self.send_response(status)
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # the page was left
            self.close_connection = True


_APP: Final = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": False,
    "customizationService": {},
    "maxNumberOfWebWorkers": 1,
    "investigationalUseDialog": {"option": "never"},
    "disableConfirmationPrompts": True,
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "dicomweb",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "wadoUriRoot": "/wado",
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "qidoSupportsIncludeField": False,
                "supportsReject": False,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
