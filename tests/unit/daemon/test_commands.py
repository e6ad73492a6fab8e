"""What the commands show and do on a store in which something happened."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.daemon import cli
from anomalyd.daemon.worker.publish import STORE_RETRY
from anomalyd.storage import deliveries, queue
from anomalyd.storage.audit import AuditEvent, AuditKind, record, verify
from anomalyd.storage.clock import utc_now
from anomalyd.storage.deliveries import BackOff
from anomalyd.storage.jobs import job
from anomalyd.storage.refusing import refuse_series
from anomalyd.storage.tables import DeliveryState, JobState
from stored import ACCESSION, PATIENT_ID, PATIENT_NAME, SERIES, STUDY, SteppedStore, open_stepped

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the store; exit code, standard output, standard error."""
    config = tmp_path / "config.yaml"
    config.write_text(f"storage: {{root: {tmp_path / 'store'}, disk_floor: 1 MB}}\ndaemon: {{accept_from: [any]}}\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run([*arguments, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def gave_up(stepped: SteppedStore) -> queue.Job:
    """A job whose results could not be sent for too long."""
    done = stepped.done("pacs")
    ids = [row.id for row in deliveries.deliveries(stepped.store, job_id=done.id)]
    stepped.clock.step(4 * 86400)
    deliveries.mark_sending(stepped.store, ids, stepped.clock.now - stepped.clock.now)
    deliveries.mark_retry(stepped.store, ids, "PACS at 10.0.0.9:104 cannot be reached", BackOff())
    return done


@pytest.mark.parametrize("command", [("status",), ("jobs",), ("watch", "--once"), ("audit",), ("audit", "verify")])
def test_without_a_store_a_command_says_so_and_makes_none(command: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    code, out, err = run(*command)
    assert (code, out) == (78, "")
    assert "nothing was kept there yet" in err
    assert not (tmp_path / "store").exists()


def test_status_shows_failures_first_with_since_and_next_step(stepped: SteppedStore, run: Run) -> None:
    done = gave_up(stepped)
    code, out, _ = run("status")
    assert code == 0
    lines = out.splitlines()
    alarm = next(number for number, line in enumerate(lines) if line.startswith("ALARM"))
    assert "cannot be reached" in lines[alarm]
    assert lines[alarm + 1].strip().startswith("since 2026-02-0")
    assert f"retry {done.id}" in lines[alarm + 2]
    assert "acknowledge" in lines[alarm + 2]
    assert alarm < next(number for number, line in enumerate(lines) if line.startswith("Receiving"))


def test_a_healthy_system_is_told_in_one_line_and_roles_that_are_down_are_named(
    stepped: SteppedStore, run: Run
) -> None:
    stepped.done("pacs")
    code, out, _ = run("status", "--health")
    assert (code, out) == (1, "not answering: gateway, dispatcher, worker\n")
    assert "DOWN  worker does not answer" in run("status")[1]


def test_status_as_json_holds_no_patient_text(stepped: SteppedStore, run: Run) -> None:
    gave_up(stepped)
    _, out, _ = run("status", "--json")
    facts = json.loads(out)
    assert facts["alarms"][0]["kind"] == "delivery_gave_up"
    assert facts["stuck_deliveries"][0]["objects"] == 2
    assert not any(marker in out for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION))


def test_an_acknowledged_alarm_leaves_the_status_and_the_failure_stays(stepped: SteppedStore, run: Run) -> None:
    gave_up(stepped)
    number = json.loads(run("status", "--json")[1])["alarms"][0]["id"]
    assert run("acknowledge", str(number))[0] == 0
    out = run("status")[1]
    assert "ALARM" not in out
    assert "GAVE_UP  2 results of job 1 to pacs" in out
    assert run("acknowledge", str(number))[0] == 1


def test_status_tells_jobs_that_a_full_disk_gave_back(stepped: SteppedStore, run: Run) -> None:
    job_id = stepped.queued().id
    lease = queue.lease(stepped.store, "w", 60)
    assert lease is not None
    assert queue.release(stepped.store, lease, "No space left on device (in stage publish)", again_in=STORE_RETRY)
    out = run("status")[1]
    assert f"RETRY  job {job_id} is back in the queue: No space left on device" in out


def test_status_tells_who_was_turned_away_within_the_hour(stepped: SteppedStore, run: Run) -> None:
    for ago, address, times in ((90, "10.0.0.1", 1), (50, "10.0.0.2", 1), (5, "10.0.0.3", 40)):
        event = AuditEvent(
            kind=AuditKind.ASSOCIATION_REJECTED, at=utc_now() - timedelta(minutes=ago), calling_ae="MR1",
            address=address, detail={"text": "calling AE title is not in accept_from", "times": times},
        )  # fmt: skip
        record(stepped.store, event)
    lines = run("status")[1].splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("Refused"))
    assert lines[at].startswith("Refused    41 connections in the last hour, newest ")
    assert lines[at].endswith(", MR1 from 10.0.0.3")
    assert lines[at + 1].strip() == "because: calling AE title is not in accept_from"
    assert json.loads(run("status", "--json")[1])["turned_away"]["times"] == 41


def test_status_tells_no_job_that_a_worker_gave_back_at_its_end(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    lease = queue.lease(stepped.store, "w", 60)
    assert lease is not None
    assert queue.release(stepped.store, lease, "the worker was told to stop")
    assert "RETRY" not in run("status")[1]


def test_jobs_can_be_listed_by_state(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    assert [row["state"] for row in json.loads(run("jobs", "--json")[1])] == ["queued"]
    assert json.loads(run("jobs", "--state", "done", "--json")[1]) == []
    assert SERIES in run("jobs")[1]
    assert run("jobs", "--state", "lost")[0] == 2


def test_cancel_and_retry_move_a_job(stepped: SteppedStore, run: Run) -> None:
    queued = stepped.queued()
    assert run("cancel", str(queued.id))[0] == 0
    assert job(stepped.store, queued.id).state is JobState.CANCELLED
    assert run("retry", str(queued.id))[0] == 0
    assert job(stepped.store, queued.id).state is JobState.QUEUED
    code, _, err = run("retry", str(queued.id))
    assert code == 1
    assert "only a failed, withheld or cancelled one that no other has superseded can be retried" in err


def test_retry_sends_what_a_finished_job_has_made_and_nobody_got(
    stepped: SteppedStore, run: Run, tmp_path: Path
) -> None:
    done = stepped.done()  # no destination had the sender's AE title, or the series was too old
    assert run("retry", str(done.id))[0] == 1
    destination = "{name: pacs, ae_title: PACS, host: 10.0.0.9, port: 104, send: [heatmap]}"
    text = (tmp_path / "config.yaml").read_text().replace("accept_from: [any]", f"destinations: [{destination}]")
    (tmp_path / "config.yaml").write_text(text)
    assert "1 deliveries are due again" in run("retry", str(done.id))[1]
    assert [row.kind for row in deliveries.deliveries(stepped.store)] == ["heatmap"]


def test_retry_revives_deliveries_that_were_given_up(stepped: SteppedStore, run: Run) -> None:
    done = gave_up(stepped)
    assert "2 deliveries are due again" in run("retry", str(done.id))[1]
    assert {row.state for row in deliveries.deliveries(stepped.store, job_id=done.id)} == {DeliveryState.DUE}


def test_an_unknown_job_is_a_sentence_and_1(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    for command in ("retry", "cancel"):
        code, _, err = run(command, "4711")
        assert code == 1
        assert err == "anomalyd: there is no job 4711: `anomalyd jobs` lists those that are\n"


@pytest.mark.parametrize("name", [SERIES, STUDY, ACCESSION])
def test_explain_tells_everything_in_order_with_why(name: str, stepped: SteppedStore, run: Run) -> None:
    gave_up(stepped)
    code, out, _ = run("explain", name)
    assert code == 0
    order = [
        "complete by the rule quiet",
        "chosen for analysis: T1w",
        "started by worker-1",
        "finished after",
        "gave up",
    ]
    places = [out.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "2 results gave_up at pacs" in out
    assert not any(marker in out for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION))


def test_explain_of_results_that_nobody_takes_is_one_page_also_after_a_cancel(stepped: SteppedStore, run: Run) -> None:
    done = stepped.done("pacs", results=40)
    ids = [row.id for row in deliveries.deliveries(stepped.store, job_id=done.id)]
    for error in ("connection refused", "connection refused", "no answer within 30 s"):
        deliveries.mark_sending(stepped.store, ids, timedelta(seconds=60))
        deliveries.mark_retry(stepped.store, ids, error, BackOff())
        stepped.clock.step(600)
    deliveries.close_of_job(stepped.store, done.id, "closed by hand (admin)")
    out = " ".join(run("explain", SERIES)[1].split())
    assert "sending 40 results to pacs, tries 1 to 3" in out
    assert out.count("not taken by pacs") == 1
    assert "results (tries 1 to 3) not taken by pacs: no answer within 30 s; again in" in out
    assert out.count("40 results will not be sent to pacs: closed by hand (admin)") == 1


def test_explain_says_why_a_series_was_not_analysed(stepped: SteppedStore, run: Run) -> None:
    row = stepped.closed()
    refuse_series(
        stepped.store, row, {"criterion": "contrast", "value": "FLAIR", "limit": ["T1w"], "text": "no bundle for FLAIR"}
    )
    out = run("explain", SERIES)[1]
    assert "not analysed: no bundle for FLAIR (criterion contrast: FLAIR, limit ['T1w'])" in out


def test_explain_of_the_unknown_is_1_and_does_not_repeat_what_was_asked(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    code, _, err = run("explain", "MARKER-UNKNOWN")
    assert code == 1
    assert "nothing is known of it" in err
    assert "MARKER" not in err


def test_the_audit_log_is_asked_by_patient_order_series_event_and_time(stepped: SteppedStore, run: Run) -> None:
    stepped.done("pacs")
    rows = json.loads(run("audit", "--json")[1])
    assert {"closed", "selected", "started", "finished"} <= {row["kind"] for row in rows}
    assert all(row["event_id"] >= 110100 for row in rows)
    for question in (
        ["--patient-id", PATIENT_ID],
        ["--accession", ACCESSION],
        ["--series", SERIES],
        ["--study", STUDY],
    ):
        kinds = [row["kind"] for row in json.loads(run("audit", "--json", *question)[1])]
        assert "finished" in kinds
    assert json.loads(run("audit", "--json", "--patient-id", "SOMEBODY-ELSE")[1]) == []
    finished = json.loads(run("audit", "--json", "--event", "finished", "--since", "2026-01-01")[1])
    assert [row["kind"] for row in finished] == ["finished"]
    assert json.loads(run("audit", "--json", "--event", "finished", "--until", "2026-01-01")[1]) == []


def test_a_series_whose_job_is_done_is_not_called_queued(stepped: SteppedStore, run: Run) -> None:
    stepped.done("pacs")
    out = run("status")[1]
    assert "Receiving  0 series (1 chosen for analysis)" in out
    assert "1 queued" not in out


def test_numbers_may_come_on_standard_input(stepped: SteppedStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given as an argument, everybody on the machine sees (ps)."""
    stepped.done("pacs")
    for question, line in ((["audit", "--patient-id"], PATIENT_ID), (["audit", "--accession"], ACCESSION)):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
        assert "finished" in [row["kind"] for row in json.loads(run(*question, "-", "--json")[1])]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ACCESSION}\n"))
    assert run("explain", "-")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("audit", "--patient-id", "-")
    assert (code, "one line is expected on standard input" in err) == (2, True)


@pytest.mark.parametrize(
    ("address", "detail", "words"),
    [
        ("10.0.0.7", {}, "refused a connection from 10.0.0.7: no TLS"),
        (
            "10.0.0.7",
            {"times": 40, "since": "12:00"},
            "refused 40 connections since 12:00, the newest from 10.0.0.7: no TLS",
        ),
        (None, {"times": 9, "since": "12:00"}, "refused 9 connections since 12:00, the newest: no TLS"),
    ],
)
def test_who_was_not_let_in_is_told_with_the_address(
    stepped: SteppedStore, run: Run, address: str | None, detail: dict[str, object], words: str
) -> None:
    event = AuditEvent(
        kind=AuditKind.CONNECTION_REFUSED, at=stepped.clock(), address=address, detail={"text": "no TLS", **detail}
    )
    record(stepped.store, event)
    assert words in run("audit", "--event", "connection_refused")[1]


def test_reading_the_audit_log_is_in_the_audit_log(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    run("audit", "--patient-id", PATIENT_ID)
    out = run("audit", "--json", "--event", "audit_queried")[1]
    assert json.loads(out)[-1]["detail"]["asked_by"] == ["patient_id"]
    assert PATIENT_ID not in out


def test_the_audit_log_as_csv_has_one_line_for_each_row(stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    rows = list(csv.DictReader(io.StringIO(run("audit", "--csv", "--event", "closed")[1])))
    assert [row["series_uid"] for row in rows] == [SERIES]
    assert json.loads(rows[0]["detail"])["rule"] == "quiet"


@pytest.mark.parametrize("arguments", [["--event", "no-such"], ["--since", "yesterday-ish"], ["--json", "--csv"]])
def test_a_wrong_question_is_2(arguments: list[str], stepped: SteppedStore, run: Run) -> None:
    stepped.queued()
    assert run("audit", *arguments)[0] == 2


def test_audit_verify_is_0_for_an_intact_log_and_1_for_an_edited_one(stepped: SteppedStore, run: Run) -> None:
    stepped.done("pacs")
    code, out, _ = run("audit", "verify")
    assert code == 0
    assert f"hash {verify(stepped.store).newest.hash[:4]}" not in out  # the proof itself adds a row
    with stepped.store.write() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
        for name in names:
            connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        connection.exec_driver_sql("UPDATE audit SET calling_ae = 'EVE' WHERE seq = 1")
    code, out, _ = run("audit", "verify")
    assert code == 1
    assert "row 1 (" in out


def test_watch_once_is_one_picture(stepped: SteppedStore, run: Run) -> None:
    gave_up(stepped)
    code, out, _ = run("watch", "--once")
    assert code == 0
    assert all(words in out for words in ("Arriving", "Analysis", "Leaving", "gave_up", "1 alarms"))


def test_purge_forgets_a_study_and_an_unknown_one_is_1(stepped: SteppedStore, run: Run) -> None:
    stepped.done("pacs")
    code, out, error = run("purge", "--study", STUDY)
    assert code == 0
    assert "3 images, 2 results forgotten" in out
    assert "2 deliveries of results were not confirmed yet" in error
    assert "pending: the bytes of 3 images" in error
    assert "To erase   3 images" in run("status")[1]
    code, out, _ = run("explain", SERIES)
    assert code == 0
    assert "purged" in out
    assert run("purge", "--study", "1.2.3.4.5")[0] == 1
    assert run("purge", "--study", "../../etc")[0] == 2


def test_files_of_the_store_stay_private(stepped: SteppedStore, run: Run, tmp_path: Path) -> None:
    stepped.done("pacs")
    run("status")
    for folder, _, names in os.walk(tmp_path / "store"):
        assert Path(folder).stat().st_mode & 0o077 == 0
        assert all(Path(folder, name).stat().st_mode & 0o077 == 0 for name in names)
