"""What highdicom wrote about the stand-ins, put right: the received objects and frames, and identifiers of ours."""

from pydicom.dataset import Dataset

from anomalyd.pipeline.results.header import Source, stand_in_uid
from anomalyd.pipeline.results.stamp import item


def name_as_received(target: Dataset, source: Source) -> None:
    """Puts the received objects, and the numbers of their frames, in the place of the stand-ins."""
    by_stand_in = {stand_in_uid(image): image for image in source.slices}
    for groups in target.PerFrameFunctionalGroupsSequence:
        for reference in groups.DerivationImageSequence[0].SourceImageSequence:
            image = by_stand_in.get(reference.ReferencedSOPInstanceUID)
            if image is None:  # segments in the same slice share one item, it has its name already
                continue
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
                image.sop_class_uid,
                image.instance_uid,
            )
            if image.frame is not None:
                reference.ReferencedFrameNumber = image.frame
    classes = {image.instance_uid: image.sop_class_uid for image in source.slices}
    target.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=uid) for uid, sop_class in classes.items()
    ]


def replace_organization(target: Dataset, uid: str) -> None:
    """highdicom draws a random one."""
    for part in (*target.DimensionOrganizationSequence, *target.DimensionIndexSequence):
        part.DimensionOrganizationUID = uid
