"""A disk that is full or read-only at each write, of gateway, worker and dispatcher: nothing acknowledged is lost,
senders hear 0xA700, and all goes on by itself when there is room again.
"""

import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from anomalyd.daemon.notify import STORE_REFUSES
from anomalyd.pipeline.bundle import bundle_identity
from anomalyd.storage import deliveries, queue
from anomalyd.storage.tables import DeliveryState, JobState
from anomalyd.storage.verify import verify
from conftest import RequirePeer
from failing_disk import FULL, READ_ONLY, FailingDisk, Kind
from images import image, uid_of
from notify_listener import NotifyListener
from power_cut import built_library
from raw_scu import RawAssociation, Rejected, store_message
from rows import add_finished_job, add_job
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
SUCCESS, NO_SPACE = 0x0000, 0xA700
EACH_CALL_LIMIT = 100
ERRORS = {"full": (errno.ENOSPC, FULL), "read-only": (errno.EROFS, READ_ONLY), "broken": (errno.EIO, Kind.FLUSHING)}
PLACES = ("segments/", "anomalyd.db", "")
SOME_CALLS, EACH_CALL = 12, 1
"""Strides: the first calls and some of the others, or every one."""
SHORT = (
    ("segments/", "full", "normal"), ("segments/", "read-only", "full"), ("segments/", "broken", "normal"),
    ("anomalyd.db", "full", "full"), ("anomalyd.db", "read-only", "normal"), ("", "full", "normal"),
    ("audit.head", "full", "full"),
)  # fmt: skip
UNFLUSHED = ("anomalyd.db", "broken", "normal")
"""That database is not flushed for an image."""
LONG = tuple(
    case
    for place in PLACES
    for why in ERRORS
    for sync in ("normal", "full")
    if (case := (place, why, sync)) != UNFLUSHED
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, requires_peer: RequirePeer) -> Path:
    requires_peer("gcc")
    return built_library(tmp_path_factory.mktemp("layer"))


def calls(stride: int) -> Iterator[int]:
    """Which call fails first: 1, 2, 3, and from there on every stride-th."""
    yield from (1, 2)
    yield from range(3, EACH_CALL_LIMIT, stride)


class Door:
    """A gateway on a disk that may refuse, and what it has acknowledged."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.acknowledged: dict[str, str] = {}
        self._number = 0

    def takes(self, size: int = 5000) -> int | None:
        """The status of a new image; None where the association is rejected for now."""
        self._number += 1
        uid = uid_of(self._number)
        raw = image(self._number, pixels=os.urandom(size))
        try:
            with RawAssociation(self.daemon.port) as scu:
                status = scu.ask(store_message(raw, uid))
                scu.release()
        except Rejected as rejected:
            if rejected.reason != (2, 3, 1):
                raise
            return None
        if status == SUCCESS:
            self.acknowledged[uid] = hashlib.sha256(raw).hexdigest()
        return status

    def wait_until_open(self) -> None:
        wait_until(lambda: self.takes() == SUCCESS, limit_s=LIMIT_S, what="an image is taken again")

    def has_rows(self) -> bool:
        """Whether the index knows all that was acknowledged."""
        with closing(sqlite3.connect(self.daemon.store_root / "anomalyd.db")) as database:
            rows = database.execute("SELECT instance_uid FROM instance").fetchall()
        return self.acknowledged.keys() <= {uid for (uid,) in rows}

    def assert_kept(self) -> None:
        """After the gateway's end."""
        store = self.daemon.open_store()
        try:
            with store.read() as connection:
                rows = connection.exec_driver_sql("SELECT instance_uid, sha256 FROM instance").all()
            assert self.acknowledged.items() <= {uid: sha256 for uid, sha256 in rows}.items()  # noqa: C416 - rows are no tuples
            verdict = verify(store)
            assert verdict.is_whole, verdict.problems
            assert verdict.not_indexed == 0
        finally:
            store.close()


@pytest.fixture
def door(tmp_path: Path, library: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Door, FailingDisk]]:
    disk = FailingDisk(tmp_path / "rule", tmp_path / "daemon" / "store", library)
    limits = {"index_sync": request.param, "segment_bytes": 20_000}  # a new segment every third image
    with RunningDaemon(tmp_path / "daemon", roles=(), daemon={"gateway": limits}) as daemon:
        # a sign of life each 0.2 s, so that a door that was not ready tries again soon
        daemon.start("gateway", environment={**disk.environment, "WATCHDOG_USEC": "600000"})
        begun = Door(daemon)
        begun.wait_until_open()
        yield begun, disk
        disk.heal()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("place", "why", "door", "stride"),
    [
        *((*case, SOME_CALLS) for case in SHORT),
        *(pytest.param(*case, EACH_CALL, marks=pytest.mark.long) for case in LONG),
    ],
    indirect=["door"],
)
def test_an_image_is_kept_or_refused_whichever_call_fails(
    door: tuple[Door, FailingDisk], why: str, place: str, stride: int
) -> None:
    gateway, disk = door
    error, kinds = ERRORS[why]
    answers = []
    for begin in calls(stride):
        disk.refuse(error, place, kinds, begin=begin)
        answers.append(gateway.takes())
        wait_until(lambda: disk.refused or gateway.has_rows(), limit_s=LIMIT_S, what="rows, or a refusal")
        is_last = not disk.refused
        disk.heal()
        if is_last:
            break
        gateway.wait_until_open()
    else:
        raise AssertionError(f"more than {EACH_CALL_LIMIT} calls for one image")
    assert len(answers) > 1
    assert set(answers) <= {SUCCESS, NO_SPACE, None}
    assert gateway.daemon.children["gateway"].poll() is None, "it never ended"
    assert "Traceback" not in gateway.daemon.log_text("gateway")
    gateway.daemon.stop()
    gateway.assert_kept()


@pytest.fixture
def stage(tmp_path: Path, library: Path) -> Iterator[tuple[RunningDaemon, FailingDisk]]:
    """Worker and dispatcher as processes, a PACS, and a disk that may refuse; the worker's child writes one result."""
    disk = FailingDisk(tmp_path / "rule", tmp_path / "run" / "store", library)
    with ReceivingPacs(tmp_path / "pacs") as pacs:
        bundle = tmp_path / "bundle"
        tiny_bundle(bundle)
        daemon = RunningDaemon(
            tmp_path / "run", destinations=[pacs], roles=(), environment=disk.environment,
            daemon={"worker": {"lease": 60}, "delivery": {"back_off_first": 1}}, pipeline={"bundles": [str(bundle)]},
        )  # fmt: skip
        with daemon:
            yield daemon, disk
            disk.heal()


class Analysing:
    """A scripted worker and a dispatcher at work on jobs of a store."""

    def __init__(self, daemon: RunningDaemon, disk: FailingDisk) -> None:
        self.daemon, self.disk = daemon, disk
        self.store = daemon.open_store()
        self._bundle = bundle_identity(Path(daemon.configuration["pipeline"]["bundles"][0])).digest  # type: ignore[index]
        self._made = 0

    def new_job(self) -> int:
        self._made += 1
        return add_job(self.store, self._made, bundle=self._bundle).id

    def has_ended(self, job_id: int) -> bool:
        """Done, and the PACS has it."""
        sent = deliveries.deliveries(self.store, job_id=job_id)
        is_done = queue.job(self.store, job_id).state is JobState.DONE
        return is_done and bool(sent) and {row.state for row in sent} == {DeliveryState.CONFIRMED}

    def hurry(self) -> None:
        """What was given back waits for half a minute, what was being sent for longer: brought forward by hand."""
        with closing(sqlite3.connect(self.daemon.store_root / "anomalyd.db")) as database, database:
            database.execute("UPDATE job SET not_before = created_at WHERE state = 'queued'")
            database.execute("UPDATE delivery SET next_at = created_at WHERE state = 'sending'")

    def ends(self, job_id: int) -> bool:
        """As has_ended; called again and again."""
        self.hurry()
        return self.has_ended(job_id)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("place", "why", "stride"),
    [
        ("results/", "full", EACH_CALL),
        pytest.param("anomalyd.db", "read-only", SOME_CALLS, marks=pytest.mark.long),
        pytest.param("results/", "read-only", EACH_CALL, marks=pytest.mark.long),
        pytest.param("anomalyd.db", "full", EACH_CALL, marks=pytest.mark.long),
    ],
)
def test_an_analysis_whose_results_cannot_be_written_is_done_when_there_is_room(
    stage: tuple[RunningDaemon, FailingDisk], why: str, place: str, stride: int
) -> None:
    daemon, disk = stage
    work = Analysing(daemon, disk)
    error, kinds = ERRORS[why]
    daemon.start("dispatcher")
    script = daemon.root / "script"
    script.write_text("done", encoding="ascii")
    with daemon.scripted_worker(script) as worker:
        first = work.new_job()
        wait_until(lambda: work.has_ended(first), limit_s=LIMIT_S, what="all roles are at work")
        for begin in calls(stride):
            disk.refuse(error, place, kinds, begin=begin)
            job_id = work.new_job()
            wait_until(lambda: disk.refused or work.has_ended(job_id), limit_s=LIMIT_S, what="an end, or a refusal")  # noqa: B023 - called here
            is_last = not disk.refused
            disk.heal()
            wait_until(lambda: work.ends(job_id), limit_s=LIMIT_S, what="the job is done")  # noqa: B023 - called here
            assert queue.job(work.store, job_id).attempts == 1, "a full disk is no fault of the job"
            if is_last:
                break
        assert begin > 1
        assert worker.poll() is None
    assert daemon.children["dispatcher"].poll() is None
    assert verify(work.store).is_whole
    assert "Traceback" not in daemon.log_text("worker") + daemon.log_text("dispatcher")
    work.store.close()


@pytest.mark.parametrize("why", ERRORS)
def test_a_gateway_whose_disk_refuses_is_alive(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, library: Path, why: str
) -> None:
    """Its probe is answered: who killed it would give its senders "connection refused" in place of 2/3/1."""
    disk = FailingDisk(tmp_path / "rule", tmp_path / "daemon" / "store", library)
    error, kinds = ERRORS[why]
    with RunningDaemon(tmp_path / "daemon", roles=(), environment=disk.environment) as daemon, NotifyListener(
        tmp_path_factory.getbasetemp() / f"disk-{why}"
    ) as listener:  # fmt: skip
        daemon.start("gateway", environment=listener.environment)
        assert listener.next_but() == "READY=1"
        disk.refuse(error, "", kinds)
        wait_until(lambda: "inbox.not_ready" in daemon.log_text("gateway"), limit_s=LIMIT_S, what="a refusal")
        listener.forget()
        assert listener.next_but() == "WATCHDOG=1"
        assert Door(daemon).takes() != SUCCESS
        disk.heal()
        Door(daemon).wait_until_open()


def test_a_dispatcher_whose_database_cannot_grow_says_so_in_lines_and_sends_when_it_can(
    stage: tuple[RunningDaemon, FailingDisk],
) -> None:
    daemon, disk = stage
    daemon.start("dispatcher")
    wait_until(lambda: "role.ready" in daemon.log_text("dispatcher"), limit_s=LIMIT_S, what="it is at work")
    store = daemon.open_store()
    made = add_finished_job(store)
    disk.refuse(errno.ENOSPC, "anomalyd.db", FULL)
    wait_until(lambda: '"courier":' in _refusals(daemon), limit_s=LIMIT_S, what="the courier tells")
    assert "Traceback" not in daemon.log_text("dispatcher")
    assert "crashed" not in daemon.log_text("dispatcher")
    disk.heal()
    wait_until(
        lambda: {row.state for row in deliveries.deliveries(store)} == {DeliveryState.CONFIRMED},
        limit_s=LIMIT_S, what=f"{len(made.uids)} results are sent",
    )  # fmt: skip
    store.close()


def _refusals(daemon: RunningDaemon) -> str:
    return "\n".join(line for line in daemon.log_text("dispatcher").splitlines() if "store.refuses" in line)


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """/dev/full: each write of a line fails with ENOSPC."""
    with RunningDaemon(tmp_path / "daemon", roles=()) as daemon:
        daemon.log_file("gateway").symlink_to("/dev/full")
        daemon.start("gateway")
        with RawAssociation(daemon.port) as scu:
            statuses = [scu.store(image(number), uid_of(number)) for number in (1, 2)]
            assert scu.store(image(3, SOPInstanceUID="1.2.3"), uid_of(3)) == 0xA900  # a refusal is logged, too
            scu.release()
        assert statuses == [SUCCESS, SUCCESS]
        daemon.stop()
        assert daemon.children["gateway"].returncode == 0


@pytest.mark.parametrize("why", ["full", "read-only"])
def test_a_start_on_such_a_disk_ends_with_a_code_after_which_it_is_started_again(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, library: Path, why: str
) -> None:
    disk = FailingDisk(tmp_path / "rule", tmp_path / "daemon" / "store", library)
    with NotifyListener(tmp_path_factory.getbasetemp() / f"start-{why}") as listener, RunningDaemon(
        tmp_path / "daemon", roles=(), environment={**disk.environment, **listener.environment}
    ) as daemon:  # fmt: skip
        error, kinds = ERRORS[why]
        disk.refuse(error, "", kinds)
        ended = daemon.command("gateway")
        assert ended.returncode == 1, "78 would be an error of the configuration, and for ever"
        assert "storage.root" in ended.stderr
        assert "Traceback" not in ended.stderr + ended.stdout
        assert listener.next_but() == STORE_REFUSES, "so that the next start is soon"
        disk.heal()
        daemon.start("gateway")
        assert Door(daemon).takes() == SUCCESS


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """A tmpfs of its own at a folder; skips where this user may not mount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs: the same is tried by disk_layer.c")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_real_disk_without_room_for_log_and_database_goes_on_when_there_is_some(tmp_path: Path) -> None:
    """No limit but the kernel's: also pages that SQLite has mapped must not end the process (SIGBUS)."""
    root = tmp_path / "daemon" / "store"
    with small_disk(root, 24), RunningDaemon(
        tmp_path / "daemon", roles=(), environment={"WATCHDOG_USEC": "600000"}, storage={"disk_floor": "0 B"}
    ) as daemon:  # fmt: skip
        ballast = root / "ballast"
        ballast.write_bytes(bytes(12_000_000))
        daemon.start("gateway")
        door = Door(daemon)
        wait_until(lambda: door.takes(300_000) == NO_SPACE, limit_s=LIMIT_S, what="the disk is full")
        full = [door.takes(300_000) for _ in range(5)]
        assert SUCCESS not in full
        told = daemon.command("status").stdout
        assert "DISK  " in told
        assert "make room" in told
        ballast.unlink()
        door.wait_until_open()
        assert daemon.children["gateway"].poll() is None
        daemon.stop()
        door.assert_kept()
