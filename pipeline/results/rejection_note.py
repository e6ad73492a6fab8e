"""The note that withdraws results which another answer has taken the place of: a Key Object Selection (IHE IOCM).

A PACS with IOCM hides what the note lists; any other stores it and goes on showing the old results.
"""

import warnings
from typing import Final

from highdicom import sr
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, KeyObjectSelectionDocumentStorage

from anomalyd.pipeline.elements import Elements
from anomalyd.pipeline.results.attributes import TYPE_2
from anomalyd.pipeline.results.header import Origin
from anomalyd.pipeline.results.objects import Rejected, RejectionContext, ResultKind, ResultObject
from anomalyd.pipeline.results.stamp import item, key_of, part10, series_number, stamp_document
from anomalyd.pipeline.results.uids import device_uid
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

DESCRIPTION: Final = f"{RESEARCH_USE}. Withdrawn: a newer result of {PRODUCT} for the same series lies in this study."
_DOCUMENTS = frozenset({Comprehensive3DSRStorage})
"""Result classes that are no images; highdicom tells them apart by Rows and Columns."""


def build_rejection_note(context: RejectionContext) -> ResultObject:
    """One document with title (113001, DCM, Rejected for Quality Reasons); the same bytes each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as in build_results: values of the source are copied as they are
        source = Origin(context.header, Elements.of(context.header))
        kind, key = ResultKind.REJECTION_NOTE, key_of(source, context)
        uid, series = key.instance(kind, 1), key.series(kind)
        objects = [_evidence(source, one) for one in context.rejected]
        observer = sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(context.device_serial),
            name=PRODUCT,
            manufacturer_name=PRODUCT,
            model_name=version_line(context.model),
            serial_number=context.device_serial,
        )
        note = KeyObjectSelectionDocument(
            evidence=objects,
            content=KeyObjectSelection(
                document_title=codes.DCM.RejectedForQualityReasons,
                referenced_objects=objects,
                observer_device_context=sr.ObserverContext(codes.DCM.Device, observer),
                description=DESCRIPTION,
            ),
            series_instance_uid=series,
            series_number=series_number(source, kind),
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer=PRODUCT,
            series_description=f"{PRODUCT} REJECTION NOTE (research)",
        )
        stamp_document(note, source, context)
        return ResultObject(kind, KeyObjectSelectionDocumentStorage, uid, series, 1, part10(note))


def _evidence(source: Origin, rejected: Rejected) -> Dataset:
    """A result as highdicom asks for it: what it is and where it lies."""
    size = {} if rejected.sop_class_uid in _DOCUMENTS else {"Rows": 1, "Columns": 1}
    return item(
        **dict.fromkeys(TYPE_2, ""),
        **size,
        StudyInstanceUID=source.study_uid,
        SeriesInstanceUID=rejected.series_uid,
        SOPClassUID=rejected.sop_class_uid,
        SOPInstanceUID=rejected.instance_uid,
    )
