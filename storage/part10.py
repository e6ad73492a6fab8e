"""File meta information for a data set kept as received (PS3.10 section 7): what makes a record a Part 10 file."""

from functools import lru_cache
from typing import Final

from anomalyd import __version__

IMPLEMENTATION_CLASS_UID: Final = "2.25.44763331079509101641390690138098258481"
"""The product's own, the same as in results (pipeline/results/uids.py; a test compares)."""
IMPLEMENTATION_VERSION: Final = f"ANOMALYD_{__version__}"[:16]
_PREAMBLE: Final = bytes(128) + b"DICM"
_META_VERSION: Final = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01"


def file_prefix(
    *, sop_class: str, instance_uid: str, transfer_syntax: str, calling_ae: str | None, called_ae: str | None
) -> bytes:
    """Preamble and group 0002 (explicit VR little endian, PS3.10 table 7.1-1); the data set follows unchanged."""
    identity = _element(0x0002, b"UI", sop_class) + _element(0x0003, b"UI", instance_uid)
    group = _META_VERSION + identity + _same_for_a_sender(transfer_syntax, calling_ae, called_ae)
    return _PREAMBLE + b"\x02\0\0\0UL\x04\0" + len(group).to_bytes(4, "little") + group


@lru_cache(maxsize=256)
def _same_for_a_sender(transfer_syntax: str, calling_ae: str | None, called_ae: str | None) -> bytes:
    tail = (
        _element(0x0010, b"UI", transfer_syntax)
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION)
    )
    if calling_ae:
        tail += _element(0x0016, b"AE", calling_ae)  # Source Application Entity Title
        tail += _element(0x0017, b"AE", calling_ae)  # Sending Application Entity Title
    if called_ae:
        tail += _element(0x0018, b"AE", called_ae)  # Receiving Application Entity Title
    return tail


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return b"\x02\0" + number.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value
