"""Rows as the roles leave them, for tests that begin in the middle: a received series, a job, a finished job."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage
from sqlalchemy import insert

from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.storage import objects, queue
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, NewJob
from anomalyd.storage.publication import NewResult
from anomalyd.storage.tables import JobState, SeriesState
from part10_objects import part10_object

STUDY = StudyUID("1.2.3")


@dataclass(frozen=True)
class Made:
    """A job and the UIDs of its results."""

    job: Job
    uids: tuple[str, ...]


def digest(text: str) -> Digest:
    """Any digest."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def add_series(
    store: Store, number: int = 1, *, state: SeriesState = SeriesState.CLOSED, at: datetime | None = None
) -> SeriesUID:
    """A series of one study, without images."""
    now = at or store.clock()
    uid = SeriesUID(f"{STUDY}.{number}")
    with store.write() as connection:
        connection.execute(insert(t.Study).prefix_with("OR IGNORE").values(study_uid=STUDY, first_at=now))
        connection.execute(
            insert(t.Series).values(
                study_uid=STUDY,
                series_uid=uid,
                state=state,
                first_at=now,
                last_at=now,
                arrivals=1,
                calling_ae=AETitle("SCANNER"),
                called_ae=AETitle("ANOMALYD"),
                address="127.0.0.1",
            )
        )
    return uid


def new_job(series: SeriesUID, set_name: str = "set", bundle: str = "") -> NewJob:
    """A job of that series. bundle: digest of one that is in force, where a dispatcher looks at it."""
    return NewJob(
        study_uid=STUDY,
        series_uid=series,
        instance_set=digest(set_name),
        instances=((InstanceUID(f"{series}.1"), None),),
        bundle=Digest(bundle) if bundle else digest("bundle"),
        bundle_id="test-bundle",
        settings=AnalysisSettings().digest,
        contrast="T1w",
    )


def add_job(store: Store, number: int = 1, bundle: str = "") -> Job:
    """A queued job of a new series."""
    # As a series whose older job is done: a closed one without images would be refused by a running dispatcher.
    series = add_series(store, number, state=SeriesState.QUEUED)
    return queue.enqueue(store, new_job(series, bundle=bundle))


def add_finished_job(
    store: Store,
    number: int = 1,
    *,
    heatmaps: int = 2,
    seg: bool = True,
    destinations: Sequence[str] = ("pacs",),
    side: int = 16,
) -> Made:
    """A done job with result objects on disk, of side x side pixels, and their deliveries due."""
    made = add_job(store, number)
    lease = queue.lease(store, "test", 60)
    assert lease is not None
    assert lease.job.id == made.id
    classes = [SecondaryCaptureImageStorage] * heatmaps + [SegmentationStorage] * seg
    uids = [f"2.25.{number}{index:04d}" for index in range(len(classes))]
    files = objects.write_results(
        store, [part10_object(uid, sop_class, side=side) for uid, sop_class in zip(uids, classes, strict=True)]
    )
    results = [
        NewResult(
            kind="seg" if sop_class == SegmentationStorage else "heatmap",
            sop_class=sop_class,
            sop_instance_uid=InstanceUID(uid),
            series_uid=SeriesUID(f"{STUDY}.{sop_class[-1]}"),  # as in the object
            file=file,
        )
        for uid, sop_class, file in zip(uids, classes, files, strict=True)
    ]
    done = queue.finish(store, lease, JobState.DONE, results=results, destinations=destinations, report={"lesions": []})
    return Made(done, tuple(uids))
