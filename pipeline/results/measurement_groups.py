"""The content of the structured report: TID 1500 with a group for the scan, and two for each lesion (PS3.16)."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from anomalyd.pipeline.finding import Finding, Laterality, Lesion
from anomalyd.pipeline.results.header import Source, SourceSlice
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from anomalyd.pipeline.results.outline import WorstSlice, worst_slices
from anomalyd.pipeline.results.own_codes import (
    ANOMALY_SCORE,
    CANDIDATES,
    CENTROID,
    NOTHING_FOUND,
    SCAN_SCORE,
    THRESHOLD,
)
from anomalyd.pipeline.results.stamp import ascii_text
from anomalyd.pipeline.results.uids import ResultKey, device_uid
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

NOTHING: Final = "no candidate above threshold"
MRI_OF_BRAIN: Final = Code("816077007", "SCT", "Magnetic resonance imaging of brain")
SIDES: Final = {
    Laterality.LEFT: codes.SCT.Left,
    Laterality.RIGHT: codes.SCT.Right,
    Laterality.BOTH: codes.SCT.Bilateral,
}
_Group = (
    sr.MeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.PlanarROIMeasurementsAndQualitativeEvaluations
)
_DIGITS: Final = 9  # of float32 scores and of millimetres: more would be noise in the text


def report_content(source: Source, context: ResultContext, key: ResultKey) -> sr.MeasurementReport:
    """The whole tree. Every text is ASCII, since the character set is the source's."""
    groups: list[_Group] = [_scan_group(context, key)]
    for lesion, worst in zip(context.finding.lesions, worst_slices(context.finding), strict=True):
        groups.append(_volume_group(lesion, source, context, key))
        groups.append(_plane_group(lesion, worst, source, context, key))
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(context)),
        procedure_reported=MRI_OF_BRAIN,
        imaging_measurements=groups,
    )


def _observer(context: ResultContext) -> sr.ObserverContext:
    """Us, as the device that observed (TID 1004)."""
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(context.device_serial),
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=version_line(context.finding.model),
        serial_number=context.device_serial,
    )
    return sr.ObserverContext(codes.DCM.Device, attributes)


def _scan_group(context: ResultContext, key: ResultKey) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501: the score of the scan, what it was cut at, what stands against it."""
    finding = context.finding
    count = len(finding.lesions)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(key.instance("track", 0), "scan"),
        algorithm_id=_algorithm(finding),
        finding_type=None if count else NOTHING_FOUND,
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=[
            _number(SCAN_SCORE, finding.score),
            _number(codes.DCM.PercentileRankingOfMeasurement, finding.score_percentile, codes.UCUM.Percent),
            _number(THRESHOLD, finding.threshold),
            _number(CANDIDATES, count),
        ],
    )
    texts = [
        f"{RESEARCH_USE}. {f'{count} candidates' if count else NOTHING}.",
        f"Scan score {finding.score:.4g}, percentile {finding.score_percentile:.1f} of healthy reference scans.",
        f"Threshold {finding.threshold:.4g}: {finding.threshold_text}.",
        *_reference(finding),
        *(f"Warning: {warning}" for warning in context.all_warnings),
    ]
    relationship = sr.RelationshipTypeValues.CONTAINS
    group[0].ContentSequence.extend(
        sr.TextContentItem(codes.DCM.Comment, ascii_text(text), relationship) for text in texts
    )
    return group


def _reference(finding: Finding) -> Iterator[str]:
    """Whom the scan was compared with."""
    if finding.reference_ages is not None:
        youngest, oldest = finding.reference_ages
        yield f"Healthy reference: people of {youngest:.0f} to {oldest:.0f} years."


def _volume_group(
    lesion: Lesion, source: Source, context: ResultContext, key: ResultKey
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411: a lesion's numbers, and the segment that they were measured in."""
    segment = sr.ReferencedSegment(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=key.instance(ResultKind.SEG, 1),
        segment_number=lesion.number,
        source_series=sr.SourceSeriesForSegmentation(source.series_uid),
    )
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(lesion, key),
        referenced_segment=segment,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        algorithm_id=_algorithm(context.finding),
        finding_sites=[_site(lesion)],
        measurements=[
            _number(codes.SCT.Volume, lesion.volume_mm3, codes.UCUM.CubicMillimeter),
            _number(ANOMALY_SCORE, lesion.mean_score, derivation=codes.SCT.Mean),
            _number(ANOMALY_SCORE, lesion.max_score, derivation=codes.SCT.Maximum),
            *(
                _number(name, value, codes.UCUM.Millimeter)
                for name, value in zip(CENTROID, lesion.centroid_lps_mm, strict=True)
            ),
        ],
    )
    group[0].ContentSequence.append(_centre(lesion, source.elements.text("FrameOfReferenceUID")))
    return group


def _plane_group(
    lesion: Lesion, worst: WorstSlice, source: Source, context: ResultContext, key: ResultKey
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410: the outline on the slice with the highest score, under the lesion's own tracking UID."""
    image = next(image for image in source.slices if image.index == worst.index)
    region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, worst.outline, _image(image))
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(lesion, key),
        referenced_region=region,
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.Lesion,
        algorithm_id=_algorithm(context.finding),
        finding_sites=[_site(lesion)],
        measurements=[_number(ANOMALY_SCORE, lesion.max_score, derivation=codes.SCT.Maximum)],
    )


def _image(image: SourceSlice) -> sr.SourceImageForRegion:
    frames = None if image.frame is None else [image.frame]
    return sr.SourceImageForRegion(image.sop_class_uid, image.instance_uid, frames)


def _tracking(lesion: Lesion, key: ResultKey) -> sr.TrackingIdentifier:
    """The same as in the SEG."""
    return sr.TrackingIdentifier(key.instance("track", lesion.number), f"anomaly-{lesion.number}")


def _site(lesion: Lesion) -> sr.FindingSite:
    side = None if lesion.laterality is None else SIDES[lesion.laterality]
    return sr.FindingSite(codes.SCT.Brain, laterality=side)


def _algorithm(finding: Finding) -> sr.AlgorithmIdentification:
    """TID 4019."""
    model = finding.model
    parameters = [
        f"bundle {model.bundle_id}, digest sha256 {model.digest}",  # dcmqi's reader shows the first one alone
        f"score {finding.score_mode}",
        f"threshold {finding.threshold:.6g}: {finding.threshold_text}",
    ]
    return sr.AlgorithmIdentification(PRODUCT, version_line(model), [ascii_text(text) for text in parameters])


def _centre(lesion: Lesion, frame_of_reference: str) -> sr.Scoord3DContentItem:
    """The centroid as a point in the source's frame of reference (TID 1411 is extensible, its NUMs are not)."""
    return sr.Scoord3DContentItem(
        codes.DCM.CenterOfMass,
        sr.GraphicTypeValues3D.POINT,
        np.array([lesion.centroid_lps_mm]),
        frame_of_reference,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )


def _number(
    name: Code, value: float, unit: Code = codes.UCUM.NoUnits, *, derivation: Code | None = None
) -> sr.Measurement:
    rounded = value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")
    return sr.Measurement(name, rounded, unit, derivation=derivation)
