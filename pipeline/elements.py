"""Values of a received data set, read so that a broken one never raises.

pydicom converts on access: it raises (IS "14.5"), warns or guesses where a value breaks its value representation. A
value that nobody needs may hold anything (USERS R12), and one that is needed must give a reason in words. So values are
taken from the raw bytes here: what cannot be read is None or empty, and no warning is emitted.
"""

import math
import struct
from typing import cast

from pydicom import charset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence as DicomSequence

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_NOT_TEXT = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "AT", "OB or OW"})
_ONE_VALUE = frozenset({"LT", "ST", "UT", "UR"})
_UNDEFINED = 0xFFFFFFFF
MAX_VALUE_BYTES = 0xFFFF  # of numbers and texts: most representations can state no more (PS3.5 7.1.2)
FIRST_BLOCK, LAST_BLOCK = 0x10, 0xFF  # elements of an odd group that hold private creators
# What pydicom raises on a sequence of broken bytes (fuzzed): its exceptions have no common root.
_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, struct.error,
           NotImplementedError, OSError, RecursionError, AssertionError, BytesLengthException)  # fmt: skip


class Elements:
    """Forgiving view of one data set or item: texts, numbers, items; None or empty where absent or broken."""

    def __init__(self, dataset: Dataset, encoding: str = "latin-1") -> None:
        self._dataset = dataset
        # `values` alone gives the elements as they were read: every other access of a Dataset may convert, and raise.
        self._elements = {int(element.tag): element for element in dataset.values()}
        self._encoding = encoding
        self._blocks: dict[tuple[int, tuple[str, ...]], int] | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> "Elements":
        """The view of a whole data set; the last known term of its SpecificCharacterSet decodes descriptions."""
        terms = cls(dataset).texts("SpecificCharacterSet")
        known = [charset.python_encoding[term] for term in terms if term in charset.python_encoding]
        return cls(dataset, known[-1] if known else "latin-1")

    def has(self, keyword: str) -> bool:
        """Whether the attribute is present and not empty."""
        return any(self.texts(keyword)) or bool(self.items(keyword))

    def text(self, keyword: str) -> str:
        """All values, joined with a backslash; empty when absent."""
        return "\\".join(self.texts(keyword))

    def texts(self, keyword: str) -> tuple[str, ...]:
        """The values as stripped strings; numbers as Python writes them."""
        return self._texts(tag_for_keyword(keyword))

    def number(self, keyword: str) -> float | None:
        """The first value, if it is a finite number."""
        return next(iter(self.numbers(keyword)), None)

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values, if every one is a finite number; else nothing."""
        return _finite(self.texts(keyword))

    def integer(self, keyword: str) -> int | None:
        """The first value, if it is a whole number."""
        value = self.number(keyword)
        return int(value) if value is not None and value == int(value) else None

    def items(self, keyword: str) -> tuple["Elements", ...]:
        """The items of a sequence."""
        return self._items(tag_for_keyword(keyword))

    def raw(self, keyword: str) -> bytes:
        """The value as it was received; empty when absent."""
        return self._raw(tag_for_keyword(keyword))[1]

    def private_text(self, group: int, creator: str, offset: int) -> str:
        """A private value as text; empty when absent."""
        return "\\".join(self._texts(self._private_tag(group, creator, offset)))

    def private_number(self, group: int, creator: str, offset: int) -> float | None:
        """The first value of a private attribute, if it is a finite number."""
        return next(iter(_finite(self._texts(self._private_tag(group, creator, offset)))), None)

    def private_bytes(self, group: int, creator: str, offset: int) -> bytes:
        """A private value as it was received; empty when absent."""
        return self._raw(self._private_tag(group, creator, offset))[1]

    def private_items(self, group: int, creator: str, offset: int) -> tuple["Elements", ...]:
        """The items of a private sequence."""
        return self._items(self._private_tag(group, creator, offset))

    def first_truncated(self) -> str:
        """The first attribute that is shorter than its length says, as (gggg,eeee); empty when all are whole."""
        for element in self._elements.values():
            if isinstance(element, RawDataElement) and element.length not in (0, _UNDEFINED):
                value = element.value
                if value is None or len(value) < element.length:
                    return str(element.tag)
        return ""

    def _element(self, tag: int | None) -> RawDataElement | DataElement | None:
        return self._elements.get(tag) if tag is not None else None

    def _raw(self, tag: int | None) -> tuple[str, bytes, bool]:
        """(value representation, bytes, is little endian); empty when absent or not raw."""
        element = self._element(tag)
        if isinstance(element, RawDataElement):
            return _representation(element.tag, element.VR), element.value or b"", element.is_little_endian
        if isinstance(element, DataElement) and isinstance(element.value, bytes):
            return str(element.VR), element.value, True
        return "", b"", True

    def _texts(self, tag: int | None) -> tuple[str, ...]:
        element = self._element(tag)
        if isinstance(element, DataElement) and not isinstance(element.value, bytes):
            return _texts_of_value(element)
        representation, raw, is_little = self._raw(tag)
        if len(raw) > MAX_VALUE_BYTES:  # 20 MB of backslashes became a gigabyte of strings
            return ()
        if representation in _BINARY:
            return _binary(_BINARY[representation], raw, is_little)
        if representation in _NOT_TEXT or not raw:
            return ()
        text = raw.decode(self._encoding, errors="replace")
        values = [text] if representation in _ONE_VALUE else text.split("\\")
        return tuple(value.strip(" \0\t\r\n") for value in values)

    def _items(self, tag: int | None) -> tuple["Elements", ...]:
        if self._element(tag) is None:
            return ()
        try:
            value = self._dataset[tag].value  # type: ignore[index]  # not None: the element is there
            # Items of an undefined-length private sequence without a dictionary entry come as a Sequence all the same.
            items = list(value) if isinstance(value, DicomSequence) else []
        except _BROKEN:
            return ()
        return tuple(Elements(item, self._encoding) for item in items)

    def _private_tag(self, group: int, creator: str, offset: int) -> int | None:
        """The tag of a private attribute in the block that its creator reserved (PS3.5 7.8.1)."""
        if self._blocks is None:
            self._blocks = {}
            for tag in self._elements:
                if tag >> 16 & 1 and FIRST_BLOCK <= tag & 0xFFFF <= LAST_BLOCK:
                    self._blocks.setdefault((tag >> 16, self._texts(tag)[:1]), tag & 0xFFFF)
        block = self._blocks.get((group, (creator,)))
        return None if block is None else (group << 16) | (block << 8) | offset


def _representation(tag: int, stated: str | None) -> str:
    """The stated value representation, or that of the dictionary where none or UN was stated."""
    if stated is not None and stated != "UN":
        return str(stated)
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN" if stated is None else str(stated)


def _binary(form: str, raw: bytes, is_little: bool) -> tuple[str, ...]:  # noqa: FBT001 - how struct names it
    count = len(raw) // struct.calcsize("<" + form)
    values = struct.unpack_from(("<" if is_little else ">") + str(count) + form, raw) if count else ()
    return tuple(repr(value) for value in values)


def _finite(texts: tuple[str, ...]) -> tuple[float, ...]:
    try:
        values = tuple(float(text) for text in texts)
    except ValueError:
        return ()
    return values if all(math.isfinite(value) for value in values) else ()


def _texts_of_value(element: DataElement) -> tuple[str, ...]:
    """Of a value that pydicom has converted already (a data set made in memory)."""
    if element.VR in _NOT_TEXT or element.value is None:
        return ()
    value = element.value
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return (str(value).strip(),)
    return tuple(str(one).strip() for one in cast("list[object]", value))
