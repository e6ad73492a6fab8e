"""A store of its own for a test, with a clock that the test moves, and received series without a network."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage import objects, queue
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.series import SeriesRow, close_series, series_row
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import InstanceState, SeriesState

STUDY = StudyUID("1.2.826.0.1.1")
SERIES = SeriesUID("1.2.826.0.1.1.2")
BUNDLE = Digest("b" * 64)
PATIENT_ID = "MARKER-PATIENT-4711"
PATIENT_NAME = "MARKER^NAME"
ACCESSION = "MARKER-ACC-0815"


class SteppedClock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def step(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def settings_in(folder: Path, **more: object) -> StorageSettings:
    return StorageSettings.model_validate({"root": folder / "store", **more})


@dataclass(frozen=True, slots=True)
class SteppedStore:
    """store and the clock that it reads."""

    store: Store
    clock: SteppedClock

    def arrive(
        self,
        number: int,
        *,
        study: StudyUID = STUDY,
        series: SeriesUID = SERIES,
        state: InstanceState = InstanceState.STORED,
    ) -> InstanceUID:
        """One image more of a series, as the inbox leaves it: study, series and instance rows; gives its UID."""
        uid = InstanceUID(f"{series}.{number}")
        sha256 = Digest(hashlib.sha256(f"{study} {uid} {state}".encode()).hexdigest())
        now, sender = (
            self.clock.now,
            {"calling_ae": AETitle("SCANNER"), "called_ae": AETitle("ANOMALYD"), "address": "10.0.0.7"},
        )
        with self.store.write() as connection:
            series_id = self._series_id(connection, study, series)
            where = connection.execute(select(t.Instance.offset).order_by(t.Instance.offset.desc()).limit(1)).scalar()
            connection.execute(
                insert(t.Instance).values(
                    series_id=series_id, instance_uid=uid, sop_class="1.2.840.10008.5.1.4.1.1.4",
                    transfer_syntax="1.2.840.10008.1.2.1", sha256=sha256, state=state, segment=1,
                    offset=(where or 0) + 64, length=64, received_at=now, **sender,
                )
            )  # fmt: skip
            connection.execute(
                update(t.Series)
                .where(t.Series.id == series_id)
                .values(state=SeriesState.RECEIVING, reason=None, last_at=now, arrivals=t.Series.arrivals + 1, **sender)
            )
        return uid

    def closed(self, images: int = 3, *, study: StudyUID = STUDY, series: SeriesUID = SERIES) -> SeriesRow:
        """A series of so many images, received and closed."""
        for number in range(1, images + 1):
            self.arrive(number, study=study, series=series)
        return self.close(study, series)

    def close(self, study: StudyUID = STUDY, series: SeriesUID = SERIES) -> SeriesRow:
        assert close_series(self.store, self.row(study, series), "quiet", "no image for 30 s")
        return self.row(study, series)

    def row(self, study: StudyUID = STUDY, series: SeriesUID = SERIES) -> SeriesRow:
        row = series_row(self.store, study, series)
        assert row is not None
        return row

    def new_job(self, row: SeriesRow, **more: object) -> queue.NewJob:
        """The job that selection would make of all images of the series as it stands."""
        facts: dict[str, object] = {
            "study_uid": row.study_uid,
            "series_uid": row.series_uid,
            "instance_set": Digest(hashlib.sha256(f"{row.series_uid} {row.arrivals}".encode()).hexdigest()),
            "instances": tuple((InstanceUID(f"{row.series_uid}.{n}"), None) for n in range(1, row.arrivals + 1)),
            "bundle": BUNDLE, "bundle_id": "t1w-test", "settings": Digest("0" * 64), "contrast": "T1w",
            "arrivals": row.arrivals,
        }  # fmt: skip
        return queue.NewJob(**{**facts, **more})  # type: ignore[arg-type]  # keywords of the test

    def queued(self, images: int = 3, *, study: StudyUID = STUDY, series: SeriesUID = SERIES) -> queue.Job:
        """A series that is received, closed and queued."""
        return queue.enqueue(self.store, self.new_job(self.closed(images, study=study, series=series)))

    def results(self, job: queue.Job, count: int = 2) -> tuple[queue.NewResult, ...]:
        """Results of a job, their bytes written."""
        datas = [f"result {k} of job {job.id}".encode() for k in range(count)]
        files = objects.write_results(self.store, datas)
        return tuple(
            queue.NewResult(
                "seg" if k == 0 else "heatmap", "1.2.840.10008.5.1.4.1.1.7",
                InstanceUID(f"2.25.{job.id}.{k}"), SeriesUID(f"2.25.{job.id}"), file,
            )
            for k, file in enumerate(files)
        )  # fmt: skip

    def done(
        self, *destinations: str, results: int = 2, study: StudyUID = STUDY, series: SeriesUID = SERIES
    ) -> queue.Job:
        """A series that is analysed: results published, to be delivered to these destinations."""
        self.queued(study=study, series=series)
        lease = queue.lease(self.store, "worker-1", 60.0)
        assert lease is not None
        made = self.results(lease.job, results)
        return queue.finish(
            self.store, lease, t.JobState.DONE, made, destinations, report={"lesions": [], "score": 0.5}
        )

    def _series_id(self, connection: Connection, study: StudyUID, series: SeriesUID) -> int:
        now = self.clock.now
        if connection.execute(select(t.Study.study_uid).where(t.Study.study_uid == study)).first() is None:
            connection.execute(
                insert(t.Study).values(
                    study_uid=study, patient_name=PATIENT_NAME, patient_id=PATIENT_ID, accession_number=ACCESSION,
                    patient_hash=self.store.keyed_hash(PATIENT_ID), accession_hash=self.store.keyed_hash(ACCESSION),
                    study_date="20260131", first_at=now,
                )
            )  # fmt: skip
        wanted = select(t.Series.id).where(t.Series.study_uid == study, t.Series.series_uid == series)
        known = connection.execute(wanted).scalar()
        if known is not None:
            return known
        new = insert(t.Series).values(
            study_uid=study, series_uid=series, state=SeriesState.RECEIVING, first_at=now, last_at=now, arrivals=0
        )
        return connection.execute(new.returning(t.Series.id)).scalar_one()


def open_stepped(folder: Path) -> SteppedStore:
    clock = SteppedClock()
    return SteppedStore(open_store(settings_in(folder), clock=clock), clock)
