"""Which contrast a sequence gives, from its times and angles: what tissue is bright is computed, not looked up.

White matter, grey matter and CSF are put through the signal equation of the sequence (Bernstein, King, Zhou: Handbook
of MRI Pulse Sequences, 2004), and the order of the three tells the weighting:
T1w: white > grey > CSF. T2w: CSF > grey > white. FLAIR: grey > white, CSF nulled although TE is long.
What is neither (proton density, STIR, T2*, steady state) is no contrast that a bundle is made for.
"""

import math
import re
from dataclasses import dataclass

from anomalyd.pipeline.acquisition import Acquisition
from anomalyd.pipeline.finding import Contrast

# T1 and T2 in ms, proton density; 3 T and 1.5 T by Stanisz et al., MRM 2005 (54: 507) and Wansapura et al., JMRI 1999.
_TISSUES_3T = {"white": (850.0, 75.0, 0.70), "grey": (1350.0, 95.0, 0.82), "csf": (4000.0, 1800.0, 1.0)}
_TISSUES_15T = {"white": (640.0, 80.0, 0.70), "grey": (1000.0, 100.0, 0.82), "csf": (4000.0, 1800.0, 1.0)}
LOW_FIELD_TESLA = 2.0
GRE_T2STAR_TE_MS = 12.0  # beyond it a gradient echo shows susceptibility; longest T1w one known: 11 ms (1 T FLASH)
SHORT_TE_MS = 45.0  # a spin echo below it is T1w or proton density
LONG_TE_MS = 60.0
STIR_TI_MS = (90.0, 300.0)
MPRAGE_TI_MS = (300.0, 1500.0)
MPRAGE_TR_MS = 4000.0  # longer cycles are those of MP2RAGE, whose single inversions are no T1w image
VARIABLE_FLIP_TE_MS = (
    200.0  # SPACE, CUBE, VISTA state TE of the centre of k-space; their T2 decay is that of a third of it
)
GRE_SHORT_TR_MS = 200.0
GRE_ONLY_TR_MS = 60.0  # no spin echo repeats that fast
SMALL_FLIP_DEG = 30.0
INVERTED_TR_MS, INVERTED_TE_MS = 5000.0, 80.0  # an inversion with unknown TI beyond both is FLAIR, never STIR
BSSFP_FLIP_DEG, BSSFP_TR_MS = 30.0, 12.0


@dataclass(frozen=True, slots=True)
class Weighting:
    """contrast: None for what no bundle is made for. text: the physics. is_told: whether the header says enough."""

    contrast: Contrast | None
    name: str
    text: str
    is_told: bool = True
    is_physics: bool = True


@dataclass(frozen=True, slots=True)
class _Times:
    tr: float | None
    te: float | None
    ti: float | None
    flip: float | None


def weighting_of(acquisition: Acquisition, echo_time: float | None, inversion_time: float | None) -> Weighting:
    """The weighting of one volume; echo and inversion time of the volume's own frames, in ms, win over the series'."""
    times = _Times(
        acquisition.repetition_time, echo_time or acquisition.echo_time,
        inversion_time or acquisition.inversion_time, acquisition.flip_angle,
    )  # fmt: skip
    family = family_of(acquisition)
    text = _in_words(family, times)
    if times.te is None and times.tr is None:
        named = _named(acquisition)
        if named is not None:
            return Weighting(
                named, named.value, "neither TR nor TE is stated: told by the name of the series", is_physics=False
            )
    if times.te is None or (times.tr is None and family != "prepared gradient echo"):
        return Weighting(None, "unknown", f"{text}: TR or TE is not stated", is_told=False)
    if family == "prepared gradient echo":
        contrast, name = _prepared(times, acquisition)
    elif family == "gradient echo":
        contrast, name = _gradient_echo(times, acquisition)
    elif family == "spin echo":
        contrast, name = _spin_echo(times, acquisition)
    else:
        return Weighting(None, "unknown", f"{text}: neither a spin echo nor a gradient echo is stated", is_told=False)
    return Weighting(contrast, name, text)


def family_of(acquisition: Acquisition) -> str:
    """spin echo, gradient echo, prepared gradient echo, unknown: from code strings, else from what TE and TR leave."""
    words, pulse = acquisition.scanning_sequence, acquisition.echo_pulse_sequence
    te, tr, flip = acquisition.echo_time, acquisition.repetition_time, acquisition.flip_angle
    is_inverted = _is_inverted(acquisition) or "MP" in acquisition.sequence_variant
    gradient = "prepared gradient echo" if is_inverted else "gradient echo"
    if "GR" in words or (pulse == "GRADIENT" and "SE" not in words):
        return gradient
    if "SE" in words or pulse in ("SPIN", "BOTH"):
        return "spin echo"
    if "IR" in words:  # alone, or beside RM, as GE writes it for MPRAGE: a small angle is a gradient echo's
        is_small = flip is not None and flip < SMALL_FLIP_DEG and (te or 0.0) < GRE_T2STAR_TE_MS
        return gradient if is_small else "spin echo"
    if te is not None and te >= LONG_TE_MS:
        return "spin echo"  # no gradient echo of a head is read that late
    is_plain = "RM" not in words  # research mode may be anything; B0 maps among them
    if is_plain and te is not None and tr is not None and te < GRE_T2STAR_TE_MS and tr < GRE_ONLY_TR_MS:
        return gradient
    return "unknown"


def _named(acquisition: Acquisition) -> Contrast | None:
    """The contrast that the name of the series states; asked only when the header is silent about the physics."""
    names = f"{acquisition.series_description} {acquisition.protocol_name}".lower()
    if re.search(r"t1|mp-?rage|spgr|bravo", names):
        return Contrast.T1W if not re.search(r"t2", names) else None
    if re.search(r"flair|dark.?fluid|tirm", names):
        return Contrast.FLAIR
    return Contrast.T2W if re.search(r"t2(?!\*|.?star)", names) else None


def _prepared(times: _Times, acquisition: Acquisition) -> tuple[Contrast | None, str]:
    """MPRAGE and its kin: TI tells, and where it is not stated the length of the cycle does."""
    unlike = _unlike_any(times, acquisition)
    if unlike:
        return None, unlike
    if times.ti is not None and times.ti < MPRAGE_TI_MS[0] and (times.tr or math.inf) < GRE_ONLY_TR_MS:
        return _gradient_echo(
            times, acquisition
        )  # a fat inversion, or a TI counted from another pulse (Siemens Vision)
    if times.ti is not None and not MPRAGE_TI_MS[0] <= times.ti <= MPRAGE_TI_MS[1]:
        return None, "inversion recovery gradient echo that is no MPRAGE"
    if (times.tr or 0.0) > MPRAGE_TR_MS:
        return None, "inversion image of MP2RAGE"
    return Contrast.T1W, "T1w"


def _gradient_echo(times: _Times, acquisition: Acquisition) -> tuple[Contrast | None, str]:
    unlike = _unlike_any(times, acquisition)
    if unlike:
        return None, unlike
    tr = times.tr or 0.0
    if times.flip is None:  # spoiled with a short TR is T1w by custom; a long TR says nothing without the angle
        return (Contrast.T1W, "T1w") if tr < GRE_SHORT_TR_MS else (None, "unknown")
    signals = {name: _spoiled(t1, pd, tr, times.flip) for name, (t1, _, pd) in _tissues(acquisition).items()}
    return (Contrast.T1W, "T1w") if _is_t1_order(signals) else (None, "PDw")


def _unlike_any(times: _Times, acquisition: Acquisition) -> str:
    """What kind of gradient echo no bundle is made for; empty when it is none of them."""
    if (times.te or 0.0) > GRE_T2STAR_TE_MS:
        return "T2*w"
    if "T2Preparation" in acquisition.flags:
        return "T2 prepared gradient echo"
    return "balanced steady state" if _is_balanced(acquisition, times) else ""


def _spin_echo(times: _Times, acquisition: Acquisition) -> tuple[Contrast | None, str]:
    te, tr, ti = times.te or 0.0, times.tr or 0.0, times.ti
    if ti is not None and STIR_TI_MS[0] <= ti < STIR_TI_MS[1]:
        return None, "STIR"
    decay = te / 3 if te > VARIABLE_FLIP_TE_MS else te
    signals = {
        name: abs(pd * _recovered(t1, tr, ti) * math.exp(-decay / t2))
        for name, (t1, t2, pd) in _tissues(acquisition).items()
    }
    is_csf_dark = signals["csf"] < signals["white"]
    if ti is None and _is_inverted(acquisition):
        is_flair = te >= INVERTED_TE_MS and tr >= INVERTED_TR_MS
        return (Contrast.FLAIR, "FLAIR") if is_flair else (None, "inversion recovery with unknown TI")
    if ti is not None and te >= LONG_TE_MS:
        return (Contrast.FLAIR, "FLAIR") if is_csf_dark else (None, "inversion recovery without nulled CSF")
    if te < SHORT_TE_MS and _is_t1_order(signals):
        return Contrast.T1W, "T1w"
    if te >= LONG_TE_MS and signals["csf"] > signals["grey"] > signals["white"]:
        return Contrast.T2W, "T2w"
    return None, "PDw" if ti is None else "inversion recovery of another weighting"


def _is_inverted(acquisition: Acquisition) -> bool:
    is_stated = "IR" in acquisition.scanning_sequence or "InversionRecovery" in acquisition.flags
    return is_stated or acquisition.inversion_time is not None


def _recovered(t1: float, tr: float, ti: float | None) -> float:
    """Longitudinal magnetisation before the excitation, relative to equilibrium."""
    if ti is None:
        return 1 - math.exp(-tr / t1)
    return 1 - 2 * math.exp(-ti / t1) + math.exp(-tr / t1)


def _spoiled(t1: float, density: float, tr: float, flip_deg: float) -> float:
    """Ernst's steady state of a spoiled gradient echo."""
    angle, rest = math.radians(flip_deg), math.exp(-tr / t1)
    return density * math.sin(angle) * (1 - rest) / (1 - math.cos(angle) * rest)


def _is_t1_order(signals: dict[str, float]) -> bool:
    return signals["white"] > 1.02 * signals["grey"] > 1.02 * 1.1 * signals["csf"]  # visible, by a margin


def _is_balanced(acquisition: Acquisition, times: _Times) -> bool:
    """Balanced or refocused steady state: TrueFISP, FIESTA, CISS, PSIF."""
    if acquisition.steady_state in ("FREE_PRECESSION", "TRANSVERSE", "TIME_REVERSED"):
        return True
    is_fast_and_wide = (times.flip or 0) > BSSFP_FLIP_DEG and (times.tr or 1e9) < BSSFP_TR_MS
    return is_fast_and_wide and "SP" not in acquisition.sequence_variant


def _tissues(acquisition: Acquisition) -> dict[str, tuple[float, float, float]]:
    return _TISSUES_15T if (acquisition.field_strength or 3.0) < LOW_FIELD_TESLA else _TISSUES_3T


def _in_words(family: str, times: _Times) -> str:
    values = (("TR", times.tr, "ms"), ("TE", times.te, "ms"), ("TI", times.ti, "ms"), ("flip angle", times.flip, "deg"))
    return ", ".join([family, *(f"{name} {value:g} {unit}" for name, value, unit in values if value is not None)])
