"""Before sending: are study and series that the results belong to in the PACS, and still the same patient's?

A PACS may reject source images that we got, delete a study, or give it to another patient (a merge, a correction)
between receipt and delivery. Results carry the identity that the images came with (RESULTS 1), so they would be
filed under a patient who is gone, or beside images that nobody has.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from anomalyd.daemon.dispatcher.delivery import Outcome, Verdict
from anomalyd.daemon.dispatcher.querying import Asker, NotAnswered, Source, asking
from anomalyd.daemon.scu import Watched
from anomalyd.daemon.settings import Destination
from anomalyd.ids import AETitle
from anomalyd.storage.deliveries import DeliveryRow
from anomalyd.storage.engine import Store
from anomalyd.storage.objects import result_path


def judge(
    store: Store, rows: Sequence[DeliveryRow], to: Destination, calling: AETitle, watched: Watched
) -> dict[int, Outcome | None]:
    """By delivery: None where it may be sent; else why not, and whether a later try can mend it."""
    verdicts: dict[int, Outcome | None] = {}
    try:
        with asking(to.asked, calling, watched) as asker:
            for _, group in groupby(sorted(rows, key=_source), key=_source):
                some = list(group)
                outcome = _judge_one(store, some[0], to, asker)
                verdicts |= {row.id: outcome for row in some}
    except NotAnswered as exc:
        verdict = Verdict.REFUSED if exc.for_good else Verdict.RETRY
        outcome = Outcome(verdict, f"check_source: {exc}")
        verdicts |= {row.id: outcome for row in rows if row.id not in verdicts}
    return verdicts


_source = attrgetter("study_uid", "series_uid")


def _judge_one(store: Store, row: DeliveryRow, to: Destination, asker: Asker) -> Outcome | None:
    found = asker.source(row.study_uid, row.series_uid, _patient_id(store, row))
    if found is Source.SAME:
        return None
    if found is Source.OTHER_PATIENT:
        text = (
            f"{to.name} has the study under another PatientID than the images came with (merged or corrected): "
            "let the PACS send the corrected series, its results will carry the new identity"
        )
        return Outcome(Verdict.REFUSED, text)
    what = "the study" if found is Source.NO_STUDY else "the series that was analysed"
    return Outcome(Verdict.RETRY, f"{to.name} does not have {what} (not arrived yet, rejected there, or deleted)")


def _patient_id(store: Store, row: DeliveryRow) -> str | None:
    """As the result has it; None where the file cannot be read (sending it tells why)."""
    try:
        ds = dcmread(result_path(store, row.path), stop_before_pixels=True, specific_tags=["PatientID"])
    except (OSError, InvalidDicomError):
        return None
    return str(ds.get("PatientID") or "") or None
