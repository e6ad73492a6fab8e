"""Received values in what logs, audit log and results say: shown where they are known terms, and only there.

Anything may stand in a code string, the name of a patient too, and what was logged outlives a purge.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from anomalyd.errors import BadIdentifier
from anomalyd.ids import uid

UNKNOWN: Final = "no defined term"
NOT_STATED: Final = "not stated"
MAX_NUMBER: Final = 4
"""Digits of what is shown as a number: a patient's number has more."""

MODALITIES: Final = frozenset({
    "ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DMS", "DG", "DOC", "DX", "ECG",
    "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS",
    "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN",
    "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD",
    "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG", "US",
    "VA", "XA", "XAPROTOCOL", "XC",
})  # fmt: skip
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1)."""
PHOTOMETRIC_INTERPRETATIONS: Final = frozenset({
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
    "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB",
})  # fmt: skip
"""Defined terms of PhotometricInterpretation, retired ones too (PS3.3 C.7.6.3.1.2)."""
NUCLEI: Final = frozenset({"1H", "3HE", "7LI", "13C", "19F", "23NA", "31P", "129XE"})
"""Defined terms of ResonantNucleus (PS3.3 C.8.13.4)."""
COMPLEX_COMPONENTS: Final = frozenset({"MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "MIXED"})
"""Complex Image Component (PS3.3 C.8.13.3.1.2)."""
IMAGE_TYPE_WORDS: Final = frozenset({
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "OTHER", "MIXED", "NONE",
    # of MR (PS3.3 C.8.3.1.1.1, C.8.13.3.1.1)
    "DENSITY MAP", "DIFFUSION MAP", "IMAGE ADDITION", "MODULUS SUBTRACT", "MPR", "PHASE MAP", "PHASE SUBTRACT",
    "PROJECTION IMAGE", "T1 MAP", "T2 MAP", "VELOCITY MAP", "LOCALIZER", "DIFFUSION", "PERFUSION", "VOLUME",
    "ADDITION", "SUBTRACTION", "MEAN", "MEDIAN", "MAXIMUM", "MINIMUM", "MASKED", "RESAMPLED", "REFORMATTED", "T1", "T2",
    "T2_STAR", "PROTON_DENSITY", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "WATER_FRACTION", "FAT_FRACTION", "R2_STAR",
    "STIR", "FLUID_ATTENUATED", "TAGGING", "TIME_OF_FLIGHT", "FLOW_ENCODED", "B0", "B1", "ADC", "FA", "TRACE",
    # of vendors
    "ND", "NORM", "DIS2D", "DIS3D", "DIXON", "IR", "SE", "FFE", "TSE", "UNI", "SWI", "MIP", "MNIP", "MINIP", "ASL",
    "RMS", "SOS", "COMBINED", "COMB", "SUM", "MSUM", "AVERAGE", "COMPOSED", "MOSAIC", "FIL", "FM", "SH", "MFSPLIT",
    "M_SE", "M_FFE", "M_IR", "R_IR", "I_IR", "P_SE", "P_FFE", "P_IR", "IP", "OP", "OPP_PHASE", "W", "F", "T1_IR",
    "DRB", "DRG",
})  # fmt: skip
"""Words of ImageType that tell volumes of one series apart."""


def shown(value: str, terms: AbstractSet[str]) -> str:
    """The value where it is one of the terms; else that it is none, or that nothing is stated."""
    return (value if value in terms else UNKNOWN) if value else NOT_STATED


def shown_words(values: Iterable[str], terms: AbstractSet[str]) -> str:
    """Several values of one attribute, as DICOM joins them."""
    return "\\".join(shown(value, terms) for value in values) or NOT_STATED


def shown_uid(value: str) -> str:
    """The value where it is a UID (PS3.5 9.1)."""
    try:
        return uid(value) if value else NOT_STATED
    except BadIdentifier:
        return "no UID"


def shown_number(value: str) -> str:
    """The value where it is a short whole number, as names of stacks and echoes are."""
    if not value:
        return NOT_STATED
    return value if value.isascii() and value.isdecimal() and len(value) <= MAX_NUMBER else UNKNOWN
