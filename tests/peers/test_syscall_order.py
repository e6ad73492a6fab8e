"""The order of system calls for one image: written, flushed, and only then answered; a new segment's name before it.

SIGKILL leaves the page cache, so the crash table alone would not see a missing flush.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from conftest import RequirePeer
from images import image, uid_of
from raw_scu import RawAssociation
from running import RunningDaemon

pytestmark = pytest.mark.peer
SUCCESS = 0x0000
BEGUN = re.compile(r"^(?P<pid>\d+)\s+(?P<name>\w+)\(\d+<(?P<target>.*?)>[,)]")
CREATED = re.compile(r"^\d+\s+openat\(.*\.seg\", [A-Z_|]*O_CREAT")
RESUMED = re.compile(r"^(?P<pid>\d+)\s+<\.\.\. (?P<name>\w+) resumed>")


def steps_of(lines: Iterable[str]) -> Iterator[str]:
    """What was done, in order: flushes when they had ended, writes and answers when they had begun."""
    flushing: dict[str, str] = {}
    for line in lines:
        if CREATED.match(line):
            yield "segment created"
        elif begun := BEGUN.match(line):
            step = _step(begun["name"], begun["target"])
            if "flushed" in step and "<unfinished" in line:
                flushing[begun["pid"]] = step
            elif step:
                yield step
        elif (resumed := RESUMED.match(line)) and "sync" in resumed["name"] and resumed["pid"] in flushing:
            yield flushing.pop(resumed["pid"])


def _step(name: str, target: str) -> str:
    is_flush = name in ("fsync", "fdatasync")
    if target.endswith("/segments"):
        return "name flushed" if is_flush else ""
    if target.endswith(".seg"):
        return "record flushed" if is_flush else "record written"
    if "anomalyd.db" in target and is_flush:
        return "database flushed"
    return "answered" if target.startswith("TCP") and name == "sendto" else ""


@pytest.mark.parametrize(("index_sync", "database_flushes"), [("normal", False), ("full", True)])
def test_write_flush_answer(
    tmp_path: Path,
    requires_peer: RequirePeer,
    index_sync: str,
    database_flushes: bool,  # noqa: FBT001 - parametrised
) -> None:
    trace = tmp_path / "trace"
    wrap = [
        requires_peer("strace"),
        "-D",
        "-f",
        "-yy",
        "-e",
        "trace=openat,pwritev,pwritev2,fdatasync,fsync,sendto",
        "-o",
        str(trace),
    ]
    with (
        RunningDaemon(
            tmp_path / "daemon",
            roles=("gateway",),
            daemon={"gateway": {"index_sync": index_sync, "segment_bytes": 250_000}},  # the third begins another one
            wrap=wrap,
        ) as daemon,
        RawAssociation(daemon.port) as scu,
    ):
        for number in (1, 2, 3):
            assert scu.store(image(number, pixels=bytes(100_000)), uid_of(number)) == SUCCESS
        scu.release()
        daemon.stop()
    steps = list(steps_of(trace.read_text(errors="replace").splitlines()))
    answers = [number for number, step in enumerate(steps) if step == "answered"][-4:-1]  # the last one is the release
    assert len(answers) == 3
    for answer in answers:
        written = answer - steps[answer::-1].index("record written")
        between = steps[written:answer]
        assert between[:2] == ["record written", "record flushed"], between
        assert ("database flushed" in between) is database_flushes, between
    created = [number for number, step in enumerate(steps) if step == "segment created"]
    assert len(created) == 2
    for begin in created:
        assert steps[begin : begin + 4] == ["segment created", "record flushed", "name flushed", "record written"]
