"""Limits of one entry of `accept_from`."""

from anomalyd.daemon.gateway.peer_limits import PeerLimits
from anomalyd.daemon.gateway.peers import PEER_TOO_MANY, PEER_TOO_OFTEN
from anomalyd.daemon.settings import Peer


def peer(**limits: int) -> Peer:
    return Peer.model_validate({"ae_title": "MR1", **limits})


def test_without_limits_everything_is_admitted() -> None:
    limits = PeerLimits(lambda: 0.0)
    assert [limits.admit(peer(), 10_000) for _ in range(1000)] == [None] * 1000


def test_associations_at_once() -> None:
    limits = PeerLimits(lambda: 0.0)
    one = peer(max_associations=2)
    assert [limits.admit(one, open_now) for open_now in (0, 1, 2, 3)] == [None, None, PEER_TOO_MANY, PEER_TOO_MANY]


def test_within_any_minute_so_many_are_admitted_and_rejections_do_not_count() -> None:
    now = [0.0]
    limits, one = PeerLimits(lambda: now[0]), peer(associations_per_minute=2)
    admitted = []
    for now[0] in (0.0, 30.0, 31.0, 59.9, 60.0, 61.0, 90.0):
        admitted.append(limits.admit(one, 0) is None)
    assert admitted == [True, True, False, False, True, False, True]
    assert limits.admit(one, 0) == PEER_TOO_OFTEN


def test_another_entry_has_its_own_count() -> None:
    limits = PeerLimits(lambda: 0.0)
    one = peer(associations_per_minute=1)
    other = Peer.model_validate({"ae_title": "MR2", "associations_per_minute": 1})
    assert [limits.admit(entry, 0) is None for entry in (one, one, other)] == [True, False, True]


def test_both_rejections_are_passing_states() -> None:
    assert {(one.result, one.source, one.reason) for one in (PEER_TOO_MANY, PEER_TOO_OFTEN)} == {(2, 3, 2)}
