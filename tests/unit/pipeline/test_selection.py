"""Which volume of a series is analysed, and which criterion refuses the rest."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.ids import InstanceUID
from anomalyd.pipeline import anatomy
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.selection import explain, instance_set, nameable
from anomalyd.pipeline.series import PixelFormat
from anomalyd.pipeline.settings import AttributeRule, PipelineSettings
from anomalyd.pipeline.vendor import ExpectedCount
from anomalyd.pipeline.volume import SliceSource
from mr_headers import GRE, T1_ONLY, TSE, answer, criterion, instance, series_of, slices, stating


def test_a_complete_head_is_analysed_in_geometric_order() -> None:
    found = answer(series_of(slices(24)[::-1]))
    assert found.ok
    assert found.contrast is Contrast.T1W
    assert found.volume is not None
    assert found.volume.slots == tuple(SliceSource(InstanceUID(f"1.2.3.4.{k}")) for k in range(1, 25))
    assert found.volume.grid.shape == (24, 240, 240)
    np.testing.assert_allclose(found.volume.grid.index_to_lps[:3, 0], (0, 0, 6.0))
    assert (found.left_out, found.warnings) == ((), ())


@given(st.permutations(range(24)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_arrival_changes_nothing(order: list[int]) -> None:
    images = slices(24)
    found = answer(series_of([images[k] for k in order]))
    assert found.volume is not None
    assert [source.instance_uid for source in found.volume.slots if source] == [f"1.2.3.4.{k}" for k in range(1, 25)]


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("epi", {**TSE, "scanning_sequence": frozenset({"EP"}), "echo_time": 30.0}),
    ("epi", {**TSE, "flags": frozenset({"EchoPlanarPulseSequence"}), "echo_time": 30.0}),
    ("epi", {**TSE, "epi_factor": 37.0, "echo_time": 30.0}),
    ("epi", {**TSE, "sequence_name": "epi2", "echo_time": 30.0}),
    ("diffusion", {"b_value": 1000.0}),
    ("diffusion", {"acquisition_contrast": "DIFFUSION"}),
    ("derived_map", {"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}),
    ("derived_map", {"image_type": ("DERIVED", "PRIMARY", "ADC_UNSPECIFIED", "ADC", "UNSPECIFIED")}),
    ("derived_map", {"image_type": ("DERIVED", "PRIMARY", "PERFUSION", "ASL", "RELCBF")}),
    ("derived_map", {"image_type": ("DERIVED", "PRIMARY", "T1 MAP", "ND")}),
    ("derived_map", {"image_type": ("DERIVED", "PRIMARY", "M", "ND", "UNI")}),
    ("perfusion", {"image_type": ("ORIGINAL", "PRIMARY", "PERFUSION", "NONE")}),
    ("perfusion", {**GRE, "series_description": "3D ASL (non-contrast)"}),
    ("mosaic", {"mosaic_tiles": 35}),
    ("localizer", {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}),
    ("localizer", {**GRE, "series_description": "AAHead_Scout_32ch"}),
    ("localizer", {**GRE, "series_description": "3Plane Loc SSFSE"}),
    ("localizer", {**GRE, "series_description": "Survey_32ch_HeadCoil"}),
    ("angiography", {**GRE, "flags": frozenset({"AngioFlag"})}),
    ("angiography", {**GRE, "flags": frozenset({"TimeOfFlightContrast"})}),
    ("angiography", {**GRE, "scan_options": frozenset({"VASCTOF_GEMS"})}),
    ("angiography", {**GRE, "series_description": "s3DI_MC_HR (MRA)"}),
    ("angiography", {"image_type": ("ORIGINAL", "PRIMARY", "PCA", "M")}),
    ("field_map", {**GRE, "sequence_name": "*fm2d2r"}),
    ("field_map", {**GRE, "image_type": ("ORIGINAL", "PRIMARY", "B0", "B0", "FFE")}),
    ("field_map", {**GRE, "is_negative": True}),
    ("field_map", {**GRE, "component": "PHASE", "image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}),
    ("field_map", {**GRE, "series_description": "gre_field_mapping"}),
    ("field_map", {**GRE, "series_description": "B0 NS", "acquisition_contrast": "T1"}),
    ("perfusion", {**TSE, "echo_time": 9.0, "series_description": "WIP SOURCE - 3DpCASL"}),
    ("field_map", {**GRE, "image_type": ("ORIGINAL", "PRIMARY", "T1", "M", "B0", "FFE")}),
    ("calibration", {**GRE, "series_description": "ASSET calibration"}),
    ("projection", {"image_type": ("DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP")}),
    ("magnetisation_transfer", {**GRE, "sequence_variant": frozenset({"SP", "MTC"})}),
    ("fat_image", {**GRE, "image_type": ("DERIVED", "PRIMARY", "DIXON", "FAT")}),
    ("susceptibility", {**GRE, "series_description": "QSM 3D"}),
    ("component", {"component": "REAL", "image_type": ("ORIGINAL", "PRIMARY", "R", "IR")}),
    ("derived", {"image_type": ("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE")}),
    ("phantom", {"no_person": "registered as a phantom"}),
    ("body_part", {"body_part": "LSPINE"}),
    ("body_part", {"body_part": "", "coil": "Shoulder 16"}),
    ("body_part", {"body_part": "", "series_description": "T1 knee sag"}),
    ("body_part", {"body_part": "", "patient_position": "FFS"}),
    ("nucleus", {"nucleus": "23NA"}),
    ("frame_of_reference", {"frame_of_reference": ""}),
    ("photometric", {"pixels": PixelFormat(240, 240, 3, "RGB", 8, 8, is_signed=False)}),
    ("transfer_syntax", {"transfer_syntax": "1.2.840.10008.1.2.4.100"}),
    ("modality", {"modality": "CT"}),
    ("sop_class", {"sop_class": "1.2.840.10008.5.1.4.1.1.66"}),
    ("readable", {"faults": ("truncated pixel data: 3 of 115200 bytes",)}),
    ("geometry", {"orientation": None}),
    ("geometry", {"pixel_spacing": None}),
    ("orientation", {"orientation": (1.0, 0.0, 0.0, 0.5, 0.5, 0.0)}),
    ("field_of_view", {"pixel_spacing": (2.0, 2.0)}),
    (
        "resolution",
        {"pixel_spacing": (4.5, 4.5), "pixels": PixelFormat(64, 64, 1, "MONOCHROME2", 16, 12, is_signed=False)},
    ),
    ("contrast", {**TSE, "echo_time": 100.0}),
    ("contrast", {**TSE, "echo_time": 12.0}),
    (
        "contrast",
        {"repetition_time": None, "echo_time": None, "scanning_sequence": frozenset(), "sequence_variant": frozenset()},
    ),
]


@pytest.mark.parametrize(
    ("expected", "changes"), KINDS, ids=[f"{k}-{expected}" for k, (expected, _) in enumerate(KINDS)]
)
def test_what_is_refused_and_by_which_criterion(expected: str, changes: dict[str, Any]) -> None:
    header = series_of([instance(k, position=(0, 0, 6.0 * k), **changes) for k in range(24)])
    found = answer(header)
    assert found.reason is not None
    assert found.reason.criterion == expected
    assert found.reason.text
    assert found.volume is None


@pytest.mark.parametrize(
    "harmless",
    [
        {"b_value": 0.0, "temporal_index": 1, "temporal_positions": 1},
        {"image_type": ("ORIGINAL", "PRIMARY", "OTHER", "ND", "NORM", "MEAN"), "component": ""},
        {"image_type": ("DERIVED", "PRIMARY", "M", "ND", "DIS3D")},
        {"body_part": ""},
        {"body_part": "UNKNOWN", "series_description": "AX 3D T1 hippocampus"},
        {"body_part": "", "anatomic_region": "BRAIN", "series_description": "t1 spine and head"},
        {"series_description": "T2 FLAIR"},
        {"series_description": "MPRAGE localizer"},
        {**GRE, "series_description": "SPGR local shim", "protocol_name": "block scan"},
        {"acquisition_contrast": "UNKNOWN"},
        {"coil": "HeadNeck_64"},
        {"is_negative": False, **GRE},
        {"transfer_syntax": "1.2.840.10008.1.2.5"},
    ],
    ids=str,
)
def test_what_looks_odd_but_is_a_head(harmless: dict[str, Any]) -> None:
    assert criterion(series_of(slices(24, **harmless))) is None


def test_the_reason_for_other_contrasts_is_that_no_bundle_is_there() -> None:
    t2w = series_of(slices(24, **TSE, echo_time=100.0))
    found = answer(t2w)
    assert found.contrast is Contrast.T2W
    assert found.reason is not None
    assert found.reason.text == "no bundle for this contrast (T2w)"
    assert answer(t2w, frozenset({Contrast.T2W})).ok


# extent and completeness


@pytest.mark.parametrize(
    ("count", "step_mm", "expected"),
    [(1, 6, "slices"), (9, 10, "slices"), (12, 5, "coverage"), (16, 10.5, "slice_step"), (16, 6, None)],
)
def test_enough_of_the_brain_is_needed(count: int, step_mm: float, expected: str | None) -> None:
    assert criterion(series_of(slices(count, step_mm=step_mm))) == expected


def test_the_reason_says_value_and_limit_and_what_else_fails() -> None:
    found = answer(series_of(slices(4, frame_of_reference="")))
    assert found.reason is not None
    assert (found.reason.criterion, found.reason.value, found.reason.limit) == ("slices", 4, 10)
    assert found.reason.text.startswith("4 slices, at least 10 are needed (also: no FrameOfReferenceUID")


@pytest.mark.parametrize("missing", [[5], [5, 6], [3, 17]])
def test_up_to_two_missing_slices_are_slots_without_a_source(missing: list[int]) -> None:
    found = answer(series_of(slices(24, skip=missing)))
    assert found.volume is not None
    assert [k for k, source in enumerate(found.volume.slots) if source is None] == missing
    verb = "is" if len(missing) == 1 else "are"
    assert found.warnings == (f"{len(missing)} of 24 slices {verb} missing: {len(missing)} interpolated, never marked",)


def test_more_missing_slices_refuse_with_value_and_limit() -> None:
    found = answer(series_of(slices(24, skip=[3, 9, 15])))
    assert found.reason is not None
    assert (found.reason.criterion, found.reason.value, found.reason.limit) == ("missing_slices", 3, 2)
    assert criterion(series_of(slices(24, skip=[3, 9, 15])), max_missing_slices=3) is None


def test_slices_missing_at_an_end_are_known_from_the_count() -> None:
    found = answer(series_of(slices(23, expected=stating(24))))
    assert found.ok
    assert found.warnings == (
        "1 of 24 slices is missing (the scanner states 24), 1 at an end: 0 interpolated, never marked",
    )
    assert criterion(series_of(slices(20, expected=stating(24)))) == "missing_slices"


def test_a_count_of_images_in_several_series_denies_nothing() -> None:
    assert criterion(series_of(slices(24, expected=stating(48, "images")))) is None
    assert criterion(series_of(slices(24, expected=stating(30, "images")))) == "missing_slices"


def test_a_count_that_can_only_confirm_denies_nothing() -> None:
    vague = (ExpectedCount("GE locations", 40, "slices", is_exact=False),)
    assert criterion(series_of(slices(24, expected=vague))) is None


def test_unreadable_images_are_missing_slices() -> None:
    images = slices(24)
    images[7] = dataclasses.replace(images[7], faults=("truncated pixel data",))
    found = answer(series_of(images))
    assert found.volume is not None
    assert found.volume.slots[7] is None
    assert "23 of 24 images are readable: truncated pixel data" in found.warnings
    broken = [dataclasses.replace(one, faults=("truncated",)) if k < 3 else one for k, one in enumerate(images)]
    assert criterion(series_of(broken)) == "readable"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"frame_of_reference": "1.2.3.99"}, "frame_of_reference"),
        ({"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}, "orientation"),
        ({"pixel_spacing": (1.5, 1.5)}, "pixel_spacing"),
        ({}, "duplicate_positions"),
    ],
)
def test_what_tore_the_images_apart_is_named_before_how_few_are_left(changes: dict[str, Any], expected: str) -> None:
    few, as_many = slices(anatomy.MIN_SLICES - 1), slices(anatomy.MIN_SLICES - 1, start=101, **changes)
    found = answer(series_of(few, as_many))
    assert found.reason is not None
    assert found.reason.criterion == expected
    assert f"{anatomy.MIN_SLICES - 1} slices, at least {anatomy.MIN_SLICES} are needed" in found.reason.text
    assert criterion(series_of(few)) == "slices"


def test_few_slices_stay_few_beside_a_scout() -> None:
    few, scout = slices(8), slices(2, start=101, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    assert criterion(series_of(few, scout)) == "slices"


# configured rules


def _rule(matches: str, sender: str | None = None) -> tuple[AttributeRule, ...]:
    return (AttributeRule(attribute="StationName", matches=matches, sender=sender),)


def test_exclude_refuses_and_names_the_rule_but_not_the_value() -> None:
    header = series_of(slices(24, attributes={"StationName": "MRC35235"}))
    found = answer(header, exclude=_rule("^MRC"))
    assert found.reason is not None
    assert (found.reason.criterion, found.reason.value) == ("exclude_rule", "StationName =~ ^MRC")
    assert "35235" not in found.reason.text
    assert criterion(header, exclude=_rule("^MRC", sender="OTHER")) is None
    assert criterion(header, exclude=_rule("^MRC", sender="SCANNER")) == "exclude_rule"


def test_include_lifts_heuristics_but_never_geometry_or_contrast() -> None:
    named: dict[str, Any] = {"attributes": {"StationName": "MRC35235"}}
    include: dict[str, Any] = {"include": _rule("MRC")}
    assert criterion(series_of(slices(24, body_part="NECK", **named)), **include) is None
    assert criterion(series_of(slices(24, series_description="scout", **named, **GRE)), **include) is None
    assert criterion(series_of(slices(4, body_part="NECK", **named)), **include) == "slices"
    assert criterion(series_of(slices(24, mosaic_tiles=20, **named)), **include) == "mosaic"
    assert criterion(series_of(slices(24, **named, **TSE, echo_time=100.0)), **include) == "contrast"


# what is told, and the digest


def test_every_question_is_told_with_its_verdict() -> None:
    verdicts = explain(series_of(slices(24, body_part="KNEE")), PipelineSettings(), T1_ONLY)
    by_name = {verdict.criterion: verdict for verdict in verdicts}
    assert {"epi", "diffusion", "slices", "body_part", "missing_slices", "contrast"} <= by_name.keys()
    assert not by_name["body_part"].ok
    assert by_name["body_part"].value == "KNEE"
    assert by_name["slices"].ok


MARKER = "ZQDOE^JO"
HIDDEN: list[tuple[str, dict[str, Any]]] = [
    ("modality", {"modality": MARKER}),
    ("sop_class", {"sop_class": MARKER}),
    ("photometric", {"pixels": PixelFormat(240, 240, 1, MARKER, 16, 12, is_signed=False)}),
    ("nucleus", {"nucleus": MARKER}),
    ("transfer_syntax", {"transfer_syntax": MARKER}),
    ("", {"frame_of_reference": MARKER}),
    ("epi", {**TSE, "sequence_name": f"*epi2d1_{MARKER}", "echo_time": 30.0}),
    ("epi", {**TSE, "sequence_name": MARKER, "scan_options": frozenset({"EPI_GEMS"}), "echo_time": 30.0}),
    ("field_map", {**GRE, "sequence_name": f"*fm2d2r {MARKER}"}),
    ("angiography", {**GRE, "scan_options": frozenset({f"VASC{MARKER}"})}),
    ("angiography", {**GRE, "series_description": f"venogra{MARKER}"}),
    ("calibration", {**GRE, "protocol_name": f"coil sens{MARKER}"}),
    ("body_part", {"body_part": f"KNEE {MARKER}"}),
    ("body_part", {"body_part": "", "anatomic_region": f"{MARKER} KNEE"}),
    ("body_part", {"body_part": "", "coil": f"{MARKER} KNEE"}),
    ("body_part", {"body_part": "", "patient_position": f"FF{MARKER}"}),
    ("", {"image_type": ("ORIGINAL", "PRIMARY", MARKER), "component": MARKER, "stack_id": MARKER}),
    ("", {"acquisition_contrast": MARKER, "manufacturer": MARKER, "model": MARKER, "protocol_name": MARKER}),
]


@pytest.mark.parametrize(("expected", "changes"), HIDDEN, ids=str)
def test_what_a_sender_is_free_to_write_is_never_told(expected: str, changes: dict[str, Any]) -> None:
    """A name may stand in a code string too; logs and the audit log outlive a purge."""
    found = answer(series_of(slices(24, **changes)))
    assert (found.reason.criterion if found.reason else "") == expected
    assert "ZQDOE" not in repr((found.reason, found.left_out, found.warnings, found.verdicts)).upper()


@pytest.mark.parametrize("field", ["component", "image_type", "stack_id"])
def test_nor_is_what_tells_two_volumes_apart(field: str) -> None:
    stacks = []
    for start, text in ((1, f"{MARKER}1"), (101, f"{MARKER}2")):
        changes: dict[str, Any] = {field: ("ORIGINAL", "PRIMARY", text) if field == "image_type" else text}
        stacks.append(slices(24, start=start, **changes))
    (told,) = answer(series_of(*stacks)).left_out
    assert told.startswith("24 images of another volume: ")
    assert "ZQDOE" not in told


@pytest.mark.parametrize(("modality", "told"), [("CT", "CT"), ("", "not stated"), ("XX", "no defined term")])
def test_a_defined_term_is_told(modality: str, told: str) -> None:
    reason = answer(series_of(slices(24, modality=modality))).reason
    assert reason is not None
    assert (reason.value, reason.text) == (told, f"the modality is {told}, not MR")


def test_a_contrast_agent_is_a_warning() -> None:
    assert answer(series_of(slices(24, has_contrast_agent=True))).warnings == (
        "a contrast agent was given: enhancing tissue may be marked",
    )


def test_a_notice_names_the_mr_images_of_a_series_that_was_refused() -> None:
    report = instance(99, sop_class="1.2.840.10008.5.1.4.1.1.88.34")
    header = series_of(slices(4), [report])
    assert nameable(answer(header), header) == tuple((InstanceUID(f"1.2.3.4.{k}"), None) for k in range(1, 5))


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"modality": "CT"}, {}),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.66"}, {}),
        ({"manufacturer": "anomalyd"}, {}),
        ({"attributes": {"StationName": "MRC35235"}}, {"exclude": _rule("^MRC")}),
    ],
    ids=["another modality", "no MR image", "made here", "excluded"],
)
def test_of_these_nobody_is_told(changes: dict[str, Any], rules: dict[str, Any]) -> None:
    header = series_of(slices(4, **changes))
    found = answer(header, **rules)
    assert not found.ok
    assert nameable(found, header) == ()


def test_the_instance_set_is_that_of_the_analysed_volume_alone() -> None:
    digests = {InstanceUID(f"1.2.3.4.{k}"): f"{k:064d}" for k in range(1, 130)}
    plain = answer(series_of(slices(24))).volume
    with_phase = answer(series_of(slices(24), slices(24, start=101, component="PHASE"))).volume
    fewer = answer(series_of(slices(23))).volume
    assert plain is not None
    assert with_phase is not None
    assert fewer is not None
    assert instance_set(plain, digests) == instance_set(with_phase, digests)
    assert instance_set(plain, digests) != instance_set(fewer, digests)
    changed = {**digests, InstanceUID("1.2.3.4.5"): "f" * 64}
    assert instance_set(plain, digests) != instance_set(plain, changed)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_header_however_odd_makes_choose_raise(data: st.DataObject) -> None:
    odd = st.fixed_dictionaries(
        {},
        optional={
            "position": st.one_of(st.none(), st.tuples(*[st.floats(-1e6, 1e6)] * 3)),
            "orientation": st.one_of(st.none(), st.tuples(*[st.floats(-2, 2)] * 6)),
            "pixel_spacing": st.one_of(st.none(), st.tuples(*[st.floats(1e-6, 1e4)] * 2)),
            "image_type": st.lists(st.text(max_size=8), max_size=5).map(tuple),
            "echo_time": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "repetition_time": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "flip_angle": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "inversion_time": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "field_strength": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "temporal_index": st.one_of(st.none(), st.integers()),
            "b_value": st.one_of(st.none(), st.floats(allow_nan=False)),
            "series_description": st.text(max_size=12),
            "sequence_name": st.text(max_size=12),
            "modality": st.text(max_size=4),
        },
    )
    count = data.draw(st.integers(1, 12))
    header = series_of([instance(k, **data.draw(odd)) for k in range(count)])
    found = answer(header)
    assert found.ok or (found.reason is not None and found.reason.text)
