"""How much one entry of `accept_from` may ask of us: associations at once, and new ones in a minute."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from anomalyd.daemon.gateway.peers import PEER_TOO_MANY, PEER_TOO_OFTEN, Rejection
from anomalyd.daemon.settings import Peer

WINDOW_S: Final = 60.0


class PeerLimits:
    """Counts what was admitted; what was rejected does not count, else a sender that tries again would never get in."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._admitted: defaultdict[Peer, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def admit(self, peer: Peer, open_now: int) -> Rejection | None:
        """None: one more is admitted, and counted. open_now: associations of this entry that are open."""
        if peer.max_associations is not None and open_now >= peer.max_associations:
            return PEER_TOO_MANY
        if peer.associations_per_minute is None:
            return None
        with self._lock:
            now, times = self._monotonic(), self._admitted[peer]
            while times and now - times[0] >= WINDOW_S:
                times.popleft()
            if len(times) >= peer.associations_per_minute:
                return PEER_TOO_OFTEN
            times.append(now)
        return None
