"""Promises of DESIGN 2 and 4 on one whole run of the real roles: what leaves, what is logged, what is made how often.

One daemon with a guard on every socket takes a head full of marker values (twice), a FLAIR and an object without a
valid UID; its PACS is away at first. Every test looks at what that run left behind.
"""

import json
import shutil
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from anomalyd.ids import SeriesUID
from anomalyd.pipeline.finding import Contrast
from anomalyd.storage.erasing import pending_images
from anomalyd.storage.jobs import Job, jobs
from anomalyd.storage.tables import JobState
from conftest import CHECKOUT
from demo.head import CENTRE_LPS, make_head
from phantoms import PATIENT_MARKERS, PhantomWriter, WrittenSeries
from ports import free_port
from running import ReceivingPacs, RunningDaemon
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEXT = ("PN", "LO", "SH", "LT")
OF_PATIENTS = {
    keyword: f"ZZMARKER{tag:08X}"
    for keyword, tag in keyword_dict.items()
    if dictionary_VR(tag) in TEXT and ("Patient" in keyword or keyword.endswith(("PhysicianName", "OperatorsName")))
}
"""Every attribute of DICOM that holds text about a patient, or the name of somebody who saw one."""
MARKERS = {**OF_PATIENTS, **PATIENT_MARKERS}
IN_CODES = {"Modality": "ZZMARKERJO", "PhotometricInterpretation": "ZZMARKERJO", "SequenceName": "ep2d_ZZMARKER"}
"""What the reasons of a refused series are made from."""
FORBIDDEN = tuple(dict.fromkeys(["zzmarker", *(value.lower() for value in MARKERS.values())]))
LIMIT_S = 400.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one run left behind."""

    daemon: RunningDaemon
    pacs: ReceivingPacs
    head: WrittenSeries
    flair: WrittenSeries
    statuses: dict[str, list[int]]
    titles: frozenset[str]
    metrics: str
    answers: dict[str, str]
    """Output of the commands that show something."""
    refused_sockets: Path
    temporary: frozenset[str]
    """Markers in temporary files, looked for while the roles worked."""
    jobs: tuple[Job, ...]

    def results(self, sop_class: str) -> list[pydicom.Dataset]:
        """Objects of one class that the PACS holds."""
        return [ds for ds in self.pacs.datasets() if ds.SOPClassUID == sop_class]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Straight from the database file, past every function of the product."""
        database = sqlite3.connect(f"file:{self.daemon.store_root / 'anomalyd.db'}?mode=ro", uri=True)
        try:
            return list(database.execute(query))
        finally:
            database.close()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The run. Its parts are checked by the tests; here only what they all stand on."""
    folder = tmp_path_factory.mktemp("promises")
    head = PhantomWriter(
        plane="sagittal",
        spacing_mm=(2.0, 2.0, 2.0),
        shape=(88, 128, 128),
        centre_lps=CENTRE_LPS,
        attributes={**MARKERS, "PatientSpeciesDescription": None},
    ).write_volume(make_head().volume, folder / "head")
    flair = PhantomWriter(
        contrast=Contrast.FLAIR, spacing_mm=(4.0, 2.0, 2.0), attributes={**MARKERS, **IN_CODES}
    ).write(folder / "flair")
    without_uid = folder / "without-uid.dcm"
    sound, padded = head.series_uid.encode(), b"zzmarker/../../1".ljust(len(head.series_uid), b"\0")
    without_uid.write_bytes(head.files[0].read_bytes().replace(sound, padded))

    pacs = ReceivingPacs(folder / "pacs")
    metrics_port, attempts = free_port(), folder / "refused-sockets"
    daemon = RunningDaemon(
        folder / "daemon",
        destinations=[pacs],
        daemon={
            "metrics": {"port": metrics_port},
            "log": {"level": "debug", "format": "json"},
            "delivery": {"back_off_first": 1, "back_off_cap": 2},
        },
    )
    daemon.environment = {
        "PYTHONPATH": str(CHECKOUT / "tests" / "offline_guard"),
        "ANOMALYD_TEST_ALLOWED": f"127.0.0.1:{pacs.port},127.0.0.1:{daemon.port}",
        "ANOMALYD_TEST_ATTEMPTS": str(attempts),
        "TMPDIR": str(folder / "tmp"),
    }
    (folder / "tmp").mkdir()
    titles: set[str] = set()
    temporary: set[str] = set()

    def first_delivery_failed() -> bool:
        titles.update(_titles(daemon))
        temporary.update(markers_in(_bytes_below(folder / "tmp")))
        return _audited(daemon, "retried")

    with daemon:
        statuses = {
            "head": daemon.send(head.files),
            "head again": daemon.send(head.files),
            "flair": daemon.send(flair.files),
            "without uid": daemon.send([without_uid]),
        }
        wait_until(
            first_delivery_failed,
            limit_s=LIMIT_S,
            what="a first delivery that fails",
            step_s=0.2,
            give_up=lambda: "".join(daemon.ended(role) for role in daemon.roles),
        )
        with pacs:
            daemon.wait_until_ended(head.series_uid, flair.series_uid, limit_s=LIMIT_S)
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as page:
                metrics = page.read().decode()
            answers = {name: _answer(daemon, name.split()) for name in _commands(head.series_uid)}
        store = daemon.open_store()
        found = jobs(store)
        store.close()
    temporary.update(markers_in(_bytes_below(folder / "tmp")))
    return Evidence(
        daemon, pacs, head, flair, statuses, frozenset(titles), metrics, answers, attempts, frozenset(temporary), found
    )


def _commands(series: SeriesUID) -> tuple[str, ...]:
    return ("status", "jobs", "jobs --json", "audit --json", f"explain {series}", "check", "verify")


def _answer(daemon: RunningDaemon, command: list[str]) -> str:
    run = daemon.command(*command)
    return run.stdout + run.stderr


def _audited(daemon: RunningDaemon, kind: str) -> bool:
    database = sqlite3.connect(f"file:{daemon.store_root / 'anomalyd.db'}?mode=ro", uri=True)
    try:
        return bool(database.execute("SELECT count(*) FROM audit WHERE kind = ?", (kind,)).fetchone()[0])
    finally:
        database.close()


def _titles(daemon: RunningDaemon) -> Iterator[str]:
    """What `ps` shows of every process of the daemon."""
    for role in daemon.roles:
        for pid in daemon.processes(role):
            for name in ("cmdline", "comm"):
                path = Path(f"/proc/{pid}/{name}")
                yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace") if path.exists() else ""


def _bytes_below(folder: Path) -> str:
    """What stands in all files there, one byte a character; files may vanish meanwhile."""
    found = []
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            found.append(path.read_bytes() if path.is_file() else b"")
    return b"\n".join(found).decode("latin-1")


def markers_in(text: str) -> list[str]:
    """Which of the planted values stand in a text."""
    lower = text.lower()
    return [marker for marker in FORBIDDEN if marker in lower]


def test_no_role_tries_to_reach_anything_but_the_pacs(evidence: Evidence) -> None:
    """Promise (DESIGN 2): no role needs the network for anything but DICOM."""
    assert len(evidence.pacs.files) >= evidence.head.grid.shape[0]
    assert not evidence.refused_sockets.exists(), evidence.refused_sockets.read_text()


@pytest.mark.parametrize("role", ["gateway", "dispatcher", "worker"])
def test_no_patient_data_in_the_logs(evidence: Evidence, role: str) -> None:
    """Promise (DESIGN 2): no patient name, ID, accession number or birth date in logs."""
    log = evidence.daemon.log_text(role)  # type: ignore[arg-type]  # parametrize gives str
    assert log
    assert markers_in(log) == []


def test_no_patient_data_in_the_database_but_in_the_study_table(evidence: Evidence) -> None:
    """Promise (DESIGN 2): audit rows hold a keyed hash, clear text stands in `study` alone."""
    tables = [str(name) for (name,) in evidence.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {table: markers_in(json.dumps(evidence.rows(f"SELECT * FROM {table}"), default=str)) for table in tables}  # noqa: S608 - names from the schema
    assert found.pop("study")
    assert {table: markers for table, markers in found.items() if markers} == {}
    hashes = evidence.rows("SELECT count(DISTINCT patient_hash) FROM audit WHERE patient_hash IS NOT NULL")
    assert hashes == [(1,)]


def test_no_patient_data_in_names_of_files(evidence: Evidence) -> None:
    """Promise (DESIGN 2 and 4, promise 10): names come from digests, never from received strings."""
    names = [str(path.relative_to(evidence.daemon.root)) for path in evidence.daemon.root.rglob("*")]
    assert len(names) > 10
    assert markers_in("\n".join(names)) == []
    received = [evidence.head.study_uid, evidence.head.series_uid]
    assert [name for name in names if any(uid in name for uid in received)] == []


def test_no_patient_data_in_temporary_files(evidence: Evidence) -> None:
    """Promise (DESIGN 2): what must be spilled lies below storage.root, without a name."""
    assert evidence.temporary == frozenset()


def test_no_patient_data_in_process_titles_and_metrics(evidence: Evidence) -> None:
    """Promise (DESIGN 2)."""
    assert any("anomalyd" in title for title in evidence.titles)
    assert markers_in("\n".join(evidence.titles)) == []
    assert "anomalyd" in evidence.metrics
    assert markers_in(evidence.metrics) == []


def test_no_patient_data_in_what_commands_print(evidence: Evidence) -> None:
    """Promise (DESIGN 2): also for who looks over the administrator's shoulder."""
    assert {name: markers_in(text) for name, text in evidence.answers.items() if markers_in(text)} == {}


def test_directories_and_files_are_for_the_daemon_alone(evidence: Evidence) -> None:
    """Promise (DESIGN 4, promise 10): directories 0700, files 0600."""
    root = evidence.daemon.store_root
    modes = {str(path.relative_to(root)): path.stat().st_mode & 0o077 for path in (root, *root.rglob("*"))}
    assert {name: oct(mode) for name, mode in modes.items() if mode} == {}


def test_the_patient_stands_in_the_results_as_in_the_source(evidence: Evidence) -> None:
    """Positive control of the tests above: the markers did go through."""
    for result in evidence.pacs.datasets():
        for keyword in PATIENT_MARKERS:
            assert str(result[keyword].value) == PATIENT_MARKERS[keyword]


def test_the_same_images_twice_are_one_job_and_one_set_of_results(evidence: Evidence) -> None:
    """Promise (DESIGN 4, promises 2, 4 and 6)."""
    count = len(evidence.head.files)
    assert evidence.statuses["head"] == evidence.statuses["head again"] == [0x0000] * count
    assert [job.state for job in evidence.jobs] == [JobState.DONE]
    kinds = Counter(str(kind) for (kind,) in evidence.rows("SELECT kind FROM audit"))
    assert (kinds["duplicate"], kinds["queued"], kinds["finished"]) == (count, 1, 1)
    assert Counter(evidence.pacs.stores).most_common(1)[0][1] == 1


def test_one_version_line_everywhere(evidence: Evidence) -> None:
    """Promise (DESIGN 2): one source for product version, bundle id and digest."""
    job = evidence.jobs[0]
    lines: set[str] = set()
    for result in evidence.pacs.datasets():
        assert "\\" not in str(result.SoftwareVersions)
        lines.add(str(result.SoftwareVersions))
        lines.update(
            str(item.SoftwareVersions)
            for item in result.ContributingEquipmentSequence
            if item.get("Manufacturer") == "anomalyd"
        )
    for seg in evidence.results(SegmentationStorage):
        for segment in seg.SegmentSequence:
            lines.update(str(item.AlgorithmVersion) for item in segment.SegmentationAlgorithmIdentificationSequence)
    assert job.report is not None
    bundle = job.report["bundle"]
    assert (bundle["id"], bundle["digest"]) == (job.bundle_id, job.bundle)
    (audited,) = evidence.rows("SELECT bundle, detail FROM audit WHERE kind = 'finished'")
    assert audited[0] == job.bundle
    (line,) = lines
    assert line.startswith("anomalyd ")
    assert job.bundle_id in line
    assert job.bundle[:16] in line
    assert line in json.dumps(job.report)
    assert line in str(audited[1])


def test_heatmaps_for_every_slice_and_at_most_one_seg(evidence: Evidence) -> None:
    """RESULTS 0: one heatmap per source slice, one summary; a SEG where something was found."""
    placed = ["ImagePositionPatient" in ds for ds in evidence.results(SecondaryCaptureImageStorage)]
    assert placed.count(True) == evidence.head.grid.shape[0]
    assert placed.count(False) == 1  # the summary
    lesions = (evidence.jobs[0].report or {})["lesions"]
    assert len(evidence.results(SegmentationStorage)) == (1 if lesions else 0)


def test_what_is_not_analysed_says_why(evidence: Evidence) -> None:
    """Every series that is not analysed has an audit row with the criterion that failed and its value."""
    (refused,) = evidence.rows("SELECT series_uid, detail FROM audit WHERE kind = 'refused'")
    detail = json.loads(str(refused[1]))
    assert refused[0] == evidence.flair.series_uid
    assert set(detail) >= {"criterion", "value", "limit", "text"}
    assert detail["text"].startswith("the modality is no defined term, not MR (also: an EPI (BOLD) series: ")
    assert evidence.statuses["without uid"][0] & 0xF000 == 0xC000
    assert evidence.rows("SELECT count(*) FROM audit WHERE kind = 'rejected'") == [(1,)]


def test_a_purge_waits_for_the_gateway_and_then_leaves_nothing(evidence: Evidence) -> None:
    """Promise 3 (DESIGN 4) on all that the run wrote: segments, results, database. On a copy, for the other tests."""
    root, pixels = evidence.daemon.root.with_name("purged"), _longest_row(evidence.head.files[0])
    shutil.copytree(evidence.daemon.root, root)
    daemon = RunningDaemon(root, roles=("gateway",))
    daemon.write_configuration()
    before = _bytes_below(daemon.store_root)
    assert "zzmarker" in markers_in(before)
    assert pixels in before
    for series in (evidence.head, evidence.flair):
        purged = daemon.command("purge", "--study", series.study_uid)
        assert purged.returncode == 0, purged.stderr
        assert f"pending: the bytes of {len(series.files)} images" in purged.stderr
    assert pixels in _bytes_below(daemon.store_root)
    waiting = len(evidence.head.files) + len(evidence.flair.files)
    assert f"To erase   {waiting} images" in daemon.command("status").stdout
    with daemon:
        wait_until(lambda: _pending(daemon) == 0, limit_s=LIMIT_S, what="all images erased")
    after = _bytes_below(daemon.store_root)
    assert markers_in(after) == []
    assert pixels not in after
    assert "everything is as it was stored" in daemon.command("verify").stdout


def _longest_row(file: Path) -> str:
    """A row of pixels that no other file is likely to hold, as its bytes."""
    image = pydicom.dcmread(file).pixel_array
    row = max(image, key=lambda values: len(set(values.tolist())))
    return str(row.tobytes().decode("latin-1"))


def _pending(daemon: RunningDaemon) -> int:
    store = daemon.open_store()
    try:
        return pending_images(store)
    finally:
        store.close()
