"""`send` of a destination: which kinds of result it gets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time by pynetdicom

from anomalyd.daemon.probe import probe
from anomalyd.daemon.routing import is_wanted, kinds_to_make
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.daemon.worker.messages import Analysed, NotEligible, WithheldScan
from anomalyd.daemon.worker.publish import publish
from anomalyd.ids import AETitle
from anomalyd.pipeline.finding import Reason
from anomalyd.pipeline.results.objects import SOP_CLASSES, ResultKind
from anomalyd.pipeline.terms import DEFAULT_KINDS
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditKind
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.tables import JobState
from pacs import Pacs
from stored import SteppedStore, open_stepped


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


def test_a_destination_gets_the_kinds_that_it_asks_for(stepped: SteppedStore) -> None:
    at = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    daemon = DaemonSettings.model_validate(
        {"destinations": [{"name": "all", **at}, {"name": "viewer", **at, "send": ["heatmap"]}]}
    )
    stepped.queued()
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    publish(stepped.store, lease, Analysed(stepped.results(lease.job, 3), {"lesions": []}), daemon, 3)
    due = {(row.destination, row.kind) for row in deliveries.deliveries(stepped.store, job_id=lease.job.id)}
    assert due == {("all", "seg"), ("all", "heatmap"), ("viewer", "heatmap")}


def test_that_a_scan_was_not_analysed_is_told_where_it_is_wanted(stepped: SteppedStore) -> None:
    at = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    daemon = DaemonSettings.model_validate(
        {"destinations": [{"name": "all", **at}, {"name": "viewer", **at, "send": ["heatmap"]}]}
    )
    stepped.queued()
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    (notice,) = (replace(one, kind="not_analysed") for one in stepped.results(lease.job, 1))
    publish(stepped.store, lease, WithheldScan("no brain", {"status": "withheld"}, (notice,)), daemon, 3)
    after = queue.job(stepped.store, lease.job.id)
    assert (after.state, after.reason) == (JobState.WITHHELD, "no brain")
    due = [(row.destination, row.kind) for row in deliveries.deliveries(stepped.store, job_id=lease.job.id)]
    assert due == [("all", "not_analysed")]
    (row,) = audit.query(stepped.store, audit.AuditFilter(kind=AuditKind.WITHHELD))
    assert row.detail["results"] == {"not_analysed": 1}
    assert row.detail["result_series"] == [notice.series_uid]


def test_of_a_scan_whose_pixels_do_not_decode_a_destination_can_be_told_too(stepped: SteppedStore) -> None:
    at = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "send": ["ineligible"]}
    daemon = DaemonSettings.model_validate({"destinations": [at]})
    stepped.queued()
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    publish(stepped.store, lease, NotEligible(Reason("pixels", 3, 0, "slice 3 cannot be decoded")), daemon, 3)
    analysis, notice = queue.jobs_of_series(stepped.store, lease.job.study_uid, lease.job.series_uid)
    assert analysis.state is JobState.CANCELLED
    assert (notice.kind, notice.state, notice.instances) == (JobKind.NOTICE, JobState.QUEUED, analysis.instances)


def test_who_wants_a_kind_of_what_a_sender_sent() -> None:
    at = {"host": "127.0.0.1", "port": 104}
    to = [{"name": "mr1", "ae_title": "MR1", **at, "send": ["ineligible"]}, {"name": "mr2", "ae_title": "MR2", **at}]
    daemon = DaemonSettings.model_validate({"destinations": to})
    assert is_wanted(daemon, AETitle("MR2"), ResultKind.INELIGIBLE)
    back = daemon.model_copy(update={"return_to_sender": True})
    assert is_wanted(back, AETitle("MR1"), ResultKind.INELIGIBLE)
    assert not is_wanted(back, AETitle("MR2"), ResultKind.INELIGIBLE)
    assert not is_wanted(DaemonSettings(), AETitle("MR1"), ResultKind.NOT_ANALYSED)


def test_what_is_made_is_the_default_and_what_any_destination_asks_for() -> None:
    at = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    assert kinds_to_make(DaemonSettings()) == set(DEFAULT_KINDS)
    daemon = DaemonSettings.model_validate(
        {"destinations": [{"name": "viewer", **at, "send": ["heatmap"]}, {"name": "lab", **at, "send": ["score_map"]}]}
    )
    assert kinds_to_make(daemon) == {*DEFAULT_KINDS, ResultKind.SCORE_MAP}


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    at = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    with pytest.raises(ValidationError, match="'parametric_map'"):
        DaemonSettings.model_validate({"destinations": [{**at, "send": ["seg", "pictures"]}]})


def test_check_says_of_each_kind_whether_the_destination_takes_it(free_port: int) -> None:
    classes = [Verification, SOP_CLASSES[ResultKind.SEG], SOP_CLASSES[ResultKind.PARAMETRIC_MAP]]
    to = Destination.model_validate(
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port, "send": ["seg", "sr"]}
    )
    with Pacs(free_port, classes=classes):
        steps = list(probe(to, AETitle("ANOMALYD")))
    said = {step.text: step for step in steps}
    assert said["it takes seg (Segmentation Storage)"].is_ok
    refused = said["it does not take sr (Comprehensive 3D SR Storage)"]
    assert refused.mend == "allow it there, or leave sr out of `send` of pacs"
    (others,) = (text for text in said if text.startswith("not in `send`"))
    takes, refuses = others.split("; it would not take ")
    assert takes.endswith("it would take parametric_map")
    assert {"heatmap", "score_map", "labelmap"} <= set(refuses.split(", "))
