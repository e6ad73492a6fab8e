"""Which results are made of a series, and which destinations get them."""

from datetime import datetime, timedelta

from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle
from anomalyd.pipeline.terms import DEFAULT_KINDS, ResultKind


def destinations_for(daemon: DaemonSettings, sender: AETitle | None) -> tuple[Destination, ...]:
    """All of them; with `return_to_sender` only those whose AE title has sent the series: none, if it is not listed."""
    if not daemon.return_to_sender:
        return daemon.destinations
    return tuple(to for to in daemon.destinations if to.ae_title == sender)


def is_wanted(daemon: DaemonSettings, sender: AETitle | None, kind: ResultKind) -> bool:
    """Whether any destination of what comes from this sender gets results of a kind."""
    return any(kind in to.send for to in destinations_for(daemon, sender))


def kinds_to_make(daemon: DaemonSettings) -> frozenset[ResultKind]:
    """The default ones, and what any destination asks for besides."""
    return frozenset(DEFAULT_KINDS).union(*(to.send for to in daemon.destinations))


def is_too_old(daemon: DaemonSettings, received_at: datetime, now: datetime) -> bool:
    """Results of such an old series are kept, but not sent unasked (DESIGN 11)."""
    return now - received_at > timedelta(seconds=daemon.max_result_age)
