"""Names reach the PACS as the scanner wrote them, byte for byte, in every kind of result and in every character set.

Both ways of sending: the bytes of the file, and Implicit VR for a peer that takes nothing else, which is encoded anew.
"""

import struct
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from anomalyd.daemon.dispatcher.delivery import Outcome, Parcel, Verdict, send
from anomalyd.daemon.settings import Destination
from anomalyd.ids import AETitle
from anomalyd.pipeline.results.build import BUILDERS, build_results
from anomalyd.pipeline.results.objects import SOP_CLASSES, ResultKind, ResultObject
from findings import DARK, context_of
from pacs import Pacs
from phantoms import PhantomWriter

SMALL = PhantomWriter(spacing_mm=(9.0, 4.0, 4.0))
NAMES: Mapping[str, tuple[bytes, bytes]] = {
    "ISO_IR 100": (b"ISO_IR 100", "Müller^Jürgen".encode("latin-1")),
    "ISO_IR 144": (b"ISO_IR 144", "Иванов^Пётр".encode("iso8859_5")),
    "ISO_IR 192": (b"ISO_IR 192", "Παπαδόπουλος^Δημήτρης".encode()),
    "ISO 2022 IR 87, first value empty": (
        rb"\ISO 2022 IR 87",  # PS3.5 H.3.1
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "ISO 2022 IR 13 and 87": (
        rb"ISO 2022 IR 13\ISO 2022 IR 87",  # PS3.5 H.3.2
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    ),
    "ISO 2022 IR 149": (
        rb"\ISO 2022 IR 149",  # PS3.5 I.2
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "ISO 2022 IR 149, escaped once": (rb"\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\xd1\xce\xd4\xd7"),
    "ISO 2022 IR 58": (rb"\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="),
    "GB18030": (b"GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030")),
    "GB18030, four bytes": (b"GB18030", "㐀^𠀀=㐀^𠀀".encode("gb18030")),
    "GBK": (b"GBK", "Wang^XiaoDong=王^小东=".encode("gbk")),
    "GBK, a backslash in a character": (b"GBK", "昞^曀".encode("gbk")),
    "none": (b"", b"MADE^HEAD"),
    "none, and letters that need one": (b"", "Müller^Jürgen".encode("latin-1")),
    "no UTF-8 although it says so": (b"ISO_IR 192", "Müller^Jürgen".encode("latin-1")),
    "unknown": (b"ISO_IR 999", b"\xb5\xc0^\xd2 "),
}
TEXTS = ("PatientName", "ReferringPhysicianName", "StudyDescription", "AdmittingDiagnosesDescription")


def padded(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def results_named(character_set: bytes, name: bytes, folder: Path) -> dict[ResultKind, ResultObject]:
    """One result of each kind that is made, of a source with these bytes in its names and descriptions."""
    context = context_of(SMALL.write(folder), [DARK])
    for header in context.headers:
        _set_bytes(header, "SpecificCharacterSet", "CS", character_set)
        for keyword in TEXTS:
            _set_bytes(header, keyword, "PN" if "Name" in keyword else "LO", name)
    return {result.kind: result for result in build_results(context, tuple(BUILDERS))}


def _set_bytes(header: Dataset, keyword: str, representation: str, value: bytes) -> None:
    tag = Tag(keyword)
    if not value:
        header.pop(tag, None)
        return
    raw = padded(value)
    header[tag] = RawDataElement(tag, representation, len(raw), raw, 0, is_implicit_VR=False, is_little_endian=True)


def explicit(keyword: str, representation: bytes, value: bytes) -> bytes:
    """The element as it stands in Explicit VR Little Endian (PS3.5 7.1.2)."""
    tag, raw = Tag(keyword), padded(value)
    return struct.pack("<HH2sH", tag.group, tag.element, representation, len(raw)) + raw


def implicit(keyword: str, value: bytes) -> bytes:
    tag, raw = Tag(keyword), padded(value)
    return struct.pack("<HHL", tag.group, tag.element, len(raw)) + raw


def delivered(results: Mapping[ResultKind, ResultObject], syntax: UID, port: int, folder: Path) -> dict[str, bytes]:
    """Data sets by SOP Instance UID, as a PACS has them that takes this transfer syntax alone."""
    folder.mkdir(exist_ok=True)
    parcels = []
    for key, result in enumerate(results.values()):
        path = folder / f"{key}.dcm"
        path.write_bytes(result.data)
        parcels.append(
            Parcel(key, key, result.sop_class_uid, result.sop_instance_uid, str(ExplicitVRLittleEndian), path)
        )
    outcomes: list[Outcome] = []
    to = Destination.model_validate({"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port})
    with Pacs(port, classes=sorted(set(SOP_CLASSES.values())), syntaxes=[syntax]) as pacs:
        send(
            parcels,
            to,
            AETitle("ANOMALYD"),
            parallel=1,
            report=lambda _, outcome: outcomes.append(outcome),
            stop=threading.Event(),
        )
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SENT}
    return {uid: received.data_set for uid, received in pacs.objects.items()}


@pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning")  # pydicom, of the one that is unknown
@pytest.mark.parametrize("case", NAMES)
def test_names_arrive_at_the_pacs_byte_for_byte(case: str, tmp_path: Path, free_port: int) -> None:
    character_set, name = NAMES[case]
    results = results_named(character_set, name, tmp_path / "in")
    assert set(results) == set(BUILDERS)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        held = delivered(results, syntax, free_port, tmp_path / "out")
        for kind, result in results.items():
            data_set = held[result.sop_instance_uid]
            assert (b"\x08\x00\x05\x00" in data_set[:200]) == bool(character_set)
            for keyword, representation, value in [("SpecificCharacterSet", b"CS", character_set), *named(name)]:
                is_explicit = syntax == ExplicitVRLittleEndian
                element = explicit(keyword, representation, value) if is_explicit else implicit(keyword, value)
                assert not value or element in data_set, (kind, keyword, syntax.name)


def named(name: bytes) -> list[tuple[str, bytes, bytes]]:
    return [(keyword, b"PN" if "Name" in keyword else b"LO", name) for keyword in TEXTS]
