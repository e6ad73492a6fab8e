"""Power cuts: roles work on a disk that loses what was not flushed (power_cut.py), and no acknowledgement is broken.

One run is traced; then the power is cut at many of its steps, before as well as between writes and flushes, and what a
disk may hold is rebuilt. The store must open there, hold every acknowledged image byte for byte, and be whole.
"""

import hashlib
import random
import shutil
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread

from anomalyd.storage import queue
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import JobState
from anomalyd.storage.verify import verify
from conftest import RequirePeer
from images import image, uid_of
from pacs import data_set_of
from phantoms import PhantomWriter
from power_cut import Cut, DiskLayer, Op, answers, built_library
from raw_scu import Ended, RawAssociation, store_message
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
SUCCESS = 0x0000
SENDERS = 4


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, requires_peer: RequirePeer) -> Path:
    requires_peer("gcc")
    return built_library(tmp_path_factory.mktemp("layer"))


class Sending:
    """Images with content of their own, some of them sent twice; what was sent under which UID."""

    def __init__(self, daemon: RunningDaemon, seed: int) -> None:
        self._daemon, self._seed = daemon, seed
        self.sha256: dict[str, str] = {}
        self.answered = 0
        self._lock = threading.Lock()

    def run(self, sender: int) -> None:
        """Until the connection is lost."""
        chance = random.Random(f"{self._seed} {sender}")  # noqa: S311 - sizes
        try:
            with RawAssociation(self._daemon.port) as scu:
                for turn in range(100_000):
                    uid = f"{uid_of(self._seed)}.{sender}.{turn}"
                    raw = image(pixels=chance.randbytes(2 * chance.randint(200, 8000)), SOPInstanceUID=uid)
                    self.sha256[uid] = hashlib.sha256(raw).hexdigest()
                    for _ in range(1 + (turn % 5 == 0)):
                        assert scu.ask(store_message(raw, uid)) == SUCCESS
                        with self._lock:
                            self.answered += 1
        except (Ended, ConnectionError):
            return


def killed_under_load(daemon: RunningDaemon, layer: DiskLayer, *, images: int, seed: int) -> Mapping[str, str]:
    """A traced gateway that takes images until SIGKILL; SHA-256 of each data set by SOP Instance UID."""
    daemon.start("gateway", environment=layer.environment)
    sending = Sending(daemon, seed)
    with ThreadPoolExecutor(SENDERS) as senders:
        running = [senders.submit(sending.run, number) for number in range(SENDERS)]
        wait_until(lambda: sending.answered >= images, limit_s=LIMIT_S, what="some images")
        daemon.kill("gateway")
        for one in running:
            one.result()
    return sending.sha256


def chosen(layer: DiskLayer, count: int, chance: random.Random) -> list[int]:
    """Steps to cut before: evenly all over, and around what is rare (names, new segments, checkpoints)."""
    steps = layer.steps()
    rare = [step.number for step in steps if step.op not in {Op.WRITTEN, Op.SENT, Op.SYNC_BEGINS, Op.SYNC_ENDS}]
    half = count // 2
    near = [number + chance.randint(0, 6) for number in chance.choices(rare, k=half)]
    return sorted({min(number, len(steps)) for number in (*near, *chance.sample(range(len(steps)), count - half))})


def opened(root: Path) -> Store:
    return open_store(StorageSettings(root=root, disk_floor=0))


def replayed(store: Store) -> None:
    """As a gateway does at its start."""
    inbox = Inbox(store, disk_floor=0)
    assert inbox.open(threading.Event()) is not None
    inbox.close()


def assert_holds(store: Store, promised: Mapping[str, str]) -> None:
    """Every image that was answered with success, byte for byte; and log, index, results, audit chain agree."""
    log = SegmentLog(store.root)
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT instance_uid, sha256, segment, offset, length FROM instance").all()
    kept = {uid: sha256 for uid, sha256, *_ in rows}
    lost = {uid for uid, sha256 in promised.items() if kept.get(uid) != sha256}
    assert not lost, f"{len(lost)} of {len(promised)} acknowledged images are lost"
    for uid, _, *place in rows:
        if uid in promised:
            log.read(*place)  # raises where its digest is not that of the bytes
    verdict = verify(store)
    assert verdict.is_whole, verdict.problems


def assert_survives(
    cut: Cut, sent: Mapping[str, str], answered: list[tuple[int, str, int]], seed: int, at: Path
) -> None:
    """One cut, one choice of what the disk kept."""
    promised = {uid: sent[uid] for number, uid, status in answered if number < cut.at and status == SUCCESS}
    cut.leave(random.Random(seed), at)  # noqa: S311 - choices
    store = opened(at / "store")
    try:
        replayed(store)
        assert_holds(store, promised)
    except BaseException as error:
        error.add_note(f"cut before step {cut.at}, seed {seed}")
        raise
    finally:
        store.close()


def layered(tmp_path: Path, library: Path, **gateway: object) -> tuple[RunningDaemon, DiskLayer]:
    daemon = RunningDaemon(
        tmp_path / "daemon", roles=(), daemon={"gateway": {"segment_bytes": 300_000, **gateway}},
        storage={"root": str(tmp_path / "disk" / "store")},
    )  # fmt: skip
    return daemon, DiskLayer(tmp_path / "disk", tmp_path / "trace", library)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("index_sync", ["normal", "full"])
@pytest.mark.parametrize(
    ("images", "cuts"), [(120, 24), pytest.param(1500, 500, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(
    tmp_path: Path, library: Path, index_sync: str, images: int, cuts: int
) -> None:
    daemon, layer = layered(tmp_path, library, index_sync=index_sync)
    with daemon:
        sent = killed_under_load(daemon, layer, images=images, seed=1)
    answered = list(answers(layer.steps()))
    assert len(answered) >= images
    chance = random.Random(2)  # noqa: S311 - choices
    for cut in layer.cuts(chosen(layer, cuts, chance)):
        assert_survives(cut, sent, answered, chance.getrandbits(32), tmp_path / "after")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cuts", [12, pytest.param(250, marks=pytest.mark.long)], ids=["short", "long"])
def test_wherever_the_power_is_cut_results_that_a_row_names_are_there_and_all_ends_well(
    tmp_path: Path, library: Path, cuts: int
) -> None:
    """All three roles at work, from the first image to the answer of the PACS; after the last cut they go on."""
    tiny_bundle(tmp_path / "bundle")
    script = tmp_path / "script"
    script.write_text("done", encoding="ascii")
    series = PhantomWriter(spacing_mm=(8.0, 4.0, 4.0)).write(tmp_path / "in")
    sent = {str(dcmread(path).SOPInstanceUID): sha256_of(path) for path in series.files}
    chance = random.Random(3)  # noqa: S311 - choices
    with ReceivingPacs(tmp_path / "pacs") as pacs:
        daemon = RunningDaemon(
            tmp_path / "daemon", roles=(), destinations=[pacs], daemon={"settle_period": 0.5},
            storage={"root": str(tmp_path / "disk" / "store")}, pipeline={"bundles": [str(tmp_path / "bundle")]},
        )  # fmt: skip
        layer = DiskLayer(tmp_path / "disk", tmp_path / "trace", library)
        daemon.environment = layer.environment
        with daemon:
            daemon.start("gateway")
            daemon.start("dispatcher")
            with daemon.scripted_worker(script):
                daemon.send(series.files)
                daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
        answered = list(answers(layer.steps()))
        assert len(answered) == len(sent)
        # the last one after all images were answered
        numbers = [*chosen(layer, cuts, chance), len(layer.steps()) - chance.randint(0, 300)]
        for cut in layer.cuts(numbers):
            assert_survives(cut, sent, answered, chance.getrandbits(32), tmp_path / "after")
        shutil.rmtree(layer.folder / "store")
        shutil.move(tmp_path / "after" / "store", layer.folder / "store")
        daemon.environment = {}
        with daemon:
            daemon.start("gateway")
            daemon.start("dispatcher")
            with daemon.scripted_worker(script):
                daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
        store = daemon.open_store()
        (job,) = queue.jobs(store)
        store.close()
        assert job.state is JobState.DONE
        assert {path.stem for path in pacs.files} == {f"2.25.{job.id}1"}


def sha256_of(path: Path) -> str:
    """Of the data set, as the gateway counts it."""
    return hashlib.sha256(data_set_of(path.read_bytes())).hexdigest()


def test_an_image_that_a_killed_gateway_left_unflushed_is_flushed_before_its_repeat_is_answered(
    tmp_path: Path, library: Path
) -> None:
    """SIGKILL leaves it to the page cache: the next gateway finds it there, and knows the repeat as a duplicate."""
    daemon, layer = layered(tmp_path, library, segment_bytes=1)
    raw = image(1, pixels=bytes(range(256)) * 8)
    with daemon:
        daemon.start("gateway", environment={**layer.environment, "ANOMALYD_CRASH_AT": "gateway.written"})
        with pytest.raises((Ended, ConnectionError)), RawAssociation(daemon.port) as scu:
            scu.ask(store_message(raw, uid_of(1)))
        assert daemon.children["gateway"].wait(LIMIT_S) == -signal.SIGKILL
        daemon.start("gateway", environment=layer.environment)
        with RawAssociation(daemon.port) as scu:
            assert scu.ask(store_message(raw, uid_of(1))) == SUCCESS
        daemon.kill("gateway")
    answered = list(answers(layer.steps()))
    sent = {uid_of(1): hashlib.sha256(raw).hexdigest()}
    (cut,) = layer.cuts([answered[-1][0] + 1])
    for seed in range(8):
        assert_survives(cut, sent, answered, seed, tmp_path / "after")
