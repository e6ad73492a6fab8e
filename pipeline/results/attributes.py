"""Attributes that belong to the patient and the study (PS3.3 C.7.1, C.7.2).

They are copied whole, not by a short list: dcentvfy and archives compare them between the series of a study.
"""

from typing import Final

from pydicom.datadict import tag_for_keyword

PATIENT_GROUP: Final = 0x0010
"""Every attribute of this group is one of Patient or Patient Study, also the retired ones."""

TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""Must be present, may be empty."""

_GENERAL_STUDY = (  # C.7.2.1
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence", "StudyDescription", "ProcedureCodeSequence", "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence", "StudyID", "RequestingService",
    "RequestingServiceCodeSequence", "ReasonForPerformedProcedureCodeSequence",
)  # fmt: skip
_PATIENT_STUDY = (  # C.7.2.2, those outside group 0010
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ReasonForVisit", "ReasonForVisitCodeSequence",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence", "PatientState",
)  # fmt: skip
_PATIENT = (  # C.7.1.1, those outside group 0010
    "ReferencedPatientSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)  # fmt: skip
_CLINICAL_TRIAL = (  # C.7.1.3 and C.7.2.3
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "IssuerOfClinicalTrialProtocolID", "OtherClinicalTrialProtocolIDsSequence", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "IssuerOfClinicalTrialSiteID", "ClinicalTrialSubjectID", "IssuerOfClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "IssuerOfClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "LongitudinalTemporalOffsetFromEvent",
    "LongitudinalTemporalEventType", "ClinicalTrialTimePointTypeCodeSequence", "IssuerOfClinicalTrialTimePointID",
    "ConsentForClinicalTrialUseSequence",
)  # fmt: skip
_SOP_COMMON = ("SpecificCharacterSet", "TimezoneOffsetFromUTC")  # C.12.1: what the others are read with

PATIENT_AND_STUDY: Final = frozenset(
    tag
    for keyword in (*_SOP_COMMON, *_PATIENT, *_GENERAL_STUDY, *_PATIENT_STUDY, *_CLINICAL_TRIAL)
    if (tag := tag_for_keyword(keyword)) is not None
)
"""Tags of these modules outside group 0010, with the character set and the time zone."""
