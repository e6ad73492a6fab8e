"""Studies: the one table with clear text, and the hashes that stand for it everywhere else."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from sqlalchemy import Connection, select

from anomalyd.ids import StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study with its clear text: for a person at the screen, never for a log or an audit row."""

    study_uid: StudyUID
    patient_name: str | None
    patient_id: str | None
    accession_number: str | None
    study_date: str | None
    patient_hash: str | None
    accession_hash: str | None
    first_at: datetime
    purged_at: datetime | None


class Pseudonym(TypedDict):
    """The two columns of an audit row that stand for patient and order."""

    patient_hash: str | None
    accession_hash: str | None


def study_row(store: Store, study_uid: StudyUID) -> StudyRow | None:
    """The study, if anything of it was ever received."""
    with store.read() as connection:
        row = connection.execute(select(t.Study).where(t.Study.study_uid == study_uid)).mappings().first()
    return StudyRow(**row) if row else None


def pseudonym(connection: Connection, study_uid: str) -> Pseudonym:
    """Hashes for an audit row about this study."""
    columns = select(t.Study.patient_hash, t.Study.accession_hash).where(t.Study.study_uid == study_uid)
    row = connection.execute(columns).first()
    return Pseudonym(patient_hash=row[0] if row else None, accession_hash=row[1] if row else None)
