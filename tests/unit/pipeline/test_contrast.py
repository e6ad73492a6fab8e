"""Contrast told from times and angles, over protocols of many scanners; names are never asked where physics speaks.

The rows are protocols as they stand in vendors' and multi-centre manuals (ADNI, HCP, UK Biobank, IXI) or in real files.
"""

import dataclasses
from typing import Any

import pytest

from anomalyd.pipeline.contrast import weighting_of
from anomalyd.pipeline.finding import Contrast
from mr_headers import MPRAGE

T1, T2, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR


def told(sequence: str, variant: str, tr: float, te: float, **more: Any) -> Contrast | None:
    plain = dataclasses.replace(
        MPRAGE, scanning_sequence=frozenset(sequence.split()), sequence_variant=frozenset(variant.split()),
        repetition_time=tr, echo_time=te, inversion_time=more.pop("ti", None), flip_angle=more.pop("flip", None),
        dimensions="", **more,
    )  # fmt: skip
    return weighting_of(plain, None, None).contrast


@pytest.mark.parametrize(
    ("sequence", "variant", "tr", "te", "more"),
    [
        pytest.param("GR IR", "SK SP MP", 2300, 2.98, {"ti": 900, "flip": 9}, id="Siemens MPRAGE (ADNI)"),
        pytest.param("GR IR", "SP MP", 2530, 1.66, {"flip": 7}, id="Siemens MEMPRAGE without TI"),
        pytest.param("GR IR", "SK SP MP", 2400, 2.14, {"ti": 1000, "flip": 8}, id="Siemens MPRAGE (HCP)"),
        pytest.param("GR IR", "SK SP MP", 2000, 2.01, {"ti": 880, "flip": 8}, id="Siemens MPRAGE (UK Biobank)"),
        pytest.param("GR IR", "SP MP", 1900, 3.4, {"ti": 1100, "flip": 15, "field_strength": 1.5}, id="Siemens 1.5 T"),
        pytest.param("GR IR", "SP MP", 9.7, 4.0, {"ti": 20, "flip": 10, "field_strength": 1.5}, id="Vision (OASIS)"),
        pytest.param("GR", "MP", 6.5, 2.93, {"flip": 9}, id="Philips MPRAGE, gradient-echo spacing as TR"),
        pytest.param("GR", "SP", 9.6, 4.6, {"flip": 8}, id="Philips T1-TFE (IXI 3 T)"),
        pytest.param("GR", "SP", 9.8, 4.6, {"flip": 8, "field_strength": 1.5}, id="Philips T1-TFE (IXI 1.5 T)"),
        pytest.param("GR", "SS SP SK", 8.9, 3.16, {"ti": 900}, id="GE MPRAGE"),
        pytest.param("GR", "SS SP SK", 7.3, 3.0, {"ti": 400, "flip": 11}, id="GE IR-FSPGR (BRAVO)"),
        pytest.param("GR", "SS SP", 7.8, 3.0, {"ti": 450, "flip": 12}, id="GE BRAVO 450"),
        pytest.param("RM IR", "NONE", 2427.9, 2.228, {"ti": 1000, "flip": 8}, id="GE MPRAGE in research mode"),
        pytest.param("GR", "SS SP SK", 5.5, 1.992, {"flip": 8}, id="GE FSPGR without inversion"),
        pytest.param("GR IR", "NONE", 7.25, 3.1, {"ti": 750, "flip": 10}, id="UIH gre_fsp with IR stated"),
        pytest.param("GR", "MP", 8.03, 4.6, {"flip": 8}, id="Philips T1-TFE, Enhanced"),
        pytest.param("GR", "SK", 1800, 2.41, {"ti": 900, "flip": 9}, id="Siemens XA MPRAGE, split by a converter"),
        pytest.param("GR", "SS", 256.4, 3.57, {"flip": 80}, id="Philips T1W_FFE 2D"),
        pytest.param("GR", "SP OSP", 300, 2.46, {"flip": 80}, id="Siemens fl2d"),
        pytest.param("SE", "SP SK", 700, 11, {"flip": 120, "field_strength": 1.5}, id="SPACE T1 1.5 T"),
        pytest.param("GR", "SS SP", 25, 5, {"flip": 40, "field_strength": 1.5}, id="GE SPGR 1.5 T of the nineties"),
        pytest.param("GR", "SP", 20, 4.92, {"flip": 25}, id="Siemens FLASH 3D"),
        pytest.param("GR", "SP", 250, 2.46, {"flip": 70}, id="Siemens FLASH 2D"),
        pytest.param("GR", "SP", 5.5, 2.4, {"flip": 12}, id="VIBE"),
        pytest.param("GR", "NONE", 7.2, 3.1, {"ti": 750, "flip": 8}, id="UIH gre_fsp"),
        pytest.param("GR", "SP MP", 6.1, 2.5, {"ti": 900, "flip": 9}, id="Canon MPRAGE"),
        pytest.param("SE", "SK", 500, 12, {"flip": 90}, id="SE T1 1.5 T"),
        pytest.param("SE", "SK SP", 600, 9, {"flip": 150}, id="TSE T1 3 T"),
        pytest.param("SE", "SK", 519.5, 23, {"flip": 90}, id="Philips T1W TSE"),
        pytest.param("SE", "SK SP", 700, 11, {"flip": 120}, id="SPACE T1"),
        pytest.param("SE IR", "SK", 2000, 9, {"ti": 860, "flip": 150}, id="Siemens T1 dark fluid"),
        pytest.param("SE IR", "SK", 2500, 24, {"ti": 1050, "flip": 111}, id="GE T1 FLAIR 3 T"),
        pytest.param("IR", "SK", 2000, 20, {"ti": 800}, id="Philips T1 IR-TSE"),
    ],
)  # fmt: skip
def test_t1_weighting(sequence: str, variant: str, tr: float, te: float, more: dict[str, Any]) -> None:
    assert told(sequence, variant, tr, te, **more) is T1


@pytest.mark.parametrize(
    ("sequence", "variant", "tr", "te", "more"),
    [
        pytest.param("SE", "SK SP OSP", 11730, 91, {"flip": 120}, id="Siemens TSE"),
        pytest.param("SE", "SK", 3000, 80, {"flip": 90}, id="Philips TSE"),
        pytest.param("SE", "SK", 2400, 85, {"flip": 90, "field_strength": 1.5}, id="conventional SE 1.5 T"),
        pytest.param("SE", "SK SP", 3200, 564, {"flip": 120}, id="SPACE T2 (HCP), TE of the centre of k-space"),
        pytest.param("SE", "SK", 2500, 85, {"flip": 90}, id="GE CUBE T2"),
        pytest.param("SE", "SK", 2500, 331, {"flip": 90}, id="Philips VISTA T2"),
        pytest.param("SE", "SP SK", 8230, 95, {"flip": 150, "field_strength": 1.5}, id="Siemens TSE 1.5 T"),
        pytest.param("SE", "NONE", 4600, 98, {"flip": 150}, id="UIH fse"),
        pytest.param("RM", "NONE", 6400, 102, {"flip": 160}, id="GE PROPELLER under research mode"),
    ],
)
def test_t2_weighting(sequence: str, variant: str, tr: float, te: float, more: dict[str, Any]) -> None:
    assert told(sequence, variant, tr, te, **more) is T2


@pytest.mark.parametrize(
    ("sequence", "variant", "tr", "te", "more"),
    [
        pytest.param("SE IR", "SK SP MP", 8000, 81, {"ti": 2370, "flip": 150}, id="Siemens TIRM"),
        pytest.param("SE IR", "SK SP MP", 5000, 395, {"ti": 1800, "flip": 120}, id="SPACE FLAIR (UK Biobank)"),
        pytest.param("SE IR", "SK", 6000, 120, {"ti": 1750, "flip": 90}, id="GE CUBE FLAIR"),
        pytest.param("SE IR", "SK", 4800, 290, {"ti": 1650, "flip": 90}, id="Philips VISTA FLAIR"),
        pytest.param("SE IR", "SK", 10000, 133, {"ti": 2570, "flip": 160}, id="GE T2 FLAIR FS"),
        pytest.param("IR", "SK", 11000, 125, {"ti": 2800, "flip": 90}, id="Philips FLAIR"),
        pytest.param("IR", "SK", 10000, 120, {"ti": 2250, "flip": 90, "field_strength": 1.5}, id="GE FLAIR 1.5 T"),
        pytest.param("SE IR", "SK", 9000, 93, {}, id="FLAIR that does not state TI"),
        pytest.param("IR", "NONE", 10000, 105, {"ti": 2700}, id="Hitachi FLAIR"),
    ],
)
def test_flair(sequence: str, variant: str, tr: float, te: float, more: dict[str, Any]) -> None:
    assert told(sequence, variant, tr, te, **more) is FLAIR


@pytest.mark.parametrize(
    ("sequence", "variant", "tr", "te", "more"),
    [
        pytest.param("SE", "SK", 4000, 12, {"flip": 90}, id="proton density TSE"),
        pytest.param("SE", "SK", 2500, 30, {"flip": 90}, id="proton density SE"),
        pytest.param("SE IR", "SK", 4000, 40, {"ti": 160}, id="STIR"),
        pytest.param("IR", "OTHER", 4414, 64, {"ti": 140}, id="STIR with a long echo"),
        pytest.param("SE IR", "SK", 4000, 60, {}, id="inversion with unknown TI"),
        pytest.param("SE IR", "SK SP MP", 7500, 308, {"ti": 3000}, id="double inversion"),
        pytest.param("SE IR", "SK", 2000, 15, {"ti": 400}, id="phase-sensitive inversion, magnitude"),
        pytest.param("GR", "SP", 28, 20, {"flip": 15}, id="SWI"),
        pytest.param("GR", "SP", 600, 25, {"flip": 20}, id="T2* haemorrhage"),
        pytest.param("GR", "SP", 25, 2.3, {"flip": 5}, id="proton density FLASH"),
        pytest.param("GR", "SS", 5.8, 2.9, {"flip": 60}, id="TrueFISP, FIESTA"),
        pytest.param("GR", "SS SK", 5.7, 2.5, {"flip": 50}, id="CISS"),
        pytest.param("GR", "NONE", 22, 6, {"flip": 30, "steady_state": "TIME_REVERSED"}, id="PSIF"),
        pytest.param("GR IR", "SK SP MP", 5000, 2.9, {"ti": 700, "flip": 4}, id="MP2RAGE first inversion"),
        pytest.param("GR IR", "SK SP MP", 5000, 2.9, {"ti": 2500, "flip": 5}, id="MP2RAGE second inversion"),
        pytest.param("GR", "SP MP", 3.4, 1.5, {"flags": frozenset({"T2Preparation"})}, id="T2-prepared"),
        pytest.param("RM", "SS", 3.8, 1.52, {"flip": 12}, id="Philips B0 map in research mode"),
        pytest.param("RM", "NONE", 800, 4.94, {"flip": 10, "field_strength": 7.0}, id="GE B0 map 7 T"),
        pytest.param("RM", "NONE", 200, 4.6, {"flip": 20}, id="GE B0 map in research mode"),
        pytest.param("GR", "SP", 700, 5, {}, id="gradient echo without an angle"),
    ],
)
def test_what_is_none_of_the_three(sequence: str, variant: str, tr: float, te: float, more: dict[str, Any]) -> None:
    assert told(sequence, variant, tr, te, **more) is None


@pytest.mark.parametrize(
    ("enhanced", "tr", "te", "ti", "expected"),
    [
        ("GRADIENT", 1800.0, 2.41, 900.0, T1),
        ("SPIN", 519.5, 23.0, None, T1),
        ("SPIN", 3000.0, 80.0, None, T2),
        ("SPIN", 8000.0, 120.0, 2400.0, FLAIR),
        ("BOTH", 3000.0, 100.0, None, T2),
    ],
)
def test_enhanced_mr_states_its_pulse_sequence_in_other_words(
    enhanced: str, tr: float, te: float, ti: float | None, expected: Contrast
) -> None:
    plain = dataclasses.replace(
        MPRAGE, scanning_sequence=frozenset(), sequence_variant=frozenset(), echo_pulse_sequence=enhanced,
        repetition_time=tr, echo_time=te, inversion_time=ti, flip_angle=90.0,
    )  # fmt: skip
    assert weighting_of(plain, None, None).contrast is expected


@pytest.mark.parametrize("name", ["T2 TSE", "FLAIR", "PD", "t2_star", ""])
def test_a_name_never_overrides_physics(name: str) -> None:
    named = dataclasses.replace(MPRAGE, series_description=name, protocol_name=name)
    assert weighting_of(named, None, None).contrast is T1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Sag MPRAGE", T1), ("AX T1 SE", T1), ("T2 FLAIR", FLAIR), ("t2_tirm_dark-fluid", FLAIR), ("AX T2 TSE", T2),
     ("T2* GRE", None), ("DWI", None), ("T1/T2", None)],
)  # fmt: skip
def test_a_name_breaks_the_tie_where_the_header_is_silent(name: str, expected: Contrast | None) -> None:
    silent = dataclasses.replace(
        MPRAGE, scanning_sequence=frozenset(), sequence_variant=frozenset(), repetition_time=None, echo_time=None,
        inversion_time=None, series_description=name,
    )  # fmt: skip
    weighting = weighting_of(silent, None, None)
    assert weighting.contrast is expected
    assert not (weighting.contrast and weighting.is_physics)


def test_the_volumes_own_echo_counts() -> None:
    dual = dataclasses.replace(
        MPRAGE, scanning_sequence=frozenset({"SE"}), sequence_variant=frozenset({"SK"}), inversion_time=None,
        repetition_time=3000.0, echo_time=12.0,
    )  # fmt: skip
    assert weighting_of(dual, 12.0, None).contrast is None
    assert weighting_of(dual, 96.0, None).contrast is T2
