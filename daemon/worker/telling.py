"""The notice of a series that was not chosen for analysis: made here, since the dispatcher loads no such thing."""

from anomalyd.daemon.worker.messages import Analysed
from anomalyd.daemon.worker.writing import written
from anomalyd.errors import Broken
from anomalyd.pipeline.finding import Reason
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.results import report
from anomalyd.pipeline.results.notice import build_notice
from anomalyd.pipeline.results.objects import NoticeContext
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job
from anomalyd.storage.series import instances_of, open_instance


def tell(store: Store, job: Job, device_serial: str) -> Analysed:
    """The notice on disk, of a job of kind NOTICE. Raises Broken where an object that it names is not kept any more."""
    if job.report is None:
        raise Broken("the job does not say what its notice is to tell: send the series again")
    reason = Reason(**job.report["reason"])
    named = {uid for uid, _ in job.instances}
    rows = [row for row in instances_of(store, job.study_uid, job.series_uid) if row.instance_uid in named]
    if len(rows) < len(named):
        raise Broken(f"{len(named) - len(rows)} of {len(named)} images of the series are not kept any more: purged")
    headers = [read_header(open_part10(open_instance(store, row)))[0] for row in rows]
    context = NoticeContext(headers, None, reason.text, job.created_at, job.instance_set, job.settings, device_serial)
    subject = report.Subject(job.series_uid, job.instance_set)
    return Analysed(written(store, (build_notice(context),)), report.not_analysed(subject, "ineligible", reason))
