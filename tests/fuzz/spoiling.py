"""Data sets and files that break the rules of PS3.5 and PS3.10, the same ones for the same seed.

    data, syntax = spoiled(Random("dataset:17"), bases())

A base is a sound object of `phantoms`; it is taken apart into elements, elements are spoiled, and what was encoded of
them is spoiled once more as bytes.
"""

import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from anomalyd.storage.part10 import file_prefix
from phantoms import PhantomWriter

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
ENCAPSULATED = (RLELossless, JPEG2000Lossless, JPEGLSLossless)
UNDEFINED = 0xFFFFFFFF
LONG_VRS = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
VRS = (
    *sorted(LONG_VRS),
    *[
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FL",
        "FD",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    ],
    "??",
    "\0\0",
)
LENGTHS = (0, 1, 2, 3, 7, 255, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, UNDEFINED)
UIDS = (
    b"../../../../tmp/out", b"1.2/../3", b"/etc/passwd", b"1.2\x00.3", b"1." * 40 + b"1", b"", b".", b"..", b"1..2",
    b"1.2\\3.4", b"1.2\n3", b"1.2.3 ", b"\xff\xfe1.2", b"%s%n", b"1.2.3;rm", b"1" * 64, b"\xd9\xa1.\xd9\xa2",
)  # fmt: skip
NUMBERS = (
    b"0", b"-1", b"65535", b"65536", b"4294967295", b"9" * 400, b"1e308", b"-1e308", b"1e-320", b"nan", b"inf", b"",
    b" ", b"\\", b"1\\2", b"0\\0\\0", b"1e308\\1e308\\1e308", b"nan\\nan\\nan", b"0\\0\\0\\0\\0\\0", b"1_0",
    b"1\\0\\0\\1\\0\\0", b"\xff\xff", b"\0\0", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"12abc", b"0x10", b"\xb2",
)  # fmt: skip
CHARACTER_SETS = (
    b"ISO_IR 192", b"ISO_IR 100", b"ISO 2022 IR 6\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"GBK", b"utf-7",
    b"idna", b"rot13", b"\\\\\\\\", b"", b"ISO_IR 13", b"ISO 2022 IR 58", b"\xff\xff", b"ISO_IR 999", b"undefined",
    b"ISO 2022 IR 159\\ISO 2022 IR 13",
)  # fmt: skip
NAMES = (
    b"\x1b$B\x39\x1b", b"\x1b\x1b\x1b", b"\x1b$)C\xfb\xf3^", b"\xff\xfe\xfd", b"\0" * 10, b"=" * 30, b"^" * 64,
    b"\xf0\x90\x80", b"\xed\xa0\x80", b"a\x1b(J\xd4\xcf^\x1b$", b"+2AA-", b"x" * 65535, b"\x81\x30\x81",
)  # fmt: skip
NUMERIC = frozenset(
    (0x00080064, 0x00180050, 0x00180080, 0x00180081, 0x00180088, 0x00200011, 0x00200012, 0x00200013, 0x00200032,
     0x00200037, 0x00201002, 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101,
     0x00280102, 0x00280103, 0x00281052, 0x00281053)
)  # fmt: skip
IDENTIFIERS = frozenset((0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200052))
CHARACTER_SET, PATIENT_NAME, PIXELS = 0x00080005, 0x00100010, 0x7FE00010


@dataclass(frozen=True, slots=True)
class Element:
    """One element; length: what its header says in place of the true one."""

    tag: int
    vr: str
    value: bytes
    length: int | None = None


Elements = list[Element]
Change = Callable[[Random, Elements], Elements]


@dataclass(frozen=True, slots=True)
class Base:
    """A sound object, taken apart."""

    elements: tuple[Element, ...]
    syntax: str


@cache
def bases() -> tuple[Base, ...]:
    """Sound objects: classic in every transfer syntax that can be written here, and Enhanced; MR of 32 x 32 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        writer = PhantomWriter(shape=(2, 32, 32))
        plain = _elements(writer.write(Path(folder) / "plain").files[0])
        enhanced = _elements(replace(writer, enhanced=True, seed="enhanced").write(Path(folder) / "enhanced").files[0])
        found = [Base(one, syntax) for one in (plain, enhanced) for syntax in NATIVE]
        for syntax in ENCAPSULATED:
            coded = replace(writer, transfer_syntax=syntax).write(Path(folder) / syntax).files[0]
            found.append(Base(_elements(coded), syntax))
    return tuple(found)


def _elements(path: Path) -> tuple[Element, ...]:
    """Of a file in explicit VR little endian; a sequence is one element, its items are bytes of its value."""
    raw = pydicom.dcmread(path)
    stream = BytesIO()
    raw.save_as(stream, enforce_file_format=True)
    data, found = stream.getvalue(), []
    at = data.index(b"\x08\x00\x05\x00CS")
    while at < len(data):
        group, number, vr = *struct.unpack_from("<HH", data, at), data[at + 4 : at + 6].decode()
        head = 12 if vr in LONG_VRS else 8
        length = struct.unpack_from("<L" if head == 12 else "<H", data, at + head - (4 if head == 12 else 2))[0]
        stop = len(data) if length == UNDEFINED else at + head + length
        if length == UNDEFINED and group != 0x7FE0:
            stop = at + head + data[at + head :].index(b"\xfe\xff\xdd\xe0") + 8
        found.append(
            Element(group << 16 | number, vr, data[at + head : stop], UNDEFINED if length == UNDEFINED else None)
        )
        at = stop
    return tuple(found)


def encoded(elements: Elements, syntax: str) -> bytes:
    """The data set in a transfer syntax, with whatever lengths and representations its elements state."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    whole = b"".join(_encoded(one, order, is_implicit=syntax == ImplicitVRLittleEndian) for one in elements)
    return deflated(whole) if syntax == DeflatedExplicitVRLittleEndian else whole


def deflated(plain: bytes) -> bytes:
    """As the deflated transfer syntax has it (PS3.5 A.5)."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(plain) + deflater.flush()


def _encoded(element: Element, order: str, *, is_implicit: bool) -> bytes:
    length = len(element.value) if element.length is None else element.length
    head = struct.pack(order + "HH", element.tag >> 16, element.tag & 0xFFFF)
    value = element.value
    if order == ">" and element.vr in {"US", "SS", "OW"}:
        value = b"".join(value[k : k + 2][::-1] for k in range(0, len(value), 2))
    if is_implicit:
        return head + struct.pack("<L", length) + value
    vr = element.vr.encode("latin-1")
    if element.vr in LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(order + "L", length) + value
    return head + vr + struct.pack(order + "H", min(length, 0xFFFF)) + value[:0xFFFE]


def _index(rng: Random, elements: Elements) -> int:
    return rng.randrange(len(elements))


def _dropped(rng: Random, elements: Elements) -> Elements:
    at = _index(rng, elements)
    return elements[:at] + elements[at + 1 :]


def _doubled(rng: Random, elements: Elements) -> Elements:
    at = _index(rng, elements)
    return elements[:at] + [elements[at]] * rng.choice((2, 3, 200)) + elements[at + 1 :]


def _moved(rng: Random, elements: Elements) -> Elements:
    taken = elements.pop(_index(rng, elements))
    elements.insert(_index(rng, elements), taken)
    return elements


def _changed(elements: Elements, at: int, **values: object) -> Elements:
    return [*elements[:at], replace(elements[at], **values), *elements[at + 1 :]]  # type: ignore[arg-type]  # its fields


def _other_vr(rng: Random, elements: Elements) -> Elements:
    return _changed(elements, _index(rng, elements), vr=rng.choice(VRS))


def _other_length(rng: Random, elements: Elements) -> Elements:
    at = _index(rng, elements)
    true = len(elements[at].value)
    return _changed(elements, at, length=rng.choice((*LENGTHS, true + 1, true + 2, max(0, true - 1), true + 4096)))


def _at_one_of(rng: Random, elements: Elements, tags: frozenset[int]) -> int:
    return rng.choice([k for k, one in enumerate(elements) if one.tag in tags] or [_index(rng, elements)])


def _absurd_number(rng: Random, elements: Elements) -> Elements:
    at, value = _at_one_of(rng, elements, NUMERIC), rng.choice(NUMBERS)
    if elements[at].vr == "US" and rng.random() < 0.8:
        value = struct.pack("<H", rng.choice((0, 1, 7, 15, 16, 17, 32, 64, 4096, 4097, 0x7FFF, 0x8000, 0xFFFF)))
    return _changed(elements, at, value=value)


def _many_frames(rng: Random, elements: Elements) -> Elements:
    value = rng.choice((b"2", b"5000", b"5001", b"2147483647", b"-1", b"1e9", *NUMBERS))
    return sorted(
        [*(e for e in elements if e.tag != 0x00280008), Element(0x00280008, "IS", value)], key=lambda e: e.tag
    )


def _bad_uid(rng: Random, elements: Elements) -> Elements:
    return _changed(elements, _at_one_of(rng, elements, IDENTIFIERS), value=rng.choice(UIDS))


def _bad_text(rng: Random, elements: Elements) -> Elements:
    elements = _changed(
        elements, _at_one_of(rng, elements, frozenset((CHARACTER_SET,))), value=rng.choice(CHARACTER_SETS)
    )
    tags = frozenset((PATIENT_NAME, 0x00100020, 0x00080050, 0x0008103E, 0x00080060))
    return _changed(elements, _at_one_of(rng, elements, tags), value=rng.choice(NAMES))


def _nested(rng: Random, elements: Elements) -> Elements:
    """Sequences of undefined length within each other, some of them without an end."""
    depth = rng.choice((1, 3, 31, 33, 200, 1500))
    vr = rng.choice((b"SQ\0\0", b"UN\0\0"))
    opening = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x40\x00\x75\x02" + vr + b"\xff\xff\xff\xff"
    closing = b"\xfe\xff\xdd\xe0\0\0\0\0\xfe\xff\x0d\xe0\0\0\0\0"
    value = opening * depth + closing * rng.choice((depth, depth - 1, 0, depth + 1)) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = _index(rng, elements)
    return [
        *elements[:at],
        Element(rng.choice((0x00081140, 0x00400275, 0x00091010)), "SQ", value, UNDEFINED),
        *elements[at:],
    ]


def _many_items(rng: Random, elements: Elements) -> Elements:
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * rng.choice((1, 1000, 20_000))
    tag = rng.choice((0x00081140, 0x52009229, 0x52009230))
    return sorted([*(e for e in elements if e.tag != tag), Element(tag, "SQ", items)], key=lambda e: e.tag)


def _random_value(rng: Random, elements: Elements) -> Elements:
    return _changed(elements, _index(rng, elements), value=rng.randbytes(rng.choice((0, 1, 2, 3, 9, 64, 5000))))


def _huge_value(rng: Random, elements: Elements) -> Elements:
    """A long value where a short one belongs: many numbers, many backslashes."""
    return _changed(
        elements,
        _at_one_of(rng, elements, NUMERIC),
        vr=rng.choice(("UC", "UV", "OW", "UN")),
        value=rng.choice((b"\\", b"1\\", b"\0\1")) * 200_000,
    )


def _many_elements(rng: Random, elements: Elements) -> Elements:
    return elements[:-1] + [Element(0x00210000 | k, "UN", b"") for k in range(rng.choice((100, 5000)))] + elements[-1:]


def _bad_pixels(rng: Random, elements: Elements) -> Elements:
    """Pixel Data encapsulated wrongly, or with a code stream that states an absurd size (PS3.5 A.4)."""
    kept = [one for one in elements if one.tag != PIXELS]
    offsets = rng.choice((b"", b"\0\0\0\0", b"\xff\xff\xff\xff", rng.randbytes(8), b"\0" * 4000, b"\1"))
    stream = rng.choice(code_streams(rng))
    cut = rng.randrange(len(stream) + 1)
    fragments = rng.choice(([stream], [stream[:cut]], [stream[:cut], stream[cut:]], [b""] * 40, []))
    value = b"".join(_fragment(rng, one) for one in (offsets, *fragments))
    value += rng.choice((b"\xfe\xff\xdd\xe0\0\0\0\0", b"", b"\xfe\xff\xdd\xe0", b"\xfe\xff\xdd\xe0\xff\xff\xff\xff"))
    return [*kept, Element(PIXELS, rng.choice(("OB", "OW", "UN")), value, rng.choice((UNDEFINED, UNDEFINED, None, 8)))]


def _fragment(rng: Random, data: bytes) -> bytes:
    length = len(data) if rng.random() < 0.8 else rng.choice(LENGTHS)
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", length) + data


def code_streams(rng: Random) -> tuple[bytes, ...]:
    """Short code streams: JPEG, JPEG-LS and JPEG 2000 heads with a size of their own, RLE headers, noise."""
    side = rng.choice((0, 1, 32, 33, 4096, 0xFFFF))
    high, wide = struct.pack(">H", side), struct.pack(">H", rng.choice((side, 32, 0xFFFF)))
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + rng.randbytes(40) + b"\xff\xd9"
    tables = b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x00"
    big = struct.pack(">L", rng.choice((side, 1 << 20, 0xFFFFFFFF)))
    size = b"\x00\x00" + big * 2 + bytes(8) + rng.choice((big * 2, struct.pack(">LL", 64, 64))) + bytes(8)
    size += struct.pack(">H", rng.choice((1, 3, 16384))) + b"\x0f\x01\x01"
    runs = struct.pack(
        "<16L", rng.choice((0, 2, 15, 0xFFFFFFFF)), *(rng.choice((64, 65, 0, 0xFFFFFFFF)) for _ in range(15))
    )
    return (
        b"\xff\xd8" + tables + b"\xff\xc3\x00\x0b\x10" + high + wide + b"\x01\x01\x11\x00" + scan,
        b"\xff\xd8\xff\xf7\x00\x0b\x10" + high + wide + b"\x01\x01\x11\x00" + scan,
        b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size
        + b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01"
        + b"\xff\x5c\x00\x13\x40" + bytes(16) + b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01\xff\x93"
        + rng.randbytes(20) + b"\xff\xd9",
        runs + rng.randbytes(60) + b"\x81\x00" * 500,
        rng.randbytes(200),
        b"",
    )  # fmt: skip


CHANGES: tuple[Change, ...] = (
    _dropped, _doubled, _moved, _other_vr, _other_length, _absurd_number, _absurd_number, _many_frames, _bad_uid,
    _bad_text, _nested, _many_items, _random_value, _huge_value, _many_elements, _bad_pixels, _bad_pixels,
)  # fmt: skip


def spoiled_bytes(rng: Random, data: bytes, times: int | None = None) -> bytes:
    """The bytes with flipped bits, cuts, insertions, doubled and overwritten parts."""
    whole = bytearray(data)
    for _ in range(rng.randint(1, 4) if times is None else times):
        at = rng.randrange(len(whole) + 1)
        length = min(len(whole) - at, rng.choice((1, 2, 4, 8, 100)))
        match rng.randrange(6):
            case 0 if at < len(whole):
                whole[at] ^= 1 << rng.randrange(8)
            case 1:
                del whole[at:]
            case 2:
                del whole[at : at + length]
            case 3:
                whole[at:at] = rng.randbytes(length)
            case 4:
                whole[at:at] = whole[at : at + length] * rng.choice((1, 50))
            case _:
                whole[at : at + 4] = struct.pack(rng.choice("<>") + "L", rng.choice(LENGTHS))
    return bytes(whole)


def spoiled(rng: Random) -> tuple[bytes, str]:
    """A data set without file meta information, and the transfer syntax that it claims to be in."""
    base = rng.choice(bases())
    elements, syntax = list(base.elements), base.syntax
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        elements = rng.choice(CHANGES)(rng, elements) if elements else elements
    if rng.random() < 0.1:
        syntax = rng.choice((*NATIVE, *ENCAPSULATED, JPEGLosslessSV1))
    data = encoded(elements, syntax)
    if rng.random() < 0.05:
        data = deflated(encoded(elements[:-1], ExplicitVRLittleEndian) + bytes(rng.choice((1, 40)) << 20))
        return data, DeflatedExplicitVRLittleEndian
    return (spoiled_bytes(rng, data) if rng.random() < 0.4 else data), syntax


def identity_of(data: bytes) -> tuple[str, str]:
    """SOP Class and Instance UID as the sender's library would read them: of the bases, unless they are to be found."""
    base = bases()[0].elements
    values = {one.tag: one.value.rstrip(b"\0").decode("latin-1") for one in base}
    enhanced = {one.tag: one.value.rstrip(b"\0").decode("latin-1") for one in bases()[len(NATIVE)].elements}
    chosen = enhanced if enhanced[0x00080018].encode() in data else values
    return chosen[0x00080016], chosen[0x00080018]


def spoiled_file(rng: Random) -> bytes:
    """A Part 10 file, spoiled in its data set, its file meta information, or nowhere."""
    data, syntax = spoiled(rng)
    sop_class, uid = identity_of(data)
    prefix = file_prefix(
        sop_class=sop_class, instance_uid=uid, transfer_syntax=syntax, calling_ae="SCANNER", called_ae=None
    )
    match rng.randrange(10):
        case 0:
            prefix = spoiled_bytes(rng, prefix)
        case 1:
            prefix = b""
        case 2:
            return spoiled_bytes(rng, prefix + data)
    return prefix + data
