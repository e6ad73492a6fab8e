"""The rejection note: what it lists, where it lies, and that another program reads it."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import highdicom
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage

from anomalyd import __version__
from anomalyd.ids import Digest
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import RejectionContext, ResultContext, ResultObject
from anomalyd.pipeline.results.rejection_note import DESCRIPTION, build_rejection_note
from findings import context_of, rejection_context_of
from phantoms import PATIENT_MARKERS, PhantomWriter

WRITER = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0))
Withdrawn = tuple[ResultContext, Sequence[ResultObject], RejectionContext]


@pytest.fixture
def withdrawn(tmp_path: Path) -> Withdrawn:
    context = context_of(replace(WRITER, attributes=PATIENT_MARKERS).write(tmp_path / "in"))
    results = build_results(context)
    return context, results, rejection_context_of(context, results)


def opened(made: ResultObject) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(made.data))


def test_it_lists_every_object_with_its_class_and_series(withdrawn: Withdrawn) -> None:
    _, results, rejection = withdrawn
    made = build_rejection_note(rejection)
    assert made.data == build_rejection_note(rejection).data
    note = opened(made)
    assert note.SOPClassUID == KeyObjectSelectionDocumentStorage
    assert (note.Modality, note.SeriesNumber) == ("KO", 309)
    content = highdicom.ko.KeyObjectSelection.from_sequence([note])
    assert content[0].name == codes.DCM.RejectedForQualityReasons
    wanted = {(one.sop_class_uid, one.sop_instance_uid) for one in results}
    found = [
        (str(one.referenced_sop_class_uid), str(one.referenced_sop_instance_uid)) for one in content.get_references()
    ]
    assert set(found) == wanted
    assert len(found) == len(results)
    (document,) = content.get_references(sop_class_uid=Comprehensive3DSRStorage)
    assert document.value_type.value == "COMPOSITE"
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    places = {
        (series.SeriesInstanceUID, one.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert places == {(one.series_uid, one.sop_instance_uid) for one in results}
    assert study.StudyInstanceUID == note.StudyInstanceUID


def test_it_belongs_to_the_patient_and_says_what_it_is(withdrawn: Withdrawn) -> None:
    context, _, rejection = withdrawn
    note = opened(build_rejection_note(rejection))
    source = context.headers[0]
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber", "SpecificCharacterSet"):
        assert note[keyword].value == source[keyword].value
    texts = [item.TextValue for item in note.ContentSequence if item.ValueType == "TEXT"]
    assert DESCRIPTION in texts
    assert note.SoftwareVersions.startswith(f"anomalyd {__version__}, bundle t1w-test")
    without = opened(build_rejection_note(replace(rejection, model=None)))
    assert without.SoftwareVersions == f"anomalyd {__version__}"


def test_another_list_is_another_note(withdrawn: Withdrawn) -> None:
    _, _, rejection = withdrawn
    notes = [build_rejection_note(replace(rejection, instance_set=Digest(mark * 64))) for mark in "de"]
    assert notes[0].sop_instance_uid != notes[1].sop_instance_uid
    assert notes[0].series_uid != notes[1].series_uid
