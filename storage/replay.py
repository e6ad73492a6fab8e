"""At the start: what the log holds and the index does not know is given its rows, as if nothing had happened."""

from dataclasses import dataclass
from typing import Final

from anomalyd.storage import index
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.engine import Store
from anomalyd.storage.index import IndexEntry
from anomalyd.storage.peek import PEEK_LIMIT, peek
from anomalyd.storage.records import Place, Record, RecordKind
from anomalyd.storage.segment_writer import SegmentWriter
from anomalyd.storage.segments import Damage, SegmentLog

_GROUP: Final = 256


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the start found in the log that the index did not know."""

    records: int
    torn_bytes: int
    """Cut off the end: a record that a crash broke off; never acknowledged."""
    damaged: int
    """Stretches in the middle that are no valid record; an alarm stands for each."""


def replay(store: Store, writer: SegmentWriter) -> Replayed:
    """From the place up to which the index knows the log; afterwards the writer stands at its end."""
    with store.read() as connection:
        start = index.position(connection)
    records = torn = damaged = 0
    entries: list[IndexEntry] = []
    end = start
    for found in writer.recover(start):
        if isinstance(found, Damage):
            torn += found.length if found.is_cut_off else 0
            if not found.is_cut_off:
                damaged += 1
                _raise_alarm(store, found)
            continue
        records += 1
        end = found.end
        if found.facts and found.header.kind is not RecordKind.PURGED:  # what was forgotten gets no row again
            entries.append(_entry(writer.log, found))
        if len(entries) == _GROUP:
            _index(store, entries, end)
            entries = []
    if end != start:
        _index(store, entries, end)
    return Replayed(records, torn, damaged)


def _index(store: Store, entries: list[IndexEntry], end: Place) -> None:
    with store.write() as connection:
        index.apply(store, connection, index.judged_again(connection, entries), end)


def _entry(log: SegmentLog, record: Record) -> IndexEntry:
    peeked = None
    if record.header.kind is RecordKind.INSTANCE:
        peeked = peek(log.head_of_data(record, PEEK_LIMIT), record.facts["transfer_syntax"])
    header = record.header
    return IndexEntry(
        place=record.place,
        received_us=header.received_us,
        facts=record.facts,
        payload_length=header.payload_length,
        data_length=header.payload_length - header.prefix_length,
        peeked=peeked,
    )


def _raise_alarm(store: Store, damage: Damage) -> None:
    alarm = NewAlarm(
        kind=AlarmKind.STORE_DAMAGED,
        subject=f"segment {damage.place.segment} at {damage.place.offset}",
        text=f"{damage.length} bytes of the segment log are damaged: {damage.what}",
        next_step="run `anomalyd verify`; restore the segment from a backup, or let the sender send again",
        at=store.clock(),
    )
    with store.write_through() as connection:
        raise_alarm(connection, alarm)
