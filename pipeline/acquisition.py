"""How an image was acquired: the physics that contrast and kind of a series are told from (PS3.3 C.8.3.1, C.8.13)."""

import re
from dataclasses import dataclass

from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.functional_groups import Groups

_HUMAN = re.compile(r"homo|human", re.IGNORECASE)
_OBJECT = re.compile(
    r"phantom|fantom|pineapple|watermelon|pumpkin|(?<![a-z])(?:fruit|kiwi|melon)(?![a-z])", re.IGNORECASE
)
_DESCRIPTIONS = (
    "StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)  # fmt: skip
_PHANTOM = re.compile(r"phantom|fantom", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Times in milliseconds, angles in degrees; None or empty where the header does not say."""

    repetition_time: float | None
    echo_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    echo_train_length: int | None
    dimensions: str
    """2D, 3D or empty (MRAcquisitionType)."""
    scanning_sequence: frozenset[str]
    sequence_variant: frozenset[str]
    scan_options: frozenset[str]
    sequence_name: str
    echo_pulse_sequence: str
    """SPIN, GRADIENT, BOTH or empty."""
    flags: frozenset[str]
    """Enhanced MR statements that are YES (or not NONE), by keyword; AngioFlag too."""
    steady_state: str
    acquisition_contrast: str
    nucleus: str
    field_strength: float | None
    epi_factor: float | None
    temporal_positions: int | None
    echoes: int | None
    has_contrast_agent: bool
    body_part: str
    anatomic_region: str
    series_description: str
    protocol_name: str
    coil: str
    patient_position: str
    mosaic_tiles: int | None
    no_person: str
    """Why nobody lies in the scanner: quality control, a phantom by its registration, an animal; empty for a person."""


_YES_FLAGS = (
    ("", "AngioFlag"), ("", "TimeOfFlightContrast"), ("", "PhaseContrast"), ("", "EchoPlanarPulseSequence"),
    ("", "SaturationRecovery"), ("MRModifierSequence", "InversionRecovery"), ("MRModifierSequence", "T2Preparation"),
)  # fmt: skip
_SET_FLAGS = (
    ("MRImagingModifierSequence", "MagnetizationTransfer"), ("MRImagingModifierSequence", "Tagging"),
    ("MRModifierSequence", "Spoiling"), ("", "SpectrallySelectedSuppression"),
)  # fmt: skip


def of(elements: Elements) -> Acquisition:
    """What one object says of its acquisition; of an Enhanced object: its shared groups and its first frame."""
    groups = Groups(
        next(iter(elements.items("PerFrameFunctionalGroupsSequence")), None),
        next(iter(elements.items("SharedFunctionalGroupsSequence")), None),
        elements,
    )
    timing = "MRTimingAndRelatedParametersSequence"
    return Acquisition(
        repetition_time=_positive(groups.number(timing, "RepetitionTime")),
        echo_time=_positive(groups.number("MREchoSequence", "EffectiveEchoTime") or groups.number("", "EchoTime")),
        inversion_time=_inversion_time(groups, elements),
        flip_angle=_positive(groups.number(timing, "FlipAngle")),
        echo_train_length=_largest(
            groups.integer(timing, "RFEchoTrainLength"), groups.integer(timing, "EchoTrainLength")
        ),
        dimensions=elements.text("MRAcquisitionType").upper(),
        scanning_sequence=_words(groups, "ScanningSequence") | _siemens_words(groups, 0x5A),
        sequence_variant=(_words(groups, "SequenceVariant") | _siemens_words(groups, 0x5B)) - {"NONE"},
        scan_options=_words(groups, "ScanOptions"),
        sequence_name=elements.text("SequenceName") or elements.text("PulseSequenceName")
        or elements.private_text(0x0019, "GEMS_ACQU_01", 0x9C),
        echo_pulse_sequence=elements.text("EchoPulseSequence").upper(),
        flags=frozenset(
            [key for group, key in _YES_FLAGS if groups.text(group, key).upper() in ("YES", "Y")]
            + [key for group, key in _SET_FLAGS if groups.text(group, key).upper() not in ("", "NONE", "NO", "UNKNOWN")]
        ),
        steady_state=elements.text("SteadyStatePulseSequence").upper(),
        acquisition_contrast=groups.text("MRImageFrameTypeSequence", "AcquisitionContrast").upper(),
        nucleus=(elements.text("ImagedNucleus") or elements.text("ResonantNucleus")).upper(),
        field_strength=_positive(elements.number("MagneticFieldStrength")),
        epi_factor=elements.private_number(0x2001, "Philips Imaging DD 001", 0x13),
        temporal_positions=elements.integer("NumberOfTemporalPositions"),
        echoes=_echoes(elements),
        has_contrast_agent=_has_agent(elements),
        body_part=elements.text("BodyPartExamined").upper(),
        anatomic_region=_region(elements, groups),
        series_description=elements.text("SeriesDescription"),
        protocol_name=elements.text("ProtocolName"),
        coil=groups.text("MRReceiveCoilSequence", "ReceiveCoilName"),
        patient_position=elements.text("PatientPosition").upper(),
        mosaic_tiles=_mosaic(elements),
        no_person=_no_person(elements),
    )  # fmt: skip


def _inversion_time(groups: Groups, top: Elements) -> float | None:
    stated = _positive(groups.number("MRModifierSequence", "InversionTimes") or groups.number("", "InversionTime"))
    if stated is None and top.private_text(0x2001, "Philips Imaging DD 001", 0x1C).upper() == "INV":
        return _positive(top.private_number(0x2001, "Philips Imaging DD 001", 0x1B))  # prepulse delay, ms
    return stated


def _words(groups: Groups, keyword: str) -> frozenset[str]:
    return frozenset(word.upper() for word in groups.texts("", keyword) if word)


def _siemens_words(groups: Groups, offset: int) -> frozenset[str]:
    """syngo XA keeps the classic code strings in a private item of the shared groups."""
    return groups.private_words(0x0021, "SIEMENS MR SDS 01", 0xFE, offset)


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _largest(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _echoes(elements: Elements) -> int | None:
    for value in (
        elements.private_number(0x2001, "Philips Imaging DD 001", 0x14),
        elements.private_number(0x0019, "GEMS_ACQU_01", 0x7E),
    ):
        if value is not None and value >= 1:
            return int(value)
    return None


def _has_agent(elements: Elements) -> bool:
    text = elements.text("ContrastBolusAgent").strip().upper()
    return text not in ("", "NO", "NONE", "N") or bool(elements.items("ContrastBolusAgentSequence"))


def _region(elements: Elements, groups: Groups) -> str:
    for holder in (elements, groups.find("FrameAnatomySequence", "AnatomicRegionSequence")):
        for item in holder.items("AnatomicRegionSequence") if holder else ():
            if item.text("CodeMeaning"):
                return item.text("CodeMeaning").upper()
    return ""


def _mosaic(elements: Elements) -> int | None:
    tiles = elements.private_number(0x0019, "SIEMENS MR HEADER", 0x0A)
    if tiles is None:
        tiles = elements.private_number(0x0065, "Image Private Header", 0x50)  # UIH grid
    return int(tiles) if tiles is not None and tiles > 1 else None


def _no_person(elements: Elements) -> str:
    if "YES" in (elements.text("QualityControlSubject").upper(), elements.text("QualityControlImage").upper()):
        return "stated to be quality control"
    # The name is looked at and forgotten here: no patient text leaves this function.
    if any(_PHANTOM.search(elements.text(keyword)) for keyword in ("PatientName", "PatientID")):
        return "registered as a phantom"
    for keyword in _DESCRIPTIONS:
        found = _OBJECT.search(elements.text(keyword))
        if found:
            return f"{keyword} says {found.group(0)}"
    described = [elements.text("PatientSpeciesDescription")]
    described += [item.text("CodeMeaning") for item in elements.items("PatientSpeciesCodeSequence")]
    species = next(filter(None, described), "")
    return "registered as of another species" if species and not _HUMAN.search(species) else ""
