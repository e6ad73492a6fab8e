"""Who may send: order of the checks, IPv6, networks."""

import pytest

from anomalyd.daemon.gateway.peers import (
    UNKNOWN_ADDRESS,
    UNKNOWN_CALLED,
    UNKNOWN_CALLING,
    UNNAMED,
    AcceptList,
    Rejection,
)
from anomalyd.daemon.settings import Peer
from anomalyd.ids import AETitle


def judged(
    peer: dict[str, object], calling: str, called: str, address: str, names: frozenset[str] = frozenset()
) -> Rejection | None:
    found = AcceptList([Peer.model_validate(peer)], AETitle("ANOMALYD")).judge(calling, called, address, names)
    return found if isinstance(found, Rejection) else None


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
    peer: dict[str, object] = {"ae_title": "MR1", "address": "10.1.2.3"}
    assert judged(peer, "X", "Y", "1.1.1.1") == UNKNOWN_CALLING
    assert judged(peer, "MR1", "Y", "1.1.1.1") == UNKNOWN_ADDRESS
    assert judged(peer, "MR1", "Y", "10.1.2.3") == UNKNOWN_CALLED
    assert judged(peer, "MR1", "ANOMALYD", "10.1.2.3") is None


def test_titles_are_compared_to_the_letter() -> None:
    assert judged({"ae_title": "MR1"}, "mr1", "ANOMALYD", "10.1.2.3") == UNKNOWN_CALLING


def test_an_empty_list_refuses_everybody() -> None:
    assert AcceptList((), AETitle("ANOMALYD")).judge("MR1", "ANOMALYD", "127.0.0.1") == UNKNOWN_CALLING


@pytest.mark.parametrize(
    ("names", "expected"),
    [({"mr1.example.org", "other"}, None), ({"mr2.example.org"}, UNNAMED), (set(), UNNAMED)],
    ids=["named", "another name", "no certificate"],
)
def test_an_entry_with_a_certificate_name_fits_who_shows_it(names: set[str], expected: Rejection | None) -> None:
    peer: dict[str, object] = {"ae_title": "MR1", "certificate_name": "MR1.example.org"}
    assert judged(peer, "MR1", "ANOMALYD", "10.1.2.3", frozenset(names)) == expected


def test_the_first_entry_that_fits_is_the_one_that_counts() -> None:
    peers = [{"ae_title": "MR1", "certificate_name": "a"}, {"ae_title": "any"}, {"ae_title": "MR1"}]
    entries = [Peer.model_validate(peer) for peer in peers]
    accept_list = AcceptList(entries, AETitle("ANOMALYD"))
    assert accept_list.judge("MR1", "ANOMALYD", "10.1.2.3") is entries[1]
    assert accept_list.judge("MR1", "ANOMALYD", "10.1.2.3", frozenset({"a"})) is entries[0]
