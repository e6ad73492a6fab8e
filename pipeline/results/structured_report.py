"""The structured report: what was measured, for programs; made also when nothing was found (PS3.3 A.35.13)."""

from highdicom.sr import Comprehensive3DSR
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from anomalyd.pipeline.results.attributes import TYPE_2
from anomalyd.pipeline.results.header import Source
from anomalyd.pipeline.results.measurement_groups import report_content
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.stamp import item, key_of, part10, series_number, stamp_document
from anomalyd.pipeline.results.uids import ResultKey
from anomalyd.pipeline.results.version import PRODUCT


def build_structured_report(source: Source, context: ResultContext) -> ResultObject:
    """A Comprehensive 3D SR: complete, preliminary, unverified.

    It refers to the SEG where lesions were found, and to the report that it takes the place of.
    """
    key = key_of(source, context)
    content = report_content(source, context, key)[0]
    report = Comprehensive3DSR(
        evidence=_evidence(source, context, key),
        content=_without_groups(content),
        series_instance_uid=key.series(ResultKind.SR),
        series_number=series_number(source, ResultKind.SR),
        sop_instance_uid=key.instance(ResultKind.SR, 1),
        instance_number=1,
        manufacturer=PRODUCT,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=f"{PRODUCT} SR (research)",
        previous_versions=_predecessors(source, context),
    )
    report.ContentSequence = content.ContentSequence
    stamp_document(report, source, context)
    return ResultObject(
        ResultKind.SR,
        Comprehensive3DSRStorage,
        key.instance(ResultKind.SR, 1),
        key.series(ResultKind.SR),
        1,
        part10(report),
    )


def _predecessors(source: Source, context: ResultContext) -> list[Dataset] | None:
    """For the Predecessor Documents Sequence (PS3.3 C.17.2), which is absent in a first report."""
    if context.predecessor is None:
        return None
    return [
        item(
            StudyInstanceUID=source.study_uid,
            SeriesInstanceUID=context.predecessor.series_uid,
            SOPClassUID=Comprehensive3DSRStorage,
            SOPInstanceUID=context.predecessor.instance_uid,
        )
    ]


def _without_groups(content: Dataset) -> Dataset:
    """The root without its measurements: highdicom would copy and search them, half of the time for nothing."""
    bare = Dataset()
    bare.update({element.tag: element for element in content if element.keyword != "ContentSequence"})
    bare.ContentSequence = [one for one in content.ContentSequence if one.ValueType != "CONTAINER"]
    return bare


def _evidence(source: Source, context: ResultContext, key: ResultKey) -> list[Dataset]:
    """All that was looked at and referred to: each received object once, and the SEG."""
    objects = {str(image.instance_uid): (image.sop_class_uid, source.series_uid) for image in source.slices}
    if context.finding.lesions:
        objects[key.instance(ResultKind.SEG, 1)] = (SegmentationStorage, key.series(ResultKind.SEG))
    blank = dict.fromkeys(TYPE_2, "")
    return [
        item(
            **blank,
            StudyInstanceUID=source.study_uid,
            SeriesInstanceUID=series_uid,
            SOPClassUID=sop_class,
            SOPInstanceUID=uid,
        )
        for uid, (sop_class, series_uid) in objects.items()
    ]
