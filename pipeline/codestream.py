"""The size that a JPEG, JPEG-LS or JPEG 2000 code stream states for itself: what its decoder will allocate.

Decoders believe the code stream, not the data set: 1 KB that said 30,000 x 30,000 took 5 GB before anybody compared.
"""

import struct
from collections.abc import Iterator
from typing import Final

_JPEG: Final = b"\xff\xd8"
_JPEG_2000: Final = b"\xff\x4f\xff\x51"  # SOC and SIZ, which must follow at once (ISO 15444-1 A.4.1, A.5.1)
_SIZ: Final = struct.Struct(">LLLL")  # Xsiz, Ysiz, XOsiz, YOsiz
_SIZ_AT: Final = 8  # behind SOC, SIZ, Lsiz, Rsiz
_COMPONENTS_AT: Final = 40  # Csiz
# Start of frame of every JPEG process and of JPEG-LS (ISO 10918-1 table B.1, ISO 14495-1 C.1.1)
_FRAME_MARKERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_FRAME: Final = struct.Struct(">BHHB")  # precision, lines, samples per line, components
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length


def stated_sizes(stream: bytes) -> tuple[tuple[int, int, int], ...]:
    """(rows, columns, components) of each header of a code stream of the JPEG family; empty where it has none."""
    return (*_of_jpeg_2000(stream), *(_of_jpeg(stream) if stream.startswith(_JPEG) else ()))


def _of_jpeg_2000(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Wherever it stands: it may be wrapped in the boxes of a JP2 file (ISO 15444-1 annex I)."""
    at = stream.find(_JPEG_2000)
    while 0 <= at <= len(stream) - _COMPONENTS_AT - 2:
        right, bottom, left, top = _SIZ.unpack_from(stream, at + _SIZ_AT)
        components = int.from_bytes(stream[at + _COMPONENTS_AT : at + _COMPONENTS_AT + 2], "big")
        yield bottom - top, right - left, components
        at = stream.find(_JPEG_2000, at + 1)


def _of_jpeg(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Of every frame header, wherever it stands: a decoder may resynchronise behind bytes that make no sense."""
    at = stream.find(b"\xff")
    while 0 <= at < len(stream) - 1:
        marker = stream[at + 1]
        is_frame = marker in _FRAME_MARKERS and at + 4 + _FRAME.size <= len(stream)
        if is_frame:
            _, rows, columns, components = _FRAME.unpack_from(stream, at + 4)
            yield rows, columns, components
        if is_frame or (marker not in _ALONE and marker not in (0x00, 0xFF)):
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
            at = stream.find(b"\xff", at)
        else:
            at = stream.find(b"\xff", at + (1 if marker == 0xFF else 2))  # noqa: PLR2004 - fill byte, B.1.1.2
