"""Names for what must not be confused, and the parsers that let strings from outside become them."""

import math
import re
from collections.abc import Mapping
from typing import NewType, cast

from anomalyd.errors import BadIdentifier

StudyUID = NewType("StudyUID", str)
SeriesUID = NewType("SeriesUID", str)
InstanceUID = NewType("InstanceUID", str)
AETitle = NewType("AETitle", str)
Digest = NewType("Digest", str)
"""Lower-case hexadecimal SHA-256, 64 characters."""
Millimetre = NewType("Millimetre", float)

UID_MAX_LENGTH = 64  # PS3.5 section 9.1
# Digits and dots only. Leading zeros of a component break PS3.5 9.1 too, but scanners send them; they harm nobody.
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
AE_TITLE_MAX_LENGTH = 16  # PS3.5 table 6.2-1, VR AE
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")


def uid(text: str) -> str:
    """The text itself, if it is a DICOM UID (PS3.5 9.1); raises BadIdentifier with the value and the rule."""
    if len(text) > UID_MAX_LENGTH:
        raise BadIdentifier("UID", text, f"{len(text)} characters, at most {UID_MAX_LENGTH} are allowed")
    if not _UID.fullmatch(text):
        raise BadIdentifier("UID", text, "digits in groups separated by single dots are expected")
    return text


def study_uid(text: str) -> StudyUID:
    """A StudyInstanceUID; raises BadIdentifier."""
    return StudyUID(uid(text))


def series_uid(text: str) -> SeriesUID:
    """A SeriesInstanceUID; raises BadIdentifier."""
    return SeriesUID(uid(text))


def instance_uid(text: str) -> InstanceUID:
    """A SOPInstanceUID; raises BadIdentifier."""
    return InstanceUID(uid(text))


def ae_title(text: str) -> AETitle:
    """An application entity title without its padding; raises BadIdentifier."""
    stripped = text.strip(" ")
    if not stripped or not _AE_TITLE.fullmatch(stripped):
        raise BadIdentifier("AE title", text, f"1 to {AE_TITLE_MAX_LENGTH} printable ASCII characters, no backslash")
    return AETitle(stripped)


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SECONDS_PER = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES_PER = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def _quantity(value: object, units: Mapping[str, float], example: str) -> float:
    number, unit = value, ""
    if isinstance(value, str) and (parts := _QUANTITY.fullmatch(value.strip())):
        number, unit = float(parts[1]), parts[2]
    known = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) and number >= 0
    if not known or unit not in units:
        raise ValueError(f"a number at least 0 with one of the units {', '.join(filter(None, units))}: {example}")
    return float(cast("float", number)) * units[unit]


def duration_s(value: object) -> float:
    """Seconds of a number or of a text as "30 s", "10 min", "14 d"; raises ValueError with what is expected."""
    return _quantity(value, _SECONDS_PER, '30, "30 s", "10 min", "14 d"')


def byte_count(value: object) -> int:
    """Bytes of a number or of a text as "512 MB" (10^6), "64 MiB" (2^20); raises ValueError with what is expected."""
    return int(_quantity(value, _BYTES_PER, '1000000, "512 MB", "5 GB", "64 MiB"'))
