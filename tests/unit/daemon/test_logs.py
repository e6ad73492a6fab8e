"""What the log says, and what it must never say."""

import io
import json
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import structlog

from anomalyd.daemon.logs import configure_logging
from anomalyd.errors import Transient

MARKER = "Zebrafish^Walpurga"
"""A planted patient name."""


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    configure_logging("gateway", "debug", "auto", stream)
    return stream


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    raise KeyError(MARKER)


def fail_in_our_words() -> None:
    try:
        fail()
    except KeyError as exc:
        raise Transient("the PACS hangs: try later") from exc


def test_away_from_a_terminal_each_event_is_one_json_object(written: io.StringIO) -> None:
    structlog.get_logger().info("series.closed", series_uid="1.2", rule="count")
    (event,) = events(written)
    assert {"event": "series.closed", "role": "gateway", "level": "info", "rule": "count"}.items() <= event.items()
    assert event["timestamp"].endswith("Z")


def test_an_unforeseen_error_is_logged_by_type_and_place_without_its_text(written: io.StringIO) -> None:
    try:
        fail()
    except KeyError:
        structlog.get_logger().exception("role.crashed")
    (event,) = events(written)
    assert event["exception"]["error"] == "KeyError"
    assert "test_logs.py" in event["exception"]["frames"][0]
    assert MARKER not in written.getvalue()


def test_our_own_errors_keep_their_words_and_a_foreign_cause_does_not(written: io.StringIO) -> None:
    try:
        fail_in_our_words()
    except Transient:
        structlog.get_logger().exception("delivery.failed")
    (event,) = events(written)
    assert event["exception"]["message"] == "the PACS hangs: try later"
    assert event["exception"]["cause"]["error"] == "KeyError"
    assert MARKER not in written.getvalue()


def test_libraries_are_heard_by_place_only(written: io.StringIO) -> None:
    logging.getLogger("pydicom").error("cannot read %s", MARKER)
    logging.getLogger("pynetdicom.acse").info("association with %s", MARKER)
    warnings.showwarning(UserWarning(MARKER), UserWarning, "/x/site-packages/pydicom/valuerep.py", 12)
    spoke, warned = events(written)
    assert (spoke["event"], spoke["library"], spoke["severity"]) == ("library.spoke", "pydicom", "error")
    assert (warned["event"], warned["place"]) == ("library.warned", "pydicom/valuerep.py:12")
    assert MARKER not in written.getvalue()


def test_a_dying_thread_is_logged(written: io.StringIO) -> None:
    thread = threading.Thread(target=fail, name="committer")
    thread.start()
    thread.join()
    (event,) = events(written)
    assert (event["event"], event["thread"]) == ("thread.died", "committer")
    assert MARKER not in written.getvalue()


def test_on_a_terminal_it_is_readable() -> None:
    stream = io.StringIO()
    configure_logging("serve", "info", "console", stream)
    structlog.get_logger().info("serve.ready", port=11112)
    assert "serve.ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_log_that_cannot_be_written_stops_no_work() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - its own closing fails, too
    configure_logging("gateway", "debug", "json", full)
    for _ in range(2000):
        structlog.get_logger().info("series.closed", series_uid="1.2")
    with pytest.raises(OSError, match="No space left"):
        full.close()
