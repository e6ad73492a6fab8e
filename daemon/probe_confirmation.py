"""Trying whether a destination can prove what it has: storage commitment with its report, and a query; in words."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

from pydicom.uid import MRImageStorage, generate_uid

from anomalyd.daemon.commitment_messages import Report, Request
from anomalyd.daemon.dispatcher.committing import KEEP_OPEN_S, Waiting, ask, offers_commitment
from anomalyd.daemon.dispatcher.querying import NotAnswered, asking
from anomalyd.daemon.probe import Step
from anomalyd.daemon.settings import AskAt, DaemonSettings, Destination
from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage import confirmations
from anomalyd.storage.engine import Store

NOBODYS: Final = "2.25.1"
"""A UID that no PACS has anything under."""


def probe_confirmation(to: Destination, daemon: DaemonSettings, store: Store | None) -> Iterator[Step]:
    """What it offers, and whether that is what `confirm` and `check_source` want.

    store: of the daemon, so that a report that comes to its gateway is seen; None: there is none yet.
    """
    try:
        socket.create_connection((to.asked.host, to.asked.port), timeout=to.connect_timeout).close()
    except OSError as exc:
        if to.ask_at is not None:  # else `probe` has told
            yield _out_of_reach(to.ask_at, exc)
        return
    query = _query_refused(to, daemon)
    where = f" at {to.asked.ae_title} ({to.asked.host}:{to.asked.port})" if to.ask_at else ""
    wants_query = to.confirm == "query" or to.check_source
    if query is None:
        yield Step(f"it answers queries (C-FIND, study root){where}")
    elif wants_query:
        wanted_by = "confirm: query" if to.confirm == "query" else "check_source: true"
        yield Step(f"{query}{where}", f"allow them there for our AE title, or give up `{wanted_by}`")
    if to.confirm == "commitment":
        yield from _commitment(to, daemon, store)
    elif to.confirm == "none":
        offers = offers_commitment(to.asked, daemon.ae_title)
        found = [name for name, is_offered in (("commitment", offers), ("query", query is None)) if is_offered]
        text = f"it offers {' and '.join(found)} for `confirm`" if found else "it offers neither commitment nor query"
        yield Step(f"its answer 0x0000 alone is taken as proof (confirm: none); {text}")


def _out_of_reach(at: AskAt, error: OSError) -> Step:
    if isinstance(error, socket.gaierror):
        text = f"the name {at.host} (ask_at) cannot be resolved ({error.strerror})"
        return Step(text, "correct host of ask_at, or the name service")
    text = f"{at.host}:{at.port} (ask_at) does not open ({error.strerror or 'no answer in time'})"
    return Step(text, "correct ask_at, or start that entity")


def _query_refused(to: Destination, daemon: DaemonSettings) -> str | None:
    try:
        with asking(to.asked, daemon.ae_title) as asker:
            asker.instances(StudyUID(NOBODYS), SeriesUID(NOBODYS))
    except NotAnswered as exc:
        return str(exc)
    return None


def _commitment(to: Destination, daemon: DaemonSettings, store: Store | None) -> Iterator[Step]:
    """Asks for an object that nobody has, and waits for the report that says so."""
    transaction_uid = str(generate_uid(prefix=None))
    came = threading.Event()

    def keep(report: Report) -> bool:
        if report.transaction_uid == transaction_uid:
            came.set()
        return report.transaction_uid == transaction_uid

    def is_answered() -> bool:
        return came.is_set() or (store is not None and confirmations.is_answered(store, [transaction_uid]))

    if store is not None:
        confirmations.expect_report(store, transaction_uid, to.name)
    request = Request(transaction_uid, ((str(MRImageStorage), NOBODYS),))
    refused = ask((request,), to.asked, daemon.ae_title, keep, _patience(is_answered)).get(transaction_uid)
    if refused is not None:
        mend = "allow storage commitment there for our AE title, or set `confirm: query` or `none`"
        yield Step(refused.text, mend)
        return
    if came.is_set():
        yield Step("it takes storage commitment, and reports on the association of the request")
    elif is_answered():
        yield Step("it takes storage commitment, and its report reached the gateway")
    else:
        title = to.calling_ae_title or daemon.ae_title
        yield Step(
            f"it takes storage commitment; no report came within {KEEP_OPEN_S:g} s",
            f"enter {title}, this machine's address and port {daemon.port} there as the node that reports go to; "
            "the gateway must run and listen there (some PACS report later)",
        )


def _patience(is_answered: Callable[[], bool]) -> Waiting:
    return Waiting(is_answered, threading.Event(), threading.Event())
