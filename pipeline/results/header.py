"""The received series as results refer to it: which images, where they lie, with their geometry cleaned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import format_number_as_ds

from anomalyd.errors import Broken, Ineligible
from anomalyd.ids import InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.results.attributes import TYPE_2
from anomalyd.pipeline.volume import SliceSource, Volume

SHARED_ORIENTATION_TOLERANCE = 1e-3  # per cosine; below it slices of one stack differ by rounding only
SPACING_TOLERANCE = 0.01  # relative, between the stated and the found slice distance
_DS_LENGTH = 16  # PS3.5 table 6.2-1
_PLANE_LENGTHS = (3, 6, 2)  # values of position, orientation, spacing (PS3.3 C.7.6.2)


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """One received image: where it stands in the volume and in its object."""

    index: int
    """Slice of the volume."""
    instance_uid: InstanceUID
    sop_class_uid: str
    frame: int | None
    """1-based, as in the received object; None for a classic one."""
    position: tuple[str, ...]
    """ImagePositionPatient, each at most 16 characters."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The received series as any result names it, also one without a geometry.

    first: a whole header, for what is equal in all: patient, study, series, equipment.
    """

    first: Dataset
    elements: Elements

    @property
    def study_uid(self) -> StudyUID:
        """StudyInstanceUID."""
        return StudyUID(self.elements.text("StudyInstanceUID"))

    @property
    def series_uid(self) -> SeriesUID:
        """SeriesInstanceUID."""
        return SeriesUID(self.elements.text("SeriesInstanceUID"))

    @property
    def series_number(self) -> int | None:
        """SeriesNumber where it is stated and not negative."""
        number = self.elements.integer("SeriesNumber")
        return number if number is not None and number >= 0 else None


@dataclass(frozen=True, slots=True, eq=False)
class Source(Origin):
    """The analysed volume of the series, as results that lie in its geometry refer to it.

    slices: in geometric order, without the interpolated ones.
    orientation, pixel_spacing, thickness, between: one for all slices, as DS strings of at most 16 characters.
    window: centre and width (median over the slices) that the source asks to be shown with, None if it does not.
    """

    slices: tuple[SourceSlice, ...]
    shape: tuple[int, int, int]
    orientation: tuple[str, ...]
    pixel_spacing: tuple[str, ...]
    thickness: str
    between: str
    window: tuple[float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """Plane attributes of one received image or frame, unchecked."""

    slice: SourceSlice
    orientation: tuple[str, ...]
    pixel_spacing: tuple[str, ...]
    thickness: float | None
    between: float | None
    window: tuple[float, float] | None


def read_source(headers: Iterable[Dataset], volume: Volume) -> Source:
    """The source of a volume; raises Ineligible where no result can refer to it."""
    by_uid = {InstanceUID(Elements(header).text("SOPInstanceUID")): header for header in headers}
    planes = [_plane(by_uid, index, source) for index, source in enumerate(volume.sources) if source is not None]
    if not planes:
        raise Broken("a volume without source images has no DICOM results")
    first = by_uid[planes[0].slice.instance_uid]
    elements = Elements.of(first)
    if not elements.text("FrameOfReferenceUID"):
        raise Ineligible("frame_of_reference", None, "1 UID", "no FrameOfReferenceUID: a result could not be placed")
    _check_orientation(planes)
    windows = [plane.window for plane in planes if plane.window is not None]
    if elements.text("PhotometricInterpretation") == "MONOCHROME1":
        windows = []  # the reader turned the values over, the window would be that of the negative
    distance = volume.grid.spacing_mm[0]
    return Source(
        first,
        elements,
        tuple(plane.slice for plane in planes),
        volume.grid.shape,
        planes[0].orientation,
        planes[0].pixel_spacing,
        _ds(planes[0].thickness or distance),
        _ds(_stated_or_found(planes[0].between, distance)),
        (float(np.median([w[0] for w in windows])), float(np.median([w[1] for w in windows]))) if windows else None,
    )


def stand_ins(source: Source) -> list[Dataset]:
    """Stand-ins for the source images, in geometric order: all that highdicom asks for, nothing that it refuses.

    highdicom decodes and validates names, dates and character sets of its sources, raises on what scanners really send,
    and takes no part of an Enhanced object. So each frame stands as a classic image of its own, named `stand_in_uid`;
    what belongs to the patient, and the names, are put right afterwards.
    """
    datasets = []
    for image in source.slices:
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, stand_in_uid(image)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(dataset, keyword, source.elements.text(keyword))
        dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY"]
        dataset.Rows, dataset.Columns = source.shape[1:]
        dataset.ImagePositionPatient = list(image.position)
        dataset.ImageOrientationPatient = list(source.orientation)
        dataset.PixelSpacing = list(source.pixel_spacing)
        dataset.SliceThickness, dataset.SpacingBetweenSlices = source.thickness, source.between
        for keyword in TYPE_2:
            setattr(dataset, keyword, "")
        datasets.append(dataset)
    return datasets


def stand_in_uid(image: SourceSlice) -> str:
    """One for each slice of the volume."""
    return f"2.25.{image.index + 1}"


def _plane(by_uid: Mapping[InstanceUID, Dataset], index: int, source: SliceSource) -> _Plane:
    header = by_uid.get(source.instance_uid)
    if header is None:
        raise Broken(f"the header of slice {index} is not among those given")
    groups = _groups(header, source.frame)
    position = _first(groups, "PlanePositionSequence").texts("ImagePositionPatient")
    orientation = _first(groups, "PlaneOrientationSequence").texts("ImageOrientationPatient")
    measures = _first(groups, "PixelMeasuresSequence")
    window = _first(groups, "FrameVOILUTSequence")
    lengths = (len(position), len(orientation), len(measures.numbers("PixelSpacing")))
    if lengths != _PLANE_LENGTHS:
        raise Ineligible(
            "geometry", str(lengths), str(_PLANE_LENGTHS), f"slice {index} states no position, orientation or spacing"
        )
    centre, width = window.number("WindowCenter"), window.number("WindowWidth")
    return _Plane(
        SourceSlice(
            index,
            source.instance_uid,
            Elements(header).text("SOPClassUID"),
            source.frame,
            tuple(_short_ds(text) for text in position),
        ),
        tuple(_short_ds(text) for text in orientation),
        tuple(_short_ds(text) for text in measures.texts("PixelSpacing")),
        _positive(measures.number("SliceThickness")),
        _positive(measures.number("SpacingBetweenSlices")),
        (centre, width) if centre is not None and width is not None and width > 0 else None,
    )


def _groups(header: Dataset, frame: int | None) -> tuple[Elements, ...]:
    """Where the plane attributes of an image stand: the frame's groups, the shared ones; the top level if classic."""
    top = Elements(header)
    if frame is None:
        return (top,)
    per_frame = top.items("PerFrameFunctionalGroupsSequence")
    if frame > len(per_frame):
        raise Broken(f"frame {frame} of {len(per_frame)}")
    return (per_frame[frame - 1], *top.items("SharedFunctionalGroupsSequence"))


def _first(groups: tuple[Elements, ...], sequence: str) -> Elements:
    """The item of a functional group: per frame (Siemens XA, Philips) or shared; the top level of a classic image."""
    return next((items[0] for group in groups if (items := group.items(sequence))), groups[0])


def _check_orientation(planes: Sequence[_Plane]) -> None:
    cosines = np.array([[float(text) for text in plane.orientation] for plane in planes])
    worst = float(np.abs(cosines - cosines[0]).max())
    if worst >= SHARED_ORIENTATION_TOLERANCE:
        raise Ineligible(
            "orientation",
            worst,
            SHARED_ORIENTATION_TOLERANCE,
            f"slices differ by {worst:.4f} in orientation, {SHARED_ORIENTATION_TOLERANCE} is allowed in one stack",
        )


def _stated_or_found(stated: float | None, found: float) -> float:
    """The stated slice distance where it is true: some scanners state the gap, or the thickness."""
    return stated if stated is not None and abs(stated - found) <= SPACING_TOLERANCE * found else found


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _short_ds(text: str) -> str:
    """As received where it is short enough, else rounded to 16 characters (real scanners send 20)."""
    return text if len(text) <= _DS_LENGTH else _ds(float(text))


def _ds(value: float) -> str:
    return str(format_number_as_ds(float(value)))
