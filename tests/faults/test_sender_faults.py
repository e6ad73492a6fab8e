"""Senders, probes and port scanners that do what they should not, against a real gateway; others go on unharmed."""

import random
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import dcmread

from anomalyd.daemon.gateway.server import SPARE_OF_ONE
from anomalyd.pipeline.bundle import bundle_identity
from anomalyd.storage import audit, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.series import series_named
from anomalyd.storage.tables import JobState
from anomalyd.storage.verify import verify
from images import image, uid_of
from notify_listener import NotifyListener
from pacs import data_set_of
from phantoms import PhantomWriter, WrittenSeries
from raw_scu import Ended, RawAssociation, Rejected, associate_request
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
SUCCESS = 0x0000
ASSOCIATIONS, SENDERS = 16, 200
SILENCE_S = 2.0


def gateway_in(folder: Path, *, idle_s: float) -> RunningDaemon:
    """Sixteen associations, short time-outs."""
    limits = {"acse_timeout": SILENCE_S, "stall_timeout": SILENCE_S}
    daemon = {"max_associations": ASSOCIATIONS, "idle_timeout": idle_s, "gateway": limits}
    return RunningDaemon(folder, roles=("gateway",), daemon=daemon)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningDaemon]:
    with gateway_in(tmp_path / "daemon", idle_s=SILENCE_S) as running:
        yield running


def is_taken(gateway: RunningDaemon, number: int) -> bool:
    """Whether an image comes in."""
    try:
        with RawAssociation(gateway.port) as scu:
            taken = scu.store(image(number), uid_of(number)) == SUCCESS
            scu.release()
    except Rejected:
        return False
    return taken


def is_ended_by_gateway(peer: socket.socket) -> None:
    """Reads to the end: what comes may be an abort."""
    peer.settimeout(LIMIT_S)
    try:
        while peer.recv(4096):
            pass
    except ConnectionResetError:
        return


def threads_of(gateway: RunningDaemon) -> int:
    status = Path(f"/proc/{gateway.children['gateway'].pid}/status").read_text()
    return int(dict(line.split(":", 1) for line in status.splitlines())["Threads"])


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.99], ids=["nothing", "a header", "half", "all but the end"])
def test_a_request_that_is_cut_off_costs_a_time_out_and_nobody_else(gateway: RunningDaemon, share: float) -> None:
    request = associate_request()
    threads = threads_of(gateway)
    with ExitStack() as peers:
        silent = [peers.enter_context(socket.create_connection(("127.0.0.1", gateway.port))) for _ in range(12)]
        for peer in silent:
            peer.sendall(request[: int(len(request) * share)])
        assert is_taken(gateway, 1), "while they are silent"
        for peer in silent:
            is_ended_by_gateway(peer)
        wait_until(lambda: threads_of(gateway) <= threads, limit_s=LIMIT_S, what="no thread is left of them")
    assert is_taken(gateway, 2)


def test_associations_that_say_nothing_are_ended_and_their_places_free(gateway: RunningDaemon) -> None:
    with ExitStack() as peers:
        silent = [peers.enter_context(RawAssociation(gateway.port)) for _ in range(ASSOCIATIONS)]
        assert not is_taken(gateway, 1), "all places are taken"
        wait_until(lambda: is_taken(gateway, 2), limit_s=LIMIT_S, what="the idle time-out frees a place")
        for peer in silent:
            with pytest.raises(Ended):
                peer.response()


def test_silent_connections_shut_out_nobody_at_another_address_and_the_gateway_goes_on_answering_itself(
    tmp_path: Path,
) -> None:
    limits = {"acse_timeout": LIMIT_S, "stall_timeout": LIMIT_S}
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with (
        NotifyListener(tmp_path / "notify") as listener,
        RunningDaemon(
            tmp_path / "daemon", roles=("gateway",), daemon={"gateway": limits}, environment=listener.environment
        ) as gateway,
        ExitStack() as peers,
    ):
        for address, number in (("127.0.0.2", 300), ("127.0.0.3", 20)):
            for _ in range(number):
                peers.enter_context(socket.create_connection(("127.0.0.1", gateway.port), LIMIT_S, (address, 0)))
        for number in range(1, 6):
            assert is_taken(gateway, number), "a place is left"
        listener.forget()
        assert [listener.next_but() for _ in range(3)] == ["WATCHDOG=1"] * 3, "its own echo comes back"
        lines = gateway.log_text("gateway")
        assert lines.count('"connection.refused"') == 1, "one for all that were closed"
        gateway.stop()
        store = gateway.open_store()
        (row,) = audit.query(store, AuditFilter(kind=AuditKind.CONNECTION_REFUSED))
        store.close()
        assert (row.address, row.detail["times"]) == ("127.0.0.2", 300 - SPARE_OF_ONE)
        assert row.detail["text"] == "too many connections of this address at once"


def test_without_a_file_descriptor_left_connections_wait_and_no_trace_is_printed(gateway: RunningDaemon) -> None:
    pid = gateway.children["gateway"].pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    with ExitStack() as peers:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 6, hard))
        for _ in range(40):
            peers.enter_context(socket.create_connection(("127.0.0.1", gateway.port), LIMIT_S))
        wait_until(
            lambda: "Too many open files: raise LimitNOFILE" in gateway.log_text("gateway"),
            limit_s=LIMIT_S, what="the log says what to raise",
        )  # fmt: skip
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    wait_until(lambda: is_taken(gateway, 1), limit_s=LIMIT_S, what="it goes on when there are some again")
    assert all(line.startswith("{") for line in gateway.log_text("gateway").splitlines()), "events, no trace"
    assert '"exception"' not in gateway.log_text("gateway")


@pytest.mark.parametrize("connections", [400, pytest.param(3000, marks=pytest.mark.long)])
def test_thousands_of_bare_connections_of_a_probe_leave_no_row_and_no_line_each(
    gateway: RunningDaemon, connections: int
) -> None:
    assert is_taken(gateway, 1)
    lines, threads = gateway.log_text("gateway").count("\n"), threads_of(gateway)
    for _ in range(connections):
        socket.create_connection(("127.0.0.1", gateway.port)).close()
    assert is_taken(gateway, 2)
    wait_until(lambda: threads_of(gateway) <= threads, limit_s=LIMIT_S, what="no thread is left of them")
    store = gateway.open_store()
    kinds = {row.kind for row in audit.query(store, AuditFilter())}
    store.close()
    assert kinds == {AuditKind.STARTED_ROLE, AuditKind.RECEIVED}
    assert gateway.log_text("gateway").count("\n") - lines < 20


def test_of_two_hundred_associations_at_once_so_many_are_served_as_stated_and_the_rest_told_to_come_again(
    tmp_path: Path,
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    together, all_have_asked = threading.Barrier(SENDERS), threading.Barrier(SENDERS)

    def sender(number: int) -> tuple[int, int, int] | int:
        """What the first try was answered; each comes in at last."""
        together.wait(LIMIT_S)
        first: tuple[int, int, int] | int = SUCCESS
        try:
            scu = RawAssociation(crowded.port)
        except Rejected as rejected:
            first = rejected.reason
            all_have_asked.wait(LIMIT_S)
        else:
            with scu:
                all_have_asked.wait(LIMIT_S)
                assert scu.store(image(number), uid_of(number)) == SUCCESS
                scu.release()
        if first != SUCCESS:
            wait_until(lambda: is_taken(crowded, number), limit_s=LIMIT_S, what="a place for each", step_s=0.5)
        return first

    with gateway_in(tmp_path / "daemon", idle_s=LIMIT_S) as crowded, ThreadPoolExecutor(SENDERS) as senders:
        answers = list(senders.map(sender, range(1, SENDERS + 1)))
    assert answers.count(SUCCESS) == ASSOCIATIONS
    assert answers.count((2, 3, 2)) == SENDERS - ASSOCIATIONS, "each is answered, none just closed"
    store = crowded.open_store()
    verdict = verify(store)
    store.close()
    assert verdict.is_whole, verdict.problems
    assert verdict.images == SENDERS


def test_the_same_image_from_two_senders_at_once_is_kept_once_and_other_content_beside_it(
    gateway: RunningDaemon,
) -> None:
    together = threading.Barrier(4)

    def sender(version: int) -> int:
        with RawAssociation(gateway.port) as scu:
            together.wait(LIMIT_S)
            status = scu.store(image(1, pixels=bytes([version, 1]) * 4000), uid_of(1))
            scu.release()
        return status

    with ThreadPoolExecutor(4) as senders:
        assert list(senders.map(sender, (1, 1, 2, 2))) == [SUCCESS] * 4
    gateway.stop()
    store = gateway.open_store()
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT state, sha256 FROM instance ORDER BY id").all()
        alarms = connection.exec_driver_sql("SELECT kind FROM alarm").all()
    kinds = [row.kind for row in audit.query(store, AuditFilter(instance_uid=uid_of(1)))]
    assert verify(store).is_whole
    store.close()
    assert [state for state, _ in rows] == ["stored", "conflicting"]
    assert len({sha256 for _, sha256 in rows}) == 2
    assert [kind for (kind,) in alarms] == ["conflicting_instance"]
    assert kinds.count(AuditKind.DUPLICATE) == 2


# Whole series, analysed by a scripted worker


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningDaemon]:
    bundle = tmp_path / "bundle"
    tiny_bundle(bundle)
    periods = {"settle_period": 1, "series_quiet_period": 4}
    with (
        ReceivingPacs(tmp_path / "pacs") as pacs,
        RunningDaemon(
            tmp_path / "run", destinations=[pacs], roles=("gateway", "dispatcher"), daemon=periods,
            pipeline={"bundles": [str(bundle)]},
        ) as daemon,
    ):  # fmt: skip
        assert bundle_identity(bundle).digest
        yield daemon


def sent(daemon: RunningDaemon, files: Sequence[Path]) -> None:
    """Over one association."""
    syntax = str(dcmread(files[0], stop_before_pixels=True).file_meta.TransferSyntaxUID)
    with RawAssociation(daemon.port, contexts=((dcmread(files[0]).SOPClassUID, syntax),)) as scu:
        for path in files:
            uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            assert scu.store(data_set_of(path.read_bytes()), uid) == SUCCESS
        scu.release()


def test_series_that_come_interleaved_over_many_associations_have_one_job_each(
    running: RunningDaemon, tmp_path: Path
) -> None:
    series = [PhantomWriter(spacing_mm=(8.0, 2.5, 2.5), seed=f"{n}").write(tmp_path / f"in{n}") for n in range(3)]
    files = [path for one in series for path in one.files]
    random.Random(5).shuffle(files)  # noqa: S311 - an order
    (tmp_path / "script").write_text("done", encoding="ascii")
    with running.scripted_worker(tmp_path / "script"):
        with ThreadPoolExecutor(6) as senders:
            list(senders.map(lambda part: sent(running, files[part::6]), range(6)))
        running.wait_until_ended(*(one.series_uid for one in series), limit_s=LIMIT_S)
    store = running.open_store()
    jobs = {job.series_uid: len(job.instances) for job in queue.jobs(store)}
    store.close()
    assert jobs == {one.series_uid: len(one.files) for one in series}


def test_a_series_that_is_sent_again_while_it_is_analysed_is_analysed_once(
    running: RunningDaemon, tmp_path: Path
) -> None:
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
    with at_work(running, series, tmp_path):
        sent(running, series.files)
        running.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
    store = running.open_store()
    (job,) = queue.jobs(store)
    kinds = [row.kind for row in audit.query(store, AuditFilter(series_uid=series.series_uid))]
    store.close()
    assert (job.state, job.attempts) == (JobState.DONE, 1)
    assert kinds.count(AuditKind.DUPLICATE) == len(series.files)
    assert kinds.count(AuditKind.FINISHED) == 1


def test_a_slice_that_comes_while_its_series_is_analysed_has_all_of_it_analysed_in_place_of_the_rest(
    running: RunningDaemon, tmp_path: Path
) -> None:
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
    *early, late = series.files
    with at_work(running, series, tmp_path, early):
        sent(running, [late])
        store = running.open_store()
        wait_until(lambda: len(queue.jobs(store)) == 2, limit_s=LIMIT_S, what="a second job")
        running.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
    first, second = sorted(queue.jobs(store), key=lambda job: job.id)
    closed = list(audit.query(store, AuditFilter(kind=AuditKind.CLOSED)))
    (row,) = series_named(store, series.series_uid)
    store.close()
    assert (len(first.instances), len(second.instances)) == (len(early), len(series.files))
    assert first.superseded_by == second.id
    assert (first.state, second.state) == (JobState.SUPERSEDED, JobState.DONE)
    assert len(closed) == 2
    assert row.arrivals == len(series.files)


def at_work(
    running: RunningDaemon, series: WrittenSeries, folder: Path, files: Sequence[Path] | None = None
) -> ExitStack:
    """The series is sent and its analysis has begun; it takes some seconds."""
    script = folder / "script"
    script.write_text("slow 6", encoding="ascii")
    stack = ExitStack()
    stack.enter_context(running.scripted_worker(script))
    sent(running, files if files is not None else series.files)
    store = running.open_store()
    wait_until(lambda: [job.state for job in queue.jobs(store)] == [JobState.LEASED], limit_s=LIMIT_S, what="a lease")
    store.close()
    return stack
