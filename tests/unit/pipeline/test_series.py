"""Headers of received objects: broken values never raise, faults are words, no patient text is kept."""

import dataclasses
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    LegacyConvertedEnhancedMRImageStorage,
    RLELossless,
)

from anomalyd.errors import Refused
from anomalyd.pipeline import part10
from anomalyd.pipeline.series import InstanceHeader, assemble, parse_instance
from anomalyd.storage.part10 import file_prefix
from mr_headers import AXIAL
from phantoms import PATIENT_MARKERS, PhantomWriter

SMALL = PhantomWriter(shape=(3, 40, 40), spacing_mm=(6.0, 5.0, 5.0))


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return SMALL.write(tmp_path_factory.mktemp("classic")).files[0].read_bytes()


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    writer = dataclasses.replace(SMALL, enhanced=True)
    return writer.write(tmp_path_factory.mktemp("enhanced")).files[0].read_bytes()


def changed(part10: bytes, change: Callable[[Dataset], Any]) -> bytes:
    """The object with something done to its data set."""
    ds = pydicom.dcmread(io.BytesIO(part10))
    change(ds)
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def parsed(part10: bytes) -> InstanceHeader | None:
    """The header, or None where the object was refused in words."""
    try:
        return parse_instance(part10)
    except Refused:
        return None


def with_raw(part10: bytes, keyword: str, value: bytes) -> bytes:
    """The object with the bytes of one short text attribute replaced, whatever its value representation allows."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag
    marker = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    at = part10.index(marker)
    length = struct.unpack_from("<H", part10, at + 6)[0]
    padded = value + b" " * (len(value) % 2)
    return part10[: at + 6] + struct.pack("<H", len(padded)) + padded + part10[at + 8 + length :]


def test_a_classic_header_holds_place_and_physics(classic: bytes) -> None:
    header = parse_instance(classic)
    (frame,) = header.frames
    assert header.faults == ()
    assert header.is_mr_image
    assert frame.number is None
    assert frame.position == pytest.approx(tuple(SMALL.grid().index_to_lps[:3, 3]))
    assert frame.orientation == AXIAL
    assert frame.pixel_spacing == (5.0, 5.0)
    assert frame.component == "MAGNITUDE"
    assert header.acquisition.repetition_time == 2300.0
    assert header.acquisition.inversion_time == 900.0
    assert header.acquisition.scanning_sequence == {"GR", "IR"}
    assert [(count.source, count.count, count.unit) for count in header.expected] == [
        ("ImagesInAcquisition", 3, "images")
    ]


def test_an_enhanced_header_says_the_same_from_functional_groups(classic: bytes, enhanced: bytes) -> None:
    one, many = parse_instance(classic), parse_instance(enhanced)
    assert many.is_enhanced
    assert [frame.number for frame in many.frames] == [1, 2, 3]
    for name in ("position", "orientation", "pixel_spacing", "component"):
        assert getattr(many.frames[0], name) == getattr(one.frames[0], name)
    for name in ("repetition_time", "echo_time", "inversion_time", "flip_angle", "dimensions", "nucleus"):
        assert getattr(many.acquisition, name) == getattr(one.acquisition, name)
    assert many.acquisition.anatomic_region == "BRAIN"
    assert "InversionRecovery" in many.acquisition.flags


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
     JPEGLSLossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_every_transfer_syntax_gives_the_same_header(kind: str, syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    plain = dataclasses.replace(SMALL, enhanced=kind == "enhanced")
    coded = dataclasses.replace(plain, transfer_syntax=syntax)
    one = parse_instance(plain.write(tmp_path / "plain").files[0])
    other = parse_instance(coded.write(tmp_path / "coded").files[0])
    assert other.transfer_syntax == syntax
    assert (other.frames, other.acquisition, other.pixels, other.faults) == (
        one.frames,
        one.acquisition,
        one.pixels,
        (),
    )


def test_a_bare_data_set_of_an_old_archive_is_read(tmp_path: Path) -> None:
    ds = pydicom.dcmread(SMALL.write(tmp_path).files[0])
    for implicit in (True, False):
        out = io.BytesIO()
        pydicom.filewriter.write_dataset(_buffer(out, implicit), ds)
        assert parse_instance(out.getvalue()).frames[0].position is not None


def _buffer(out: io.BytesIO, implicit: bool) -> pydicom.filebase.DicomIO:  # noqa: FBT001 - one of two encodings
    buffer = pydicom.filebase.DicomFileLike(out)
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    return buffer


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("InstanceNumber", b"14.5"), ("SeriesNumber", b"abc"), ("EchoTrainLength", b"1e400"),
        ("ImagesInAcquisition", b"many"), ("PatientAge", b"42"), ("StudyDate", b"yesterday"),
        ("SliceThickness", b"NaN"), ("WindowCenter", b"\xff\xfe\xfd"), ("ImageType", b""),
        ("PatientName", b"\x1b$B;3ED\x1b(B^\xc3\xa4"), ("SpecificCharacterSet", b"ISO_IR 999"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_needed_may_hold_anything(keyword: str, value: bytes, classic: bytes) -> None:
    header = parse_instance(with_raw(classic, keyword, value))
    assert header.faults == ()
    assert header.frames[0].position is not None


@pytest.mark.parametrize("value", [b"", b"1\\2", b"a\\b\\c", b"1\\2\\inf", b"1\\2\\3\\4", b"nan\\0\\0"])
def test_a_position_that_is_none_is_missing(value: bytes, classic: bytes) -> None:
    assert parse_instance(with_raw(classic, "ImagePositionPatient", value)).frames[0].position is None


@pytest.mark.parametrize("value", [b"", b"1", b"0\\0", b"-1\\1", b"x\\y"])
def test_a_pixel_spacing_that_is_none_is_missing(value: bytes, classic: bytes) -> None:
    assert parse_instance(with_raw(classic, "PixelSpacing", value)).frames[0].pixel_spacing is None


@pytest.mark.parametrize("value", [b"", b"../../etc", b"1.2.a", b"1" * 65, b"1..2", b"\x00"])
def test_an_object_without_valid_uids_is_refused(value: bytes, classic: bytes) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        with pytest.raises(Refused, match="UID") as caught:
            parse_instance(with_raw(classic, keyword, value))
        assert "etc" not in str(caught.value), "what stands there may be a name"


def test_sequences_nested_too_deeply_are_called_so(classic: bytes) -> None:
    start = part10.open_part10(classic).dataset.tell()
    level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(Refused, match="sequences are nested too deeply at byte "):
        parse_instance(classic[:start] + level * 20_000)


def test_a_number_where_a_sequence_is_looked_for_is_none(classic: bytes) -> None:
    """pydicom raises an error without a common root where the bytes are no whole numbers (found by fuzzing)."""
    at = classic.index(b"\x18\0\x91\0IS")  # Echo Train Length
    broken = classic[:at] + b"\x18\0\x91\0UV\0\0\x02\0\0\0" + classic[at + 8 :]
    assert parse_instance(broken).faults == ()


@pytest.mark.parametrize(("keyword", "value"), [("Rows", b"\1\0"), ("SeriesNumber", b"1\\")])
def test_a_value_longer_than_its_representation_allows_is_none(keyword: str, value: bytes, classic: bytes) -> None:
    """Of implicit VR, where a length may be anything: 20 MB took a gigabyte (found by fuzzing)."""
    ds = pydicom.dcmread(io.BytesIO(classic))
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    tag = pydicom.tag.Tag(keyword)
    del ds[tag]
    ds.add_new(tag, "UN", value * 2_000_000)
    out = io.BytesIO()
    ds.save_as(out, implicit_vr=True, little_endian=True, enforce_file_format=True)
    tracemalloc.start()
    header = parse_instance(out.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (header.pixels.rows == 0) if keyword == "Rows" else (header.series_number is None)
    assert peak < 20_000_000


def test_truncation_is_a_fault_at_every_byte_of_the_pixels(classic: bytes) -> None:
    for keep in (len(classic) - 1, len(classic) - 200, len(classic) - 511):
        assert parse_instance(classic[:keep]).faults[0].startswith("truncated pixel data")


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_truncation_raises_anything_but_refused(data: st.DataObject, classic: bytes, enhanced: bytes) -> None:
    whole = data.draw(st.sampled_from([classic, enhanced]))
    keep = data.draw(st.integers(0, len(whole) - 1))
    header = parsed(whole[:keep])
    assert header is None or header.faults


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_raises_anything_but_refused(data: st.DataObject, classic: bytes, enhanced: bytes) -> None:
    mutated = bytearray(data.draw(st.sampled_from([classic, enhanced])))
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(128, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    header = parsed(bytes(mutated))
    assert header is None or len(assemble([header]).instances) == 1


@given(st.binary(max_size=600))
def test_no_garbage_raises_anything_but_refused(garbage: bytes) -> None:
    for candidate in (garbage, bytes(128) + b"DICM" + garbage):
        with pytest.raises(Refused):
            parse_instance(candidate)


def test_a_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dataclasses.replace(SMALL, transfer_syntax=DeflatedExplicitVRLittleEndian).write(tmp_path).files[0]
    monkeypatch.setattr(part10, "MAX_INFLATED", 1000)
    with pytest.raises(Refused, match="larger than 1000 bytes"):
        parse_instance(path)


def bomb(classic: bytes, tail: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The object with other bytes in place of its pixels."""
    start = classic.index(b"\x08\x00\x05\x00CS")
    data = classic[start : classic.index(b"\xe0\x7f\x10\x00OW")] + tail
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    prefix = file_prefix(sop_class="1.2", instance_uid="1.2", transfer_syntax=syntax, calling_ae=None, called_ae=None)
    return prefix + data


def test_what_is_inflated_has_a_bound_in_what_was_deflated(classic: bytes) -> None:
    """A megabyte became a gigabyte, and minutes of parsing (found by fuzzing)."""
    whole = bomb(classic, bytes(40_000_000), DeflatedExplicitVRLittleEndian)
    with pytest.raises(Refused, match=f"is larger than {part10.INFLATED_FLOOR} bytes"):
        parse_instance(whole)


def test_too_many_elements_are_refused_before_they_are_read(classic: bytes) -> None:
    elements = b"".join(struct.pack("<HH2sH", 0x7F01, k, b"LO", 0) for k in range(part10.MAX_ELEMENTS))
    with pytest.raises(Refused, match="more than 20000 elements"):
        parse_instance(bomb(classic, elements))


@pytest.mark.parametrize("is_undefined", [True, False])
def test_too_many_items_are_refused_before_they_are_made(is_undefined: bool, classic: bytes) -> None:  # noqa: FBT001 - parametrised
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * (part10.MAX_ITEMS + 1)
    length = 0xFFFFFFFF if is_undefined else len(items)
    with pytest.raises(Refused, match="more than 400000 items"):
        parse_instance(bomb(classic, b"\x01\x7f\x10\x10SQ\0\0" + struct.pack("<L", length) + items))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda ds: setattr(ds, "Rows", 0), "0 x 40 pixels"),
        (lambda ds: setattr(ds, "Rows", 60000), "60000 x 40 pixels"),
        (lambda ds: setattr(ds, "Rows", 400), "truncated pixel data"),
        (lambda ds: ds.__delitem__("PixelData"), "no pixel data"),
        (lambda ds: setattr(ds, "NumberOfFrames", 5), "5 frames states no position"),
    ],
)
def test_what_makes_an_image_unusable_is_said_in_words(
    change: Callable[[Dataset], Any], fault: str, classic: bytes
) -> None:
    assert fault in parse_instance(changed(classic, change)).faults[0]


def test_what_a_converter_could_not_assign_is_found(classic: bytes, enhanced: bytes) -> None:
    def converted(ds: Dataset) -> None:
        ds.SOPClassUID = LegacyConvertedEnhancedMRImageStorage
        shared = ds.SharedFunctionalGroupsSequence[0]
        del shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence, shared.MRModifierSequence
        left = Dataset()
        left.ScanningSequence, left.RepetitionTime, left.EchoTime, left.InversionTime = (
            ["GR", "IR"],
            "2300",
            "2.98",
            "900",
        )
        shared.UnassignedSharedConvertedAttributesSequence = [left]

    header, plain = parse_instance(changed(enhanced, converted)), parse_instance(classic)
    assert header.is_enhanced
    for name in ("repetition_time", "echo_time", "inversion_time", "scanning_sequence"):
        assert getattr(header.acquisition, name) == getattr(plain.acquisition, name)


def test_philips_keeps_classic_words_beside_each_frame(enhanced: bytes) -> None:
    def philips(ds: Dataset) -> None:
        for frame in ds.PerFrameFunctionalGroupsSequence:
            item = Dataset()
            item.ImageType, item.ScanningSequence, item.EchoNumbers = (
                ["ORIGINAL", "PRIMARY", "B0", "B0", "FFE"],
                "GR",
                2,
            )
            frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [item])

    header = parse_instance(changed(enhanced, philips))
    assert {"B0", "FFE"} <= set(header.frames[0].image_type)
    assert header.frames[0].echo_number == 2
    assert header.acquisition.scanning_sequence == {"GR"}


def test_a_philips_prepulse_gives_the_inversion_time(classic: bytes) -> None:
    def philips(ds: Dataset) -> None:
        del ds.InversionTime
        block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x1B, "FL", 850.0)
        block.add_new(0x1C, "CS", "INV")

    assert parse_instance(changed(classic, philips)).acquisition.inversion_time == 850.0


def test_a_wrong_number_of_frames_is_a_fault(enhanced: bytes) -> None:
    header = parse_instance(changed(enhanced, lambda ds: setattr(ds, "NumberOfFrames", 4)))
    assert header.faults[0] == "NumberOfFrames is 4, but 3 frames are described"


def test_the_groups_of_a_time_series_are_not_even_read(enhanced: bytes) -> None:
    header = parse_instance(changed(enhanced, lambda ds: setattr(ds, "NumberOfFrames", 8000)))
    assert header.faults[0] == "8000 frames in one object, at most 5000 are read: a time series"
    assert header.frames == ()


def test_no_patient_text_stays_in_a_header(tmp_path: Path) -> None:
    writer = dataclasses.replace(SMALL, attributes=PATIENT_MARKERS)
    text = repr(parse_instance(writer.write(tmp_path).files[0]))
    for marker in PATIENT_MARKERS.values():
        assert marker not in text


def test_a_phantom_is_known_by_its_registration_and_by_the_standards_own_attribute(classic: bytes) -> None:
    assert parse_instance(classic).acquisition.no_person == ""
    named = changed(classic, lambda ds: setattr(ds, "PatientID", "Phantom01"))
    assert parse_instance(named).acquisition.no_person == "registered as a phantom"
    stated = changed(classic, lambda ds: setattr(ds, "QualityControlSubject", "YES"))
    assert parse_instance(stated).acquisition.no_person == "stated to be quality control"
    animal = changed(classic, lambda ds: setattr(ds, "PatientSpeciesDescription", "Canis lupus familiaris"))
    assert parse_instance(animal).acquisition.no_person == "registered as of another species"


def test_attributes_that_rules_name_are_kept(classic: bytes) -> None:
    header = parse_instance(classic, frozenset({"StationName", "SoftwareVersions", "NoSuchKeyword"}))
    assert header.attributes == {"NoSuchKeyword": "", "SoftwareVersions": "1.0", "StationName": ""}


def test_descriptions_are_read_in_their_character_set(classic: bytes) -> None:
    def german(ds: Dataset) -> None:
        ds.SpecificCharacterSet, ds.SeriesDescription = "ISO_IR 192", "t1 Schädel"

    assert parse_instance(changed(classic, german)).acquisition.series_description == "t1 Schädel"


@pytest.mark.parametrize(
    ("block", "dimensions", "expected"),
    [
        ("sSliceArray.lSize\t = \t56\nsKSpace.lImagesPerSlab = 16\n", "2D", 56),
        ("sSliceArray.lSize = 1\nsKSpace.lImagesPerSlab\t = \t176\n", "3D", 176),
        ("sSliceArray.lSize = 3\nsKSpace.lImagesPerSlab = 40\n", "3D", None),
        ("sSliceArray.lSize = x\n", "2D", None),
    ],
)
def test_siemens_states_its_slices_in_the_protocol(
    block: str, dimensions: str, expected: int | None, classic: bytes
) -> None:
    def siemens(ds: Dataset) -> None:
        ds.MRAcquisitionType = dimensions
        del ds.ImagesInAcquisition
        private = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        private.add_new(0x20, "OB", b"### ASCCONV BEGIN ###\n" + block.encode() + b"### ASCCONV END ###\0")

    counts = parse_instance(changed(classic, siemens)).expected
    assert [count.count for count in counts] == ([] if expected is None else [expected])


def test_the_same_instance_twice_counts_once_and_two_series_are_no_series(classic: bytes, enhanced: bytes) -> None:
    one, other = parse_instance(classic), parse_instance(enhanced)
    assert len(assemble([one, one]).instances) == 1
    with pytest.raises(ValueError, match="2 series"):
        assemble([one, other])
