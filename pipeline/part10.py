"""A received object opened: file meta information read, the rest ready to be parsed (PS3.10 section 7).

Deflated data sets are inflated here under a limit: a deflate bomb must not take the process down.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from anomalyd.errors import Refused
from anomalyd.pipeline.elements import Elements

MAX_INFLATED = 1 << 30  # bytes; a 512 MB object of MR pixels deflates to a third at best
INFLATED_FLOOR = 16 << 20  # bytes that any deflated object may have
MAX_RATIO = (
    50  # beyond the floor, inflated to deflated; MR images reach 10: 1 MB of zeros kept a process busy for minutes
)
MAX_ELEMENTS = 20_000  # of the top level, up to the pixels; the longest headers of vendors have 1,000
MAX_ITEMS = 400_000  # of all sequences; each takes 1 KB and 10 us here. 5000 frames of Philips have 150,000
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian (PS3.5 7.5)
_SCAN_BYTES = 1 << 24
MAX_FRAMES = 5000  # of one object; 170 slices in 8 echoes, magnitude and phase are 2720
PREAMBLE = 128
FUNCTIONAL_GROUPS = 0x5200
_LONG_FORM = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"OV", b"UC", b"UR", b"SV", b"UV"})
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # Float, Double Float and plain Pixel Data
_PARSE_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, struct.error,
                 NotImplementedError, OSError, AssertionError, BytesLengthException)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Part10:
    """An opened object: transfer syntax, and the data set's bytes from its first element on."""

    transfer_syntax: str
    dataset: BinaryIO

    @property
    def is_implicit(self) -> bool:
        """Whether elements state no value representation."""
        return self.transfer_syntax == ImplicitVRLittleEndian

    @property
    def is_little_endian(self) -> bool:
        """Whether numbers have their least byte first."""
        return self.transfer_syntax != ExplicitVRBigEndian


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixels begin: tag, length as stated (0xFFFFFFFF: encapsulated) and the bytes that really follow."""

    tag: int
    stated_length: int
    present_bytes: int


def open_part10(source: bytes | Path | BinaryIO) -> Part10:
    """The opened object, which closes a stream that was given; raises Refused in words when it is no DICOM object.

    No path or content is in the text.
    """
    try:
        stream = _stream_of(source)
    except OSError as exc:
        raise Refused(f"the file cannot be opened: {exc.strerror}") from exc
    try:
        head = stream.read(PREAMBLE + 4)
        if head[PREAMBLE:] == b"DICM":
            transfer_syntax = _file_meta(stream)
        else:  # objects of old archives: a bare data set, recognised by a first element of group 8
            stream.seek(0)
            transfer_syntax = _guess(head)
        if transfer_syntax == DeflatedExplicitVRLittleEndian:
            stream = io.BytesIO(_inflate(stream))
    except Refused:
        stream.close()
        raise
    return Part10(transfer_syntax, stream)


def _stream_of(source: bytes | Path | BinaryIO) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return source.open("rb") if isinstance(source, Path) else source


def read_header(opened: Part10) -> tuple[Dataset, PixelElement | None]:
    """All elements before the pixels, unconverted, and what is known of the pixels; closes the stream.

    Of an object with more than MAX_FRAMES frames the functional groups are left out: those of a time series of 8000
    frames would take a gigabyte here. Raises Refused when the elements cannot be walked.
    """
    found: list[tuple[int, int]] = []
    has_room = False
    _check_items(opened)

    def stop(tag: BaseTag, _: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            found.append((int(tag), length))
        return tag in PIXEL_TAGS or (tag >> 16 == FUNCTIONAL_GROUPS and not has_room)

    try:
        dataset = read(opened, stop)
        if not found:  # at the functional groups, or at the end
            has_room = (Elements(dataset).integer("NumberOfFrames") or 1) <= MAX_FRAMES
            if has_room:
                dataset = _joined(dataset, read(opened, stop), opened)
        if not found:
            return dataset, None
        start = opened.dataset.tell()
        header = 8 if opened.is_implicit else 12
        present = opened.dataset.seek(0, io.SEEK_END) - start - header
        return dataset, PixelElement(found[0][0], found[0][1], max(0, present))
    finally:
        opened.dataset.close()


def read(opened: Part10, stop_when: Callable[[BaseTag, str | None, int], bool] | None = None) -> Dataset:
    """The data set up to where stop_when says so; raises Refused when its elements cannot be walked."""
    seen = 0

    def stop(tag: BaseTag, representation: str | None, length: int) -> bool:
        nonlocal seen
        seen += 1
        if seen > MAX_ELEMENTS:
            raise Refused(f"the data set has more than {MAX_ELEMENTS} elements: no image has so many")
        return stop_when is not None and stop_when(tag, representation, length)

    try:
        with warnings.catch_warnings():  # an unknown character set: descriptions are decoded in `elements`
            warnings.simplefilter("ignore")
            dataset = read_dataset(opened.dataset, opened.is_implicit, opened.is_little_endian, stop_when=stop)
    except RecursionError as exc:
        at = opened.dataset.tell()
        raise Refused(f"sequences are nested too deeply at byte {at} of the data set: no image needs so many") from exc
    except _PARSE_ERRORS as exc:
        raise Refused(f"the data set cannot be read: {type(exc).__name__} at byte {opened.dataset.tell()}") from exc
    return dataset


def _joined(front: Dataset, rest: Dataset, opened: Part10) -> Dataset:
    """The elements of both as they were read: `update` would convert private ones, and raise on a broken one."""
    whole = Dataset({element.tag: element for part in (front, rest) for element in part.values()})
    # Else pydicom looks the character set up at each access, and warns of an unknown one
    whole.set_original_encoding(opened.is_implicit, opened.is_little_endian, front.original_character_set)
    return whole


def _check_items(opened: Part10) -> None:
    """Raises Refused where an object has too many items of sequences: counted as bytes, before any is made."""
    start, stream, tag = opened.dataset.tell(), opened.dataset, _ITEM_TAGS[not opened.is_little_endian]
    is_large = stream.seek(0, io.SEEK_END) - start > 8 * MAX_ITEMS  # a smaller one cannot hold so many
    stream.seek(start)
    count = 0
    while is_large and (part := stream.read(_SCAN_BYTES)):
        count += part.count(tag)
        if count > MAX_ITEMS:
            raise Refused(f"the data set has more than {MAX_ITEMS} items of sequences: split the object")
    stream.seek(start)


def _file_meta(stream: BinaryIO) -> str:
    """TransferSyntaxUID of group 2 (always explicit little endian); leaves the stream at the data set."""
    transfer_syntax = ""
    while len(start := stream.read(8)) == 8:  # noqa: PLR2004 - tag, VR, length
        group, element, representation, length = struct.unpack("<HH2sH", start)
        if group != 2:  # noqa: PLR2004 - the file meta group
            stream.seek(-8, io.SEEK_CUR)
            break
        if representation in _LONG_FORM:
            length = struct.unpack("<L", stream.read(4).ljust(4, b"\0"))[0]
        value = stream.read(length)
        if element == 0x0010:  # noqa: PLR2004 - (0002,0010) Transfer Syntax UID
            transfer_syntax = value.decode("ascii", errors="replace").strip(" \0")
    if not transfer_syntax:
        raise Refused("the file meta information states no transfer syntax")
    return transfer_syntax


def _guess(head: bytes) -> str:
    if len(head) >= 8 and head[:2] == b"\x08\x00" and head[2:4] in (b"\x00\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00"):  # noqa: PLR2004 - one element's start
        is_explicit = head[4:6].isalpha() and head[4:6].isupper()
        return str(ExplicitVRLittleEndian if is_explicit else ImplicitVRLittleEndian)
    raise Refused("no DICOM object: neither the DICM prefix nor a first element of group 0008")


def _inflate(stream: BinaryIO) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        packed = stream.read()
        limit = min(MAX_INFLATED, max(INFLATED_FLOOR, MAX_RATIO * len(packed)))
        plain = inflater.decompress(packed, limit)
    except zlib.error as exc:
        raise Refused(f"the deflated data set cannot be inflated: {exc}") from exc
    finally:
        stream.close()
    if inflater.unconsumed_tail:
        raise Refused(
            f"the deflated data set of {len(packed)} bytes is larger than {limit} bytes: send it in another syntax"
        )
    return plain
