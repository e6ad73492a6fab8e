"""Images received per second at 1, 4 and 8 associations: ours, durable, beside receivers that flush less or nothing.

The sender encodes beforehand, sends each message with one call, waits for each answer, TCP_NODELAY everywhere.
CPU is the receiver's user and system time for an image at 8 associations; peak is its largest resident size.
"""

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom.dsutils import encode

from bench.harness import Case, Figures, Measure, peak_mb
from bench.stock_scp import Receiver, orthanc, program, pynetdicom_scp, storescp
from ports import free_port
from raw_scu import PDU_LIMIT, RawAssociation, store_message
from running import RunningDaemon

ROUNDS = 5
ASSOCIATIONS = (1, 4, 8)
SIZES = {"132KB": (256, 256, 320), "0.5MB": (512, 512, 160)}
"""Name -> rows, columns, images in a run."""
_UID_MARK, _STUDY_MARK, _SERIES_MARK = (f"1.2.826.0.1.3680043.8.498.{kind}" + "0" * 20 for kind in (1, 2, 3))


class Images:
    """Messages with images that differ in UID and content, without encoding each anew."""

    _numbers = count(1)

    def __init__(self, rows: int, columns: int) -> None:
        self._raw = _synthetic_mr(rows, columns)

    def messages(self, number: int, pdu_bytes: int) -> list[bytes]:
        """So many C-STORE requests."""
        return [store_message(data, uid, pdu_bytes=pdu_bytes) for uid, data in self.data_sets(number)]

    def data_sets(self, number: int, *, own_series: bool = False) -> Iterator[tuple[str, bytes]]:
        """(SOP Instance UID, data set) of so many images; own_series: in a series and study of their own."""
        raw = self._raw
        if own_series:
            for mark in (_STUDY_MARK, _SERIES_MARK):
                raw = raw.replace(mark.encode(), f"{mark[:-20]}{next(self._numbers):020d}".encode())
        for _ in range(number):
            uid = f"{_UID_MARK[:-20]}{next(self._numbers):020d}"
            data = bytearray(raw.replace(_UID_MARK.encode(), uid.encode()))
            data[-20:] = uid[-20:].encode()
            yield uid, bytes(data)


def _synthetic_mr(rows: int, columns: int) -> bytes:
    """A data set with as many elements as a scanner's, a private block among them."""
    noise = random.Random(1)  # noqa: S311 - pixels
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, _UID_MARK
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _STUDY_MARK, _SERIES_MARK
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "Bench^Mark", "B-1", "A-1"
    ds.Modality, ds.StudyDate, ds.ImageType = "MR", "20260131", ["ORIGINAL", "PRIMARY", "M"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, 0.0], [1, 0, 0, 0, 1, 0]
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, columns, 16, 12, 11
    ds.SamplesPerPixel, ds.PixelRepresentation, ds.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime, ds.FlipAngle = 2300.0, 2.98, 900.0, 9.0
    ds.add_new(0x00090010, "LO", "BENCH PRIVATE")
    for number in range(60):
        ds.add_new(0x00091000 + number, "LO", f"value {number}")
    ds.add_new(0x000910F0, "OB", noise.randbytes(6000))
    ds.PixelData = noise.randbytes(rows * columns * 2)
    ds["PixelData"].VR = "OW"
    raw = encode(ds, is_implicit_vr=False, is_little_endian=True)
    if raw is None:
        raise ValueError("pynetdicom cannot encode the bench's image")
    return BytesIO(raw).getvalue()


def send(receiver: Receiver, messages: list[bytes], associations: int) -> tuple[float, float]:
    """Images per second, CPU milliseconds per image."""
    open_ones = [RawAssociation(receiver.port, called=receiver.called) for _ in range(associations)]
    wrong: list[int] = []

    def send_share(number: int) -> None:
        for message in messages[number::associations]:
            status = open_ones[number].ask(message)
            if status:
                wrong.append(status)

    senders = [threading.Thread(target=send_share, args=(number,)) for number in range(associations)]
    cpu_before, begun = cpu_s(receiver.pid), time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    took = time.perf_counter() - begun
    cpu = cpu_s(receiver.pid) - cpu_before
    for association in open_ones:
        association.release()
    if wrong:
        raise AssertionError(f"{len(wrong)} images were refused, the first with 0x{wrong[0]:04X}")
    return len(messages) / took, 1000 * cpu / len(messages)


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def measured(open_receiver: Callable[[Path], AbstractContextManager[Receiver]], size: str) -> Iterator[Measure]:
    """A receiver and the function that measures it at each number of associations."""
    rows, columns, number = SIZES[size]
    images = Images(rows, columns)
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name, open_receiver(Path(name)) as receiver:
        with RawAssociation(receiver.port, called=receiver.called) as asking:
            pdu_bytes = min(asking.pdu_limit, PDU_LIMIT)
            asking.release()

        def measure() -> Figures:
            figures: dict[str, float] = {}
            for associations in ASSOCIATIONS:
                rate, cpu_ms = send(receiver, images.messages(number, pdu_bytes), associations)
                figures[f"images_per_s_{associations}"] = rate
                figures["cpu_ms"] = cpu_ms
            figures["peak_mb"] = peak_mb(receiver.pid)
            return figures

        measure()
        yield measure


@contextmanager
def ours(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Receiver]:
    """The gateway alone, with full durability."""
    storage = {"disk_floor": "50 MB"}
    with RunningDaemon(folder, roles=("gateway",), storage=storage, environment=environment) as daemon:
        yield Receiver(daemon.port, daemon.children["gateway"].pid)


def peer(
    start: Callable[[str, int, Path], AbstractContextManager[Receiver]], program: str, folder: Path
) -> AbstractContextManager[Receiver]:
    """One of stock_scp's on a free port."""
    return start(program, free_port(), folder)


def _pynetdicom(mode: str, folder: Path) -> AbstractContextManager[Receiver]:
    return pynetdicom_scp(free_port(), folder, mode)


def _cases() -> Iterator[Case]:
    for size in SIZES:
        yield Case(f"{size} anomalyd, durable", partial(measured, ours, size))
        yield Case(f"{size} pynetdicom decode + save_as", partial(measured, partial(_pynetdicom, "decode"), size))
        yield Case(f"{size} pynetdicom raw file", partial(measured, partial(_pynetdicom, "raw"), size))
        if found := program("storescp"):
            yield Case(f"{size} storescp --fork", partial(measured, partial(peer, storescp, found), size))
        if found := program("Orthanc"):
            yield Case(f"{size} Orthanc", partial(measured, partial(peer, orthanc, found), size))


CASES = tuple(_cases())
