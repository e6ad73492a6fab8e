"""All results of one series of 176 slices (256 x 256, 1 mm): made, and sent to a PACS over loopback.

What is measured is the service's own code: `build_results` as the worker calls it, its files written, then `send` as
the dispatcher calls it, with the default number of associations. storescu sends such files to an Orthanc of its own
for comparison. Nothing is sent twice: each turn has results of its own UIDs.
"""

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

from anomalyd.daemon.dispatcher.delivery import Outcome, Parcel, Verdict, send
from anomalyd.daemon.dispatcher.outbox import KIND_RANK, OTHER_RANK
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle, Digest
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import ResultContext, ResultObject
from bench.harness import Case, Figures, Measure
from bench.stock_scp import PEER_ENVIRONMENT, Receiver, orthanc, program, storescp
from findings import context_of
from phantoms import PhantomWriter
from ports import free_port

SHAPE = (176, 256, 256)
CALLING = AETitle("ANOMALYD")
LIMIT_S = 120.0
Sender = Callable[[list[Parcel], Receiver], None]


def _by_the_dispatcher(parcels: list[Parcel], receiver: Receiver) -> None:
    to = Destination.model_validate(
        {"name": "pacs", "ae_title": receiver.called, "host": "127.0.0.1", "port": receiver.port}
    )
    parallel, refused = DaemonSettings().delivery.parallel_associations, list[str]()

    def note(_parcel: Parcel, outcome: Outcome) -> None:
        if outcome.verdict is not Verdict.SENT:
            refused.append(outcome.text)

    send(parcels, to, CALLING, parallel=parallel, report=note, stop=threading.Event())
    if refused:
        raise RuntimeError(f"{len(refused)} of {len(parcels)} were not taken: {refused[0]}")


def _by_storescu(parcels: list[Parcel], receiver: Receiver) -> None:
    files = [str(parcel.path) for parcel in parcels]
    command = [program("storescu"), "-R", "-aec", receiver.called, "127.0.0.1", str(receiver.port), *files]
    subprocess.run(command, env=PEER_ENVIRONMENT, check=True, capture_output=True, timeout=LIMIT_S)


@contextmanager
def _made_and_sent(
    open_receiver: Callable[[int, Path], AbstractContextManager[Receiver]], sender: Sender = _by_the_dispatcher
) -> Iterator[Measure]:
    """Seconds of both, and of the whole."""
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        root = Path(name)
        writer = PhantomWriter(plane="sagittal", spacing_mm=(1.0, 1.0, 1.0), shape=SHAPE, seed="bench results")
        context, numbers = context_of(writer.write(root / "source")), count()
        (root / "receiver").mkdir()
        with open_receiver(free_port(), root / "receiver") as receiver:

            def measure() -> Figures:
                of_this_turn = replace(context, instance_set=Digest(f"{next(numbers):064x}"))
                began = time.monotonic()
                parcels = _written(of_this_turn, root / "results")
                made = time.monotonic()
                sender(parcels, receiver)
                sent = time.monotonic()
                return {
                    "make_s": made - began, "send_s": sent - made, "whole_s": sent - began, "objects": len(parcels),
                }  # fmt: skip

            yield measure


def _written(context: ResultContext, folder: Path) -> list[Parcel]:
    folder.mkdir(exist_ok=True)
    return [_parcel(number, made, folder) for number, made in enumerate(build_results(context))]


def _parcel(number: int, made: ResultObject, folder: Path) -> Parcel:
    path = folder / f"{number}.dcm"
    path.write_bytes(made.data)
    rank = KIND_RANK.get(made.kind, OTHER_RANK)
    return Parcel(number, rank, made.sop_class_uid, made.sop_instance_uid, ExplicitVRLittleEndian, path)


def _cases() -> Iterator[Case]:
    storescu, server = program("storescu"), program("Orthanc")
    if server:
        yield Case("to Orthanc", partial(_made_and_sent, partial(orthanc, server)))
    if server and storescu:
        yield Case("to Orthanc, by storescu", partial(_made_and_sent, partial(orthanc, server), _by_storescu))
    if peer := program("storescp"):
        yield Case("to storescp", partial(_made_and_sent, partial(storescp, peer)))


CASES = tuple(_cases())
