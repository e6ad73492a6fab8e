"""What every result object says about its maker and its time, and its form as a file."""

from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from anomalyd import __version__
from anomalyd.ids import Digest
from anomalyd.pipeline.results.header import Origin
from anomalyd.pipeline.results.objects import Made, ResultKind
from anomalyd.pipeline.results.uids import IMPLEMENTATION_UID, ResultKey
from anomalyd.pipeline.results.verbatim import copy_patient_and_study, copy_verbatim, tags_of
from anomalyd.pipeline.results.version import PRODUCT, version_line

_SERIES_NUMBER_OFFSET = {
    ResultKind.SEG: 1,
    ResultKind.HEATMAP: 2,
    ResultKind.SR: 3,
    ResultKind.SCORE_MAP: 4,
    ResultKind.SUMMARY: 5,
    ResultKind.PARAMETRIC_MAP: 6,
    ResultKind.LABELMAP: 7,
    ResultKind.NOT_ANALYSED: 8,
    ResultKind.REJECTION_NOTE: 9,
    ResultKind.INELIGIBLE: 10,
}
_NUMBER_WITHOUT_SOURCE: Final = 90000
_GREATEST_NUMBER = 2**31 - 1  # PS3.5 table 6.2-1, VR IS
_EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
)  # fmt: skip

_NOT_OF_A_DOCUMENT = ("BodyPartExamined", "PositionReferenceIndicator")


def key_of(source: Origin, made: Made) -> ResultKey:
    """What the UIDs of these results are made from."""
    return ResultKey(
        source.study_uid,
        source.series_uid,
        made.instance_set,
        Digest(made.model.digest if made.model else ""),
        made.settings,
    )


def series_number(source: Origin, kind: ResultKind) -> int:
    """SeriesNumber x 100 + 1 for the SEG, + 2 for the heatmaps, ...; 90001, ... where the source has none."""
    offset = _SERIES_NUMBER_OFFSET[kind]
    number = _NUMBER_WITHOUT_SOURCE if source.series_number is None else source.series_number * 100
    return number + offset if number + offset <= _GREATEST_NUMBER else _NUMBER_WITHOUT_SOURCE + offset


def stamp(target: Dataset, source: Origin, made: Made) -> None:
    """Patient, study, equipment and time of a result; the last step before `part10`.

    Dates and times are those of the job, in the time zone that the source states, else in the job's own.
    """
    now = _in_zone_of(source, made.job_time)
    for keyword in ("SeriesDate", "ContentDate", "InstanceCreationDate"):
        setattr(target, keyword, now.strftime("%Y%m%d"))
    for keyword in ("SeriesTime", "ContentTime", "InstanceCreationTime"):
        setattr(target, keyword, now.strftime("%H%M%S.%f"))
    line = version_line(made.model)
    target.Manufacturer, target.ManufacturerModelName = PRODUCT, PRODUCT
    target.DeviceSerialNumber, target.SoftwareVersions = made.device_serial, line
    moment = now.strftime("%Y%m%d%H%M%S.%f%z")
    others = [item for item in target.get("ContributingEquipmentSequence", []) if _is_processing(item)]
    for item in others:
        item.ContributionDateTime = moment
    target.ContributingEquipmentSequence = [_scanner(source), _ourselves(line, moment), *others]
    target.BodyPartExamined = source.elements.text("BodyPartExamined") or "BRAIN"
    copy_verbatim(source.first, target, tags_of("InstitutionName", "PositionReferenceIndicator"))
    copy_patient_and_study(source.first, target)


def stamp_document(target: Dataset, source: Origin, made: Made) -> None:
    """The same for a document, whose modules have less than those of an image (PS3.3 A.35)."""
    stamp(target, source, made)
    for keyword in _NOT_OF_A_DOCUMENT:
        target.pop(keyword, None)


def part10(dataset: Dataset) -> bytes:
    """The data set as a whole file (PS3.10), Explicit VR Little Endian."""
    dataset.preamble = b"\0" * 128
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    dataset.file_meta.ImplementationVersionName = f"{PRODUCT.upper()}_{__version__}"[:16]
    with BytesIO() as file:
        dataset.save_as(file, implicit_vr=False, little_endian=True, enforce_file_format=True)
        return file.getvalue()


def ascii_text(text: str) -> str:
    """ASCII alone, since the character set is the source's; no backslash, which would part values."""
    return text.encode("ascii", "replace").decode().replace("\\", "/")


def copy_lossiness(target: Dataset, source: Origin) -> None:
    """Lossy Image Compression of the source: a result drawn from it is no better (PS3.3 C.7.6.1.1.5)."""
    target.LossyImageCompression = source.elements.text("LossyImageCompression") or "00"
    if target.LossyImageCompression == "01":
        copy_verbatim(source.first, target, tags_of("LossyImageCompressionRatio", "LossyImageCompressionMethod"))


def item(**attributes: object) -> Dataset:
    """A sequence item from keywords."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A code sequence item (PS3.3 8.8)."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _in_zone_of(source: Origin, moment: datetime) -> datetime:
    offset = source.elements.text("TimezoneOffsetFromUTC")
    if len(offset) != len("+0000") or not offset[1:].isdigit() or offset[0] not in "+-":
        return moment
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return moment.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))


def _is_processing(equipment: Dataset) -> bool:
    return bool(equipment.PurposeOfReferenceCodeSequence[0].CodeValue == _PROCESSING.CodeValue)


def _ourselves(line: str, moment: str) -> Dataset:
    return item(
        PurposeOfReferenceCodeSequence=[_PROCESSING],
        Manufacturer=PRODUCT,
        ManufacturerModelName=PRODUCT,
        SoftwareVersions=line,
        ContributionDateTime=moment,
        ContributionDescription="search for anomalies, research use only",
    )


def _scanner(source: Origin) -> Dataset:
    equipment = Dataset()
    copy_verbatim(source.first, equipment, tags_of(*_EQUIPMENT))
    if "Manufacturer" not in equipment:
        equipment.Manufacturer = None
    equipment.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
    return equipment


_PROCESSING = code("109102", "DCM", "Processing Equipment")
