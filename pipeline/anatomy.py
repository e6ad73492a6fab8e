"""Whether a series shows a head: what the header states, and how large the imaged block is."""

import re

from anomalyd.pipeline.acquisition import Acquisition

MIN_SLICES = 10
MIN_COVERAGE_MM = 80.0  # along the slices; an adult brain measures 130 to 170 mm
FIELD_OF_VIEW_MM = (100.0, 400.0)  # shorter and longer side: a narrow brain, a head-and-neck image
MAX_PIXEL_MM = 4.0  # anatomical images are at most 2 mm; beyond 4 mm no cortex is resolved
MAX_STEP_MM = 10.0

_HEAD_PARTS = re.compile(
    r"HEAD|BRAIN|SKULL|NEURO|CEREB|ENCEPH|CRANI|KOPF|HIRN|SCHAEDEL|CRANE|CERVEAU|TETE|CABEZA|CEREBRO|TESTA|CERVELLO|MOZG|"
    r"GLOWA|CAPUT|PITUITARY|SELLA|ORBIT|IAC|TEMPORAL|HIPPOC"
)
_OTHER_PARTS = re.compile(
    r"SPINE|SPINAL|VERTEBRA|LUMBAR|SACR|WIRBEL|NECK|HALS|PLEXUS|JAW|TMJ|SHOULDER|SCHULTER|EPAULE|HOMBRO|ELBOW|WRIST|HAND|"
    r"FINGER|ARM|CHEST|THORAX|BREAST|MAMMA|HEART|CARDIAC|AORTA|ABDOM|LIVER|KIDNEY|PANCREAS|BILIARY|PELVI|PROSTATE|UTERUS|"
    r"RECTUM|BLADDER|FETAL|FETUS|PLACENTA|HIP|THIGH|FEMUR|KNEE|KNIE|GENOU|RODILLA|LEG|TIBIA|CALF|ANKLE|FOOT|FEET|CALCANEUS|"
    r"TOE|EXTREMIT|WHOLE ?BODY"
)
_OTHER_NAMES = re.compile(
    r"(?<![a-z])(?:spine|[ctl]-?spine|shoulder|knee|hip|pelvis|abdomen|abd|chest|breast|heart|cardiac|prostate|ankle|foot|"
    r"wrist|hand|elbow|liver|kidney|lumbar|thoracic|femur|thigh|calf|rectum|uterus|schulter|knie|lws|hws|bws)(?![a-z])",
    re.IGNORECASE,
)
_OTHER_COILS = re.compile(r"SHOULDER|KNEE|BREAST|WRIST|ANKLE|FOOT|EXTREM|CARDIAC|ENDO|ELBOW|HAND|PROSTATE")


def other_body_part(acquisition: Acquisition) -> str | None:
    """What says that this is no head; None where a head is stated or nothing is.

    BodyPartExamined and the anatomic region count first, then the coil; names of series only where these are silent. Of
    each only the word that matched is told.
    """
    stated = [text for text in (acquisition.body_part, acquisition.anatomic_region) if text]
    if any(_HEAD_PARTS.search(text) for text in stated):
        return None
    for text in stated:
        if found := _OTHER_PARTS.search(text):
            return found.group(0)
    if found := _OTHER_COILS.search(acquisition.coil.upper()):
        return f"a coil for {found.group(0)}"
    if not stated and acquisition.patient_position.startswith("FF"):
        return "the patient lies feet first (PatientPosition FF) and no head is stated"
    named = _OTHER_NAMES.search(f"{acquisition.series_description} {acquisition.protocol_name}")
    return f"series or protocol name says {named.group(0)}" if named else None
