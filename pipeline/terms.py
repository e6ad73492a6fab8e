"""Words of the pipeline that the command line needs before it has loaded anything heavy (no numpy here)."""

from enum import StrEnum
from typing import Final, Literal

ScoreMode = Literal["paper", "normative"]
"""Which score map is cut: SSIM-ens as published, or z-scores against healthy scans."""


class Contrast(StrEnum):
    """Weighting of an anatomical MR series."""

    T1W = "T1w"
    T2W = "T2w"
    FLAIR = "FLAIR"


class Stage(StrEnum):
    """Steps of an analysis, in order; each is a module of pipeline/stages."""

    READ = "read"
    ORIENT = "orient"
    BRAIN = "brain"
    REGISTER = "register"
    NORMALISE = "normalise"
    RECONSTRUCT = "reconstruct"
    SCORE = "score"
    MAPBACK = "mapback"
    THRESHOLD = "threshold"
    MEASURE = "measure"
    RESULTS = "results"


class ResultKind(StrEnum):
    """Kinds of result objects, one series each; the names stand in the UIDs, in `send` and in the store."""

    SEG = "seg"
    HEATMAP = "heatmap"
    SR = "sr"
    SCORE_MAP = "score_map"
    SUMMARY = "summary"
    PARAMETRIC_MAP = "parametric_map"
    LABELMAP = "labelmap"
    NOT_ANALYSED = "not_analysed"
    """Made in place of all others, of a scan that the bundle cannot judge."""
    INELIGIBLE = "ineligible"
    """The only one of a series that was not chosen for analysis; where a destination asks for it."""
    REJECTION_NOTE = "rejection_note"
    """Withdraws the results that a newer answer has taken the place of; where a destination asks for it."""


DEFAULT_KINDS: Final = (
    ResultKind.SEG,
    ResultKind.HEATMAP,
    ResultKind.SR,
    ResultKind.SUMMARY,
    ResultKind.NOT_ANALYSED,
)
"""Made of every series that was judged, or could not be, and sent where a destination names no others."""
