"""Senders that repeat what was not acknowledged, and do among it what scanners, networks and load balancers do."""

import hashlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from bench.receive import Images
from raw_scu import Ended, RawAssociation, Rejected, associate_request, store_message

Fault = Literal[
    "broken off in an object", "left before the answer", "the same again", "other content, same UID", "no data set",
    "connected and went", "half a request",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = get_args(Fault)
FAULT_EVERY = 25
"""Images, on the mean, between two faults of a sender."""
IMAGES_PER_ASSOCIATION = 176
ROWS = COLUMNS = 256
SUCCESS = 0x0000
TRIES = 100


@dataclass(frozen=True, slots=True)
class _Image:
    uid: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Senders:
    """`run`, then look at what was acknowledged."""

    def __init__(self, port: int, images: int, senders: int, *, seed: int) -> None:
        self._port, self._count, self._senders, self._seed = port, images, senders, seed
        self._images, self._lock = Images(ROWS, COLUMNS), threading.Lock()
        self.acknowledged: list[tuple[str, str]] = []
        """(SOP Instance UID, SHA-256 of the data set), once for each success."""
        self.faults: Counter[Fault] = Counter()
        self.refused: Counter[int] = Counter()
        """Statuses that were no success."""
        self.failures: list[BaseException] = []

    def run(self) -> None:
        """All images from all senders; raises what ended one of them."""
        threads = [threading.Thread(target=self._send_share, args=(number,)) for number in range(self._senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _send_share(self, number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")  # noqa: S311 - faults
        left = self._count // self._senders + (number < self._count % self._senders)
        try:
            while left > 0:
                batch = min(left, IMAGES_PER_ASSOCIATION)
                self._send_all(list(self._made(batch)), rng)
                left -= batch
        except BaseException as exc:  # noqa: BLE001 - told by run, in its thread
            self.failures.append(exc)

    def _made(self, count: int) -> Iterator[_Image]:
        with self._lock:
            made = list(self._images.data_sets(count, own_series=True))
        return (_Image(uid, data) for uid, data in made)

    def _send_all(self, waiting: list[_Image], rng: random.Random) -> None:
        """One association, or as many as the faults cost."""
        done: list[_Image] = []
        for _ in range(TRIES):
            try:
                with RawAssociation(self._port, calling=f"SOAK{rng.randrange(4)}") as association:
                    while waiting:
                        if rng.randrange(FAULT_EVERY) == 0:
                            self._do_wrong(association, rng.choice(FAULTS), waiting[-1], done)
                        self._send(association, waiting[-1])
                        done.append(waiting.pop())
                    association.release()
                    return
            except (Ended, ConnectionError, Rejected):
                continue
        raise AssertionError(f"{len(waiting)} images were not taken in {TRIES} associations")

    def _send(self, association: RawAssociation, image: _Image) -> None:
        """Until it is acknowledged; raises Ended, ConnectionError."""
        while (status := association.ask(store_message(image.data, image.uid))) != SUCCESS:
            with self._lock:
                self.refused[status] += 1
        with self._lock:
            self.acknowledged.append((image.uid, image.sha256))

    def _do_wrong(self, association: RawAssociation, fault: Fault, image: _Image, done: list[_Image]) -> None:
        """Raises Ended where nothing more can come on this association."""
        with self._lock:
            self.faults[fault] += 1
        message = store_message(image.data, image.uid)
        match fault:
            case "broken off in an object":
                association.socket.sendall(message[: len(message) // 2])
                raise Ended
            case "left before the answer":
                association.socket.sendall(message)
                raise Ended
            case "the same again" if done:
                self._send(association, done[-1])
            case "other content, same UID" if done:
                self._send(association, _Image(done[-1].uid, done[-1].data[:-20] + b"another content".ljust(20)))
            case "no data set":
                with self._lock:
                    self.refused[association.ask(store_message(b"nothing of DICOM" * 9, image.uid))] += 1
            case "connected and went":
                socket.create_connection(("127.0.0.1", self._port)).close()
            case "half a request":
                with socket.create_connection(("127.0.0.1", self._port)) as visitor:
                    visitor.sendall(associate_request()[:50])
