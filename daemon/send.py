"""Sending a folder as a scanner would: a C-STORE SCU for first trials, the demo, and filling by hand.

Every file goes out in the transfer syntax that it is stored in; nothing is decoded or re-encoded on the way.
"""

import queue
import shutil
import socket
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import build_context

from anomalyd.daemon import scu
from anomalyd.daemon.tls_settings import PeerTls
from anomalyd.errors import Transient
from anomalyd.ids import AETitle

# A path then leaves as the bytes of its file.
_config.STORE_SEND_CHUNKED_DATASET = True

CONNECT_S = 10.0
SUCCESS = 0x0000
WARNINGS = range(0xB000, 0xC000)
PREAMBLE_LENGTH = 128  # PS3.10 7.1
MAX_MESSAGE_ID = 0xFFFF
MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers 1 to 255
NEEDED = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
MEANING = {
    SUCCESS: "stored",
    0x0122: "SOP class not supported",
    0x0124: "not authorised to store",
    0xA700: "out of resources",
    0xA900: "data set does not match the SOP class",
    0xC000: "cannot understand",
}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One file to send."""

    path: Path
    series_uid: str
    sop_class: str
    instance_uid: str
    transfer_syntax: str
    has_true_meta: bool
    """False where the file meta group names another object than the data set: anonymisers leave that behind."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the peer said to one file. status: None where it never came to a C-STORE response."""

    file: Outgoing
    status: int | None
    text: str

    @property
    def is_stored(self) -> bool:
        """Success, or success with a warning."""
        return self.status is not None and (self.status == SUCCESS or self.status in WARNINGS)


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where the files go, and as whom we call."""

    host: str
    port: int
    called: AETitle
    calling: AETitle
    tls: PeerTls | None = None


def find_files(folder: Path) -> tuple[tuple[Outgoing, ...], tuple[tuple[Path, str], ...]]:
    """DICOM files below a folder (or one file), in order of their names; and those left out, each with the reason."""
    found, left_out = [], []
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(NEEDED))
            sop_class, instance, series = (str(dataset[keyword].value or "") for keyword in NEEDED)
            meta = dataset.file_meta
            named = (str(meta.get("MediaStorageSOPClassUID", "")), str(meta.get("MediaStorageSOPInstanceUID", "")))
            file = Outgoing(
                path, series, sop_class, instance, str(meta.TransferSyntaxUID), named == (sop_class, instance)
            )
        except InvalidDicomError:
            left_out.append((path, "no DICOM file"))
        except (KeyError, AttributeError):
            left_out.append((path, "an identifier is missing (SOP class, SOP instance, series or transfer syntax)"))
        except (OSError, ValueError, TypeError, EOFError) as exc:
            left_out.append((path, f"cannot be read ({type(exc).__name__})"))
        else:
            found.append(file)
    return tuple(found), tuple(left_out)


def send_files(
    files: Sequence[Outgoing],
    to: Receiver,
    *,
    associations: int | None = None,
    on_answer: Callable[[Answer], None] = lambda _: None,
) -> tuple[Answer, ...]:
    """The answer to every file, in order of arrival.

    Raises ConfigError where the certificates cannot be used.
    associations: None: one for each series, one after the other; N: all files over N at once.
    on_answer: called from several threads, one at a time.
    """
    unreachable = _why_unreachable(to)
    if unreachable:
        answers = [Answer(file, None, unreachable) for file in files]
        for answer in answers:
            on_answer(answer)
        return tuple(answers)
    batches: queue.SimpleQueue[Sequence[Outgoing]] = queue.SimpleQueue()
    lanes = associations or 1
    for batch in _by_series(files) if associations is None else [files[lane::lanes] for lane in range(lanes)]:
        for part in _within_context_limit(batch):
            batches.put(part)
    answers = []
    lock = threading.Lock()

    def note(answer: Answer) -> None:
        with lock:
            answers.append(answer)
            on_answer(answer)

    with ThreadPoolExecutor(lanes, thread_name_prefix="send") as pool:
        for done in [pool.submit(_send_batches, batches, to, note) for _ in range(lanes)]:
            done.result()
    return tuple(answers)


def meaning(status: int | None) -> str:
    """A C-STORE status in words (PS3.4 B.2.3)."""
    if status is None:
        return "no answer"
    if status in WARNINGS:
        return "stored with a warning"
    return MEANING.get(status, MEANING.get(status & 0xFF00, MEANING.get(status & 0xF000, "failed")))


def _why_unreachable(to: Receiver) -> str:
    """Why nobody can be reached at all; "" where the port opens. Once, not for every file."""
    try:
        socket.create_connection((to.host, to.port), timeout=CONNECT_S).close()
    except OSError as exc:
        return f"{to.host}:{to.port} cannot be reached: {exc.strerror or 'no answer in time'}"
    return ""


def _by_series(files: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    series: dict[str, list[Outgoing]] = defaultdict(list)
    for file in files:
        series[file.series_uid].append(file)
    yield from series.values()


def _within_context_limit(files: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Parts of a batch whose pairs of class and syntax fit into one association."""
    part: list[Outgoing] = []
    pairs: set[tuple[str, str]] = set()
    for file in files:
        pair = (file.sop_class, file.transfer_syntax)
        if len(pairs | {pair}) > MAX_CONTEXTS:
            yield part
            part, pairs = [], set()
        part.append(file)
        pairs.add(pair)
    if part:
        yield part


def _send_batches(
    batches: "queue.SimpleQueue[Sequence[Outgoing]]", to: Receiver, note: Callable[[Answer], None]
) -> None:
    while True:
        try:
            files = batches.get_nowait()
        except queue.Empty:
            return
        _send_batch(files, to, note)


def _send_batch(files: Sequence[Outgoing], to: Receiver, note: Callable[[Answer], None]) -> None:
    """One association for all; one that breaks is opened again, and the file that it broke under is repeated."""
    waiting, lost = deque(files), ""
    for last_try in (False, False, True):
        association = _associate(waiting, to)
        lost = _send_over(association, waiting, note) if association.is_established else _why_not(association, to)
        if association.is_established:
            association.release()
        if association.is_rejected or last_try:
            break
        if not waiting:
            return
    for file in waiting:
        note(Answer(file, None, lost))


def _associate(files: Iterable[Outgoing], to: Receiver) -> Association:
    pairs = dict.fromkeys((file.sop_class, file.transfer_syntax) for file in files)
    contexts = [build_context(*pair) for pair in pairs]
    return AE(to.calling).associate(
        to.host, to.port, contexts, to.called, evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare)],
        tls_args=scu.tls_arguments(to.tls, to.host),
    )  # fmt: skip


def _send_over(association: Association, waiting: deque[Outgoing], note: Callable[[Answer], None]) -> str:
    """Sends and removes from the front; gives why the association ended before all was sent, else ""."""
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
    number = 0
    while waiting:
        file, number = waiting[0], number % MAX_MESSAGE_ID + 1
        if (file.sop_class, file.transfer_syntax) not in accepted:
            answer = Answer(file, None, "the peer does not take this SOP class in this transfer syntax")
        else:
            try:
                answer = _send_one(association, file, number)
            except Transient as exc:
                association.abort()
                return str(exc)
        waiting.popleft()
        note(answer)
    return ""


def _send_one(association: Association, file: Outgoing, number: int) -> Answer:
    """The peer's answer; raises Transient when the association is gone."""
    try:
        with _with_true_meta(file) as path:
            response = association.send_c_store(path, msg_id=number)
    except OSError as exc:
        return Answer(file, None, f"the file cannot be read: {exc.strerror}")
    except RuntimeError as exc:  # pynetdicom: no longer established
        raise Transient("the association was lost") from exc
    if "Status" not in response:
        raise Transient("no answer: aborted, closed or timed out")
    status = int(response.Status)
    return Answer(file, status, meaning(status))


@contextmanager
def _with_true_meta(file: Outgoing) -> Iterator[Path]:
    """The file itself, or a passing copy whose meta group names the object as its data set does.

    pynetdicom fills the request from the meta group, and a receiver must refuse one that lies about the data set.
    """
    if file.has_true_meta:
        yield file.path
        return
    meta, offset = split_dataset(file.path)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = file.sop_class, file.instance_uid
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy:
        copy.write(bytes(PREAMBLE_LENGTH) + b"DICM")
        write_file_meta_info(DicomFileLike(copy), FileMetaDataset(meta), enforce_standard=True)
        with file.path.open("rb") as original:
            original.seek(offset)
            shutil.copyfileobj(original, copy)
        copy.flush()
        yield Path(copy.name)


def _why_not(association: Association, to: Receiver) -> str:
    answer = scu.rejection(association)
    if answer is not None:
        return f"{to.called} rejects the association of {to.calling}: {answer.reason_str}"
    if fault := scu.tls_fault(association):
        return f"no TLS with {to.called} at {to.host}:{to.port}: {fault}"
    if association.rejected_contexts and not association.accepted_contexts:
        return f"{to.called} takes none of the objects"
    return f"no association with {to.called} at {to.host}:{to.port}"
