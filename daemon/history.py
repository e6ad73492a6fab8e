"""What happened, in sentences: one line for an audit row, or for many that say the same of image after image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anomalyd.storage.audit import AuditKind, AuditRow, HistoryEntry, condensed


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of a history: when it began, when it ended, what happened, how it went."""

    at: datetime
    until: datetime
    what: str
    outcome: str
    kind: str


def told(rows: Sequence[AuditRow]) -> tuple[Sentence, ...]:
    """A history on one page, oldest first."""
    return tuple(
        Sentence(entry.row.at, entry.last.at, _sentence(entry), entry.row.outcome, entry.row.kind)
        for entry in condensed(tuple(rows))
    )


def sentence(row: AuditRow) -> str:
    """One audit row in words."""
    return _sentence(HistoryEntry(row, 1, row))


def _sentence(entry: HistoryEntry) -> str:
    teller = _TELLERS.get(entry.row.kind)
    if teller is None:
        return f"{entry.row.kind.replace('_', ' ')} {_rest(entry.row.detail)}".strip()
    return teller(_Told(entry.row, entry.count, entry.row.detail, entry.last.detail))


@dataclass(frozen=True, slots=True)
class _Told:
    row: AuditRow
    count: int
    detail: Mapping[str, Any]
    last: Mapping[str, Any]
    """Detail of the last row that says the same."""

    def __getitem__(self, name: str) -> Any:
        return self.detail.get(name, "?")

    @property
    def sender(self) -> str:
        called = f", who called {self.row.called_ae}" if self.row.called_ae else ""
        return f"{self.row.calling_ae or 'an unnamed sender'} at {self.row.address or 'an unknown address'}{called}"

    @property
    def images(self) -> str:
        return "1 image" if self.count == 1 else f"{self.count} images"

    @property
    def results(self) -> str:
        return f"1 {self['kind']}" if self.count == 1 else f"{self.count} results"

    @property
    def tries(self) -> str:
        first, last = self["attempt"], self.last.get("attempt", "?")
        return f"try {first}" if first == last else f"tries {first} to {last}"

    @property
    def made(self) -> str:
        counts = sorted((self.detail.get("results") or {}).items())
        return ", ".join(f"{count} {kind}" for kind, count in counts) or "nothing"

    @property
    def job(self) -> str:
        return f"job {self.row.job_id}"


def _received(told: _Told) -> str:
    return f"received {told.images} from {told.sender}"


def _duplicate(told: _Told) -> str:
    return f"{told.images} came again from {told.sender}: the same bytes, kept once"


def _conflict(told: _Told) -> str:
    return (
        f"{told.images} with a known SOP Instance UID and other content from {told.sender}: kept beside, not analysed"
    )


def _rejected(told: _Told) -> str:
    return f"refused {told.images} from {told.sender} with status {told['status']}: {told['reason']}"


def _connection_refused(told: _Told) -> str:
    # A row that stands for several addresses has none (gateway/turned_away.py)
    origin = f" from {told.row.address}" if told.row.address else ""
    return f"refused {_how_many(told, 'a connection', 'connections')}{origin}: {told['text']}"


def _association_rejected(told: _Told) -> str:
    return f"rejected {_how_many(told, 'an association', 'associations')} of {told.sender}: {told['text']}"


def _how_many(told: _Told, one: str, many: str) -> str:
    """A row stands for many where there were more than an audit log should hold (gateway/turned_away.py)."""
    times = told.detail.get("times")
    return f"{times} {many} since {told['since']}, the newest" if times else one


def _closed(told: _Told) -> str:
    return f"series taken as complete by the rule {told['rule']}: {told['text']} ({told['instances']} images)"


def _selected(told: _Told) -> str:
    left_out = told.detail.get("left_out") or ()
    warnings = told.detail.get("warnings") or ()
    notes = "".join(f"; left out: {text}" for text in left_out) + "".join(f"; warning: {text}" for text in warnings)
    return f"chosen for analysis: {told['contrast']}, {told['instances']} images, bundle {told['bundle_id']}{notes}"


def _refused(told: _Told) -> str:
    limit = told.detail.get("limit")
    wanted = "" if limit is None else f", limit {limit}"
    no_notice = f"; no notice of it: {told['no_notice']}" if "no_notice" in told.detail else ""
    return f"not analysed: {told['text']} (criterion {told['criterion']}: {told['value']}{wanted}){no_notice}"


def _queued(told: _Told) -> str:
    withdraws = told.detail.get("withdraws")
    return f"{told.job} queued" + (f": {_note(withdraws)}, replaced by job {withdraws['by_job']}" if withdraws else "")


def _note(withdraws: Mapping[str, Any]) -> str:
    return (
        f"a rejection note for the {withdraws['objects']} results of job {withdraws['job']} "
        f"at {withdraws['destination']}"
    )


def _started(told: _Told) -> str:
    return f"{told.job} started by {told['worker']}, try {told['attempt']}"


def _finished(told: _Told) -> str:
    lesions = told.detail.get("lesions")
    found = "nothing found, no SEG" if told.detail.get("nothing_found") else f"{lesions} candidate regions found"
    if lesions == 1:
        found = "1 candidate region found"
    took = f"{_seconds(told['seconds'])} (waited {_seconds(told['waited_s'])})"
    if withdraws := told.detail.get("withdraws"):
        return f"{told.job} finished after {took}: made {_note(withdraws)}"
    if lesions is None:  # a notice
        return f"{told.job} finished after {took}: made {told.made}"
    return f"{told.job} finished after {took}: {found}; made {told.made}{_follows(told)}"


def _follows(told: _Told) -> str:
    before = told.detail.get("follows")
    if not before:
        return ""
    named = "its report names none as predecessor"
    if "document" in before:
        named = f"its report names that of job {before['document_of_job']} as predecessor"
    why = " and ".join(before["differs"])
    return f"; takes the place of job {before['job']} ({why}; that was bundle {before['bundle_id']}); {named}"


def _withheld(told: _Told) -> str:
    return f"{told.job} withheld its result: {told['reason']}; made {told.made}"


def _failed(told: _Told) -> str:
    return f"{told.job} failed for good after {told['attempts']} tries: {told['reason']}"


def _requeued(told: _Told) -> str:
    again = told.detail.get("again_in_s")
    why = told.detail.get("reason") or ("asked for by hand" if told.detail.get("by") == "hand" else "tried again")
    return f"{told.job} back in the queue: {why}" + (f"; again in {_seconds(again)}" if again is not None else "")


def _superseded(told: _Told) -> str:
    dropped = told.detail.get("deliveries_dropped") or 0
    more = f"; {dropped} unsent results dropped" if dropped else ""
    differs = " and ".join(told.detail.get("differs") or ("other images",))
    return f"{told.job} superseded by job {told['by_job']}, which has {differs}{more}"


def _cancelled(told: _Told) -> str:
    by = told.detail.get("by")
    return f"{told.job} cancelled" + (f" by {by}" if by else f": {told['reason']}")


def _sending(told: _Told) -> str:
    return f"sending {told['objects']} results to {told.row.destination}, {told.tries}"


def _sent(told: _Told) -> str:
    return f"{told.results} stored by {told.row.destination} (status {told['status']})"


def _asked(told: _Told) -> str:
    how = {"query": "by a query", "storage commitment": "for storage commitment"}.get(str(told["how"]), told["how"])
    again = f", question {told['asked']}" if told.detail.get("asked", 1) > 1 else ""
    return f"asked {told.row.destination} {how} about {told['objects']} results{again}"


def _missing(told: _Told) -> str:
    return f"{told.results} missing at {told.row.destination}, though stored there before: {told['reason']}"


def _unanswered(told: _Told) -> str:
    again = _seconds(told.last.get("again_in_s", "?"))
    return f"{told.results} not confirmed by {told.row.destination}: {told['error']}; asked again in {again}"


def _commitment_requested(told: _Told) -> str:
    return f"{told.sender} asked for a storage commitment of {told['objects']} images"


def _commitment_reported(told: _Told) -> str:
    what = f"{told.detail.get('committed', 0)} images kept, {told.detail.get('failed', 0)} not"
    error = told.detail.get("error")
    if error:
        return f"{told.row.calling_ae} could not be told about its storage commitment: {error}"
    return f"told {told.row.calling_ae} on its storage commitment ({told['how']}): {what}"


def _confirmed(told: _Told) -> str:
    ways = {"response": "by its answer", "query": "by a query", "storage commitment": "by storage commitment"}
    return f"{told.results} confirmed at {told.row.destination} {ways.get(str(told['how']), told['how'])}"


def _retried(told: _Told) -> str:
    what = told.results if told["attempt"] == told.last.get("attempt", "?") else f"results ({told.tries})"
    error, again = told.last.get("error", "?"), _seconds(told.last.get("again_in_s", "?"))
    return f"{what} not taken by {told.row.destination}: {error}; again in {again}"


def _refused_by_peer(told: _Told) -> str:
    return f"{told.results} refused for good by {told.row.destination}: {told['error']}"


def _gave_up(told: _Told) -> str:
    return f"gave up sending {told.results} to {told.row.destination}: {told['error']}"


def _revived(told: _Told) -> str:
    return f"{told.results} to {told.row.destination} due again, asked for by hand"


def _delivery_closed(told: _Told) -> str:
    return f"{told.results} will not be sent to {told.row.destination}: {told['reason']}"


def _purged(told: _Told) -> str:
    return (
        f"study forgotten on request: {told['images']} images and {told['results']} results of {told['series']} series"
    )


def _expired(told: _Told) -> str:
    return f"removed by age ({told['keep_for_days']} days): {told['images']} images, {told['results']} results"


def _alarm(told: _Told) -> str:
    return f"alarm: {told['text']}"


def _acknowledged(told: _Told) -> str:
    return f"alarm {told['alarm_id']} ({told['subject']}) acknowledged by {told['by']}"


def _seconds(value: Any) -> str:
    return f"{value:.1f} s" if isinstance(value, int | float) else str(value)


def _rest(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in detail.items())


_TELLERS: Mapping[str, Callable[[_Told], str]] = {
    AuditKind.RECEIVED: _received,
    AuditKind.DUPLICATE: _duplicate,
    AuditKind.CONFLICT: _conflict,
    AuditKind.REJECTED: _rejected,
    AuditKind.CONNECTION_REFUSED: _connection_refused,
    AuditKind.ASSOCIATION_REJECTED: _association_rejected,
    AuditKind.CLOSED: _closed,
    AuditKind.SELECTED: _selected,
    AuditKind.REFUSED: _refused,
    AuditKind.QUEUED: _queued,
    AuditKind.STARTED: _started,
    AuditKind.FINISHED: _finished,
    AuditKind.WITHHELD: _withheld,
    AuditKind.FAILED: _failed,
    AuditKind.REQUEUED: _requeued,
    AuditKind.SUPERSEDED: _superseded,
    AuditKind.CANCELLED: _cancelled,
    AuditKind.SENDING: _sending,
    AuditKind.SENT: _sent,
    AuditKind.ASKED: _asked,
    AuditKind.CONFIRMED: _confirmed,
    AuditKind.MISSING: _missing,
    AuditKind.UNANSWERED: _unanswered,
    AuditKind.COMMITMENT_REQUESTED: _commitment_requested,
    AuditKind.COMMITMENT_REPORTED: _commitment_reported,
    AuditKind.RETRIED: _retried,
    AuditKind.REFUSED_BY_PEER: _refused_by_peer,
    AuditKind.GAVE_UP: _gave_up,
    AuditKind.REVIVED: _revived,
    AuditKind.DELIVERY_CLOSED: _delivery_closed,
    AuditKind.PURGED: _purged,
    AuditKind.EXPIRED: _expired,
    AuditKind.ALARM: _alarm,
    AuditKind.ACKNOWLEDGED: _acknowledged,
}
