"""`anomalyd analyse` without a command line: files in, files out; no store, no network."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from anomalyd.errors import AnomalydError, ConfigError, Ineligible, Withheld
from anomalyd.ids import Digest, InstanceUID, SeriesUID
from anomalyd.pipeline import rules
from anomalyd.pipeline.age import outside_reference
from anomalyd.pipeline.analyse import Runtime, analyse
from anomalyd.pipeline.bundle import Bundle, load_bundle, shipped_bundles
from anomalyd.pipeline.finding import Contrast, Reason, Stage
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.results import files, report
from anomalyd.pipeline.results.objects import ResultContext
from anomalyd.pipeline.results.report import Report, StageTimes, Subject
from anomalyd.pipeline.selection import VolumeChoice, choose, instance_set
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.terms import DEFAULT_KINDS, ResultKind
from anomalyd.pipeline.volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")

OnStage = Callable[[str, Stage], None]
"""Called with the series UID (or the name of the NIfTI file) and the stage that begins."""


@dataclass(frozen=True, slots=True)
class Request:
    """How to analyse. now: the time written into result objects. contrast: for NIfTI, which states none."""

    settings: PipelineSettings
    now: datetime
    contrast: Contrast | None = None
    runtime: Runtime = field(default_factory=Runtime)
    writes_nifti: bool = False
    kinds: frozenset[ResultKind] = frozenset(DEFAULT_KINDS)
    on_stage: OnStage = lambda _name, _stage: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one series (or of the NIfTI file): its folder of results, and the answer in words."""

    series_uid: SeriesUID | None
    folder: Path
    status: Literal["analysed", "ineligible", "withheld", "failed"]
    text: str
    report: Report | None


@dataclass(frozen=True, slots=True)
class Offline:
    """All outcomes, and the files that were no readable DICOM objects, with the reason."""

    outcomes: tuple[Outcome, ...]
    unreadable: tuple[tuple[Path, str], ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when every series has its report; 1 if any failed, or there was none."""
        return int(not self.outcomes or any(outcome.status == "failed" for outcome in self.outcomes))


@dataclass(frozen=True, slots=True)
class _Case:
    """One volume to analyse, wherever it comes from."""

    name: str
    series_uid: SeriesUID | None
    folder: Path
    digest: Digest
    seed_text: str
    read: Callable[[], Volume]
    headers: Callable[[], Sequence[Dataset]] = tuple
    warnings: tuple[str, ...] = ()


def analyse_path(source: Path, out: Path, request: Request) -> Offline:
    """Analyses one NIfTI file, or every series below a folder; results in `out`, one subfolder per series if several.

    Each outcome has a report.json, also the ineligible and the withheld; a series that fails leaves the others alone.
    Raises ConfigError where the input, the bundles or the contrast of a NIfTI file cannot be used.
    """
    bundles = _Bundles(request.settings)
    if source.is_file():
        if not source.name.lower().endswith(NIFTI_SUFFIXES):
            raise ConfigError(
                f"{source.name}: a folder of DICOM files or one {' or '.join(NIFTI_SUFFIXES)} is analysed"
            )
        return Offline((_guarded(None, out, partial(_nifti, source, out, bundles, request)),))
    if not source.is_dir():
        raise ConfigError(f"{source} is neither a folder nor a file")
    found, unreadable = read_folder(source, rules.keywords(request.settings))
    outcomes = []
    for header, paths in found:
        folder = out if len(found) == 1 else out / header.series_uid
        run = partial(_dicom, header, paths, folder, bundles=bundles, request=request, unreadable=len(unreadable))
        outcomes.append(_guarded(header.series_uid, folder, run))
    return Offline(tuple(outcomes), tuple(unreadable))


class _Bundles:
    """The bundles in force, by contrast; the first that serves one is taken."""

    def __init__(self, settings: PipelineSettings) -> None:
        self._loaded = [load_bundle(path) for path in settings.bundles or shipped_bundles()]
        if not self._loaded:
            raise ConfigError("no bundle: the package ships none, and pipeline.bundles names none")

    @property
    def contrasts(self) -> frozenset[Contrast]:
        return frozenset(bundle.model.contrast for bundle in self._loaded)

    def of(self, contrast: Contrast) -> Bundle | None:
        return next((bundle for bundle in self._loaded if bundle.model.contrast is contrast), None)


def _guarded(series_uid: SeriesUID | None, folder: Path, run: Callable[[], Outcome]) -> Outcome:
    """A failure that has a name ends this series alone; a wrong configuration would end each."""
    files.clear(folder)
    try:
        return run()
    except ConfigError:
        raise
    except AnomalydError as exc:
        return Outcome(series_uid, folder, "failed", str(exc), None)


def _dicom(
    header: SeriesHeader,
    paths: Mapping[InstanceUID, Path],
    folder: Path,
    *,
    bundles: _Bundles,
    request: Request,
    unreadable: int,
) -> Outcome:
    chosen = choose(header, request.settings, bundles.contrasts)
    warnings = (*chosen.warnings, *chosen.left_out)
    if unreadable:
        warnings += (f"{unreadable} files of the folder are no readable DICOM objects",)
    bundle = bundles.of(chosen.contrast) if chosen.contrast else None
    if chosen.volume is None or bundle is None:
        reason = chosen.reason or Reason("volume", None, None, "no volume was chosen")
        subject = _subject(header.series_uid, None, request)
        answer = report.not_analysed(subject, "ineligible", reason, contrast=chosen.contrast, warnings=warnings)
        return _reported(header.series_uid, folder, answer)
    volume = chosen.volume
    case = _Case(
        name=header.series_uid,
        series_uid=header.series_uid,
        folder=folder,
        digest=_digest_of(volume, paths),
        seed_text=header.series_uid,
        read=lambda: read_volume(volume, lambda uid: paths[uid].read_bytes()),
        headers=lambda: [read_header(open_part10(paths[uid]))[0] for uid, _ in volume.instances],
        warnings=warnings,
    )
    return _analysed(case, bundle, request)


def _nifti(source: Path, out: Path, bundles: _Bundles, request: Request) -> Outcome:
    if request.contrast is None:
        raise ConfigError(f"{source.name} states no contrast: name it, one of {', '.join(Contrast)}")
    digest = Digest(hashlib.sha256(source.read_bytes()).hexdigest())
    bundle = bundles.of(request.contrast)
    if bundle is None:
        text = f"no bundle for contrast {request.contrast}"
        reason = Reason("contrast", str(request.contrast), sorted(map(str, bundles.contrasts)), text)
        subject = _subject(None, digest, request)
        return _reported(None, out, report.not_analysed(subject, "ineligible", reason, contrast=request.contrast))
    case = _Case(source.name, None, out, digest, seed_text=digest, read=partial(read_nifti, source))
    return _analysed(case, bundle, request)


def _analysed(case: _Case, bundle: Bundle, request: Request) -> Outcome:
    times, subject = StageTimes(), _subject(case.series_uid, case.digest, request)

    def on_stage(stage: Stage) -> None:
        times(stage)
        request.on_stage(case.name, stage)

    warnings = case.warnings
    try:
        on_stage(Stage.READ)
        volume = case.read()
        headers = case.headers()
        warnings += (*volume.warnings, *outside_reference(headers, bundle.description.training.age_range))
        finding = analyse(
            volume,
            bundle,
            request.settings.analysis,
            runtime=request.runtime,
            seed_text=case.seed_text,
            on_stage=on_stage,
        )
        on_stage(Stage.RESULTS)
        context = ResultContext(
            headers=headers,
            volume=volume,
            finding=finding,
            job_time=request.now,
            instance_set=case.digest,
            settings=request.settings.analysis.digest,
            warnings=warnings,
            device_serial=request.settings.device_serial,
        )
        if volume.sources:
            files.write_objects(case.folder, context, request.kinds)
    except (Ineligible, Withheld) as exc:
        times.stop()
        answer = report.not_analysed(
            subject,
            "withheld" if isinstance(exc, Withheld) else "ineligible",
            Reason(exc.criterion, exc.value, exc.limit, exc.text),
            contrast=bundle.model.contrast,
            model=bundle.model,
            warnings=warnings,
            timings_s=times.seconds,
        )
        return _reported(case.series_uid, case.folder, answer)
    files.write_contact_sheet(case.folder, context)
    if request.writes_nifti:
        files.write_maps(case.folder, finding)
    times.stop()
    answer = report.analysed(subject, finding, warnings=context.all_warnings, timings_s=times.seconds)
    return _reported(case.series_uid, case.folder, answer)


def _reported(series_uid: SeriesUID | None, folder: Path, answer: Report) -> Outcome:
    files.write_report(folder, answer)
    reason = answer["reason"]
    found = f"{len(answer['lesions'])} found" if answer["lesions"] else "nothing found"
    return Outcome(series_uid, folder, answer["status"], reason["text"] if reason else found, answer)


def _subject(series_uid: SeriesUID | None, digest: Digest | None, request: Request) -> Subject:
    return Subject(series_uid, digest, request.settings.analysis.model_dump(mode="json"))


def _digest_of(volume: VolumeChoice, paths: Mapping[InstanceUID, Path]) -> Digest:
    """The instance set as the gateway would name it: from the data sets without their file meta information."""
    sha256 = {}
    for uid, _ in volume.instances:
        with open_part10(paths[uid]).dataset as data_set:
            sha256[uid] = hashlib.sha256(data_set.read()).hexdigest()
    return instance_set(volume, sha256)
