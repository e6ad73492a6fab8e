"""Patient and study reach the results byte for byte, whatever the scanner wrote into them."""

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.verbatim import copy_patient_and_study
from findings import DARK, context_of
from phantoms import PATIENT_MARKERS, PhantomWriter

SMALL = PhantomWriter(spacing_mm=(9.0, 4.0, 4.0))
NAMES = {
    ("ISO_IR 100",): "Müller^Jürgen",
    ("ISO_IR 144",): "Иванов^Пётр",
    ("ISO_IR 192",): "Δημήτρης^Παπαδόπουλος",
    ("GB18030",): "王^小东=王^小东",
    ("", "ISO 2022 IR 87"): "Yamada^Tarou=山田^太郎=やまだ^たろう",
    (r"ISO 2022 IR 6", "ISO 2022 IR 149"): "Hong^Gildong=洪^吉洞=홍^길동",
}


def results_of(writer: PhantomWriter, folder: Path) -> tuple[Dataset, list[Dataset]]:
    """The first source, unread, and one heatmap, the SEG and the report, unread."""
    series = writer.write(folder)
    results = build_results(context_of(series, [DARK]))
    source = pydicom.dcmread(series.files[0], stop_before_pixels=True)
    return source, [pydicom.dcmread(io.BytesIO(results[k].data)) for k in (0, -2, -1)]


def raw(dataset: Dataset, keyword: str) -> bytes:
    element: object = dataset.get_item(keyword)
    assert isinstance(element, RawDataElement)
    return element.value or b""


@pytest.mark.parametrize("character_set", NAMES, ids=lambda terms: "+".join(terms) or "none")
def test_names_in_any_character_set_keep_their_bytes(character_set: tuple[str, ...], tmp_path: Path) -> None:
    attributes = {"PatientName": NAMES[character_set], "ReferringPhysicianName": NAMES[character_set]}
    source, results = results_of(
        PhantomWriter(spacing_mm=SMALL.spacing_mm, character_set=character_set, attributes=attributes), tmp_path
    )
    for result in results:
        assert result.SpecificCharacterSet == source.SpecificCharacterSet
        assert raw(result, "PatientName") == raw(source, "PatientName")
        assert raw(result, "ReferringPhysicianName") == raw(source, "ReferringPhysicianName")
        assert str(result.PatientName) == NAMES[character_set]


def test_a_source_without_character_set_gets_none_and_our_texts_are_ascii(tmp_path: Path) -> None:
    _, results = results_of(PhantomWriter(spacing_mm=SMALL.spacing_mm, character_set=()), tmp_path)
    for result in results:
        assert "SpecificCharacterSet" not in result
        texts = [
            str(element.value) for element in result.iterall() if element.VR in ("LO", "SH", "ST", "LT", "CS", "UT")
        ]
        assert len(texts) > 20
        assert all(text.isascii() for text in texts)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_come_over_from_any_transfer_syntax(syntax: str, tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99TEST", "Schädel"
    attributes = {**PATIENT_MARKERS, "PregnancyStatus": 4, "ProcedureCodeSequence": [code]}
    source, results = results_of(
        PhantomWriter(spacing_mm=SMALL.spacing_mm, transfer_syntax=syntax, attributes=attributes), tmp_path
    )
    for result in results:
        for keyword in (*PATIENT_MARKERS, "StudyID", "StudyTime", "PatientWeight", "PregnancyStatus"):
            assert result[keyword].value == source[keyword].value
        assert result.ProcedureCodeSequence[0].CodeMeaning == "Schädel"


def test_missing_type_2_attributes_are_added_empty(tmp_path: Path) -> None:
    gone = ("StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex", "StudyDate", "ReferringPhysicianName")
    writer = PhantomWriter(spacing_mm=SMALL.spacing_mm, attributes=dict.fromkeys(gone))
    for result in results_of(writer, tmp_path)[1]:
        assert [result[keyword].is_empty for keyword in gone] == [True] * len(gone)


def test_empty_sequences_are_dropped_and_full_ones_kept(tmp_path: Path) -> None:
    alias = Dataset()
    alias.PatientID, alias.IssuerOfPatientID = "OTHER-1", "elsewhere"
    attributes = {"ProcedureCodeSequence": [], "OtherPatientIDsSequence": [alias], "Allergies": "none known"}
    for result in results_of(PhantomWriter(spacing_mm=SMALL.spacing_mm, attributes=attributes), tmp_path)[1]:
        assert "ProcedureCodeSequence" not in result
        assert result.OtherPatientIDsSequence[0].PatientID == "OTHER-1"
        assert result.Allergies == "none known"


@pytest.mark.parametrize(
    ("keyword", "representation", "value"),
    [
        ("PatientAge", "AS", b"42"),
        ("PatientSex", "CS", b"unknown "),
        ("PatientBirthDate", "DA", b"1970.13.99"),
        ("PatientName", "PN", b"\xff\xfe^\x80\x81 "),
        ("StudyDate", "DA", b""),
        ("PatientWeight", "DS", b"seventy "),
    ],
)
def test_invalid_values_stay_as_invalid_as_they_were(
    keyword: str, representation: str, value: bytes, tmp_path: Path
) -> None:
    """Nothing raises, nothing is mended, and no warning is made of it (warnings are errors here)."""
    context = context_of(SMALL.write(tmp_path), [DARK])
    tag = Tag(keyword)
    for header in context.headers:
        header[tag] = RawDataElement(
            tag, representation, len(value), value, 0, is_implicit_VR=False, is_little_endian=True
        )
    results = build_results(context)
    for result in (results[0], *results[-2:]):
        assert raw(pydicom.dcmread(io.BytesIO(result.data)), keyword) == value


def test_an_unknown_character_set_is_handed_on(tmp_path: Path) -> None:
    context = context_of(SMALL.write(tmp_path), [DARK])
    tag = Tag("SpecificCharacterSet")
    for header in context.headers:
        header[tag] = RawDataElement(tag, "CS", 8, b"KLINGON ", 0, is_implicit_VR=False, is_little_endian=True)
    for result in build_results(context):
        assert b"\x08\x00\x05\x00CS\x08\x00KLINGON " in result.data


def test_what_belongs_to_series_and_image_is_not_copied() -> None:
    source, target = Dataset(), Dataset()
    source.PatientName, source.SeriesDescription, source.EchoTime = "A^B", "secret", "3"
    source.add(DataElement(Tag(0x00110010), "LO", "PRIVATE"))
    copy_patient_and_study(source, target)
    assert "PatientName" in target
    assert not {"SeriesDescription", "EchoTime"} & set(target.dir())
    assert Tag(0x00110010) not in target
