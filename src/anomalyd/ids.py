"""Names for what must not be confused, and the parsers that let strings from outside become them."""

import re
from typing import NewType

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
