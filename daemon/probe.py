"""Trying a destination and saying in words how far one gets: name, port, association, C-ECHO, what it takes."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time by pynetdicom

from anomalyd.daemon import scu
from anomalyd.daemon.settings import Destination
from anomalyd.errors import ConfigError
from anomalyd.ids import AETitle
from anomalyd.pipeline.results.objects import SOP_CLASSES, ResultKind

SUCCESS = 0x0000
REJECT_MENDS: dict[tuple[int | None, int | None], str] = {
    # (source, diagnostic) of A-ASSOCIATE-RJ, PS3.8 table 9-21
    (1, 3): "it does not know our AE title {calling}: enter {calling} and this machine's address there",
    (1, 7): "it does not answer to the AE title {called}: correct ae_title of the destination",
    (1, 1): "it gives no reason: read its log; often our address or AE title {calling} is not entered there",
    (3, 1): "it is busy: try again",
    (3, 2): "its limit of associations is reached: try again, or raise the limit there",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried. mend: what to do; None where it worked."""

    text: str
    mend: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether it worked."""
        return self.mend is None


def probe(to: Destination, own_title: AETitle) -> Iterator[Step]:
    """Steps in order; the first that fails is the last, save for what the peer takes."""
    calling = to.calling_ae_title or own_title
    where = f"{to.host}:{to.port}"
    try:
        address = str(socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as exc:
        yield Step(f"the name {to.host} cannot be resolved ({exc.strerror})", "correct host, or the name service")
        return
    if address != to.host:
        yield Step(f"{to.host} is {address}")
    try:
        socket.create_connection((address, to.port), timeout=to.connect_timeout).close()
    except OSError as exc:
        reason = exc.strerror or "no answer in time"
        yield Step(
            f"port {to.port} at {address} does not open ({reason})",
            "start the PACS, correct port, or open the firewall",
        )
        return
    try:
        association = _associate(to, address, calling)
    except ConfigError as exc:
        yield Step(str(exc), "put files there that can be used")
        return
    if not association.is_established:
        yield _not_established(association, to, calling)
        return
    version = scu.tls_version(association)
    over = f" over {version}" if version else ""
    yield Step(f"{where} accepts the association of {calling} with {to.ae_title}{over}")
    yield from _echo(association, to)
    association.release()


def _associate(to: Destination, address: str, calling: AETitle) -> Association:
    entity = AE(calling)
    entity.connection_timeout, entity.acse_timeout = to.connect_timeout, to.acse_timeout
    entity.dimse_timeout, entity.network_timeout = to.dimse_timeout, to.network_timeout
    for sop_class in (Verification, *SOP_CLASSES.values()):
        entity.add_requested_context(sop_class)
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, scu.prepare)]
    arguments = scu.tls_arguments(to.tls, to.host)
    return entity.associate(address, to.port, ae_title=to.ae_title, evt_handlers=handlers, tls_args=arguments)


def _not_established(association: Association, to: Destination, calling: AETitle) -> Step:
    titles = f"called {to.ae_title}, calling {calling}"
    answer = scu.rejection(association)
    if answer is not None:
        mend = REJECT_MENDS.get((answer.result_source, answer.diagnostic), "read the log of the PACS")
        text = f"it rejects the association ({titles}): {answer.reason_str}"
        return Step(text, mend.format(calling=calling, called=to.ae_title))
    if fault := scu.tls_fault(association):
        mend = "compare `tls` of the destination with the TLS of the PACS: authority, name, date, port"
        return Step(f"no TLS with it: {fault}", mend)
    if association.rejected_contexts and not association.accepted_contexts:
        return Step(f"it takes neither C-ECHO nor any kind of result ({titles})", "allow them there")
    text = f"it closes the association or gives no answer ({titles})"
    return Step(text, "is this a DICOM port? is our AE title allowed? read the log of the PACS")


def _echo(association: Association, to: Destination) -> Iterator[Step]:
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    if Verification in accepted:
        status = association.send_c_echo()
        code = int(status.Status) if "Status" in status else None
        if code == SUCCESS:
            yield Step("it answers C-ECHO")
        else:
            told = "gives no answer to C-ECHO" if code is None else f"answers C-ECHO with 0x{code:04X}"
            yield Step(f"it {told}", "read the log of the PACS")
    for kind in to.send:
        name = f"{kind} ({SOP_CLASSES[kind].name})"
        if SOP_CLASSES[kind] in accepted:
            yield Step(f"it takes {name}")
        else:
            yield Step(f"it does not take {name}", f"allow it there, or leave {kind} out of `send` of {to.name}")
    others = [kind for kind in ResultKind if kind not in to.send]
    taken = [kind for kind in others if SOP_CLASSES[kind] in accepted]
    if others:
        refused = [kind for kind in others if kind not in taken]
        parts = [
            f"{words} {', '.join(kinds)}"
            for words, kinds in (("would take", taken), ("would not take", refused))
            if kinds
        ]
        yield Step(f"not in `send`: it {'; it '.join(parts)}")
