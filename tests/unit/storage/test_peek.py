"""Peeking at a data set: the index's facts in every transfer syntax, and a refusal in words for anything broken."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
)
from pynetdicom.dsutils import encode

from anomalyd.errors import AnomalydError
from anomalyd.storage.peek import PEEK_LIMIT, Peeked, Unreadable, peek

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
]


def header(**changes: Any) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyDate = "20260131"
    ds.AccessionNumber = "ACC-7"
    ds.Modality = "MR"
    ds.PatientName = "Müller^Zoë"
    ds.PatientID = "P-1"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.1"
    ds.PixelData = b"\0\1" * 200
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    raw = encode(
        ds,
        is_implicit_vr=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        deflated=syntax == DeflatedExplicitVRLittleEndian,
    )
    assert raw is not None
    return raw


EXPECTED = Peeked(
    sop_class=MRImageStorage,
    instance_uid="1.2.3.4",  # type: ignore[arg-type]  # the NewTypes are plain text
    study_uid="1.2.3",  # type: ignore[arg-type]  # the same
    series_uid="1.2.3.1",  # type: ignore[arg-type]  # the same
    modality="MR",
    study_date="20260131",
    accession_number="ACC-7",
    patient_name="Müller^Zoë",
    patient_id="P-1",
)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_facts_are_found_in_every_transfer_syntax(syntax: str) -> None:
    assert peek(encoded(header(), syntax), syntax) == EXPECTED


def nested(levels: int, *, undefined: bool) -> Dataset:
    item = Dataset()
    item.CodeValue = "1"
    item.StudyInstanceUID = "9.9.9"  # must not be taken for the top level's
    for _ in range(levels):
        outer = Dataset()
        outer.StudyInstanceUID = "9.9.9"
        outer.ReferencedImageSequence = Sequence([item, item])
        if undefined:
            outer["ReferencedImageSequence"].is_undefined_length = True
            item.is_undefined_length_sequence_item = True
        item = outer
    return item


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_sequences_are_stepped_over(syntax: str, undefined: bool) -> None:  # noqa: FBT001 - parametrised
    ds = header(ReferencedImageSequence=Sequence([nested(4, undefined=undefined)]))
    ds["ReferencedImageSequence"].is_undefined_length = undefined
    ds.add_new(0x00090010, "LO", "MAKER")
    ds.add_new(0x00091001, "OB", b"\0" * 70_000)
    assert peek(encoded(ds, syntax), syntax) == EXPECTED


def test_un_of_undefined_length_holds_implicit_vr() -> None:
    item = bytes.fromhex("feff00e0 0c000000 0800 0001 04000000") + b"1234"
    un = bytes.fromhex("0900 1010") + b"UN\0\0\xff\xff\xff\xff" + item + bytes.fromhex("feffdde0 00000000")
    raw = encoded(header())
    at = raw.index(bytes.fromhex("10001000"))  # before PatientName
    assert peek(raw[:at] + un + raw[at:], ExplicitVRLittleEndian) == EXPECTED


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Buc^Jérôme"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 148", "Çavuşoğlu"),
    ],
)
def test_names_are_read_in_their_character_set(character_set: str, name: str) -> None:
    ds = header(SpecificCharacterSet=character_set.split("\\"), PatientName=name)
    assert peek(encoded(ds), ExplicitVRLittleEndian).patient_name == name


@pytest.mark.parametrize("character_set", ["", "nonsense", "ISO_IR 192\\nonsense"])
def test_an_unknown_character_set_stops_no_image(character_set: str) -> None:
    raw = encoded(header(SpecificCharacterSet="ISO_IR 100", PatientName="Jérôme"))
    padded = character_set.encode().ljust(-(-len(character_set) // 2) * 2)
    declared = b"\x08\0\x05\0CS" + len(padded).to_bytes(2, "little") + padded
    start = raw.index(b"\x08\0\x05\0CS")
    stop = raw.index(b"\x08\0\x16\0UI")
    found = peek(raw[:start] + declared + raw[stop:], ExplicitVRLittleEndian)
    assert found.patient_name
    assert found.patient_name.startswith("J")


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(keyword: str) -> None:
    with pytest.raises(Unreadable, match=keyword):
        peek(encoded(header(**{keyword: None})), ExplicitVRLittleEndian)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("bad", ["../../etc/passwd", "/etc/passwd", "1." + "2" * 63, "Meier^Anna", "1.2.\0.3", "1..2"])
@pytest.mark.filterwarnings("ignore:.*VR UI")
def test_what_is_no_uid_is_refused_and_not_repeated(keyword: str, bad: str) -> None:
    with pytest.raises(Unreadable, match="no UID") as caught:
        peek(encoded(header(**{keyword: bad})), ExplicitVRLittleEndian)
    assert bad not in str(caught.value)


def test_other_attributes_may_be_absent_or_empty() -> None:
    ds = header(PatientName="", PatientID=None, AccessionNumber=None, StudyDate=None, Modality=None)
    found = peek(encoded(ds), ExplicitVRLittleEndian)
    assert (found.patient_name, found.patient_id, found.accession_number, found.study_date) == (None,) * 4


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_truncation_is_refused(syntax: str) -> None:
    raw = encoded(header(), syntax)
    until = len(raw) if syntax == DeflatedExplicitVRLittleEndian else raw.index(b"1.2.3.1") + 7
    complete = 0
    for length in range(until):
        try:
            complete += peek(raw[:length], syntax) == EXPECTED
        except Unreadable:
            continue
    # only the deflated one may lose its end (pixels) and keep its head
    assert complete == 0 or syntax == DeflatedExplicitVRLittleEndian


def test_the_wrong_transfer_syntax_is_noticed() -> None:
    with pytest.raises(Unreadable, match="transfer syntax"):
        peek(encoded(header(), ImplicitVRLittleEndian), ExplicitVRLittleEndian)


def test_a_deflate_bomb_is_not_inflated() -> None:
    ds = header()
    ds.add_new(0x00090010, "LO", "MAKER")
    ds.add_new(0x00091001, "OB", b"\0" * (20 * PEEK_LIMIT))
    with pytest.raises(Unreadable):
        peek(encoded(ds, DeflatedExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian)


def test_sequences_nested_without_end_are_refused() -> None:
    bomb = (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 50_000
    with pytest.raises(Unreadable, match="nested"):
        peek(bomb, ExplicitVRLittleEndian)


def refusal_of(data: bytes, syntax: str) -> str | None:
    try:
        peek(data, syntax)
    except AnomalydError as exc:
        return str(exc)
    return None


@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str) -> None:
    refusal = refusal_of(data, syntax)
    assert refusal is None or len(refusal) <= 64


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_mutated_header_is_read_or_refused(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(SYNTAXES))
    raw = bytearray(encoded(header(ReferencedImageSequence=Sequence([nested(2, undefined=True)])), syntax))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    refusal = refusal_of(bytes(raw), syntax)
    assert refusal is None or len(refusal) <= 64
