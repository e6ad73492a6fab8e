"""One spoiled file through everything that reads files: peek, header, selection, pixels.

Each judge gives what the case was answered with; it raises for anything but an answer, for time and memory above a
bound.
"""

import resource
import signal
import types
import warnings
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np

from anomalyd.errors import Ineligible, Refused
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.read import read_volume
from anomalyd.pipeline.selection import VolumeChoice, choose
from anomalyd.pipeline.series import InstanceHeader, assemble, parse_instance
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import Grid, SliceSource
from anomalyd.storage.part10 import file_prefix
from anomalyd.storage.peek import PEEK_LIMIT, Unreadable, peek
from fuzz.spoiling import bases, encoded, spoiled, spoiled_file

CPU_LIMIT_S = 5.0  # for one object; a sound one takes 2 ms
MEMORY_LIMIT_KB = 400_000  # beyond what the process held before the first case


class TooSlow(Exception):
    """A case that took longer than CPU_LIMIT_S."""


def judge_file(seed: str) -> str:
    """What a file is answered with: refused, fault, ineligible (its pixels), read."""
    rng = Random(seed)
    return _bounded(lambda: _file(spoiled_file(rng)))


def judge_peek(seed: str) -> str:
    """What the index's reader says of a data set."""
    data, syntax = spoiled(Random(seed))
    return _bounded(lambda: _peek(data, syntax))


def judge_series(seed: str) -> str:
    """What selection says of a series in which some images are spoiled."""
    return _bounded(lambda: _series(Random(seed)))


def _file(data: bytes) -> str:
    try:
        header = parse_instance(data)
    except Refused as exc:
        assert str(exc)
        return "refused"
    if header.faults or not header.frames:
        assert all(header.faults)
        return "fault"
    shape = (1, header.pixels.rows, header.pixels.columns)
    frame = header.frames[0].number
    choice = VolumeChoice(
        header.study_uid, header.series_uid, Grid(shape, np.eye(4)), (SliceSource(header.instance_uid, frame),)
    )
    try:
        volume = read_volume(choice, lambda _: data)
    except (Ineligible, Refused) as exc:
        assert str(exc)
        return "ineligible"
    assert np.isfinite(volume.voxels).all()
    return "read"


def _peek(data: bytes, syntax: str) -> str:
    try:
        peeked = peek(data[:PEEK_LIMIT], syntax)
    except Unreadable as exc:
        assert "\n" not in str(exc)
        return "refused"
    for text in (peeked.patient_name, peeked.patient_id, peeked.accession_number, peeked.modality, peeked.study_date):
        assert text is None or text.encode("utf-8") is not None  # what cannot be encoded, SQLite would not take
    return "read"


def _series(rng: Random) -> str:
    headers = list(_sound())
    for _ in range(rng.choice((1, 3, 8))):
        try:
            headers[rng.randrange(len(headers))] = parse_instance(spoiled_file(rng))
        except Refused:
            continue
    own = (headers[0].study_uid, headers[0].series_uid)
    series = assemble(one for one in headers if (one.study_uid, one.series_uid) == own)
    answer = choose(series, PipelineSettings(), frozenset(Contrast))
    assert answer.ok == (answer.reason is None)
    return "eligible" if answer.reason is None else f"refused for {answer.reason.criterion}"


@cache
def _sound() -> tuple[InstanceHeader, ...]:
    """Sixty slices made of the first base, 3 mm apart."""
    base, found = bases()[0], []
    for number in range(60):
        changes = {
            0x00080018: f"1.2.3.4.{number}".encode(),
            0x00200013: str(number + 1).encode(),
            0x00200032: f"-90\\-90\\{number * 3 - 90}".encode(),
            0x00280030: b"4\\4",
        }
        elements = [type(one)(one.tag, one.vr, changes.get(one.tag, one.value), one.length) for one in base.elements]
        prefix = file_prefix(
            sop_class="1.2", instance_uid="1.2", transfer_syntax=base.syntax, calling_ae=None, called_ae=None
        )
        found.append(parse_instance(prefix + encoded(elements, base.syntax)))
    return tuple(found)


def _bounded(work: Callable[[], str]) -> str:
    """The answer; raises TooSlow, and AssertionError for memory."""
    before = _peak_kb()

    def too_slow(_number: int, _frame: types.FrameType | None) -> None:
        raise TooSlow(f"more than {CPU_LIMIT_S:g} s of CPU for one object")

    previous = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, for absurd numbers: what counts is the answer
            answer = work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    grown = _peak_kb() - before
    assert grown < MEMORY_LIMIT_KB, f"{grown >> 10} MB of memory for one object"
    return answer


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
