"""The score map as a Parametric Map of floating point values, on the source's own slices (PS3.3 A.75)."""

import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, ParametricMapStorage

from anomalyd.pipeline.results.colour import ScoreScale
from anomalyd.pipeline.results.header import Source, stand_ins
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.own_codes import ANOMALY_SCORE
from anomalyd.pipeline.results.references import name_as_received, replace_organization
from anomalyd.pipeline.results.stamp import code, copy_lossiness, item, key_of, part10, series_number, stamp
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line


def build_parametric_map(source: Source, context: ResultContext) -> ResultObject:
    """One object, a float32 frame for each source slice: exactly what was thresholded; 0 outside the brain."""
    finding, kind = context.finding, ResultKind.PARAMETRIC_MAP
    key = key_of(source, context)
    scores = finding.score_map[[image.index for image in source.slices]]
    top = ScoreScale(finding.threshold).top
    mapping = RealWorldValueMapping(
        lut_label="SCORE",
        lut_explanation="Anomaly score, no units",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, max(float(scores.max()), top)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=ANOMALY_SCORE,
    )
    made = ParametricMap(
        source_images=stand_ins(source),
        pixel_array=np.ascontiguousarray(scores, dtype=np.float32),
        series_instance_uid=key.series(kind),
        series_number=series_number(source, kind),
        sop_instance_uid=key.instance(kind, 1),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=version_line(finding.model),
        device_serial_number=context.device_serial,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=top / 2,
        window_width=top,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label="SCORE",
        content_description=f"Anomaly score, {RESEARCH_USE}",
        content_creator_name=f"{PRODUCT}^",
        series_description=f"{PRODUCT} PARAMETRIC MAP (research)",
    )
    # Optional in the standard; dcmqi 1.5.7 (so 3D Slicer) ends with a segmentation fault without it.
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [
        item(FrameLaterality="U", AnatomicRegionSequence=[code("12738006", "SCT", "Brain")])
    ]
    name_as_received(made, source)
    _in_geometric_order(made, source)
    replace_organization(made, key.instance("dimension", 3))
    copy_lossiness(made, source)
    stamp(made, source, context)
    return ResultObject(kind, ParametricMapStorage, key.instance(kind, 1), key.series(kind), 1, part10(made))


def _in_geometric_order(made: Dataset, source: Source) -> None:
    """Frames along the source's normal: highdicom lays them against it, which is as valid.

    dcmqi 1.5.7 takes the frames as they come, from the lowest position on, and would turn the map over.
    """
    slices = {(str(image.instance_uid), image.frame): k for k, image in enumerate(source.slices)}
    groups = list(made.PerFrameFunctionalGroupsSequence)
    references = [one.DerivationImageSequence[0].SourceImageSequence[0] for one in groups]
    places = [slices[one.ReferencedSOPInstanceUID, one.get("ReferencedFrameNumber")] for one in references]
    order = np.argsort(places)
    frames = np.frombuffer(made.FloatPixelData, dtype="<f4").reshape(len(groups), -1)
    made.FloatPixelData = frames[order].tobytes()
    made.PerFrameFunctionalGroupsSequence = [groups[k] for k in order]
    for number, one in enumerate(made.PerFrameFunctionalGroupsSequence, start=1):
        one.FrameContentSequence[0].DimensionIndexValues = number
