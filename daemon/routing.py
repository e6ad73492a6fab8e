"""Which destinations get the results of a series."""

from datetime import datetime, timedelta

from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle


def destinations_for(daemon: DaemonSettings, sender: AETitle | None) -> tuple[Destination, ...]:
    """All of them; with `return_to_sender` only those whose AE title has sent the series: none, if it is not listed."""
    if not daemon.return_to_sender:
        return daemon.destinations
    return tuple(to for to in daemon.destinations if to.ae_title == sender)


def is_too_old(daemon: DaemonSettings, received_at: datetime, now: datetime) -> bool:
    """Results of such an old series are kept, but not sent unasked (DESIGN 11)."""
    return now - received_at > timedelta(seconds=daemon.max_result_age)
