"""C-FIND in the Study Root model (PS3.4 C.4.1): what a PACS has of a series, and whose a study is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StudyRootQueryRetrieveInformationModelFind,
)

from anomalyd.daemon.dispatcher.delivery import CannotCall, Verdict, associate, why_no_association
from anomalyd.daemon.scu import Watched
from anomalyd.daemon.settings import Destination
from anomalyd.errors import Transient
from anomalyd.ids import AETitle, SeriesUID, StudyUID

PENDING = (0xFF00, 0xFF01)
SUCCESS = 0x0000


class NotAnswered(Transient):
    """A query came to no end. for_good: the peer does not offer queries."""

    def __init__(self, text: str, *, for_good: bool = False) -> None:
        self.for_good = for_good
        super().__init__(text)


class Source(StrEnum):
    """What a PACS says of the study and series that results belong to."""

    SAME = "same"
    NO_STUDY = "no study"
    NO_SERIES = "no series"
    OTHER_PATIENT = "other patient"


@dataclass(frozen=True, slots=True)
class Asker:
    """One association for queries."""

    association: Association

    def instances(self, study: StudyUID, series: SeriesUID) -> frozenset[str]:
        """SOP Instance UIDs of a series that is there; raises NotAnswered."""
        wanted = _identifier("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
        return frozenset(str(found.get("SOPInstanceUID")) for found in self._find(wanted))

    def source(self, study: StudyUID, series: SeriesUID, patient_id: str | None) -> Source:
        """Whether study and series are there, and whose the study is; raises NotAnswered.

        patient_id: of the results; None, or a PACS that tells none: not compared.
        """
        studies = list(self._find(_identifier("STUDY", StudyInstanceUID=study, PatientID="")))
        if not studies:
            return Source.NO_STUDY
        theirs = {str(found.get("PatientID") or "").strip() for found in studies} - {""}
        if patient_id and theirs and patient_id.strip() not in theirs:
            return Source.OTHER_PATIENT
        there = list(self._find(_identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)))
        return Source.SAME if there else Source.NO_SERIES

    def _find(self, identifier: Dataset) -> Iterator[Dataset]:
        model = StudyRootQueryRetrieveInformationModelFind
        found = []
        try:
            for status, match in self.association.send_c_find(identifier, model):
                if "Status" not in status:
                    raise NotAnswered("no answer to a query: the association was aborted, closed or timed out")
                if status.Status in PENDING and match is not None:
                    found.append(match)
                elif status.Status != SUCCESS:
                    raise NotAnswered(f"a query was answered with 0x{int(status.Status):04X}")
        except RuntimeError as exc:  # pynetdicom: no longer established
            raise NotAnswered("the association was lost") from exc
        return iter(found)


@contextmanager
def asking(of: Destination, calling: AETitle, watched: Watched | None = None) -> Iterator[Asker]:
    """An association for queries to a PACS; raises NotAnswered."""
    where = f"{of.ae_title} at {of.host}:{of.port}"
    try:
        association = associate(of, calling, [build_context(StudyRootQueryRetrieveInformationModelFind)])
    except CannotCall as exc:
        raise NotAnswered(str(exc)) from exc
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            raise NotAnswered(f"{where} takes no queries (presentation context rejected)", for_good=True)
        answer = why_no_association(association, of)
        raise NotAnswered(answer.text, for_good=answer.verdict is Verdict.REFUSED)
    if watched is not None:
        watched.add(association)
    try:
        yield Asker(association)
    finally:
        if association.is_established:
            association.release()


def _identifier(level: str, **keys: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds
