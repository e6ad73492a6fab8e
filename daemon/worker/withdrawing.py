"""The rejection note of a superseded answer: made here, where highdicom is loaded."""

from anomalyd.daemon.worker.messages import Analysed
from anomalyd.daemon.worker.writing import written
from anomalyd.errors import Broken
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.results.objects import Rejected, RejectionContext
from anomalyd.pipeline.results.rejection_note import build_rejection_note
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job
from anomalyd.storage.series import instances_of, open_instance
from anomalyd.storage.withdrawing import withdrawal_of


def withdraw(store: Store, job: Job, device_serial: str) -> Analysed:
    """The note on disk, of a job of kind REJECTION_NOTE.

    Raises Broken where what it is made of is not kept any more.
    """
    why = withdrawal_of(store, job)
    images = instances_of(store, job.study_uid, job.series_uid)
    if not images:
        raise Broken("no image of the series is kept any more: purged")
    context = RejectionContext(
        header=read_header(open_part10(open_instance(store, min(images, key=lambda row: row.instance_uid))))[0],
        rejected=[Rejected(row.sop_class, row.sop_instance_uid, row.series_uid) for row in why.results],
        model=_model_of(why.withdrawn),
        job_time=job.created_at,
        instance_set=job.instance_set,
        settings=job.settings,
        device_serial=device_serial,
    )
    report = {"status": "rejection_note", "withdraws": why.detail}
    return Analysed(written(store, (build_rejection_note(context),)), report, destination=why.destination)


def _model_of(withdrawn: Job) -> Model | None:
    """Of the results, which need not be of a bundle that is in force; None: of a notice that no bundle made."""
    if not withdrawn.bundle:
        return None
    return Model(withdrawn.bundle_id, withdrawn.bundle, Contrast(withdrawn.contrast))
