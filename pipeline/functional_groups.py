"""Geometry and type of each frame, from classic attributes or from functional groups (PS3.3 C.7.6.16, C.8.13)."""

from dataclasses import dataclass

from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.part10 import MAX_FRAMES

Triple = tuple[float, float, float]
PHILIPS_FRAME = (0x2005, "Philips MR Imaging DD 005", 0x0F)  # item with the classic attributes of each Enhanced frame
_CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
NEGATIVE_SHARE = 0.1  # of the largest value; correction of gradient distortion leaves small overshoots below zero
_POSITION, _ORIENTATION = 3, 6


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """One image plane: position in LPS mm; orientation: row, then column cosine; spacing of rows, of columns in mm."""

    number: int | None
    """1-based frame of an Enhanced object; None for a classic one."""
    position: Triple | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    image_type: tuple[str, ...]
    component: str
    """MAGNITUDE, PHASE, REAL, IMAGINARY, MIXED, or empty where nothing says."""
    echo_time: float | None
    echo_number: int | None
    temporal_index: int | None
    stack_id: str
    b_value: float | None
    has_diffusion_direction: bool
    inversion_time: float | None
    is_negative: bool
    """Whether values well below zero are stated: no magnitude has them."""


def classic(elements: Elements) -> tuple[tuple[FrameHeader, ...], tuple[str, ...]]:
    """The one frame of a classic MR object, and what makes it unusable."""
    count = elements.integer("NumberOfFrames") or 1
    if count != 1:
        return (), (f"a classic MR object with {count} frames states no position for each",)
    return (_classic(elements),), ()


def frames(elements: Elements) -> tuple[tuple[FrameHeader, ...], tuple[str, ...]]:
    """The frames of an Enhanced object in stored order, and what makes them unusable."""
    per_frame = elements.items("PerFrameFunctionalGroupsSequence")
    shared = next(iter(elements.items("SharedFunctionalGroupsSequence")), None)
    stated = elements.integer("NumberOfFrames")
    if stated is not None and stated > MAX_FRAMES:
        return (), (f"{stated} frames in one object, at most {MAX_FRAMES} are read: a time series",)
    if stated is None or stated < 1 or stated != len(per_frame):
        return (), (f"NumberOfFrames is {stated}, but {len(per_frame)} frames are described",)
    return tuple(_enhanced(k, item, shared, elements) for k, item in enumerate(per_frame, start=1)), ()


class Groups:
    """Attributes of one frame, looked for in its own groups first, then in the shared ones, then at the top level."""

    def __init__(self, item: Elements | None, shared: Elements | None, top: Elements) -> None:
        self._levels = [level for level in (item, shared) if level is not None]
        self._top = top
        self._found: list[Elements] | None = None

    def find(self, sequence: str, keyword: str) -> Elements | None:
        """The item that holds the attribute; None where none does. sequence: its functional group, or empty.

        After the group: what a converter of classic images could not assign, then the classic attributes that Philips
        keeps beside each frame.
        """
        for level in self._levels:
            for group in level.items(sequence) if sequence else ():
                if group.has(keyword):
                    return group
        for other in self._others():
            if other.has(keyword):
                return other
        return self._top if self._top.has(keyword) else None

    def _others(self) -> list[Elements]:
        if self._found is None:
            converted = [item for level in self._levels for name in _CONVERTED for item in level.items(name)]
            private = self.philips()
            self._found = converted + ([private] if private else [])
        return self._found

    def text(self, sequence: str, keyword: str) -> str:
        """The attribute as text; empty when absent."""
        found = self.find(sequence, keyword)
        return found.text(keyword) if found else ""

    def texts(self, sequence: str, keyword: str) -> tuple[str, ...]:
        """The attribute's values."""
        found = self.find(sequence, keyword)
        return found.texts(keyword) if found else ()

    def numbers(self, sequence: str, keyword: str) -> tuple[float, ...]:
        """The attribute's values as numbers."""
        found = self.find(sequence, keyword)
        return found.numbers(keyword) if found else ()

    def number(self, sequence: str, keyword: str) -> float | None:
        """The attribute's first value as a number."""
        return next(iter(self.numbers(sequence, keyword)), None)

    def integer(self, sequence: str, keyword: str) -> int | None:
        """The attribute's first value as a whole number."""
        value = self.number(sequence, keyword)
        return int(value) if value is not None and value == int(value) else None

    def private_words(self, group: int, creator: str, offset: int, inner: int) -> frozenset[str]:
        """Code strings of attribute `inner` in the private sequence `offset` of the same block."""
        for level in self._levels:
            for item in level.private_items(group, creator, offset):
                text = item.private_text(group, creator, inner)
                if text:
                    return frozenset(text.upper().split("\\"))
        return frozenset()

    def philips(self) -> Elements | None:
        """The private item with the classic attributes, where Philips wrote one."""
        for level in self._levels:
            for item in level.private_items(*PHILIPS_FRAME):
                if item.has("ScanningSequence") or item.has("EchoTime"):
                    return item
        return None


def _classic(elements: Elements) -> FrameHeader:
    image_type = _upper(elements.texts("ImageType"))
    return FrameHeader(
        number=None,
        position=_triple(elements.numbers("ImagePositionPatient")),
        orientation=_six(elements.numbers("ImageOrientationPatient")),
        pixel_spacing=_pair(elements.numbers("PixelSpacing")),
        image_type=image_type,
        component=_component(elements.text("ComplexImageComponent"), image_type, elements),
        echo_time=elements.number("EchoTime"),
        echo_number=elements.integer("EchoNumbers"),
        temporal_index=elements.integer("TemporalPositionIdentifier"),
        stack_id=elements.text("StackID"),
        b_value=_b_value(elements),
        has_diffusion_direction=any(elements.numbers("DiffusionGradientOrientation")),
        inversion_time=elements.number("InversionTime"),
        is_negative=_is_negative(elements),
    )


def _enhanced(number: int, item: Elements, shared: Elements | None, top: Elements) -> FrameHeader:
    groups = Groups(item, shared, top)
    image_type = _upper(groups.texts("MRImageFrameTypeSequence", "FrameType")) or _upper(top.texts("ImageType"))
    component = groups.text("MRImageFrameTypeSequence", "ComplexImageComponent")
    private = groups.philips()
    return FrameHeader(
        number=number,
        position=_triple(groups.numbers("PlanePositionSequence", "ImagePositionPatient")),
        orientation=_six(groups.numbers("PlaneOrientationSequence", "ImageOrientationPatient")),
        pixel_spacing=_pair(groups.numbers("PixelMeasuresSequence", "PixelSpacing")),
        image_type=image_type + _more_words(image_type, private),
        component=_component(component, image_type, private),
        echo_time=groups.number("MREchoSequence", "EffectiveEchoTime") or groups.number("", "EchoTime"),
        echo_number=groups.integer("", "EchoNumbers"),
        temporal_index=groups.integer("FrameContentSequence", "TemporalPositionIndex"),
        stack_id=groups.text("FrameContentSequence", "StackID"),
        b_value=groups.number("MRDiffusionSequence", "DiffusionBValue"),
        has_diffusion_direction=groups.text("MRDiffusionSequence", "DiffusionDirectionality")
        in ("DIRECTIONAL", "BMATRIX"),
        inversion_time=groups.number("MRModifierSequence", "InversionTimes") or groups.number("", "InversionTime"),
        is_negative=False,
    )


_COMPONENTS = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}
_COMPONENT_WORDS = {
    "PHASE MAP": "PHASE", "PHASE": "PHASE", "MAGNITUDE": "MAGNITUDE", "REAL": "REAL", "IMAGINARY": "IMAGINARY",
}  # fmt: skip
_GE_COMPONENTS = {0: "MAGNITUDE", 1: "PHASE", 2: "REAL", 3: "IMAGINARY"}  # (0043,102F)


def _component(stated: str, image_type: tuple[str, ...], elements: Elements | None) -> str:
    """The complex part that an image shows; ImageType counts before Complex Image Component MIXED."""
    if stated in ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY"):
        return stated
    for value in image_type[2:]:
        name = _COMPONENTS.get(value) or _COMPONENT_WORDS.get(value) or _COMPONENTS.get(value.split("_")[0])
        if name:
            return name
    if elements is not None:
        ge = elements.private_number(0x0043, "GEMS_PARM_01", 0x2F)
        if ge is not None and int(ge) in _GE_COMPONENTS:
            return _GE_COMPONENTS[int(ge)]
    return stated


def _more_words(image_type: tuple[str, ...], philips: Elements | None) -> tuple[str, ...]:
    """What the classic ImageType says beyond the frame type (a Philips B0 map is typed T1 in the latter)."""
    words = _upper(philips.texts("ImageType"))[2:] if philips else ()
    return tuple(word for word in words if word not in image_type)


def _b_value(elements: Elements) -> float | None:
    stated = elements.number("DiffusionBValue")
    if stated is not None:
        return stated
    siemens = elements.private_number(0x0019, "SIEMENS MR HEADER", 0x0C)
    if siemens is not None:
        return siemens
    return elements.private_number(0x2001, "Philips Imaging DD 001", 0x03)


def _is_negative(elements: Elements) -> bool:
    smallest, largest = elements.number("SmallestImagePixelValue"), elements.number("LargestImagePixelValue")
    return smallest is not None and smallest < -NEGATIVE_SHARE * abs(largest or 0.0)


def _upper(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value.upper() for value in values)


def _triple(values: tuple[float, ...]) -> Triple | None:
    return (values[0], values[1], values[2]) if len(values) == _POSITION else None


def _six(values: tuple[float, ...]) -> tuple[float, ...] | None:
    return values if len(values) == _ORIENTATION else None


def _pair(values: tuple[float, ...]) -> tuple[float, float] | None:
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None  # noqa: PLR2004
