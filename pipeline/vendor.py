"""How many images or slices a scanner says its series has: standard attributes first, then private ones.

Each source here was seen in a real file or is documented in the vendor's conformance statement.
"""

import re
from dataclasses import dataclass
from typing import Literal

from anomalyd.pipeline.elements import Elements

_SIEMENS_PROTOCOLS = (  # CSA series header; MR Phoenix protocol of syngo XA
    (0x0029, "SIEMENS CSA HEADER", 0x20),
    (0x0021, "SIEMENS MR SDS 01", 0x19),
)
_PHILIPS = "Philips Imaging DD 001"
_ASCCONV = re.compile(rb"### ASCCONV BEGIN.*?### ASCCONV END", re.DOTALL)
_ASSIGNMENT = re.compile(rb"^\s*([A-Za-z][\w.\[\]]*)\s*=\s*(-?\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ExpectedCount:
    """count: whole number > 0. unit: what is counted: all images of the series, or slice positions of one volume.

    is_exact: whether fewer than that means that some are missing; else the count can only confirm.
    """

    source: str
    count: int
    unit: Literal["images", "slices"]
    is_exact: bool = True


def expected_counts(elements: Elements) -> tuple[ExpectedCount, ...]:
    """Every count that the object states, the most trustworthy first."""
    found: list[tuple[str, float | None, Literal["images", "slices"], bool]] = [
        ("ImagesInAcquisition", elements.number("ImagesInAcquisition"), "images", True),
        ("NumberOfSlices", elements.number("NumberOfSlices"), "slices", True),
        ("Philips number of slices (2001,1018)", elements.private_number(0x2001, _PHILIPS, 0x18), "slices", True),
        ("Siemens protocol", _siemens_slices(elements), "slices", True),
        # GE counts locations before it discards the outer ones of a slab, and images before all are written.
        ("GE images in series (0025,1007)", elements.private_number(0x0025, "GEMS_SERS_01", 0x07), "images", False),
        ("GE locations (0021,104F)", elements.private_number(0x0021, "GEMS_RELA_01", 0x4F), "slices", False),
    ]
    return tuple(
        ExpectedCount(source, int(count), unit, is_exact)
        for source, count, unit, is_exact in found
        if count is not None and count >= 1 and count == int(count)
    )


def siemens_protocol(elements: Elements) -> dict[str, int]:
    """Whole-number settings of the Siemens measurement protocol (ASCCONV), by name."""
    for source in _SIEMENS_PROTOCOLS:
        block = _ASCCONV.search(elements.private_bytes(*source))
        if block:
            return {name.decode("ascii"): int(value) for name, value in _ASSIGNMENT.findall(block.group(0))}
    return {}


def _siemens_slices(elements: Elements) -> int | None:
    """Slices of one volume: those of the slice array (2D), or the partitions of one slab (3D)."""
    protocol = siemens_protocol(elements)
    slices, partitions = protocol.get("sSliceArray.lSize"), protocol.get("sKSpace.lImagesPerSlab")
    kind = elements.text("MRAcquisitionType")
    if kind == "2D":
        return slices
    # Of several overlapping slabs, the outer partitions are thrown away: no count to rely on.
    return partitions if kind == "3D" and slices == 1 else None
