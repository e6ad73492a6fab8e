"""The demonstration itself: input, PACS and daemon, sending, following, reading back."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from anomalyd.daemon.send import Answer, Outgoing, Receiver, find_files, send_files
from anomalyd.ids import AETitle, SeriesUID
from demo.follow import SentSeries, View, by_series
from demo.head import DemoSeries, write_demo_series
from demo.readback import read_results, write_contact_sheet
from demo.show import LiveView, SeriesReport, show_lesion, show_series
from running import SERVE, ReceivingPacs, RunningDaemon
from waiting import wait_until

SILENCE_LIMIT_S = 600.0
"""So long nothing may change before the demo gives up (a large series on a slow machine takes minutes)."""
START_LIMIT_S = 300.0
OWN_FOLDERS = ("input", "daemon", "pacs", "results")
SCANNER = AETitle("DEMOSCANNER")


class Unusable(RuntimeError):
    """The folder that was named holds nothing to send, or cannot be used."""


def run(console: Console, out: Path, own: Path | None) -> int:
    """Exit code of the demo. out: where everything goes; own: a folder of DICOM files instead of the made head."""
    _make_room(out, own)
    console.rule("anomalyd demo: research use only, not for diagnosis")
    made = _make_input(console, out / "input") if own is None else None
    series = by_series(_to_send(console, out / "input" if own is None else own))
    pacs = ReceivingPacs(out / "pacs", ae_title="DEMOPACS")
    waits = {"settle_period": 2, "series_quiet_period": 8}
    daemon = RunningDaemon(out / "daemon", destinations=[pacs], roles=SERVE, daemon=waits)
    console.print(f"[bold]PACS[/]      DEMOPACS at 127.0.0.1:{pacs.port}, keeps what it gets in {pacs.folder}")
    started = time.monotonic()
    with pacs, daemon:
        with console.status("three roles start, the worker loads its model and tries it"):
            wait_until(
                lambda: _is_ready(daemon.log_text("serve")),
                limit_s=START_LIMIT_S,
                what="all roles are ready",
                give_up=lambda: daemon.ended("serve"),
            )
        took = time.monotonic() - started
        console.print(f"[bold]daemon[/]    ANOMALYD at 127.0.0.1:{daemon.port}, three roles, ready after {took:.1f} s")
        views = _follow(console, daemon, pacs, series)
        trails = [_audit_trail(daemon, sent, out / "results" / f"series-{n}") for n, sent in enumerate(series, 1)]
    reports = _read_back(pacs.folder, series, views, trails)
    show_series(console, reports, daemon.config_file)
    if made is not None:
        show_lesion(console, made.head, reports[0].results)
    complete = all(report.is_complete for report in reports)
    console.print(
        "[bold green]All results were read back from the PACS." if complete else "[bold red]Results are missing."
    )
    return 0 if complete else 1


def _is_ready(log: str) -> bool:
    """All roles answer, and the worker's child has loaded its model."""
    return "serve.ready" in log and "child.ready" in log


def _make_room(out: Path, own: Path | None) -> None:
    """Removes what an earlier run left, and nothing else."""
    if own is not None and not own.exists():
        raise Unusable(f"there is no folder {own}")
    if own is not None and out in (own.absolute(), *own.absolute().parents):
        raise Unusable(f"{own} lies inside {out}, which the demo empties: copy it elsewhere first")
    for name in OWN_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


def _make_input(console: Console, folder: Path) -> DemoSeries:
    with console.status("making a head (ICBM 152 tissue maps, bent, with noise, receive field and a lesion)"):
        made = write_demo_series(folder / "mprage")
    x, y, z = made.head.lesion_lps
    console.print(
        "[bold]input[/]     a made T1w head (tissue maps of 152 people, bent, noisy), 176 sagittal slices of 1 mm"
    )
    console.print(f"          with a dark lesion of {made.head.lesion_ml:.1f} ml at L {x:.0f}, P {y:.0f}, S {z:.0f} mm")
    return made


def _to_send(console: Console, folder: Path) -> Sequence[Outgoing]:
    files, left_out = find_files(folder)
    if not files:
        raise Unusable(f"{folder} holds no DICOM file that could be sent")
    for path, reason in left_out:
        console.print(f"[bold]left out[/]  {path}: {reason}")
    return files


def _follow(
    console: Console, daemon: RunningDaemon, pacs: ReceivingPacs, series: Sequence[SentSeries]
) -> dict[SeriesUID, View]:
    """Sends everything, shows where each series stands, returns when all have ended."""
    store = daemon.open_store()
    live = LiveView(console, series)

    def refresh() -> bool:
        return live.update({sent.uid: sent.look(store, pacs.folder) for sent in series})

    def why_stop() -> str:
        silent = time.monotonic() - live.changed_at
        return daemon.ended("serve") or (f"nothing has changed for {silent:.0f} s" if silent > SILENCE_LIMIT_S else "")

    receiver = Receiver("127.0.0.1", daemon.port, AETitle("ANOMALYD"), SCANNER)
    with live:
        for sent in series:

            def note(answer: Answer, sent: SentSeries = sent) -> None:
                sent.note(answer)
                refresh()

            send_files(sent.files, receiver, on_answer=note)
        live.all_sent()
        wait_until(refresh, limit_s=float("inf"), what="every series ends", step_s=0.2, give_up=why_stop)
    store.close()
    return live.views


def _audit_trail(daemon: RunningDaemon, sent: SentSeries, folder: Path) -> Path:
    """`anomalyd explain SERIES`, written to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit-trail.txt"
    answer = daemon.command("explain", sent.uid)
    path.write_text(answer.stdout + answer.stderr)
    return path


def _read_back(
    pacs: Path, series: Sequence[SentSeries], views: dict[SeriesUID, View], trails: Sequence[Path]
) -> tuple[SeriesReport, ...]:
    """What the PACS holds of each series, with a contact sheet beside its audit trail."""
    results = read_results(pacs, {file.instance_uid: sent.uid for sent in series for file in sent.files})
    reports = []
    for sent, trail in zip(series, trails, strict=True):
        found, sheet = results.get(sent.uid), trail.parent / "contact-sheet.png"
        if found is not None and found.heatmaps:
            write_contact_sheet(found.heatmaps, sheet)
        reports.append(SeriesReport(sent, views[sent.uid], found, sheet if sheet.exists() else None, trail))
    return tuple(reports)
