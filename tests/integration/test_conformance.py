"""docs/conformance.md holds: its tables are what the code negotiates with real peers, answers, and writes.

When one of these fails, the code or the statement has changed alone: hospitals plan by the statement.
"""

import io
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt, sop_class
from pynetdicom.presentation import build_context

from anomalyd.daemon import commitment_messages
from anomalyd.daemon.dispatcher import querying
from anomalyd.daemon.dispatcher.committing import offers_commitment
from anomalyd.daemon.dispatcher.delivery import Parcel, outcome_of, send
from anomalyd.daemon.gateway import peers
from anomalyd.daemon.gateway.contexts import LOSSLESS, UNCOMPRESSED
from anomalyd.daemon.gateway.door import PDU_LIMIT
from anomalyd.daemon.gateway.reception import Status
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle, InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline.results import own_codes
from anomalyd.pipeline.results.attributes import PATIENT_AND_STUDY, PATIENT_GROUP
from anomalyd.pipeline.results.build import BUILDERS, build_results
from anomalyd.pipeline.results.notice import build_notice
from anomalyd.pipeline.results.objects import SOP_CLASSES, Earlier, ResultKind, ResultObject
from anomalyd.pipeline.results.rejection_note import build_rejection_note
from anomalyd.pipeline.terms import DEFAULT_KINDS
from anomalyd.storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from conftest import CHECKOUT
from doors import open_door
from findings import context_of, notice_context_of, rejection_context_of
from pacs import Pacs
from phantoms import PhantomWriter

Made = list[tuple[ResultObject, Dataset]]
PAGE = CHECKOUT / "docs" / "conformance.md"
FIND = sop_class.StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]  # made at import time
OURS = AETitle("ANOMALYD")
SMALL = PhantomWriter(spacing_mm=(9.0, 4.0, 4.0))
UNSTATED = (
    "BodyPartExamined", "PatientPosition", "StudyDescription", "PatientAge", "SeriesNumber", "InstitutionName",
    "PositionReferenceIndicator", "Manufacturer", "InversionTime",
)  # fmt: skip
SOURCES = (
    PhantomWriter(
        spacing_mm=SMALL.spacing_mm, attributes={"InstitutionName": "Made", "TimezoneOffsetFromUTC": "+0100"}
    ),
    PhantomWriter(spacing_mm=SMALL.spacing_mm, attributes=dict.fromkeys(UNSTATED), character_set=()),
    PhantomWriter(spacing_mm=SMALL.spacing_mm, enhanced=True),
)
"""Much stated, little stated, Enhanced: what is in all results of these is there always."""


@cache
def tables() -> dict[tuple[str, ...], list[list[tuple[str, ...]]]]:
    """Rows of all tables with the same head line, table by table."""
    found: dict[tuple[str, ...], list[list[tuple[str, ...]]]] = {}
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for at, line in enumerate(lines):
        if line.startswith("|---"):
            rows = []
            for row in lines[at + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            found.setdefault(cells(lines[at - 1]), []).append(rows)
    return found


def cells(row: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in row.strip().strip("|").split("|"))


def rows(*head: str, table: int = 0) -> list[tuple[str, ...]]:
    return tables()[head][table]


def groups() -> dict[str, set[str]]:
    """UIDs of transfer syntaxes by the name of their group."""
    named: dict[str, set[str]] = {"results": {"1.2.840.10008.1.2.1", "1.2.840.10008.1.2"}}
    for _, uid, group in rows("transfer syntax", "UID", "group"):
        named.setdefault(group, set()).add(uid)
    return named


def stated_contexts(table: int) -> set[tuple[str, str]]:
    """(abstract syntax, transfer syntax) of one of the tables of presentation contexts: 0 accepted, 1 proposed."""
    return {
        (uid, syntax)
        for _, uid, names in rows("abstract syntax", "UID", "transfer syntaxes", table=table)
        for name in names.split(", ")
        for syntax in groups()[name]
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Results of every kind of all SOURCES."""
    results: list[ResultObject] = []
    earlier = Earlier(SeriesUID("2.25.11"), InstanceUID("2.25.12"))
    for writer, before in zip(SOURCES, (earlier, None, None), strict=True):
        series = writer.write(tmp_path_factory.mktemp("source") / "series")
        context = replace(context_of(series), predecessor=before)
        results += (of_series := build_results(context, tuple(BUILDERS)))
        results.append(build_rejection_note(rejection_context_of(context, of_series)))
        results.append(build_notice(notice_context_of(series, "no brain was found")))
        results.append(build_notice(notice_context_of(series, "a localizer", model=None)))
    return [(one, pydicom.dcmread(io.BytesIO(one.data))) for one in results]


def of_kind(made: Made, kind: ResultKind) -> list[Dataset]:
    return [ds for one, ds in made if one.kind is kind]


def own_tags(datasets: Iterable[Dataset]) -> Iterator[set[int]]:
    """Tags of each, less those that are copied from the source."""
    for ds in datasets:
        yield {int(tag) for tag in ds.keys() if tag.group != PATIENT_GROUP and tag not in PATIENT_AND_STUDY}  # noqa: SIM118 - a Dataset iterates over elements


def test_the_gateway_takes_the_stated_contexts_and_no_other(tmp_path: Path) -> None:
    """Asked by a peer that proposes every storage class, and each transfer syntax that there is for the wanted ones."""
    door = open_door(tmp_path, is_fast=True)
    try:
        offered = {syntax for _, syntax in stated_contexts(0)} | {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91"}
        classes = sorted({uid for uid, _ in stated_contexts(0)})
        others = [str(context.abstract_syntax) for context in AllStoragePresentationContexts] + [str(FIND)]
        accepted = set()
        for syntax in sorted(offered):  # one association each: at most 128 contexts fit into one
            accepted |= contexts_taken([(uid, syntax) for uid in classes], door.port)
        for start in range(0, len(others), 100):
            accepted |= contexts_taken([(uid, "1.2.840.10008.1.2") for uid in others[start : start + 100]], door.port)
        assert accepted == stated_contexts(0)
    finally:
        door.close()


def contexts_taken(wanted: Sequence[tuple[str, str]], port: int) -> set[tuple[str, str]]:
    association = AE(OURS).associate(
        "127.0.0.1", port, [build_context(*pair) for pair in wanted], ae_title=DaemonSettings().ae_title
    )
    taken = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    if association.is_established:
        association.release()
    return taken


def test_transfer_syntaxes_are_in_the_stated_groups() -> None:
    assert groups()["uncompressed"] == set(UNCOMPRESSED)
    assert groups()["lossless"] == set(LOSSLESS)


def test_the_dispatcher_proposes_the_stated_contexts_and_asks_with_the_stated_keys(
    made: Made, tmp_path: Path, free_port: int
) -> None:
    asked: list[Dataset] = []

    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        match = Dataset()
        match.QueryRetrieveLevel, match.StudyInstanceUID, match.PatientID = (
            event.identifier.QueryRetrieveLevel,
            "1.2",
            "1",
        )
        yield 0xFF00, match

    to = Destination.model_validate({"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port})
    classes = [*set(SOP_CLASSES.values()), FIND, commitment_messages.PUSH_MODEL]
    parcels = []
    for key, (one, _) in enumerate(made):
        path = tmp_path / str(key)
        path.write_bytes(one.data)
        parcels.append(Parcel(key, key, one.sop_class_uid, one.sop_instance_uid, str(ExplicitVRLittleEndian), path))
    with Pacs(free_port, classes=classes, handlers=[(evt.EVT_C_FIND, answer)]) as pacs:
        send(parcels, to, OURS, parallel=1, report=lambda *_: None, stop=threading.Event())
        assert offers_commitment(to, OURS)
        with querying.asking(to, OURS) as asker:
            asker.source(StudyUID("1.2"), SeriesUID("1.2.3"), "1")
            asker.instances(StudyUID("1.2"), SeriesUID("1.2.3"))
        assert set(pacs.contexts) == stated_contexts(1)
    stated = {
        level: ({*matching.split(", ")}, {*returned.split(", ")} - {""})
        for level, matching, returned, _ in rows("level", "matching keys", "return keys", "for")
    }
    assert {ds.QueryRetrieveLevel for ds in asked} == set(stated)
    for ds in asked:
        keys = {element.keyword: element.value for element in ds if element.keyword != "QueryRetrieveLevel"}
        assert ({k for k, v in keys.items() if v}, {k for k, v in keys.items() if not v}) == stated[
            ds.QueryRetrieveLevel
        ]


def test_services_are_those_of_the_contexts() -> None:
    accepted, proposed = ({uid for uid, _ in stated_contexts(table)} for table in (0, 1))
    verification = "1.2.840.10008.1.1"  # `check` and the gateway's echo of itself
    for _, uid, user, provider in rows("network service", "SOP Class UID", "user (SCU)", "provider (SCP)"):
        assert (user == "yes") == (uid in proposed | {verification})
        assert (provider == "yes") == (uid in accepted)
    stated = {uid for _, uid, *_ in rows("network service", "SOP Class UID", "user (SCU)", "provider (SCP)")}
    assert stated == accepted | proposed


def test_association_policies_and_rejections() -> None:
    policies = {name: value for name, value in rows("policy", "value")}  # noqa: C416 - rows are tuples of any length
    default = DaemonSettings()
    assert policies["Implementation Class UID"] == IMPLEMENTATION_CLASS_UID
    assert IMPLEMENTATION_VERSION.startswith(policies["Implementation Version Name"].split(",")[0])
    assert policies["TCP port, `daemon.port`"] == str(default.port)
    assert policies["AE title, `daemon.ae_title`"] == default.ae_title
    assert policies["maximum PDU length received"] == str(PDU_LIMIT)
    assert policies["simultaneous associations, `max_associations`"] == str(default.max_associations)
    assert policies["idle time-out, `idle_timeout`"] == f"{default.idle_timeout:g} s"
    rejections = {one for one in vars(peers).values() if isinstance(one, peers.Rejection)}
    assert {(str(r.result), str(r.source), str(r.reason), r.text) for r in rejections} == set(
        rows("result", "source", "reason", "when")
    )


def test_statuses_that_are_answered() -> None:
    stated = {int(status, 16) for status, *_ in rows("status", "meaning", "what the sender should do")}
    assert stated == {int(status) for status in Status}
    messages = {int(status, 16) for _, status, _ in rows("message", "status", "meaning")}
    m = commitment_messages
    assert messages == {
        0, m.PROCESSING_FAILURE, m.INVALID_ARGUMENT, m.NO_SUCH_ACTION, m.NO_SUCH_EVENT, m.NOT_AUTHORISED,
    }  # fmt: skip


@pytest.mark.parametrize(("statuses", "taken_for"), rows("status", "taken for")[:-1])
def test_statuses_that_are_understood(statuses: str, taken_for: str) -> None:
    (word,) = re.findall(r"^(sent|retried|refused)\b", taken_for)
    for status in statuses.split(", "):
        assert {"sent": "sent", "retry": "retried", "refused": "refused"}[outcome_of(int(status, 16)).verdict] == word


KIND_HEAD = ("kind", "short", "SOP Class UID", "Modality", "objects of a series", "made by default", "number")


def test_kinds_of_result_are_as_stated(made: Made) -> None:
    assert {row[0].strip("`") for row in rows(*KIND_HEAD)} == {str(kind) for kind in SOP_CLASSES}
    made_alone = {ResultKind.NOT_ANALYSED, ResultKind.INELIGIBLE, ResultKind.REJECTION_NOTE}
    assert {*BUILDERS, *made_alone} == set(SOP_CLASSES)
    for name, _, uid, modality, objects, is_default, number in rows(*KIND_HEAD):
        kind = ResultKind(name.strip("`"))
        assert uid == SOP_CLASSES[kind]
        assert (is_default == "yes") == (kind in DEFAULT_KINDS)
        assert (len(of_kind(made, kind)) > len(SOURCES)) == ("for each source slice" in objects)
        for ds in of_kind(made, kind):
            assert (ds.SOPClassUID, ds.Modality) == (uid, modality)
            assert ds.SeriesNumber in (300 + int(number), 90000 + int(number))


def test_attributes_of_created_objects_are_as_stated(made: Made) -> None:
    """A: in every object of the kind; C: in some; nothing else but what is copied of patient and study."""
    short = {row[1]: ResultKind(row[0].strip("`")) for row in rows(*KIND_HEAD)}
    (head,) = [head for head in tables() if head[:2] == ("tag", "attribute")]
    kinds = [short[name] for name in head[2:-1]]
    assert set(kinds) == set(SOP_CLASSES)
    stated: dict[tuple[ResultKind, int], str] = {}
    for tag, keyword, *marks, _ in rows(*head):
        assert Tag(keyword) == Tag(tag.strip("()").replace(",", "")), tag
        stated |= {(kind, int(Tag(keyword))): mark for kind, mark in zip(kinds, marks, strict=True) if mark}
    found: dict[tuple[ResultKind, int], str] = {}
    for kind in kinds:
        tags = list(own_tags(of_kind(made, kind)))
        found |= {(kind, tag): "C" for tag in set().union(*tags)} | {
            (kind, tag): "A" for tag in set.intersection(*tags)
        }
    named = {(kind, pydicom.datadict.keyword_for_tag(tag)): mark for (kind, tag), mark in found.items()}
    assert named == {(kind, pydicom.datadict.keyword_for_tag(tag)): mark for (kind, tag), mark in stated.items()}


def test_values_that_are_stated_alone_are_those_of_every_object(made: Made) -> None:
    (head,) = [head for head in tables() if head[:2] == ("tag", "attribute")]
    fixed = {row[1]: row[-1].strip("`") for row in rows(*head) if row[-1].count("`") == 2 and row[-1].endswith("`")}
    fixed = {keyword: value for keyword, value in fixed.items() if " " not in value}
    assert len(fixed) > 12
    for _, ds in made:
        for keyword, value in fixed.items():
            if keyword in ds:
                assert str(ds[keyword].value) == value, keyword


def test_segments_state_what_the_annex_says(made: Made) -> None:
    stated = {keyword for row in rows("attribute", "value") for keyword in row[0].split(", ")}
    for kind in (ResultKind.SEG, ResultKind.LABELMAP):
        for ds in of_kind(made, kind):
            for segment in ds.SegmentSequence:
                if segment.SegmentNumber:  # not the background of a label map
                    assert {element.keyword for element in segment} == stated


def test_private_codes_are_all_named() -> None:
    values = vars(own_codes).values()
    codes = [code for value in values for code in (value if isinstance(value, tuple) else (value,))]
    named = [*codes, *values]  # a Code is a tuple itself
    assert {(code.value, code.meaning) for code in named if isinstance(code, Code)} == set(rows("code", "meaning"))
