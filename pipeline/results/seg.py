"""Segmentation objects: one segment for each lesion, on the source's own slices (PS3.3 A.51, A.95)."""

from typing import Final

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from anomalyd.errors import Broken
from anomalyd.pipeline.finding import Finding, Lesion, Sign
from anomalyd.pipeline.results.header import Source, stand_ins
from anomalyd.pipeline.results.objects import SOP_CLASSES, ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.references import name_as_received, replace_organization
from anomalyd.pipeline.results.stamp import ascii_text, copy_lossiness, key_of, part10, series_number, stamp
from anomalyd.pipeline.results.uids import ResultKey
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

SEGMENT_COLOURS: Final = ((255, 80, 0), (255, 200, 0), (255, 0, 60), (255, 140, 60), (220, 60, 0), (255, 230, 110))
"""RGB, taken in turn; warm, as the heatmap, so that a viewer's own cold colours stay free."""
SIGN_WORDS: Final = {Sign.HYPO: "darker", Sign.HYPER: "brighter"}
_TYPES: Final = {
    ResultKind.SEG: SegmentationTypeValues.BINARY,
    ResultKind.LABELMAP: SegmentationTypeValues.LABELMAP,
}
_DIMENSIONS: Final = {ResultKind.SEG: 1, ResultKind.LABELMAP: 2}
_BITS_OF_A_BYTE: Final = 8
_LARGEST_BYTE = np.iinfo(np.uint8).max
_Labels = NDArray[np.uint16]


def build_segmentation(source: Source, context: ResultContext, kind: ResultKind = ResultKind.SEG) -> ResultObject:
    """One object with a segment per lesion; voxels on interpolated slices are not in it.

    kind: SEG is binary, as every viewer reads it; LABELMAP has the same segments in one frame per slice.
    Raises Broken when there is no lesion (an empty SEG says nothing: send none) or one without a voxel.
    """
    finding = context.finding
    if not finding.lesions:
        raise Broken("no lesion: no segmentation is made")
    key = key_of(source, context)
    labels = finding.labels[[image.index for image in source.slices]]
    _check_labels(labels, finding)
    with_empty_frames = _slices_with_empty_frames(labels) if kind is ResultKind.SEG else None
    chosen = with_empty_frames or slice(None)
    segmentation = Segmentation(
        source_images=stand_ins(source)[chosen],
        pixel_array=(labels.astype(np.uint8) if len(finding.lesions) <= _LARGEST_BYTE else labels)[chosen],
        segmentation_type=_TYPES[kind],
        segment_descriptions=[_description(lesion, context, key) for lesion in finding.lesions],
        series_instance_uid=key.series(kind),
        series_number=series_number(source, kind),
        sop_instance_uid=key.instance(kind, 1),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=version_line(finding.model),
        device_serial_number=context.device_serial,
        content_label="ANOMALY",
        content_description=f"Anomaly candidates, {RESEARCH_USE}",
        content_creator_name=f"{PRODUCT}^",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=with_empty_frames is None,
        series_description=f"{PRODUCT} {kind.upper()} (research)",
    )
    # highdicom leaves the choices to a step of pydicom that `part10` does not take
    segmentation["PixelData"].VR = "OB" if segmentation.BitsAllocated <= _BITS_OF_A_BYTE else "OW"
    if "PixelPaddingValue" in segmentation:  # of a label map: the background
        segmentation["PixelPaddingValue"].VR = "US"
    name_as_received(segmentation, source)
    replace_organization(segmentation, key.instance("dimension", _DIMENSIONS[kind]))
    copy_lossiness(segmentation, source)
    stamp(segmentation, source, context)
    return ResultObject(
        kind,
        SOP_CLASSES[kind],
        key.instance(kind, 1),
        key.series(kind),
        1,
        part10(segmentation),
    )


def _slices_with_empty_frames(labels: _Labels) -> slice | None:
    """Slices of which every segment gets a frame, empty or not; None where only those with voxels are to have one.

    Frames of 1 bit follow each other without gaps (PS3.5 8.1.1), and the whole is padded to an even number of bytes. A
    viewer (OHIF 3.13.2) takes such a padding byte for pixels and shows nothing: so there is none where that can be had.
    """
    occupied = np.flatnonzero(labels.any(axis=(1, 2)))
    segments, pixels = int(labels.max()), labels[0].size
    if not _is_padded(sum(np.unique(one[one > 0]).size for one in labels[occupied]) * pixels):
        return None
    first, last = int(occupied[0]), int(occupied[-1])
    for count in range(last - first + 1, len(labels) + 1):
        if not _is_padded(segments * count * pixels):
            begin = min(first, len(labels) - count)
            return slice(begin, begin + count)
    return None


def _is_padded(bits: int) -> bool:
    return -(-bits // _BITS_OF_A_BYTE) % 2 == 1


def _check_labels(labels: _Labels, finding: Finding) -> None:
    voxels = np.bincount(labels.ravel(), minlength=len(finding.lesions) + 1)
    numbers = [lesion.number for lesion in finding.lesions]
    if numbers != list(range(1, len(voxels))) or not voxels[1:].all():
        raise Broken(f"lesions {numbers} do not match the labels of the mask")


def _description(lesion: Lesion, context: ResultContext, key: ResultKey) -> SegmentDescription:
    model = context.finding.model
    described = SegmentDescription(
        segment_number=lesion.number,
        segment_label=f"Anomaly {lesion.number} ({SIGN_WORDS[lesion.sign]})",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=PRODUCT,
            family=codes.cid7162.ArtificialIntelligence,
            version=version_line(model),
            source=PRODUCT,
            parameters={"bundle": model.digest[:16], "threshold": f"{context.finding.threshold:.6g}"},
        ),
        tracking_uid=key.instance("track", lesion.number),
        tracking_id=f"anomaly-{lesion.number}",
        anatomic_regions=[codes.SCT.Brain],
        display_color=CIELabColor.from_rgb(*SEGMENT_COLOURS[(lesion.number - 1) % len(SEGMENT_COLOURS)]),
    )
    described.SegmentDescription = _words(lesion, context)
    return described


def _words(lesion: Lesion, context: ResultContext) -> str:
    """At most 1024 characters (VR ST), ASCII."""
    text = (
        f"{RESEARCH_USE}. Candidate, {SIGN_WORDS[lesion.sign]} than its healthy reconstruction, "
        f"{lesion.volume_mm3 / 1000:.2f} ml, score mean {lesion.mean_score:.3g}, max {lesion.max_score:.3g}, "
        f"threshold {context.finding.threshold:.3g} ({context.finding.threshold_text})."
    )
    warnings = "".join(f" Warning: {warning}." for warning in context.all_warnings)
    return ascii_text(text + warnings)[:1024]
