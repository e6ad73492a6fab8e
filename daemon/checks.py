"""What `anomalyd check` tries: configuration, bundles, disk, database, who may send, every destination."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anomalyd.daemon.bundles import bundle_paths
from anomalyd.daemon.checked import Checked, Grade
from anomalyd.daemon.settings import DaemonSettings, Settings
from anomalyd.daemon.tls_checks import check_tls
from anomalyd.errors import AnomalydError
from anomalyd.pipeline.bundle import load_bundle
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def check_all(settings: Settings) -> Iterator[Checked]:
    """Every check, as it is made."""
    yield from check_senders(settings.daemon)
    yield from check_tls(settings.daemon)
    yield from check_bundles(settings.pipeline)
    yield from check_disk(settings.storage)
    yield from check_database(settings.storage)
    yield from check_destinations(settings.daemon)
    yield from check_confirmation(settings)


def check_senders(daemon: DaemonSettings) -> Iterator[Checked]:
    """Who may send."""
    subject = "accept_from"
    if not daemon.accept_from:
        mend = "write the AE title of the scanner into daemon.accept_from"
        yield Checked(Grade.WRONG, subject, "the list is empty: every sender is refused", mend)
    for peer in daemon.accept_from:
        where = f"from {peer.address}" if peer.address else "from any address"
        if peer.certificate_name is not None:
            where += f", over TLS with a certificate of {peer.certificate_name}"
        if not peer.is_anybody:
            yield Checked(Grade.OK, subject, f"{peer.ae_title} {where}")
        elif peer.address is None and not daemon.is_loopback:
            text = f"ANYBODY WHO REACHES {daemon.host}:{daemon.port} MAY STORE IMAGES HERE (accept_from: any)"
            yield Checked(Grade.NOTE, subject, text, "list AE titles and addresses in daemon.accept_from")
        else:
            yield Checked(Grade.NOTE, subject, f"every AE title {where} (accept_from: any), on {daemon.host}")


def check_bundles(pipeline: PipelineSettings) -> Iterator[Checked]:
    """Each file of each bundle against its recorded hash; which contrasts have a model; is what is asked calibrated."""
    chosen = bundle_paths(pipeline)
    seen: dict[Contrast, str] = {}
    for path in chosen:
        try:
            bundle = load_bundle(path)
        except AnomalydError as exc:
            yield Checked(Grade.WRONG, "bundle", str(exc), "put the bundle back as it was released")
            continue
        model = bundle.model
        if model.contrast in seen:
            text = f"{model.bundle_id} and {seen[model.contrast]} are both for {model.contrast}"
            yield Checked(Grade.WRONG, "bundle", text, "leave one of them out of pipeline.bundles")
        seen[model.contrast] = model.bundle_id
        yield Checked(Grade.OK, "bundle", f"{model.bundle_id} for {model.contrast}, digest {model.digest}")
        try:
            bundle.calibration.of(pipeline.score or bundle.description.score.mode)
        except AnomalydError as exc:
            yield Checked(Grade.WRONG, "bundle", str(exc), "calibrate the bundle, or leave pipeline.score out")
    if not chosen:
        yield Checked(Grade.WRONG, "bundle", "there is no bundle: no series can be analysed", "set pipeline.bundles")
    missing = [contrast.value for contrast in Contrast if contrast not in seen]
    if seen and missing:
        text = f"no bundle for {', '.join(missing)}: such series are received, and not analysed"
        yield Checked(Grade.NOTE, "bundle", text)


def check_disk(storage: StorageSettings) -> Iterator[Checked]:
    """Whether this user can write under root, and whether the floor is far."""
    place = _existing(storage.root)
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"anomalyd")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as exc:
        who = f"uid {os.geteuid()}"
        text = f"{place} cannot be written by {who}: {exc.strerror}"
        yield Checked(Grade.WRONG, "disk", text, f"make {who} its owner, or set storage.root")
        return
    statistics = os.statvfs(place)
    free, floor = statistics.f_bavail * statistics.f_frsize, storage.disk_floor
    text = f"{free / 1e9:.1f} GB free under {storage.root}, the floor is {floor / 1e9:.1f} GB"
    if free < floor:
        yield Checked(
            Grade.WRONG, "disk", f"{text}: new associations are rejected", "make room, or lower storage.disk_floor"
        )
    else:
        yield Checked(Grade.OK, "disk", text)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there already."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def check_database(storage: StorageSettings) -> Iterator[Checked]:
    """Whether the store opens with this version; one that does not exist yet is not made."""
    if storage.url is None and not (storage.root / "anomalyd.db").exists():
        yield Checked(Grade.OK, "database", f"none yet; the first start makes one under {storage.root}")
        return
    try:
        open_store(storage).close()
    except AnomalydError as exc:
        yield Checked(Grade.WRONG, "database", str(exc), "see docs/operations.md, Backup and restore")
        return
    yield Checked(Grade.OK, "database", "opens, and its schema is this version's")


def check_destinations(daemon: DaemonSettings) -> Iterator[Checked]:
    """Every destination tried, in words; and whether a sender would get its results back."""
    from anomalyd.daemon.probe import probe  # noqa: PLC0415 - pynetdicom, for this check only

    if not daemon.destinations:
        text = "daemon.destinations is empty: results are kept here, and sent nowhere"
        yield Checked(Grade.NOTE, "destinations", text, "add the PACS")
    for to in daemon.destinations:
        for step in probe(to, daemon.ae_title):
            yield Checked(Grade.OK if step.is_ok else Grade.WRONG, f"destination {to.name}", step.text, step.mend or "")
    if daemon.return_to_sender:
        yield from _check_return(daemon)


def check_confirmation(settings: Settings) -> Iterator[Checked]:
    """What each destination offers to prove that it has what was sent, beside what `confirm` asks of it."""
    from anomalyd.daemon.probe_confirmation import probe_confirmation  # noqa: PLC0415 - pynetdicom, for this check only

    daemon, storage = settings.daemon, settings.storage
    is_there = storage.url is not None or (storage.root / "anomalyd.db").exists()
    store: Store | None = None
    with contextlib.suppress(AnomalydError):  # check_database has told
        store = open_store(storage) if is_there else None
    try:
        for to in daemon.destinations:
            subject = f"confirmation {to.name}"
            if to.confirm == "commitment" and daemon.is_loopback and to.asked.host not in LOOPBACK:
                text = f"daemon.host is {daemon.host}: no report of a storage commitment can come in"
                yield Checked(Grade.NOTE, subject, text, "set daemon.host, unless it reports on the same association")
            for step in probe_confirmation(to, daemon, store):
                yield Checked(Grade.OK if step.is_ok else Grade.WRONG, subject, step.text, step.mend or "")
    finally:
        if store is not None:
            store.close()


def _check_return(daemon: DaemonSettings) -> Iterator[Checked]:
    known = {to.ae_title for to in daemon.destinations}
    for peer in daemon.accept_from:
        if peer.is_anybody:
            text = "any sender may come, and only those whose AE title is a destination get results back"
            yield Checked(Grade.NOTE, "return_to_sender", text)
        elif peer.ae_title not in known:
            text = f"{peer.ae_title} may send, and is no destination: it gets nothing back"
            yield Checked(Grade.NOTE, "return_to_sender", text, f"add a destination with ae_title {peer.ae_title}")
