"""One job from stored images to result files: everything heavy of the worker, run in its child."""

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pydicom.dataset import Dataset

from anomalyd.daemon.bundles import bundle_paths
from anomalyd.daemon.routing import kinds_to_make
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.worker.canary import SEED_TEXT, canary_of
from anomalyd.daemon.worker.messages import Analysed, Ready, WithheldScan
from anomalyd.daemon.worker.telling import tell
from anomalyd.daemon.worker.withdrawing import withdraw
from anomalyd.daemon.worker.writing import written
from anomalyd.errors import Broken, Refused, Withheld
from anomalyd.ids import AETitle, InstanceUID
from anomalyd.pipeline import rules
from anomalyd.pipeline.age import outside_reference
from anomalyd.pipeline.analyse import Runtime, analyse, check_calibrated
from anomalyd.pipeline.bundle import Bundle, load_bundle
from anomalyd.pipeline.finding import Contrast, Finding, Reason, Stage
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.read import read_volume
from anomalyd.pipeline.results import report
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.notice import build_notice
from anomalyd.pipeline.results.objects import Earlier, NoticeContext, ResultContext, ResultKind
from anomalyd.pipeline.results.report import Report, StageTimes, Subject
from anomalyd.pipeline.selection import VolumeChoice, choose, instance_set
from anomalyd.pipeline.series import InstanceHeader, assemble, parse_instance
from anomalyd.pipeline.volume import Volume
from anomalyd.storage.engine import open_store
from anomalyd.storage.jobs import Job, JobKind
from anomalyd.storage.predecessors import predecessor_of
from anomalyd.storage.series import InstanceRow, instances_of, open_instance, read_instance, series_row

OnStage = Callable[[Stage], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """The images of one job: rows in the store, headers as parsed, and the one chosen volume."""

    rows: Mapping[InstanceUID, InstanceRow]
    choice: VolumeChoice


class Analyst:
    """Bundles and store, loaded once; `analyse` once per job."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError or Broken where a bundle cannot be used, or is not calibrated for what is asked."""
        started = time.monotonic()
        self._settings = settings
        self._store = open_store(settings.storage)
        loaded = [load_bundle(path) for path in bundle_paths(settings.pipeline)]
        for bundle in loaded:
            check_calibrated(bundle, settings.pipeline.analysis)
        self._bundles: dict[str, Bundle] = {bundle.model.digest: bundle for bundle in loaded}
        self._runtime = Runtime(settings.pipeline.device, settings.pipeline.threads)
        self._load_s = time.monotonic() - started

    def warm_up(self) -> Ready:
        """Runs the canary of the first bundle through everything: the first job then finds all of it loaded."""
        started = time.monotonic()
        trouble = ""
        for bundle in list(self._bundles.values())[:1]:
            try:
                self._find(canary_of(bundle), bundle, SEED_TEXT, lambda _stage: None)
            except Withheld as exc:
                trouble = str(exc)
        digests = tuple(sorted(self._bundles))
        return Ready(digests, self._runtime.torch_device, self._load_s, time.monotonic() - started, trouble)

    def analyse(self, job: Job, on_stage: OnStage) -> Analysed | WithheldScan:
        """Results on disk, or why the scan is withheld. Raises Ineligible, Broken, and what a bug raises."""
        if job.kind is JobKind.NOTICE:
            on_stage(Stage.RESULTS)
            return tell(self._store, job, self._settings.pipeline.device_serial)
        if job.kind is JobKind.REJECTION_NOTE:
            on_stage(Stage.RESULTS)
            return withdraw(self._store, job, self._settings.pipeline.device_serial)
        times = StageTimes()

        def begin(stage: Stage) -> None:
            times(stage)
            on_stage(stage)

        bundle, serial = self._bundle_of(job), self._settings.pipeline.device_serial
        subject = Subject(job.series_uid, job.instance_set, self._settings.pipeline.analysis.model_dump(mode="json"))
        begin(Stage.READ)
        source = self._source(job)
        volume = read_volume(source.choice, lambda uid: read_instance(self._store, source.rows[uid]))
        headers = [self._header(row) for row in source.rows.values()]
        warnings = (*job.warnings, *outside_reference(headers, bundle.description.training.age_range))
        try:
            finding = self._find(volume, bundle, job.series_uid, begin)
        except Withheld as exc:
            begin(Stage.RESULTS)
            notice = NoticeContext(
                headers, bundle.model, exc.text, job.created_at, job.instance_set, job.settings, serial
            )
            made = written(self._store, (build_notice(notice),))
            times.stop()
            told = (*warnings, *volume.warnings)
            return WithheldScan(exc.text, _withheld_report(subject, bundle, exc, warnings=told, times=times), made)
        begin(Stage.RESULTS)
        follows = predecessor_of(self._store, job, ResultKind.SR)
        before = follows.document if follows else None
        # All times in the results come from the job, so that a second run makes the same bytes.
        context = ResultContext(
            headers=headers,
            volume=volume,
            finding=finding,
            job_time=job.created_at,
            instance_set=job.instance_set,
            settings=job.settings,
            warnings=warnings,
            device_serial=serial,
            predecessor=Earlier(before.series_uid, before.sop_instance_uid) if before else None,
        )
        results = written(self._store, build_results(context, kinds_to_make(self._settings.daemon)))
        times.stop()
        answer = report.analysed(subject, finding, warnings=context.all_warnings, timings_s=times.seconds)
        return Analysed(results, answer, follows)

    def _find(self, volume: Volume, bundle: Bundle, seed_text: str, on_stage: OnStage) -> Finding:
        return analyse(
            volume,
            bundle,
            self._settings.pipeline.analysis,
            runtime=self._runtime,
            seed_text=seed_text,
            on_stage=on_stage,
        )

    def _bundle_of(self, job: Job) -> Bundle:
        bundle = self._bundles.get(job.bundle)
        if bundle is None:
            raise Broken(f"bundle {job.bundle_id} ({job.bundle[:12]}) is not in force here: restart the dispatcher")
        if job.settings != self._settings.pipeline.analysis.digest:
            raise Broken("the job was made for other settings than this worker has: restart dispatcher and worker")
        return bundle

    def _source(self, job: Job) -> _Source:
        """The volume chosen again from the same images: the digest in the job proves that it is the same."""
        series = series_row(self._store, job.study_uid, job.series_uid)
        rows = instances_of(self._store, job.study_uid, job.series_uid)
        as_then = [row for row in rows if row.received_at <= job.created_at]
        for candidates in (as_then, rows):  # the second for a wall clock that was set back in between
            choice = self._choice(candidates, job, series.calling_ae if series else None)
            if choice is not None:
                wanted = {uid for uid, _ in choice.instances}
                return _Source({row.instance_uid: row for row in candidates if row.instance_uid in wanted}, choice)
        raise Broken("the images of the job are not in the store as they were chosen: purged, or the rules changed")

    def _choice(self, rows: Sequence[InstanceRow], job: Job, sender: AETitle | None) -> VolumeChoice | None:
        keywords = rules.keywords(self._settings.pipeline)
        headers = [header for row in rows if (header := self._parsed(row, keywords)) is not None]
        if not headers:
            return None
        answer = choose(assemble(headers), self._settings.pipeline, frozenset({Contrast(job.contrast)}), sender)
        sha256 = {row.instance_uid: row.sha256 for row in rows}
        if answer.volume is None or instance_set(answer.volume, sha256) != job.instance_set:
            return None
        return answer.volume

    def _parsed(self, row: InstanceRow, keywords: AbstractSet[str]) -> InstanceHeader | None:
        """None for an object that cannot be read: selection left it out, too."""
        try:
            return parse_instance(open_instance(self._store, row), keywords)
        except Refused:
            return None

    def _header(self, row: InstanceRow) -> Dataset:
        return read_header(open_part10(open_instance(self._store, row)))[0]


def _withheld_report(
    subject: Subject, bundle: Bundle, why: Withheld, *, warnings: tuple[str, ...], times: StageTimes
) -> Report:
    return report.not_analysed(
        subject,
        "withheld",
        Reason(why.criterion, why.value, why.limit, why.text),
        contrast=bundle.model.contrast,
        model=bundle.model,
        warnings=warnings,
        timings_s=times.seconds,
    )
