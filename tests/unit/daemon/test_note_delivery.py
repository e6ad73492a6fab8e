"""A rejection note on its way: it goes to the destination that got what it lists, as long as that takes notes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomalyd.daemon import cli
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.daemon.worker.messages import Analysed
from anomalyd.daemon.worker.publish import publish
from anomalyd.ids import Digest
from anomalyd.storage import deliveries, queue
from anomalyd.storage.tables import JobState
from anomalyd.storage.withdrawing import enqueue_notes, withdrawal_of
from stored import SteppedStore, open_stepped

NAMES = ("one", "two")


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


def destinations(*send: Sequence[str]) -> list[dict[str, Any]]:
    at = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    return [{"name": name, **at, "send": list(kinds)} for name, kinds in zip(NAMES, send, strict=True)]


def confirmed(stepped: SteppedStore, job: queue.Job) -> None:
    ids = [row.id for row in deliveries.deliveries(stepped.store, job_id=job.id)]
    deliveries.mark_sent(stepped.store, ids)
    deliveries.mark_confirmed(stepped.store, ids, "response")


def note_for_one(stepped: SteppedStore) -> queue.Lease:
    """The lease of a note for the results that both destinations have, due at the first."""
    confirmed(stepped, stepped.done(*NAMES))
    new = queue.enqueue(stepped.store, stepped.new_job(stepped.row(), bundle=Digest("c" * 64)))
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    made = stepped.results(new)
    confirmed(stepped, queue.finish(stepped.store, lease, JobState.DONE, made, NAMES, report={"lesions": []}))
    assert len(enqueue_notes(stepped.store, NAMES[:1])) == 1
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    return lease


def published(stepped: SteppedStore, lease: queue.Lease, send: list[dict[str, Any]]) -> list[str]:
    """Names of the destinations that the note is due at."""
    (note,) = (replace(one, kind="rejection_note") for one in stepped.results(lease.job, 1))
    why = withdrawal_of(stepped.store, lease.job)
    answer = Analysed((note,), {"withdraws": why.detail}, destination=why.destination)
    publish(stepped.store, lease, answer, DaemonSettings.model_validate({"destinations": send}), 3)
    assert queue.job(stepped.store, lease.job.id).state is JobState.DONE
    return [row.destination for row in deliveries.deliveries(stepped.store, job_id=lease.job.id)]


def test_it_goes_to_the_one_that_it_is_for(stepped: SteppedStore) -> None:
    both = destinations(["seg", "rejection_note"], ["seg", "rejection_note"])
    assert published(stepped, note_for_one(stepped), both) == ["one"]


def test_one_that_takes_no_notes_any_more_gets_it_when_it_does_and_is_asked(
    stepped: SteppedStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = note_for_one(stepped)
    assert published(stepped, lease, destinations(["seg"], ["seg", "rejection_note"])) == []
    config = tmp_path / "config.yaml"
    storage = {"root": str(stepped.store.root), "disk_floor": "1 MB"}
    daemon = {"destinations": destinations(["rejection_note"], ["rejection_note"])}
    config.write_text(json.dumps({"storage": storage, "daemon": daemon}))
    assert cli.run(["retry", str(lease.job.id), "--config", str(config)]) == 0
    assert "1 deliveries are due again" in capsys.readouterr().out
    due = deliveries.deliveries(stepped.store, job_id=lease.job.id)
    assert [row.destination for row in due] == ["one"]
