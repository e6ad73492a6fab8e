"""DICOM headers of the phantom: classic MR Image Storage and one Enhanced MR object, clean for dciodvfy."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.volume import Grid

STAMP_DATE, STAMP_TIME, STAMP_DATETIME = "20260105", "101500.000000", "20260105101500.000000"


@dataclass(frozen=True, slots=True)
class Acquisition:
    """The physics that a series states: ms, degrees, tesla."""

    description: str
    scanning_sequence: str | list[str]
    sequence_variant: str | list[str]
    repetition_ms: float
    echo_ms: float
    inversion_ms: float | None
    flip_deg: float
    echo_train: int
    dimensions: str
    images: int | None
    """ImagesInAcquisition; None: not stated."""

    @classmethod
    def of(cls, contrast: Contrast, plane: str, images: int) -> "Acquisition":
        """What a scanner would state for the contrast: MPRAGE, TSE, or TSE with inversion."""
        short = {"axial": "tra", "sagittal": "sag", "coronal": "cor"}.get(plane, "obl")
        mprage = cls("t1_mprage", ["GR", "IR"], ["SK", "SP", "MP"], 2300.0, 2.98, 900.0, 9.0, 1, "3D", images)
        tse = dataclasses.replace(
            mprage,
            description="t2_tse",
            scanning_sequence="SE",
            sequence_variant="SK",
            repetition_ms=5200.0,
            echo_ms=98.0,
            inversion_ms=None,
            flip_deg=150.0,
            echo_train=17,
            dimensions="2D",
        )
        flair = dataclasses.replace(
            tse,
            description="t2_flair",
            scanning_sequence=["SE", "IR"],
            repetition_ms=9000.0,
            echo_ms=93.0,
            inversion_ms=2500.0,
        )
        chosen = {Contrast.T1W: mprage, Contrast.T2W: tse, Contrast.FLAIR: flair}[contrast]
        return dataclasses.replace(chosen, description=f"{chosen.description}_{short}")


def study_attributes(*, study_uid: str, series_uid: str, character_set: Sequence[str]) -> Dataset:
    """Patient, study, frame of reference and equipment, equal in every instance of the series."""
    ds = Dataset()
    if character_set:
        ds.SpecificCharacterSet = list(character_set) if len(character_set) > 1 else character_set[0]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Made^Head", "MADE-1", "19800101", "O"
    ds.PatientAge, ds.PatientWeight = "046Y", "70"
    ds.StudyInstanceUID, ds.StudyID, ds.AccessionNumber = study_uid, "1", "ACC-PHANTOM-1"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = STAMP_DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = STAMP_TIME
    ds.ReferringPhysicianName, ds.StudyDescription = "", "Head"
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.Modality = series_uid, 3, "MR"
    ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", study_uid])
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer, ds.ManufacturerModelName = "Phantom Works", "Bench"
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.MagneticFieldStrength = "1", "1.0", "3"
    return ds


def classic_dataset(base: Dataset, acquisition: Acquisition, grid: Grid, index: int) -> Dataset:
    """MR Image Storage of slice `index`, without pixels."""
    ds = _copy(base)
    ds.SOPClassUID = MRImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SeriesDescription = ds.ProtocolName = acquisition.description
    ds.ScanningSequence, ds.SequenceVariant = acquisition.scanning_sequence, acquisition.sequence_variant
    ds.ScanOptions, ds.MRAcquisitionType = "", acquisition.dimensions
    ds.RepetitionTime, ds.EchoTime = _ds(acquisition.repetition_ms), _ds(acquisition.echo_ms)
    if acquisition.inversion_ms is not None:
        ds.InversionTime = _ds(acquisition.inversion_ms)
    ds.FlipAngle, ds.EchoTrainLength = _ds(acquisition.flip_deg), acquisition.echo_train
    ds.AcquisitionNumber, ds.ImagingFrequency, ds.ImagedNucleus = 1, "123.2", "1H"
    if acquisition.images is not None:
        ds.ImagesInAcquisition = acquisition.images
    position, orientation, spacing, between = _plane(grid, index)
    ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = position, orientation, spacing
    ds.SliceThickness = ds.SpacingBetweenSlices = between
    _pixel_attributes(ds, grid)
    ds.WindowCenter, ds.WindowWidth = "450", "900"
    return ds


def enhanced_dataset(
    base: Dataset,
    acquisition: Acquisition,
    frames: Sequence[tuple[int, Grid]],
    *,
    per_frame: bool,
) -> Dataset:
    """Enhanced MR Image Storage with one frame for each (slice index, grid), without pixels.

    per_frame: pixel measures and orientation stand in every frame instead of the shared group.
    """
    ds = _copy(base)
    del ds.AcquisitionDate, ds.AcquisitionTime  # an Enhanced object has AcquisitionDateTime instead
    grid = frames[0][1]
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SeriesDescription = ds.ProtocolName = acquisition.description
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(frames)
    ds.AcquisitionDateTime, ds.AcquisitionNumber, ds.AcquisitionDuration = STAMP_DATETIME, 1, 300.0
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
    ds.ContentQualification, ds.ResonantNucleus, ds.KSpaceFiltering = "RESEARCH", "1H", "NONE"
    ds.ApplicableSafetyStandardAgency, ds.BurnedInAnnotation, ds.LossyImageCompression = "IEC", "NO", "00"
    ds.PresentationLUTShape = "IDENTITY"
    _pulse_sequence(ds, acquisition)
    organization = generate_uid(entropy_srcs=["dimension", str(base.SeriesInstanceUID)])
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=0x00209057,  # In-Stack Position Number
            FunctionalGroupPointer=0x00209111,  # Frame Content Sequence
        )
    ]
    shared = _shared_groups(acquisition, grid, measures_in_frames=per_frame)
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame_groups(g, k, per_frame=per_frame) for k, g in frames]
    _pixel_attributes(ds, grid)
    return ds


def _pulse_sequence(ds: Dataset, acquisition: Acquisition) -> None:
    gradient = "GR" in acquisition.scanning_sequence
    ds.PulseSequenceName = acquisition.description
    ds.MRAcquisitionType = acquisition.dimensions
    ds.EchoPulseSequence = "GRADIENT" if gradient else "SPIN"
    if not gradient:
        ds.MultipleSpinEcho = "NO"
    ds.OversamplingPhase, ds.AcquisitionContextSequence = "NONE", []
    ds.MultiPlanarExcitation = ds.PhaseContrast = ds.TimeOfFlightContrast = "NO"
    ds.SteadyStatePulseSequence = ds.EchoPlanarPulseSequence = ds.SpectrallySelectedSuppression = "NONE"
    ds.EchoPlanarPulseSequence = ds.SaturationRecovery = "NO"
    ds.GeometryOfKSpaceTraversal, ds.RectilinearPhaseEncodeReordering = "RECTILINEAR", "LINEAR"
    ds.SegmentedKSpaceTraversal, ds.CoverageOfKSpace, ds.NumberOfKSpaceTrajectories = "SINGLE", "FULL", 1


def _shared_groups(acquisition: Acquisition, grid: Grid, *, measures_in_frames: bool) -> Dataset:
    shared = Dataset()
    if not measures_in_frames:
        _measures(shared, grid)
    inversion = acquisition.inversion_ms is not None
    shared.MRTimingAndRelatedParametersSequence = [
        _item(
            RepetitionTime=_ds(acquisition.repetition_ms),
            FlipAngle=_ds(acquisition.flip_deg),
            EchoTrainLength=acquisition.echo_train,
            RFEchoTrainLength=0 if "GR" in acquisition.scanning_sequence else acquisition.echo_train,
            GradientEchoTrainLength=1 if "GR" in acquisition.scanning_sequence else 0,
            SpecificAbsorptionRateSequence=[
                _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.5)
            ],
            OperatingModeSequence=[_item(OperatingModeType="STATIC FIELD", OperatingMode="IEC_NORMAL")],
        )
    ]
    shared.MREchoSequence = [_item(EffectiveEchoTime=acquisition.echo_ms)]
    modifier = _item(
        InversionRecovery="YES" if inversion else "NO",
        FlowCompensation="NONE",
        Spoiling="RF" if "GR" in acquisition.scanning_sequence else "NONE",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )
    if inversion:
        modifier.InversionTimes = acquisition.inversion_ms
    shared.MRModifierSequence = [modifier]
    shared.MRImageFrameTypeSequence = [
        _item(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ComplexImageComponent="MAGNITUDE",
            AcquisitionContrast="UNKNOWN",
        )
    ]
    shared.FrameAnatomySequence = [
        _item(FrameLaterality="U", AnatomicRegionSequence=[_code("12738006", "SCT", "Brain")])
    ]
    shared.PixelValueTransformationSequence = [_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")]
    _coils(shared)
    shared.MRFOVGeometrySequence = [
        _item(
            InPlanePhaseEncodingDirection="ROW",
            MRAcquisitionFrequencyEncodingSteps=grid.shape[1],
            MRAcquisitionPhaseEncodingStepsInPlane=grid.shape[2],
            MRAcquisitionPhaseEncodingStepsOutOfPlane=grid.shape[0],
            PercentSampling=100.0,
            PercentPhaseFieldOfView=100.0,
        )
    ]
    shared.FrameVOILUTSequence = [_item(WindowCenter="450", WindowWidth="900")]
    return shared


def _coils(shared: Dataset) -> None:
    shared.MRReceiveCoilSequence = [
        _item(
            ReceiveCoilName="HEAD",
            ReceiveCoilManufacturerName="",
            ReceiveCoilType="VOLUME",
            QuadratureReceiveCoil="NO",
        )
    ]
    shared.MRTransmitCoilSequence = [
        _item(TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY")
    ]
    shared.MRAveragesSequence = [_item(NumberOfAverages=1.0)]
    shared.MRImagingModifierSequence = [
        _item(
            MagnetizationTransfer="NONE",
            BloodSignalNulling="NO",
            Tagging="NONE",
            TransmitterFrequency=123.2,
            PixelBandwidth=240.0,
        )
    ]


def _frame_groups(grid: Grid, index: int, *, per_frame: bool) -> Dataset:
    groups = Dataset()
    groups.FrameContentSequence = [
        _item(
            FrameAcquisitionNumber=1,
            FrameReferenceDateTime=STAMP_DATETIME,
            FrameAcquisitionDateTime=STAMP_DATETIME,
            FrameAcquisitionDuration=300.0,
            StackID="1",
            InStackPositionNumber=index + 1,
            DimensionIndexValues=[index + 1],
        )
    ]
    groups.PlanePositionSequence = [_item(ImagePositionPatient=_plane(grid, index)[0])]
    if per_frame:
        _measures(groups, grid)
    return groups


def _measures(groups: Dataset, grid: Grid) -> None:
    _, orientation, spacing, between = _plane(grid, 0)
    groups.PixelMeasuresSequence = [_item(PixelSpacing=spacing, SliceThickness=between, SpacingBetweenSlices=between)]
    groups.PlaneOrientationSequence = [_item(ImageOrientationPatient=orientation)]


def _pixel_attributes(ds: Dataset, grid: Grid) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0


def _plane(grid: Grid, index: int) -> tuple[list[str], list[str], list[str], str]:
    """ImagePositionPatient, ImageOrientationPatient, PixelSpacing, slice distance."""
    position = grid.to_lps(np.array([index, 0, 0]))
    between, rows, columns = grid.spacing_mm
    row_cosine, column_cosine = grid.index_to_lps[:3, 2] / columns, grid.index_to_lps[:3, 1] / rows
    return (
        _all_ds(position),
        _all_ds(np.concatenate([row_cosine, column_cosine])),
        [_ds(rows), _ds(columns)],
        _ds(between),
    )


def _all_ds(values: NDArray[np.float64]) -> list[str]:
    return [_ds(float(v) + 0.0) for v in values]


def _ds(value: float) -> str:
    return format_number_as_ds(round(float(value), 9) + 0.0)


def _item(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _copy(base: Dataset) -> Dataset:
    ds = Dataset()
    ds.update(base)
    return ds
