"""The real thing, running: the three roles as child processes, and a small PACS to receive what they send.

with ReceivingPacs(tmp_path / "pacs") as pacs, RunningDaemon(tmp_path / "root", destinations=[pacs]) as daemon:
    daemon.send(series.files)
    daemon.wait_for_audit("confirmed", series_uid=series.series_uid)
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pydicom
from pynetdicom import AE, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time by pynetdicom

from anomalyd.daemon import scu
from anomalyd.ids import SeriesUID
from anomalyd.pipeline.results.objects import SOP_CLASSES
from anomalyd.storage.deliveries import deliveries
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.jobs import jobs_of_series
from anomalyd.storage.series import series_named
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from ports import free_port
from waiting import wait_until

Role = Literal["gateway", "dispatcher", "worker", "serve"]
ROLES: tuple[Role, ...] = ("gateway", "dispatcher", "worker")
SERVE: tuple[Role, ...] = ("serve",)
"""The one command that starts and watches the three."""
SCANNER = "TESTSCANNER"
DAEMON = "ANOMALYD"
RESULT_CLASSES = tuple(SOP_CLASSES.values())
START_LIMIT_S = 60.0  # a loaded machine with two cores needs seconds for the imports alone
STOP_LIMIT_S = 40.0
SUCCESS, CANNOT_UNDERSTAND = 0x0000, 0xC000


class ReceivingPacs:
    """A PACS that keeps what it gets as `SOPInstanceUID.dcm` in a folder; threads of this process."""

    def __init__(self, folder: Path, *, ae_title: str = "TESTPACS", name: str = "pacs") -> None:
        self.folder, self.ae_title, self.name = folder, ae_title, name
        self.host, self.port = "127.0.0.1", free_port()
        self.stores: list[str] = []
        """SOP Instance UIDs in order of arrival, a second sending again."""
        self._changed = threading.Condition()
        self._server: Any = None

    def __enter__(self) -> Self:
        """Starts to listen."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening."""
        self.stop()

    def start(self) -> None:
        """Listens (again) on its port."""
        entity = AE(ae_title=self.ae_title)
        entity.maximum_associations = 20
        entity.supported_contexts = []
        for uid in (Verification, *RESULT_CLASSES):
            entity.add_supported_context(uid)
        self._server = entity.start_server(
            (self.host, self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._keep), (evt.EVT_CONN_OPEN, _answer_at_once)],
        )

    def stop(self) -> None:
        """Is gone: connections are refused."""
        self._server.shutdown()

    @property
    def destination(self) -> dict[str, object]:
        """Its entry under `daemon.destinations`."""
        return {"name": self.name, "ae_title": self.ae_title, "host": self.host, "port": self.port}

    @property
    def files(self) -> tuple[Path, ...]:
        """What it holds."""
        return tuple(sorted(self.folder.glob("*.dcm")))

    def datasets(self) -> tuple[pydicom.Dataset, ...]:
        """What it holds, read."""
        return tuple(pydicom.dcmread(path) for path in self.files)

    def wait_for(self, count: int, *, limit_s: float) -> None:
        """Returns when `count` different objects are there."""
        wait_until(lambda: len(self.files) >= count, limit_s=limit_s, what=f"{count} objects at the PACS")

    def _keep(self, event: Event) -> int:
        part10 = event.encoded_dataset()
        path = self.folder / f"{event.file_meta.MediaStorageSOPInstanceUID}.dcm"
        partial = path.with_suffix(".partial")
        partial.write_bytes(part10)
        partial.rename(path)  # a reader never sees half a file
        with self._changed:
            self.stores.append(path.stem)
            self._changed.notify_all()
        return SUCCESS


class RunningDaemon:
    """The roles of one anomalyd as child processes on one temporary root."""

    def __init__(
        self,
        root: Path,
        *,
        destinations: Sequence[ReceivingPacs] = (),
        roles: Sequence[Role] = ROLES,
        daemon: Mapping[str, object] | None = None,
        pipeline: Mapping[str, object] | None = None,
        storage: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        wrap: Sequence[str] = (),
    ) -> None:
        """root: a folder of its own. daemon, pipeline, storage: keys that replace those of `configuration`.

        environment: for every child, beside this process's own. wrap: a command put before each child's.
        """
        self.root, self.roles, self.port = root, tuple(roles), free_port()
        self.environment, self.wrap = dict(environment or {}), tuple(wrap)
        self.configuration: dict[str, dict[str, object]] = {
            "daemon": {
                "ae_title": DAEMON,
                "host": "127.0.0.1",
                "port": self.port,
                "accept_from": ["any"],
                "settle_period": 1,
                "series_quiet_period": 8,
                "destinations": [pacs.destination for pacs in destinations],
                **(daemon or {}),
            },
            "pipeline": {"device": "cpu", **(pipeline or {})},
            "storage": {"root": str(root / "store"), "disk_floor": "50 MB", **(storage or {})},
        }
        self.children: dict[Role, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Starts the roles; the gateway answers when this returns."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.write_configuration()
        try:
            for role in self.roles:
                self.start(role)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the roles as systemd would; a test that failed shows their last lines."""
        self.stop()
        if error is not None:
            for role in self.roles:
                error.add_note(f"--- {role} ---\n{self.log_text(role)[-3000:]}")

    @property
    def config_file(self) -> Path:
        """The configuration in force (JSON is YAML)."""
        return self.root / "config.yaml"

    @property
    def store_root(self) -> Path:
        """storage.root."""
        return Path(str(self.configuration["storage"]["root"]))

    def open_store(self) -> Store:
        """The store of the daemon, for looking; close it."""
        return open_store(StorageSettings.model_validate(self.configuration["storage"]))

    def write_configuration(self) -> None:
        """What the next start of a role reads."""
        self.config_file.write_text(json.dumps(self.configuration, indent=1))

    def log_file(self, role: Role) -> Path:
        """Standard output and error of a role, all its starts."""
        return self.root / f"{role}.out"

    def log_text(self, role: Role) -> str:
        """What a role has said."""
        path = self.log_file(role)
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, role: Role, *, environment: Mapping[str, str] | None = None) -> None:
        """Starts one role; returns when a gateway answers, at once for the others."""
        command = [*self.wrap, sys.executable, "-m", "anomalyd.daemon.cli", role, "--config", str(self.config_file)]
        with self.log_file(role).open("ab") as out:
            self.children[role] = subprocess.Popen(
                command,
                env={**os.environ, **self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                start_new_session=True,  # a Ctrl-C of the test run is for the test run
            )
        if role in ("gateway", "serve"):
            wait_until(
                self.answers, limit_s=START_LIMIT_S, what="the gateway answers", give_up=lambda: self.ended(role)
            )

    @contextmanager
    def scripted_worker(self, script: Path, *, crash_at: str = "") -> "Iterator[subprocess.Popen[bytes]]":
        """A worker whose child follows a script (children.py). crash_at: where it kills itself (storage/crash.py)."""
        tests = Path(__file__).parent
        command = [sys.executable, str(tests / "scripted_worker.py"), str(self.config_file), str(script)]
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(tests), "ANOMALYD_CRASH_AT": crash_at}
        with self.log_file("worker").open("ab") as out:
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        try:
            yield child
        finally:
            child.terminate()
            child.wait(STOP_LIMIT_S)

    def dies_at(self, role: Role, point: str, *, limit_s: float) -> None:
        """A role runs until it kills itself there (storage/crash.py)."""
        self.start(role, environment={"ANOMALYD_CRASH_AT": point})
        child = self.children[role]
        wait_until(lambda: child.poll() is not None, limit_s=limit_s, what=f"death at {point}")
        assert child.returncode == -signal.SIGKILL, self.log_text(role)

    def stop(self) -> None:
        """SIGTERM to all, then waits for each."""
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        for child in self.children.values():
            try:
                child.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                raise

    def kill(self, role: Role) -> None:
        """SIGKILL to one role and its own children: as sudden as a power cut for them."""
        child = self.children[role]
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def answers(self) -> bool:
        """Whether the gateway takes a connection."""
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def processes(self, role: Role) -> tuple[int, ...]:
        """Process ids of a role and all that descend from it."""
        found = [self.children[role].pid]
        for pid in found:  # grows while it is walked
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
        return tuple(found)

    def wait_until_ended(self, *series: SeriesUID, limit_s: float) -> None:
        """Returns when each series was refused, or its newest job is done, withheld or failed, and all is delivered."""
        store = self.open_store()
        try:
            wait_until(
                lambda: all(_has_ended(store, uid) for uid in series),
                limit_s=limit_s,
                what=f"{len(series)} series end",
                give_up=lambda: "".join(self.ended(role) for role in self.children),
            )
        finally:
            store.close()

    def command(self, *arguments: str, timeout_s: float = 120.0) -> "subprocess.CompletedProcess[str]":
        """Runs `anomalyd ARGUMENTS --config ...` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "anomalyd.daemon.cli", *arguments, "--config", str(self.config_file)],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=self.root,
        )

    def send(self, files: Iterable[Path], *, calling: str = SCANNER, called: str = DAEMON) -> list[int]:
        """Sends as a scanner does, one association; the status of each file, in order.

        A file whose presentation context was refused at negotiation counts as CANNOT_UNDERSTAND, unsent.
        """
        datasets = [pydicom.dcmread(path) for path in files]
        entity = _scanner(calling, datasets)
        association = entity.associate(
            "127.0.0.1", self.port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare)]
        )
        if not association.is_established:
            raise ConnectionRefusedError(f"the daemon takes no association from {calling} for {called}")
        accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
        statuses = []
        for dataset in datasets:
            if (dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) in accepted:
                statuses.append(int(association.send_c_store(dataset).Status))
            else:
                statuses.append(CANNOT_UNDERSTAND)
        association.release()
        return statuses

    def ended(self, role: Role) -> str:
        """Why waiting for a role makes no sense: its exit code and last words; "" while it runs."""
        code = self.children[role].poll()
        return "" if code is None else f"it ended with code {code}\n{self.log_text(role)[-3000:]}"


def _answer_at_once(event: Event) -> None:
    """TCP_NODELAY: else each answer waits 40 ms for the peer's delayed ACK."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr]  # open


def _has_ended(store: Store, uid: SeriesUID) -> bool:
    rows = series_named(store, uid)
    if not rows or rows[-1].state not in (SeriesState.INELIGIBLE, SeriesState.QUEUED):
        return False
    if rows[-1].state is SeriesState.INELIGIBLE:
        return True
    job = jobs_of_series(store, rows[-1].study_uid, uid)[-1]
    on_the_way = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.SENT)
    return job.state in (JobState.DONE, JobState.WITHHELD, JobState.FAILED) and not any(
        delivery.state in on_the_way for delivery in deliveries(store, job_id=job.id)
    )


def _scanner(calling: str, datasets: Sequence[pydicom.Dataset]) -> ApplicationEntity:
    """One context for each pair of SOP class and transfer syntax, so that nothing is re-encoded on the way."""
    entity = AE(ae_title=calling)
    for pair in dict.fromkeys((d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets):
        entity.add_requested_context(*pair)
    return entity
