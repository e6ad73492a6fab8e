"""Who may send: order of the checks, IPv6, networks."""

import pytest

from anomalyd.daemon.gateway.peers import UNKNOWN_ADDRESS, UNKNOWN_CALLED, UNKNOWN_CALLING, AcceptList, Rejection
from anomalyd.daemon.settings import Peer
from anomalyd.ids import AETitle


def judged(peer: dict[str, str], calling: str, called: str, address: str) -> Rejection | None:
    return AcceptList([Peer.model_validate(peer)], AETitle("ANOMALYD")).judge(calling, called, address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("10.1.3.3", UNKNOWN_ADDRESS),
        ("::1", UNKNOWN_ADDRESS),
        ("fe80::1%eth0", UNKNOWN_ADDRESS),
    ],
)
def test_an_address_is_looked_up_in_its_network(address: str, expected: Rejection | None) -> None:
    assert judged({"ae_title": "MR1", "address": "10.1.2.0/24"}, "MR1", "ANOMALYD", address) == expected


def test_title_comes_before_address_and_address_before_called_title() -> None:
    peer = {"ae_title": "MR1", "address": "10.1.2.3"}
    assert judged(peer, "X", "Y", "1.1.1.1") == UNKNOWN_CALLING
    assert judged(peer, "MR1", "Y", "1.1.1.1") == UNKNOWN_ADDRESS
    assert judged(peer, "MR1", "Y", "10.1.2.3") == UNKNOWN_CALLED
    assert judged(peer, "MR1", "ANOMALYD", "10.1.2.3") is None


def test_titles_are_compared_to_the_letter() -> None:
    assert judged({"ae_title": "MR1"}, "mr1", "ANOMALYD", "10.1.2.3") == UNKNOWN_CALLING


def test_an_empty_list_refuses_everybody() -> None:
    assert AcceptList((), AETitle("ANOMALYD")).judge("MR1", "ANOMALYD", "127.0.0.1") == UNKNOWN_CALLING
