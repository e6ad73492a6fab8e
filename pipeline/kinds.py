"""Kinds of MR series that are no anatomical brain image, told from physics and type; names only break ties.

Each rule answers None for "not this kind", or what was seen. KIND_RULES are asked in their order, the most telling
first.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from anomalyd.pipeline.acquisition import Acquisition
from anomalyd.pipeline.candidates import Candidate

MAX_TIME_POINTS = 4  # more repeats of one position are a time course, fewer are saved averages
MIN_B_VALUE = 10.0  # s/mm2; below it nothing is weighted by diffusion
PLANES_OF_A_LOCALIZER, MANY_SLICES = 3, 20
GRE_MAP_TE_MS = 15.0  # an echo of a gradient echo beyond it: T2* mapping, SWI

_DERIVED_MAPS = frozenset({
    "ADC", "FA", "EADC", "EXP", "TRACEW", "TRACE", "TENSOR", "COLFA", "ISOTROPIC", "CALC_BVALUE", "T1 MAP", "T2 MAP",
    "T2_STAR MAP", "T1MAP", "T2MAP", "R2_STAR MAP", "R2 MAP", "RCBF", "RELCBF", "CBF", "CBV", "RCBV", "RELCBV", "MTT",
    "RELMTT", "TTP", "TMAX", "PBP", "GBP", "KTRANS", "T_TEST", "TTEST", "TMAP", "ZMAP", "FMRI", "UNI", "FAT_FRACTION",
    "WATER_FRACTION", "SUBTRACTION", "SUB", "MTR", "QSM", "SWI", "MNIP", "T2_STAR", "R2_STAR", "R2", "STIFFNESS",
    "ELASTOGRAPHY", "CHEM_SHIFT", "VELOCITY MAP", "PC_MAP",
})  # fmt: skip
_PERFUSION = frozenset({"PERFUSION", "ASL", "PASL", "PCASL", "DSC", "DCE"})
_DIFFUSION = frozenset({"DIFFUSION", "DWI", "DTI"})
_ANGIOGRAPHY = frozenset({"TOF", "MRA", "PCA", "PC", "PCM", "PC_ANGIO", "FLOW_ENCODED", "VELOCITY", "ANGIO"})
_PROJECTIONS = frozenset({"MIP", "MINIP", "MIN_IP", "PROJECTION IMAGE", "MAX_IP", "PJN", "MEAN_IP", "VRT", "COLLAPSED"})
_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "SURVEY"})
_FIELD_MAP = frozenset({"B0", "B1", "B0 MAP", "B1 MAP", "FIELD_MAP", "FIELDMAP", "PHASE MAP"})
_FAT = frozenset({"FAT", "F", "OP", "OUT_PHASE", "OPP_PHASE", "OUTPHASE", "OPPOSED"})
_REFORMATS = frozenset({"MPR", "REFORMATTED", "RESAMPLED", "CURVED", "REGISTERED", "COMPOSED"})
_SCREEN = frozenset({"SCREEN SAVE", "SCREENSAVE", "REPORT", "ERROR MAP", "POSDISP", "CSA REPORT"})


def _names(*words: str, stems: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Whole words, with _ - . and digits as borders, case ignored; stems: words that may go on.

    What matches is shown: it holds nothing that a sender is free to write.
    """
    whole = r"(?:" + "|".join(words) + r")(?![a-z])"
    return re.compile(r"(?<![a-z])(?:" + "|".join([whole, *stems]) + ")", re.IGNORECASE)


_LOCALIZER_NAMES = _names(
    "loc", "locali[sz]er", "locs", "scout", "survey", "aahead", "smartbrain", "3[ -]?pl(?:ane)?", "planscan", "pilot"
)
_FIELD_MAP_NAMES = _names(
    "field[ _-]?map(?:ping)?",
    "fieldmaps?",
    "b0(?:[ _-]?map(?:ping)?)?",
    "b1(?:[ _-]?map(?:ping)?)?",
    "fmap",
    "gre_field_mapping",
)
_ANGIO_NAMES = _names("tof", "mra", "angio", "angiography", "mrv", "pca", "inhance", "trance", stems=("venogra",))
_PERFUSION_NAMES = _names("perf", "perfusion", "(?:3d)?p?c?asl", "dsc", "dce", "twist", "tricks")
_CALIBRATION_NAMES = _names(
    "asset", "calibration", "calib", "(?:sense[ _-]?)?ref(?:erence)?[ _-]?scan", stems=("coil[ _-]?sens",)
)
_MAP_NAMES = _names("swi", "qsm", "swan", "t2star", "t2\\*", "mp2rage_uni", "mt[ _-]?(?:on|off|sat)")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules look at: the volume that would be analysed, and what its series says beside it."""

    candidate: Candidate
    siblings: tuple[Candidate, ...]
    acquisition: Acquisition
    orientations: int
    """Number of orientations among the images of the series."""

    @property
    def words(self) -> frozenset[str]:
        """ImageType of the volume, split at underscores as well (RELCBF_MAP -> RELCBF, MAP, RELCBF_MAP)."""
        values = self.candidate.first.frame.image_type
        return frozenset(values) | {part for value in values for part in value.split("_")}

    @property
    def names(self) -> str:
        """Series description and protocol name: they break ties only."""
        return f"{self.acquisition.series_description} {self.acquisition.protocol_name}"

    @property
    def is_gradient_echo(self) -> bool:
        """Whether gradient echoes are read without an inversion pulse."""
        acquisition = self.acquisition
        is_gradient = "GR" in acquisition.scanning_sequence or acquisition.echo_pulse_sequence == "GRADIENT"
        return is_gradient and not self.is_prepared

    @property
    def is_prepared(self) -> bool:
        """Whether an inversion precedes the readout: MPRAGE, FLAIR and their kin are known by it, not by a name."""
        acquisition = self.acquisition
        is_stated = "IR" in acquisition.scanning_sequence or "InversionRecovery" in acquisition.flags
        return is_stated or "MP" in acquisition.sequence_variant or acquisition.inversion_time is not None


@dataclass(frozen=True, slots=True)
class KindRule:
    """criterion: as in Reason. refuses: what the series is, in words. seen_in: None when it is not of that kind."""

    criterion: str
    refuses: str
    seen_in: Callable[[Subject], str | None]


def _any(words: frozenset[str], known: frozenset[str]) -> str | None:
    hits = sorted(words & known)
    return f"ImageType {hits[0]}" if hits else None


def _named(subject: Subject, pattern: re.Pattern[str]) -> str | None:
    """A name that takes a series out of doubt; asked only where no inversion tells what it is."""
    found = None if subject.is_prepared else pattern.search(subject.names)
    return f"series or protocol name says {found.group(0)}" if found else None


def _sequence(acquisition: Acquisition, starts: str) -> str | None:
    """A vendor's name of the sequence that starts so; the rest of it is not told."""
    found = re.match(rf"\*?({starts})", acquisition.sequence_name.lower())
    return f"the sequence name starts with {found.group(1)}" if found else None


def _derived_map(subject: Subject) -> str | None:
    typed = _any(subject.words, _DERIVED_MAPS)
    return typed or ("ImageType PERFUSION" if {"DERIVED", "PERFUSION"} <= subject.words else None)


def _epi(subject: Subject) -> str | None:
    acquisition = subject.acquisition
    if "EP" in acquisition.scanning_sequence or "EchoPlanarPulseSequence" in acquisition.flags:
        return "echo planar readout (ScanningSequence EP)"
    if (acquisition.epi_factor or 1) > 1:
        return f"EPI factor {acquisition.epi_factor:g}"
    if "EPI_GEMS" in acquisition.scan_options:
        return "ScanOptions EPI_GEMS"
    return _sequence(acquisition, r"ep2d|ep_|epfid|epse|epi")


def _diffusion(subject: Subject) -> str | None:
    frames = [plane.frame for plane in subject.candidate.planes]
    highest = max((frame.b_value or 0.0 for one in subject.siblings for frame in (one.first.frame,)), default=0.0)
    highest = max([highest, *(frame.b_value or 0.0 for frame in frames)])
    if highest > MIN_B_VALUE:
        return f"b-value {highest:g} s/mm2"
    if subject.acquisition.acquisition_contrast == "DIFFUSION":
        return "AcquisitionContrast DIFFUSION"
    return _any(subject.words, _DIFFUSION)


def _perfusion(subject: Subject) -> str | None:
    if subject.acquisition.acquisition_contrast == "PERFUSION":
        return "AcquisitionContrast PERFUSION"
    return _any(subject.words, _PERFUSION) or _named(subject, _PERFUSION_NAMES)


def _time_course(subject: Subject) -> str | None:
    shared = len(subject.candidate.planes) / max(1, subject.candidate.places)
    points = {one.first.frame.temporal_index for one in subject.siblings if one.first.frame.temporal_index is not None}
    most = max(len(points), int(shared))
    return f"{most} time points" if most > MAX_TIME_POINTS else None


def _angiography(subject: Subject) -> str | None:
    flags = subject.acquisition.flags & {"AngioFlag", "TimeOfFlightContrast", "PhaseContrast"}
    if flags:
        return f"{min(flags)} YES"
    if subject.acquisition.acquisition_contrast in ("TIME_OF_FLIGHT", "FLOW_ENCODED", "TOF", "PHASE_CONTRAST"):
        return f"AcquisitionContrast {subject.acquisition.acquisition_contrast}"
    if any("TOF" in option or option.startswith("VASC") for option in subject.acquisition.scan_options):
        return "ScanOptions with TOF or VASC"
    typed = _any(subject.words, _ANGIOGRAPHY)
    # A spoiled gradient echo of a slab looks like a T1w one: only the name tells.
    return typed or (_named(subject, _ANGIO_NAMES) if subject.is_gradient_echo else None)


def _field_map(subject: Subject) -> str | None:
    beside = frozenset(word for one in subject.siblings for word in one.first.frame.image_type)
    typed = _any(subject.words, _FIELD_MAP) or _any(beside, _FIELD_MAP - {"PHASE MAP"})
    if typed and not subject.is_prepared:
        return typed
    named = _sequence(subject.acquisition, r"fm2d|fm3d|b0map|b0rf|b1map")
    if named:
        return named
    if subject.candidate.first.frame.component == "PHASE" and subject.is_gradient_echo:
        return "phase images of a gradient echo"
    echoes = {one.first.frame.echo_time for one in subject.siblings}
    has_phase = any(one.first.frame.component == "PHASE" for one in subject.siblings)
    if subject.is_gradient_echo and len(echoes) > 1 and (subject.acquisition.dimensions == "2D" or has_phase):
        return f"{len(echoes)} gradient echoes" + (" with their phase" if has_phase else " in 2D")
    is_two_fold = any(one.first.frame.is_negative for one in subject.siblings)
    if is_two_fold and not subject.acquisition.inversion_time:
        return "images with values below zero at the same positions"
    return _named(subject, _FIELD_MAP_NAMES)


def _localizer(subject: Subject) -> str | None:
    if subject.orientations >= PLANES_OF_A_LOCALIZER and subject.candidate.places < MANY_SLICES:
        return f"images in {subject.orientations} orientations"
    return _any(subject.words, _LOCALIZER) or _named(subject, _LOCALIZER_NAMES)


def _phase(subject: Subject) -> str | None:
    component = subject.candidate.first.frame.component
    return f"only {component.lower()} images" if component in ("PHASE", "IMAGINARY", "REAL") else None


def _susceptibility(subject: Subject) -> str | None:
    if not subject.is_gradient_echo:
        return None
    echoes = [one.first.frame.echo_time or 0.0 for one in subject.siblings]
    if len(echoes) > 1 and max(echoes) > GRE_MAP_TE_MS:
        return f"gradient echoes up to TE {max(echoes):g} ms"
    return _named(subject, _MAP_NAMES)


def _magnetisation_transfer(subject: Subject) -> str | None:
    if "MTC" in subject.acquisition.sequence_variant:
        return "SequenceVariant MTC"
    return "MagnetizationTransfer" if "MagnetizationTransfer" in subject.acquisition.flags else None


def _fat(subject: Subject) -> str | None:
    return _any(subject.words, _FAT)


def _reformat(subject: Subject) -> str | None:
    """DERIVED alone is no reason: scanners call a normalised or corrected image so."""
    image_type = subject.candidate.first.frame.image_type
    typed = _any(subject.words, _REFORMATS) if "DERIVED" in image_type[:1] else None
    return typed or ("ImageType DERIVED\\SECONDARY" if image_type[:2] == ("DERIVED", "SECONDARY") else None)


def _mosaic(subject: Subject) -> str | None:
    tiles = subject.acquisition.mosaic_tiles
    if "MOSAIC" in subject.words or tiles:
        return f"{tiles or 'several'} slices tiled into one picture"
    return None


KIND_RULES: tuple[KindRule, ...] = (
    KindRule("derived_map", "a derived map", _derived_map),
    KindRule("perfusion", "a perfusion series", _perfusion),
    KindRule("diffusion", "a diffusion series", _diffusion),
    KindRule("epi", "an EPI (BOLD) series", _epi),
    KindRule("mosaic", "a mosaic", _mosaic),
    KindRule("localizer", "a localizer", _localizer),
    KindRule("calibration", "a calibration scan", lambda subject: _named(subject, _CALIBRATION_NAMES)),
    KindRule("angiography", "an angiography", _angiography),
    KindRule("field_map", "a field map", _field_map),
    KindRule("time_course", "a time course", _time_course),
    KindRule("projection", "a projection", lambda subject: _any(subject.words, _PROJECTIONS)),
    KindRule("screen_capture", "a screen capture", lambda subject: _any(subject.words, _SCREEN)),
    KindRule("susceptibility", "a T2* or susceptibility series", _susceptibility),
    KindRule("fat_image", "a fat or opposed-phase image", _fat),
    KindRule("magnetisation_transfer", "a magnetisation transfer series", _magnetisation_transfer),
)
"""What a series may be instead of an anatomical image."""

WEAK_KIND_RULES: tuple[KindRule, ...] = (
    KindRule("component", "no magnitude image", _phase),
    KindRule("derived", "a derived image", _reformat),
)
"""Asked after geometry: one slice is one slice, whatever part of the signal it shows."""
