"""What received objects say about themselves, without pixels and without patient data: instances and whole series.

    header = assemble([parse_instance(part10) for part10 in objects])

Enhanced MR keeps geometry and timing in functional groups (PS3.3 C.7.6.16); both forms become the same values here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from anomalyd.errors import BadIdentifier, Refused
from anomalyd.ids import InstanceUID, SeriesUID, StudyUID, instance_uid, series_uid, study_uid
from anomalyd.pipeline import acquisition, functional_groups, vendor
from anomalyd.pipeline.acquisition import Acquisition
from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.functional_groups import FrameHeader
from anomalyd.pipeline.part10 import PixelElement, open_part10, read_header
from anomalyd.pipeline.vendor import ExpectedCount

ENHANCED_CLASSES = frozenset({str(EnhancedMRImageStorage), str(LegacyConvertedEnhancedMRImageStorage)})
MR_IMAGE_CLASSES = ENHANCED_CLASSES | {str(MRImageStorage)}
MAX_SIDE = 4096  # pixels
PIXEL_DATA = 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels are stored (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """One received object. faults: why it cannot be used, in words; empty for a sound one."""

    study_uid: StudyUID
    series_uid: SeriesUID
    instance_uid: InstanceUID
    sop_class: str
    transfer_syntax: str
    modality: str
    manufacturer: str
    model: str
    frame_of_reference: str
    pixels: PixelFormat
    acquisition: Acquisition
    frames: tuple[FrameHeader, ...]
    expected: tuple[ExpectedCount, ...]
    series_number: int | None
    instance_number: int | None
    acquisition_number: int | None
    attributes: dict[str, str] = field(default_factory=dict, hash=False)
    """Attributes that a configured rule names, by keyword; may hold patient text: matched, never shown."""
    faults: tuple[str, ...] = ()

    @property
    def is_mr_image(self) -> bool:
        """Whether this object is of a class that is analysed at all."""
        return self.sop_class in MR_IMAGE_CLASSES

    @property
    def is_enhanced(self) -> bool:
        """Whether geometry lies in functional groups."""
        return self.sop_class in ENHANCED_CLASSES


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """All received objects of one series, in order of their UIDs (so that any order of arrival gives the same)."""

    study_uid: StudyUID
    series_uid: SeriesUID
    instances: tuple[InstanceHeader, ...]

    @property
    def images(self) -> tuple[InstanceHeader, ...]:
        """The sound MR images."""
        return tuple(one for one in self.instances if one.is_mr_image and not one.faults)

    @property
    def series_number(self) -> int | None:
        """SeriesNumber of the first instance that states one."""
        return next((one.series_number for one in self.instances if one.series_number is not None), None)

    @property
    def modality(self) -> str:
        """The modality that most objects state."""
        counts = Counter(one.modality for one in self.instances)
        return max(counts, key=lambda modality: (counts[modality], modality))


def parse_instance(part10: bytes | Path | BinaryIO, keywords: AbstractSet[str] = frozenset()) -> InstanceHeader:
    """Header of one Part 10 object; keywords: attributes to keep for include and exclude rules.

    Broken values never raise: what selection would need of them is missing then, and `faults` tells what makes the
    object unusable. Raises Refused when it cannot be walked at all or has no valid UIDs.
    """
    opened = open_part10(part10)
    dataset, pixel_element = read_header(opened)
    elements = Elements.of(dataset)
    try:
        uids = (
            study_uid(elements.text("StudyInstanceUID")),
            series_uid(elements.text("SeriesInstanceUID")),
            instance_uid(elements.text("SOPInstanceUID")),
        )
    except BadIdentifier as exc:
        raise Refused("the object has no valid Study, Series and SOP Instance UID (PS3.5 9.1)") from exc
    sop_class = elements.text("SOPClassUID")
    read_frames = functional_groups.frames if sop_class in ENHANCED_CLASSES else functional_groups.classic
    frames, frame_faults = read_frames(elements)
    pixels = _pixel_format(elements)
    faults = frame_faults
    if sop_class in MR_IMAGE_CLASSES:
        faults += _faults(elements, pixels, pixel_element, len(frames))
    return InstanceHeader(
        *uids,
        sop_class=sop_class,
        transfer_syntax=opened.transfer_syntax,
        modality=elements.text("Modality"),
        manufacturer=elements.text("Manufacturer"),
        model=elements.text("ManufacturerModelName"),
        frame_of_reference=elements.text("FrameOfReferenceUID"),
        pixels=pixels,
        acquisition=acquisition.of(elements),
        frames=frames,
        expected=vendor.expected_counts(elements),
        series_number=elements.integer("SeriesNumber"),
        instance_number=elements.integer("InstanceNumber"),
        acquisition_number=elements.integer("AcquisitionNumber"),
        attributes={keyword: elements.text(keyword) for keyword in sorted(keywords)},
        faults=faults,
    )


def assemble(headers: Iterable[InstanceHeader]) -> SeriesHeader:
    """The series that the headers make up; raises ValueError when there is none, or more than one series in them.

    An instance that is given twice counts once.
    """
    by_uid = {header.instance_uid: header for header in headers}
    instances = tuple(by_uid[uid] for uid in sorted(by_uid))
    names = {(one.study_uid, one.series_uid) for one in instances}
    if len(names) != 1:
        raise ValueError(f"headers of {len(names)} series, exactly one is expected")
    return SeriesHeader(instances[0].study_uid, instances[0].series_uid, instances)


def _pixel_format(elements: Elements) -> PixelFormat:
    return PixelFormat(
        rows=elements.integer("Rows") or 0,
        columns=elements.integer("Columns") or 0,
        samples=elements.integer("SamplesPerPixel") or 1,
        photometric=elements.text("PhotometricInterpretation"),
        bits_allocated=elements.integer("BitsAllocated") or 0,
        bits_stored=elements.integer("BitsStored") or elements.integer("BitsAllocated") or 0,
        is_signed=elements.integer("PixelRepresentation") == 1,
    )


def _faults(elements: Elements, pixels: PixelFormat, element: PixelElement | None, frames: int) -> tuple[str, ...]:
    """Why the object cannot be used: truncated, without pixels, or of a size that nobody should allocate."""
    truncated = elements.first_truncated()
    if truncated:
        return (f"truncated in attribute {truncated}",)
    if not (0 < pixels.rows <= MAX_SIDE and 0 < pixels.columns <= MAX_SIDE):
        return (f"image of {pixels.rows} x {pixels.columns} pixels: 1 to {MAX_SIDE} are read",)
    if element is None or element.tag != PIXEL_DATA:
        return ("no pixel data of whole numbers",)
    present = min(element.stated_length, element.present_bytes)
    needed = pixels.rows * pixels.columns * pixels.samples * pixels.bits_allocated // 8 * frames
    if element.stated_length != _UNDEFINED_LENGTH and present < needed:
        return (f"truncated pixel data: {present} of {needed} bytes",)
    return ()


def counted(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts once each, with how often they occur, most frequent first."""
    return tuple(text if n == 1 else f"{text} ({n} times)" for text, n in Counter(texts).most_common())
