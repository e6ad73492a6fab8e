"""What must hold after the roles were killed, and everything was started again and ran to its end.

Lost: acknowledged or sent, and not there. Duplicated: there more often than once. Stuck: not at its end.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pynetdicom.events import Event

from anomalyd.storage import audit
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.deliveries import deliveries
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, jobs, jobs_of_series, results_of
from anomalyd.storage.series import instances_of, read_instance, series_row
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from anomalyd.storage.verify import verify
from phantoms import WrittenSeries
from running import ReceivingPacs

ANSWERED = (JobState.DONE, JobState.WITHHELD)
ENDED = (*ANSWERED, JobState.SUPERSEDED)
SETTLED = (DeliveryState.CONFIRMED, DeliveryState.CLOSED)


class CountingPacs(ReceivingPacs):
    """Remembers what came under each SOP Instance UID."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.contents: defaultdict[str, set[str]] = defaultdict(set)

    def _keep(self, event: Event) -> int:
        data_set = event.encoded_dataset(include_meta=False)
        self.contents[str(event.request.AffectedSOPInstanceUID)].add(hashlib.sha256(data_set).hexdigest())  # type: ignore[union-attr]  # a C-STORE
        return super()._keep(event)


@dataclass
class Findings:
    """In words, each of them one failure."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Those, too."""
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.stuck += other.stuck

    @property
    def all(self) -> list[str]:
        """Each with its kind."""
        kinds = {"lost": self.lost, "duplicated": self.duplicated, "stuck": self.stuck}
        return [f"{kind}: {text}" for kind, texts in kinds.items() for text in texts]


def has_ended(store: Store, series: WrittenSeries, *, is_analysed: bool) -> bool:
    """Refused; or answered for exactly the images that were sent, and every result of the series is settled."""
    row = series_row(store, series.study_uid, series.series_uid)
    if row is None or row.arrivals < len(series.files):
        return False
    if not is_analysed:
        return row.state is SeriesState.INELIGIBLE
    made = jobs_of_series(store, series.study_uid, series.series_uid)
    if not any(job.state in ANSWERED and len(job.instances) == len(series.files) for job in made):
        return False
    ours = [delivery for job in made for delivery in deliveries(store, job_id=job.id)]
    return all(job.state in ENDED for job in made) and all(delivery.state in SETTLED for delivery in ours)


def judge_series(store: Store, pacs: CountingPacs, series: WrittenSeries, acknowledged: Iterable[Path]) -> Findings:
    """One series that had its time: images, analyses, results."""
    found = Findings()
    _judge_images(store, series, acknowledged, found)
    made = jobs_of_series(store, series.study_uid, series.series_uid)
    finished: Counter[int] = Counter()
    for kind in (AuditKind.FINISHED, AuditKind.WITHHELD):
        rows = audit.query(store, AuditFilter(series_uid=series.series_uid, kind=kind))
        finished.update(row.job_id for row in rows if row.job_id is not None)
    found.duplicated += [f"job {number} was finished {times} times" for number, times in finished.items() if times > 1]
    found.stuck += [f"job {job.id} is {job.state}: {job.reason}" for job in made if job.state not in ENDED]
    for images, times in Counter(job.instance_set for job in made).items():
        if times > 1:
            found.duplicated.append(f"{series.series_uid}: {times} jobs for the set {images[:12]}")
    for job in made:
        _judge_results(store, pacs, job, found)
    return found


def judge_whole(store: Store, pacs: CountingPacs) -> Findings:
    """The whole store and the whole PACS: no object that no result stands for, every byte and the audit chain whole."""
    found = Findings()
    made = {r.sop_instance_uid for job in jobs(store) for r in results_of(store, job.id)}
    strays = sorted({path.stem for path in pacs.files} - made)
    found.duplicated += [f"{uid} is at the PACS, and no result has this UID" for uid in strays]
    found.duplicated += [f"{len(kept)} contents came as {uid}" for uid, kept in pacs.contents.items() if len(kept) > 1]
    found.lost += [str(problem) for problem in verify(store).problems]
    return found


def _judge_images(store: Store, series: WrittenSeries, acknowledged: Iterable[Path], found: Findings) -> None:
    rows = instances_of(store, series.study_uid, series.series_uid)
    by_uid = {str(row.instance_uid): row for row in rows}
    found.duplicated += [f"{uid} is recorded twice" for uid, n in _times(row.instance_uid for row in rows).items()]
    for path in acknowledged:
        sent = dcmread(path)
        row = by_uid.get(sent.SOPInstanceUID)
        if row is None:
            found.lost.append(f"{sent.SOPInstanceUID} was acknowledged and is not recorded")
        elif dcmread(DicomBytesIO(read_instance(store, row))).PixelData != sent.PixelData:
            found.lost.append(f"{sent.SOPInstanceUID} was acknowledged and holds other pixels")


def _judge_results(store: Store, pacs: CountingPacs, job: Job, found: Findings) -> None:
    there: Mapping[str, set[str]] = pacs.contents
    made = [result.sop_instance_uid for result in results_of(store, job.id)]
    found.duplicated += [f"{uid} is a result of job {job.id} twice" for uid in _times(made)]
    ways: Sequence[tuple[str, DeliveryState]] = [
        (row.sop_instance_uid, row.state) for row in deliveries(store, job_id=job.id)
    ]
    found.stuck += [f"result {uid} is {state}" for uid, state in ways if state not in SETTLED]
    found.lost += [
        f"result {uid} is confirmed and not at the PACS"
        for uid, state in ways
        if state is DeliveryState.CONFIRMED and uid not in there
    ]
    if job.state in ANSWERED and {uid for uid, _ in ways} != set(made):
        found.lost.append(f"job {job.id}: {len(made)} results, deliveries for {len({uid for uid, _ in ways})}")


def _times(uids: Iterable[str]) -> dict[str, int]:
    return {uid: times for uid, times in Counter(uids).items() if times > 1}
