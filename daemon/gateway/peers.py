"""Who may send (issue: `accept_from`), and the reason of PS3.8 9.3.4 for whom it is refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from anomalyd.daemon.settings import DaemonSettings, Destination, Peer
from anomalyd.ids import AETitle


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source, reason (PS3.8 table 9-21), and the same in words for audit and log."""

    result: int
    source: int
    reason: int
    text: str


UNKNOWN_CALLING: Final = Rejection(1, 1, 3, "calling AE title is not in accept_from")
UNKNOWN_CALLED: Final = Rejection(1, 1, 7, "called AE title is not ours")
UNKNOWN_ADDRESS: Final = Rejection(1, 1, 1, "address does not belong to this AE title in accept_from")
UNNAMED: Final = Rejection(1, 1, 3, "no certificate that holds the certificate_name of this AE title in accept_from")
TOO_MANY: Final = Rejection(2, 3, 2, "max_associations reached")
PEER_TOO_MANY: Final = Rejection(2, 3, 2, "max_associations of its entry in accept_from reached")
PEER_TOO_OFTEN: Final = Rejection(2, 3, 2, "associations_per_minute of its entry in accept_from reached")
CLOSING: Final = Rejection(2, 3, 1, "not ready: shutting down")
NO_STORE: Final = Rejection(2, 3, 1, "not ready: the store cannot be written")
NO_SPACE: Final = Rejection(2, 3, 1, "not ready: disk floor reached")


@dataclass(frozen=True, slots=True)
class AcceptList:
    """`accept_from`, and the AE title that we answer to."""

    peers: Sequence[Peer]
    own_title: AETitle
    reporters: frozenset[tuple[AETitle, AETitle]] = frozenset()
    """(calling, called) AE titles of PACS that are asked for storage commitment: they report on associations of their
    own. No address is asked for, since a PACS may report from another machine: a report counts for a transaction whose
    UID nobody else knows, and nothing else may be done on such an association."""

    @classmethod
    def of(cls, daemon: DaemonSettings) -> "AcceptList":
        """As the configuration says."""
        asked = [to for to in daemon.destinations if to.confirm == "commitment"]
        titles = {(title, to.calling_ae_title or daemon.ae_title) for to in asked for title in _titles(to)}
        return cls(daemon.accept_from, daemon.ae_title, frozenset(titles))

    def is_reporter(self, calling: str, called: str) -> bool:
        """Whether this may be a PACS that reports."""
        return (calling, called) in self.reporters

    def judge(self, calling: str, called: str, address: str, names: frozenset[str] = frozenset()) -> Peer | Rejection:
        """The entry by which it may send: the first that fits. An empty list refuses everybody.

        names: those in its verified certificate, lower case (`tls.names_of`). Of several faults the first of title,
        address, certificate, called title.
        """
        fitting: Sequence[Peer] = [peer for peer in self.peers if peer.is_anybody or peer.ae_title == calling]
        came_from = _ip(address)
        steps: tuple[tuple[Rejection, Callable[[Peer], bool]], ...] = (
            (UNKNOWN_CALLING, lambda _: True),
            (UNKNOWN_ADDRESS, lambda peer: peer.address is None or came_from in peer.address),
            (UNNAMED, lambda peer: peer.certificate_name is None or peer.certificate_name.casefold() in names),
            (UNKNOWN_CALLED, lambda peer: called == (peer.called or self.own_title)),
        )
        for rejection, fits in steps:
            fitting = [peer for peer in fitting if fits(peer)]
            if not fitting:
                return rejection
        return fitting[0]


def _titles(to: Destination) -> tuple[AETitle, AETitle]:
    return to.ae_title, to.asked.ae_title


def _ip(address: str) -> IPv4Address | IPv6Address:
    """An IPv4 address that came over an IPv6 socket is an IPv4 address."""
    found = ip_address(address.partition("%")[0])
    return (found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found
