"""Jobs whose worker died: queued again, or failed once they killed `max_attempts` of them."""

import structlog

from anomalyd.storage import queue
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import JobState

log = structlog.get_logger()


def reap_leases(store: Store, max_attempts: int) -> bool:
    """True when a job became free again."""
    reaped = queue.reap(store, max_attempts)
    for job in reaped:
        write = log.error if job.state is JobState.FAILED else log.warning
        write("job.reaped", job_id=job.id, series_uid=job.series_uid, state=job.state.value, reason=job.reason)
    return any(job.state is JobState.QUEUED for job in reaped)
