"""The segment log: what was appended is read back byte for byte, and what a crash tears is cut off."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.storage.records import ALIGNMENT, NewRecord, Place, Record, RecordKind, Spilled, encode_facts
from anomalyd.storage.segment_writer import LogWriteFailed, SegmentWriter
from anomalyd.storage.segments import Damage, DamagedRecord, PurgedRecord, SegmentLog

START = Place(1, 0)
PREFIX = bytes(128) + b"DICM" + b"meta"


def instance(data: bytes, pieces: int = 1, **facts: object) -> NewRecord:
    step = max(1, -(-len(data) // pieces))
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    text = encode_facts({"sha256": hashlib.sha256(data).hexdigest(), **facts})
    return NewRecord(RecordKind.INSTANCE, 1_700_000_000_000_000, text, PREFIX, parts)


def note(**facts: object) -> NewRecord:
    return NewRecord(RecordKind.NOTE, 1_700_000_000_000_001, encode_facts(facts))


def opened(
    root: Path, start: Place = START, segment_bytes: int = 1 << 28
) -> tuple[SegmentWriter, list[Record | Damage]]:
    writer = SegmentWriter(root, segment_bytes)
    assert writer.lock(threading.Event())
    return writer, list(writer.recover(start))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SegmentWriter]:
    writer, found = opened(tmp_path)
    assert found == []
    yield writer
    writer.close()


def test_a_group_comes_back_byte_for_byte(writer: SegmentWriter) -> None:
    data = [os.urandom(n) for n in (1, 63, 64, 65, 140_000)]
    records = [instance(d, pieces=3) for d in data]
    places = writer.append(records)
    for d, record, place in zip(data, records, places, strict=True):
        assert place.offset % ALIGNMENT == 0
        assert writer.log.read(place.segment, place.offset, record.payload_length) == PREFIX + d
        found = writer.log.record(place)
        assert found.header.received_us == record.received_us
        assert found.facts["sha256"] == hashlib.sha256(d).hexdigest()


def test_a_data_set_in_more_pieces_than_one_writev_takes_is_whole(writer: SegmentWriter) -> None:
    data = os.urandom(5000)
    record = instance(data, pieces=5000)
    [place] = writer.append([record])
    assert writer.log.read(place.segment, place.offset, record.payload_length) == PREFIX + data


def test_a_spilled_data_set_is_copied_into_the_segment(writer: SegmentWriter, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    spilled = Spilled(tmp_path)
    for at in range(0, len(data), 700_000):
        spilled.write(data[at : at + 700_000])
    text = encode_facts({"sha256": hashlib.sha256(data).hexdigest()})
    record = NewRecord(RecordKind.INSTANCE, 1, text, PREFIX, spilled)
    places = writer.append([instance(b"before"), record, instance(b"after")])
    assert writer.log.read(places[1].segment, places[1].offset, record.payload_length) == PREFIX + data
    assert writer.log.read(places[2].segment, places[2].offset, len(PREFIX) + 5) == PREFIX + b"after"


def test_a_spilled_data_set_is_copied_where_the_kernel_cannot(
    writer: SegmentWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refused)  # another file system below the store
    data = os.urandom(2_500_001)
    spilled = Spilled(tmp_path)
    spilled.write(data)
    text = encode_facts({"sha256": hashlib.sha256(data).hexdigest()})
    [place] = writer.append([NewRecord(RecordKind.INSTANCE, 1, text, PREFIX, spilled)])
    assert writer.log.read(place.segment, place.offset, len(PREFIX) + len(data)) == PREFIX + data


def test_room_that_was_reserved_is_given_back(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path)
    writer.append([instance(b"x" * 5000)])
    assert writer.log.size(1) < 10_000, "reserving changes no size"
    writer.close()
    assert writer.log.path(1).stat().st_blocks * 512 < 20_000


def test_flushed_images_leave_the_page_cache_and_are_read_back_whole(writer: SegmentWriter, tmp_path: Path) -> None:
    data = [os.urandom(300_000) for _ in range(6)]
    places = []
    for one in data:
        places += writer.append([instance(one)])
        writer.give_back_cache()
    if not forgets(tmp_path / "other"):
        pytest.skip("the file system of the temporary folder keeps pages whatever it is advised")
    cached = cached_pages(writer.log.path(1))
    assert cached <= len(data) + 1, "at most the page that a group ends in"
    assert [
        writer.log.read(place.segment, place.offset, len(PREFIX + one)) for place, one in zip(places, data, strict=True)
    ] == [PREFIX + one for one in data]


def cached_pages(path: Path) -> int:
    """Pages of a file that can be read without asking the disk."""
    page, found = bytearray(4096), 0
    with path.open("rb", buffering=0) as file:
        for offset in range(0, path.stat().st_size, len(page)):
            try:
                found += os.preadv(file.fileno(), [page], offset, os.RWF_NOWAIT) > 0
            except BlockingIOError:
                continue
    return found


def forgets(path: Path) -> bool:
    """Whether advice to drop pages is taken here."""
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        try:
            before = cached_pages(path)
        except OSError:  # a file system in memory has no such question
            return False
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return 0 == cached_pages(path) < before


def test_scan_gives_instances_and_notes_in_order_from_any_record_on(writer: SegmentWriter) -> None:
    places = writer.append([instance(b"a"), note(why="duplicate"), instance(b"b")])
    everything = list(writer.log.scan())
    assert [found.place for found in everything] == places
    assert isinstance(everything[1], Record)
    assert everything[1].facts == {"why": "duplicate"}
    assert [found.place for found in writer.log.scan(places[1])] == places[1:]


def test_a_full_segment_is_followed_by_a_new_one(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path, segment_bytes=10_000)
    places = [writer.append([instance(os.urandom(6000))])[0] for _ in range(3)]
    assert [place.segment for place in places] == [1, 2, 3]
    assert writer.log.segments() == (1, 2, 3)


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path, segment_bytes=10_000)
    places = [writer.append([instance(os.urandom(n))])[0] for n in (100, 50_000, 100)]
    assert [place.segment for place in places] == [1, 2, 3]


@pytest.mark.parametrize("kept", [1, 63, 64, 65, 300, 1000, 2000])
def test_a_torn_tail_is_cut_off_and_the_log_goes_on(tmp_path: Path, kept: int) -> None:
    writer, _ = opened(tmp_path)
    places = writer.append([instance(b"x" * 500), instance(os.urandom(2000))])
    writer.close()
    os.truncate(writer.log.path(1), places[1].offset + kept)

    writer, found = opened(tmp_path)
    assert [type(item) for item in found] == [Record, Damage]
    assert writer.log.size(1) == places[1].offset
    [place] = writer.append([instance(b"again")])
    assert place == places[1]
    assert [type(item) for item in writer.log.scan()] == [Record, Record]


@pytest.mark.parametrize(("torn", "kept"), [((0,), (1, 2)), ((1,), (0, 2)), ((0, 1), (2,)), ((1, 2), (0,))])
def test_what_a_power_cut_tore_in_the_last_group_is_blanked_and_the_rest_of_it_kept(
    tmp_path: Path, torn: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    writer, _ = opened(tmp_path)
    before = writer.append([instance(b"acknowledged")])
    places = writer.append([instance(os.urandom(2000)) for _ in range(3)])
    writer.close()
    raw = bytearray(writer.log.path(1).read_bytes())
    for number in torn:
        raw[places[number].offset + 512 : places[number].offset + 1024] = bytes(512)
    writer.log.path(1).write_bytes(raw)

    writer, found = opened(tmp_path)
    assert {item.place for item in found if isinstance(item, Record)} == {*before, *(places[n] for n in kept)}
    assert all(item.is_cut_off for item in found if isinstance(item, Damage))
    [after] = writer.append([instance(b"next")])
    writer.close()
    writer, found = opened(tmp_path)
    records = [item for item in found if isinstance(item, Record)]
    assert len(records) == len(found), "nothing of it is damage any more"
    assert [item.place for item in records if item.facts] == [*before, *(places[n] for n in kept), after]
    for number in set(torn) & set(range(max(kept))):
        begin = places[number].offset + 128
        assert not any(writer.log.path(1).read_bytes()[begin : begin + 2000]), "no part of an image is left"
    writer.close()


def test_what_was_torn_does_not_hide_what_rotted_in_the_group_before(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path)
    before = writer.append([instance(os.urandom(2000)) for _ in range(3)])
    places = writer.append([instance(os.urandom(2000)) for _ in range(3)])
    writer.close()
    raw = bytearray(writer.log.path(1).read_bytes())
    for place in (before[1], places[0]):
        raw[place.offset + 512 : place.offset + 1024] = bytes(512)
    writer.log.path(1).write_bytes(raw)
    writer, found = opened(tmp_path)
    writer.close()
    damaged = {item.place: item.is_cut_off for item in found if isinstance(item, Damage)}
    assert damaged == {before[1]: False, places[0]: True}
    assert [item.place for item in found if isinstance(item, Record)] == [before[0], before[2], *places[1:]]


def test_damage_that_later_groups_follow_is_reported_and_left_alone(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path)
    places = [place for _ in range(3) for place in writer.append([instance(os.urandom(2000))])]
    writer.close()
    with writer.log.path(1).open("r+b") as file:
        file.seek(places[1].offset + 1000)
        file.write(b"rot")
    size = writer.log.size(1)

    writer, found = opened(tmp_path)
    assert [item.place for item in found] == places
    assert [type(item) for item in found] == [Record, Damage, Record]
    assert writer.log.size(1) == size
    with pytest.raises(DamagedRecord, match="SHA-256"):
        writer.log.read(places[1].segment, places[1].offset, len(PREFIX) + 2000)


@given(position=st.integers(0, 2**16), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_no_flipped_bit_in_a_record_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    writer, _ = opened(tmp_path_factory.mktemp("log"))
    record = instance(b"data set" * 40, study="1.2.3")
    [place] = writer.append([record])
    writer.close()
    used = 64 + len(record.facts) + record.payload_length
    reserved = range(40, 60)  # of the header: unused, covered by no checksum
    at = position % used
    path = writer.log.path(1)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)
    if at in reserved:
        assert writer.log.read(place.segment, place.offset, record.payload_length)
    else:
        with pytest.raises(DamagedRecord):
            writer.log.read(place.segment, place.offset, record.payload_length)
        assert [type(item) for item in writer.log.scan()] == [Damage]


def test_a_log_shorter_than_the_index_says_is_reported_and_never_overwritten(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path)
    [place] = writer.append([instance(b"x" * 500)])
    end = writer.log.record(place).end
    writer.close()
    os.truncate(writer.log.path(1), 0)
    writer, found = opened(tmp_path, end)
    assert [type(item) for item in found] == [Damage]
    assert writer.append([instance(b"next")])[0].segment == 2


def test_punch_leaves_facts_and_takes_every_byte_of_the_payload(writer: SegmentWriter) -> None:
    secret = b"MARKER^PATIENT" * 500
    record = instance(secret, study="1.2.3")
    places = writer.append([instance(b"before"), record, instance(b"after")])
    for _ in range(2):  # a second call ends what a crash broke off
        writer.log.punch(places[1])
    assert b"MARKER" not in writer.log.path(1).read_bytes()
    with pytest.raises(PurgedRecord):
        writer.log.read(places[1].segment, places[1].offset, record.payload_length)
    found = list(writer.log.scan())
    assert [item.place for item in found] == places
    stone = found[1]
    assert isinstance(stone, Record)
    assert stone.header.kind is RecordKind.PURGED
    assert stone.facts["study"] == "1.2.3"
    assert writer.append([instance(b"goes on")])[0] > places[2]


def test_only_finished_segments_can_be_dropped(tmp_path: Path) -> None:
    writer, _ = opened(tmp_path, segment_bytes=1000)
    for _ in range(2):
        writer.append([instance(os.urandom(900))])
    writer.log.drop(1)
    assert writer.log.segments() == (2,)
    with pytest.raises(Exception, match="being written"):
        writer.log.drop(2)
    assert writer.append([instance(os.urandom(900))])[0].segment == 3


def test_after_a_failed_write_the_segment_is_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = opened(tmp_path)
    writer.append([instance(b"first")])

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:  # a real ENOSPC needs a file system of its own: tests/faults
        patch.setattr(os, "fdatasync", no_space)
        with pytest.raises(LogWriteFailed, match="segment 1: No space left"):
            writer.append([instance(b"second")])
    assert writer.append([instance(b"third")])[0].segment == 2


def test_a_disk_that_stays_full_leaves_no_empty_segment_at_each_try(
    writer: SegmentWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (first,) = writer.append([instance(b"before")])
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", no_space)
        for _ in range(5):
            with pytest.raises(LogWriteFailed):
                writer.append([instance(b"while it is full")])
    assert writer.log.segments() == (first.segment,)
    (later,) = writer.append([instance(b"after")])
    writer.close()
    reopened, found = opened(tmp_path)
    assert [record.place for record in found if isinstance(record, Record)] == [first, later]
    reopened.close()


def test_a_second_gateway_waits_for_the_log(writer: SegmentWriter, tmp_path: Path) -> None:
    second, stop = SegmentWriter(tmp_path), threading.Event()
    stop.set()
    assert not second.lock(stop)
    got_it = threading.Event()

    def wait() -> None:
        if second.lock(threading.Event()):
            got_it.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got_it.wait(0.1)
    writer.close()
    assert got_it.wait(5)
    thread.join()
    second.close()


def test_files_are_private(writer: SegmentWriter) -> None:
    writer.append([instance(b"x")])
    assert writer.log.directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in writer.log.directory.iterdir())


def test_a_reader_needs_no_lock_and_no_directory(tmp_path: Path) -> None:
    assert SegmentLog(tmp_path).segments() == ()
    assert list(SegmentLog(tmp_path).scan()) == []


def test_a_stream_gives_the_same_bytes_and_nothing_of_its_neighbours(writer: SegmentWriter) -> None:
    data = [os.urandom(n) for n in (70_000, 1, 9_000)]
    records = [instance(d) for d in data]
    for d, record, place in zip(data, records, writer.append(records), strict=True):
        with writer.log.open(place.segment, place.offset, record.payload_length) as stream:
            assert stream.read() == PREFIX + d
            assert stream.read(1) == b""
            stream.seek(-1, os.SEEK_END)
            assert stream.read() == (PREFIX + d)[-1:]
            stream.seek(128)
            assert stream.read(4) == b"DICM"
    with pytest.raises(DamagedRecord):
        writer.log.open(place.segment, place.offset, 7)
